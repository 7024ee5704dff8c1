"""A run of pytest that repeats tests, once for each mutant, until one of them fails."""

import asyncio
import inspect
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from typing import Any

import asyncpg
import pytest
from _pytest.runner import runtestprotocol

from app.dev.postgres import EmbeddedPostgres
from tests.mutations.mutants import Mutant, mutants

# Not tests/database/test_catalog.py, which sees by itself that something is otherwise.
FILES = [
    "tests/database/test_escalation.py",
    "tests/database/test_isolation.py",
    "tests/database/test_workspaces.py",
    "tests/database/test_changes.py",
    "tests/database/test_races.py",
    "tests/database/test_publishing.py",
    "tests/database/test_retention.py",
    "tests/database/test_log.py",
    "tests/database/test_partitions.py",
    "tests/database/test_large_arguments.py",
    "tests/bounds/test_workspaces.py",
    "tests/bounds/test_trails.py",
    "tests/bounds/test_documents.py",
    "tests/controllers",
    "tests/auth/test_keys.py",
    "tests/worker/test_mails.py",
    "tests/test_conventions.py",
]
# Guards that another one stands behind, so that no test can tell: each with the other.
TWICE = {
    "grants:19 session_user": "annex.key_id asks for the session's role as well",
    "keep_operators_own:4 session_user": "no policy lets such a session change a workspace",
}
MOST = 30
"""Tests in SQL that are tried on one mutant, then as many over HTTP, which take longer; then the
attempts to gain more than one has, and all tests of the noun."""


def say(*words: object, sep: str = " ") -> None:
    """Tell whoever waits."""
    print(*words, sep=sep, flush=True)  # noqa: T201


class Runner:
    """Takes the place of pytest's loop over tests."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.server: EmbeddedPostgres
        self.failed = list[pytest.TestReport]()
        self.killers: dict[str, list[pytest.Item]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, Any, Any]:
        """Remember the server that the tests share."""
        made = yield
        if fixturedef.argname == "postgres":
            self.server = made
        return made

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all mutants; ends the session as failed if one survives."""
        items = [i for i in session.items if isinstance(i, pytest.Function)]
        sources = {
            item: (
                inspect.getsource(item.function) + item.nodeid,
                inspect.getsource(item.module),
            )
            for item in items
        }
        # One test first, which starts the server that all of them share.
        if not self.passes(items[0]):
            pytest.exit("The first test fails without a mutant.", 1)
        server = self.server
        url = server.url("postgres", "template_annex")
        found = [m for m in asyncio.run(read(url)) if self.wants(m)]
        survivors = []
        for number, mutant in enumerate(found, 1):
            began = time.monotonic()
            asyncio.run(apply(server, mutant.out))
            try:
                killer, tried = self.hunt(self.in_order(mutant, items, sources))
            finally:
                asyncio.run(apply(server, mutant.back))
            if killer is not None and not self.passes(killer):
                # It fails without the mutant as well, so it told nothing.
                say(
                    f"  {killer.nodeid} does not pass by itself",
                    self.failed[0].longrepr,
                )
                killer = None
            took = f"{tried} tests, {time.monotonic() - began:.0f} s"
            if killer is None:
                survivors.append(mutant.name)
                say(f"[{number}/{len(found)}] SURVIVES  {mutant.name}  ({took})")
            else:
                self.killers[mutant.words[0]].insert(0, killer)
                say(
                    f"[{number}/{len(found)}] {mutant.name}  <- {killer.nodeid}  ({took})",
                )
        say(f"{len(found)} mutants, {len(survivors)} survive", *survivors, sep="\n  ")
        session.testsfailed = len(survivors)
        return True

    def wants(self, mutant: Mutant) -> bool:
        """Say whether a mutant was asked for."""
        if any(mutant.name.startswith(name) for name in TWICE):
            return False
        return not self.words or any(word in mutant.name for word in self.words)

    def in_order(
        self,
        mutant: Mutant,
        items: list[pytest.Function],
        sources: dict[pytest.Function, tuple[str, str]],
    ) -> Iterable[pytest.Item]:
        """Order tests by how likely they notice, for no mutant more than a number of them."""
        before = self.killers[mutant.words[0]][:5]
        words = [*mutant.words, *mutant.words[0].split("_")]

        # The rarer a word among the tests, the more it says.
        weights = {
            word: 1 / (1 + sum(word in own for own, _ in sources.values())) for word in words
        }

        def score(item: pytest.Function) -> float:
            own, all_of_it = sources[item]
            return -sum(
                weight * (10 * (word in own) + (word in all_of_it))
                for word, weight in weights.items()
            )

        ranked = sorted(items, key=score)
        direct = [i for i in ranked if "/database/" in i.nodeid]
        over_http = [i for i in ranked if "/database/" not in i.nodeid]
        nouns = [f"_{word}s.py" for word in words]
        own_files = [i for i in items if any(noun in i.nodeid for noun in nouns)]
        attempts = [i for i in items if "test_escalation.py" in i.nodeid]
        return dict.fromkeys([*before, *direct[:MOST], *over_http[:MOST], *attempts, *own_files])

    def hunt(self, items: Iterable[pytest.Item]) -> tuple[pytest.Item | None, int]:
        """Run tests until one fails; returns it, and how many ran."""
        tried = 0
        for tried, item in enumerate(items, 1):
            if not self.passes(item):
                return item, tried
        return None, tried

    def passes(self, item: pytest.Item) -> bool:
        """Run a test once more."""
        assert item.parent is not None
        item.session._setupstate.teardown_exact(item)  # what another module's test left
        item._initrequest()  # type: ignore[attr-defined]
        # The parent stands for a next test of the same module, so that its fixtures stay.
        following: Any = item.parent
        reports = runtestprotocol(item, log=False, nextitem=following)
        self.failed = [r for r in reports if r.failed]
        return not self.failed


async def read(url: str) -> list[Mutant]:
    """Make the mutants of a database."""
    connection = await asyncpg.connect(url)
    try:
        return await mutants(connection)
    finally:
        await connection.close()


async def apply(server: EmbeddedPostgres, sql: str) -> None:
    """Change the template, and every database that was made from it."""
    admin = await asyncpg.connect(server.admin_url)
    names = await admin.fetch(
        "select datname from pg_database where datname ~ '^(test_|template_annex)'"
    )
    await admin.close()
    for (name,) in names:
        connection = await asyncpg.connect(server.url("postgres", name))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()
