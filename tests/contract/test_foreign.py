"""Projects in the styles that real ones have: all agree, so nothing is found.

Each is checked offline, against scratch databases, and against a live database by a role that may
only log in; then against both at once.
"""

import asyncio
import json
import secrets
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic_readonly_check.command import cli
from click.testing import CliRunner
from sqlalchemy.engine import URL, make_url

FOREIGN = Path(__file__).parent / "foreign"
PROJECTS = sorted(path.parent.name for path in FOREIGN.glob("*/pyproject.toml"))
MODES = {"offline": (), "scratch": ("scratch",), "live": ("live",), "both": ("scratch", "live")}
READER = "foreign_reader"


def plain(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def execute(url: URL, *statements: str) -> None:
    """Send statements, each as one simple query, as migrating tools do."""

    async def work() -> None:
        connection = await asyncpg.connect(plain(url))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(work())


@pytest.fixture(params=PROJECTS)
def project(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a project, with no database given."""
    folder = FOREIGN / str(request.param)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("DATABASE_URL", "SCRATCH_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield folder
    own = {path.name for path in folder.iterdir()}
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in own:
            del sys.modules[name]


def settings(folder: Path) -> dict[str, Any]:
    text = (folder / "pyproject.toml").read_text("utf-8")
    return dict(tomllib.loads(text)["tool"]["alembic-readonly-check"])


def migrated(server: URL, folder: Path) -> URL:
    """Make a database as the project's own tools would, and let the reader log in to it."""
    name = f"foreign_{secrets.token_hex(6)}"
    execute(
        server,
        f"CREATE DATABASE {name}",
        f"DO $$ BEGIN CREATE ROLE {READER} LOGIN;"
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    url = server.set(database=name)
    platform = settings(folder).get("scratch", {}).get("platform", [])
    files = [folder / path for path in platform]
    files += sorted((folder / settings(folder)["migrations"]).glob("*.sql"))
    execute(url, *(path.read_text("utf-8") for path in files))
    return url


def found(*arguments: str) -> tuple[int, list[str]]:
    """Run the command; give its exit code and its findings, one line each."""
    result = CliRunner().invoke(cli.main, [*arguments, "--format", "json"])
    if result.exit_code == 2 or not result.stdout.startswith("{"):
        return result.exit_code, [result.output, repr(result.exception)]
    report = json.loads(result.stdout)
    return result.exit_code, [
        f"{one['code']} {one['severity']} {one['subject']}: {one['message']}"
        for one in report["findings"]
    ]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_found_where_all_agree(
    mode: str, project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_url(server_url)
    live = None
    try:
        if "scratch" in MODES[mode]:
            monkeypatch.setenv("SCRATCH_DATABASE_URL", server_url)
        if "live" in MODES[mode]:
            live = migrated(server, project)
            monkeypatch.setenv("DATABASE_URL", plain(live.set(username=READER)))
        code, told = found("all")
        assert not told, "\n".join(told)
        assert code == 0
    finally:
        if live is not None:
            execute(server, f"DROP DATABASE {live.database} WITH (FORCE)")


def test_the_corpus_has_every_style() -> None:
    assert len(PROJECTS) >= 6
