"""From the wheel into a Supabase project, through an upgrade under traffic, and out of it again.

The Supabase CLI is the one thing that is not real here: tests/installation/projects.py pushes the
folder by its rules.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.dev.demo import mint_token
from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen
from tests.conftest import MIGRATING_ROLE, ROOT, SECRETS, TestDatabase, execute, settings_for
from tests.install.wheels import bare, done, new_environment, serving
from tests.installation.projects import NEXT, NOW, PLATFORM, Project

pytestmark = pytest.mark.timeout(400)


@dataclass
class Clock:
    """Notes how long each step took."""

    began: float = field(default_factory=time.monotonic)
    steps: list[tuple[str, float]] = field(default_factory=list)

    def note(self, step: str) -> None:
        now = time.monotonic()
        self.steps.append((step, now - self.began))
        self.began = now

    def __str__(self) -> str:
        lines = [f"  {seconds:6.1f} s  {step}" for step, seconds in self.steps]
        return "\n".join([*lines, f"  {sum(s for _, s in self.steps):6.1f} s  in all"])


@pytest.fixture
def database() -> Iterator[TestDatabase]:
    """A server as Supabase hands it over: nothing of Annex, no role of ours."""
    folder = ROOT / ".data" / f"project-{os.getpid()}"
    with EmbeddedPostgres(folder, chosen(), THROWAWAY) as postgres:
        yield TestDatabase(postgres, "postgres")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def upgraded(wheel: Path) -> Iterator[Path]:
    """The programs of a later release: the same code, which needs one migration more."""
    environment = ROOT / ".data" / f"upgraded-{os.getpid()}"
    programs = new_environment(environment, wheel)
    (data,) = environment.glob("lib/python*/site-packages/app/data/supabase/migrations")
    (data / "20280101009000_greetings.sql").write_text(NEXT)
    yield programs
    shutil.rmtree(environment)


@contextmanager
def worker(programs: Path, cwd: Path, settings: dict[str, str]) -> Iterator[None]:
    """Run `annex worker` in a folder; it must end on SIGINT."""
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(
            [programs / "annex", "worker"], cwd=cwd, env=bare(**settings), stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 60
        while "Annex works" not in (cwd / "log").read_text():
            assert process.poll() is None, (cwd / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


async def test_a_project_gets_annex_upgrades_it_and_gives_it_up(
    wheel: Path,
    installed: Path,
    upgraded: Path,
    database: TestDatabase,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    root = folder(tmp_path, "project")
    project = Project(root / "supabase" / "migrations", database)
    project.write(NOW.replace(year=2026, month=1), 20)
    await execute(database.url("postgres"), PLATFORM.read_text())
    assert len(await project.push(database)) == 20
    clock.note("a project with 20 migrations of its own")

    said = done(installed / "annex", "install", cwd=root)
    assert "supabase db push" in said
    assert said.count("Added ") == len(await project.push(database)) > 10
    assert "Nothing to add" in done(installed / "annex", "install", cwd=root)
    url = database.url(MIGRATING_ROLE)
    assert "Nothing to apply" in done(installed / "annex", "migrate", url, cwd=root)
    clock.note("annex install, push")

    settings = {
        "ANNEX_DATABASE_URL": database.url("annex_api"),
        "ANNEX_WORKER_DATABASE_URL": database.url("annex_worker"),
        "ANNEX_SUPABASE_URL": "http://127.0.0.1:9",
        "ANNEX_SECRET_KEY": SECRETS.secret_key,
        "ANNEX_JWT_SECRET": SECRETS.jwt_secret or "",
        "ANNEX_JWT_ISSUER": "annex-dev",
    }
    user = str(uuid4())
    known = f"('{user}', 'a@b.example', now())"
    insert = f"insert into auth.users (id, email, email_confirmed_at) values {known}"
    await execute(database.url("postgres"), insert)
    token = mint_token(settings_for(database), user, "a@b.example")
    headers = {"Authorization": f"Bearer {token}"}
    with ExitStack() as stack:
        old = stack.enter_context(
            serving(installed, "serve", "--port", "0", cwd=folder(tmp_path, "api"), **settings)
        )
        stack.enter_context(worker(installed, folder(tmp_path, "worker"), settings))
        clock.note("annex serve and annex worker are up")

        asked = run_with(installed, root, settings, "doctor", "--json")
        wrong = {
            found["check"]
            for found in json.loads(asked.stdout)
            if found["finding"] and found["finding"]["level"] == "error"
        }
        # There is no Supabase here to serve a key set.
        assert (wrong, asked.returncode) == ({"key set"}, 2), asked.stdout
        clock.note("annex doctor")

        first = create(old, headers, "First")
        assert names(old, headers) == ["First"]
        clock.note("a workspace over REST")

        refused = run_with(upgraded, root, settings, "serve", "--port", "0")
        assert refused.returncode == 1
        assert "lacks the migration 90_greetings, which Annex" in refused.stderr
        said = done(upgraded / "annex", "install", cwd=root)
        assert said.count("Added ") == 1
        assert len(await project.push(database)) == 1
        clock.note("the upgrade's column and function, under the old processes")

        new = stack.enter_context(
            serving(upgraded, "serve", "--port", "0", cwd=folder(tmp_path, "api-2"), **settings)
        )
        stack.enter_context(worker(upgraded, folder(tmp_path, "worker-2"), settings))
        create(new, headers, "Second")
        create(old, headers, "Third")
        for url_of in (old, new):
            assert sorted(names(url_of, headers)) == ["First", "Second", "Third"]
        assert shows(new, headers, first, publish(old, headers, first))
        clock.note("both versions serve, side by side")
    clock.note("all of them have stopped")

    removing = project.folder / "20280101000000_remove_annex.sql"
    removing.write_text(done(upgraded / "annex", "uninstall", cwd=root))
    assert await project.push(database) == [removing.name]
    connection = await asyncpg.connect(database.url(MIGRATING_ROLE))
    assert not await connection.fetch("select from pg_roles where rolname like 'annex%'")
    assert await connection.fetchval("select to_regnamespace('annex')") is None
    assert (
        await connection.fetchval("select count(*) from pg_tables where tablename ~ '^own_'") == 20
    )
    await connection.close()
    clock.note("annex uninstall, push")
    with capsys.disabled():
        print(f"\n{clock}")  # noqa: T201


def create(url: str, headers: dict[str, str], name: str) -> str:
    """Create a workspace; returns its id."""
    response = httpx.post(f"{url}/api/v1/workspaces", json={"name": name}, headers=headers)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def publish(url: str, headers: dict[str, str], workspace: str) -> str:
    """Publish an event; returns its id."""
    path = f"{url}/api/v1/workspaces/{workspace}/events"
    response = httpx.post(path, json={"type": "note.added", "data": {}}, headers=headers)
    return str(response.json()["id"])


def shows(url: str, headers: dict[str, str], workspace: str, event: str) -> bool:
    """Say whether a server shows an event."""
    path = f"{url}/api/v1/workspaces/{workspace}/events/{event}"
    return httpx.get(path, headers=headers).is_success


def names(url: str, headers: dict[str, str]) -> list[str]:
    """List the names of the caller's workspaces."""
    response = httpx.get(f"{url}/api/v1/workspaces", headers=headers)
    return [workspace["name"] for workspace in response.json()["data"]]


def run_with(
    programs: Path, cwd: Path, settings: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command with settings to its end."""
    command = [str(programs / "annex"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=bare(**settings), capture_output=True, text=True, check=False
    )
