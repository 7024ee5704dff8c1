"""The `annex` command as people use it: real processes, real exits, one sentence for an error."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import httpx_sse
import jwt
import psutil  # type: ignore[import-untyped]
import pytest

from app.dev.demo import Secrets
from app.dev.postgres import EmbeddedPostgres
from app.server import bind
from app.settings import SettingsError
from tests.conftest import ROOT, SECRETS, TestDatabase, execute

ANNEX = str(Path(sys.executable).parent / "annex")
UVICORN = str(Path(sys.executable).parent / "uvicorn")
PLATFORM = (ROOT / "supabase" / "local" / "platform.sql").read_text()
MIGRATIONS = len(list((ROOT / "supabase" / "migrations").glob("*.sql")))


class Result(NamedTuple):
    code: int
    out: str
    err: str


def annex(*args: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Result:
    """Run the command to its end, in an environment without settings of ours."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    done = subprocess.run(
        [ANNEX, *args],
        env=clean | dict(env or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=90,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def settings(database: TestDatabase, **others: str) -> dict[str, str]:
    return {
        "ANNEX_DATABASE_URL": database.url("annex_api"),
        "ANNEX_WORKER_DATABASE_URL": database.url("annex_worker"),
        "ANNEX_SUPABASE_URL": "http://127.0.0.1:9",
        "ANNEX_SECRET_KEY": SECRETS.secret_key,
        **others,
    }


def sentence(result: Result) -> str:
    """The one line in which a refused start says why, after those that say what it was doing."""
    assert result.code == 1, result
    *progress, line = result.err.strip().splitlines()
    assert all(step.endswith("…") for step in progress), result.err
    assert line.startswith("annex: ")
    return line


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (("dev", "--port", "99999"), "99999"),
        (("token", "nobody"), "nobody"),
        (("token", "owner", "--data", "elsewhere"), "There are no secrets in elsewhere"),
    ],
)
def test_a_command_of_development_that_cannot_run_says_why(
    tmp_path: Path, command: tuple[str, ...], part: str
) -> None:
    Secrets.of(tmp_path / ".data")
    result = annex(*command, cwd=tmp_path)
    assert result.code != 0
    assert part in result.err
    assert "Traceback" not in result.err


def test_a_token_is_signed_with_what_the_development_server_reads(tmp_path: Path) -> None:
    secret = "a-secret-of-the-customers-own-project-0001"
    Secrets.of(tmp_path / ".data")
    (tmp_path / ".env").write_text(f"ANNEX_JWT_SECRET={secret}\n")
    token = annex("token", "owner", cwd=tmp_path).out.strip()
    assert jwt.decode(token, secret, ["HS256"], audience="authenticated")["email"]


def test_settings_are_checked_before_a_development_server_starts_anything(tmp_path: Path) -> None:
    result = annex("dev", "--port", "0", env={"ANNEX_SIGNING_KEY": "x"}, cwd=tmp_path)
    assert sentence(result).startswith("annex: ANNEX_SIGNING_KEY is not usable")
    assert "Postgres" not in result.err


def test_every_missing_setting_is_named_at_once(tmp_path: Path) -> None:
    result = annex("serve", cwd=tmp_path)
    first, *others = result.err.strip().splitlines()
    assert result.code == 1
    assert first.startswith("annex: ANNEX_DATABASE_URL is not set")
    assert [line.split()[0] for line in others] == [
        "ANNEX_WORKER_DATABASE_URL",
        "ANNEX_SUPABASE_URL",
        "ANNEX_SUPABASE_URL",
        "ANNEX_SECRET_KEY",
    ]


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_misspelt_setting_is_said_before_what_is_missing(tmp_path: Path, command: str) -> None:
    env = {"ANNEX_DATABSE_URL": "postgresql://u:hidden@h/d"}
    warning, *wrong = annex(command, env=env, cwd=tmp_path).err.splitlines()
    meant = "ANNEX_DATABSE_URL is no setting of Annex; did you mean ANNEX_DATABASE_URL?"
    assert warning == f"annex: warning: {meant}"
    assert wrong[0].startswith("annex: ANNEX_DATABASE_URL is not set")


async def test_a_superuser_is_refused(database: TestDatabase, tmp_path: Path) -> None:
    env = settings(database, ANNEX_DATABASE_URL=database.url("postgres"))
    said = sentence(annex("serve", "--port", "0", env=env, cwd=tmp_path))
    assert "bypasses row level security" in said


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_in_use_is_said(database: TestDatabase, tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("serve", "--port", port, "--workers", workers)
        said = sentence(annex(*arguments, env=settings(database), cwd=tmp_path))
    assert f"Port {port} on 127.0.0.1 cannot be used" in said


@pytest.mark.parametrize(
    ("host", "failed"),
    [
        ("192.0.2.7", OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")),
        ("nowhere.invalid", socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
    ],
)
def test_an_address_of_another_machine_is_said(
    monkeypatch: pytest.MonkeyPatch, host: str, failed: OSError
) -> None:
    class Socket(socket.socket):
        def bind(self, _: object) -> None:
            raise failed  # not by this machine's resolver and routes, which may do anything

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(SettingsError, match=r"cannot be used \(.*\); name an address of this mach"):
        bind(host, 8000)


def test_a_settings_file_of_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("ANNEX_SECRET_KEY=x\n".encode("utf-16"))
    assert ".env cannot be used: save it as UTF-8." in sentence(annex("serve", cwd=tmp_path))
    (tmp_path / ".env").write_text("ANNEX_DATABASE_URL=nonsense\r\n", encoding="utf-8-sig")
    assert "ANNEX_DATABASE_URL is not a Postgres URL" in annex("serve", cwd=tmp_path).err


def test_a_terminal_without_our_characters_gets_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    done = annex("install", env={"PYTHONIOENCODING": "iso-8859-1"}, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "alter role annex_api password '\\u2026'" in done.out


def test_a_database_that_does_not_answer_is_said_before_a_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    url = "postgresql://postgres@127.0.0.1:9/x"
    said = sentence(annex("install", "--database", url, cwd=tmp_path))
    assert "Cannot connect to the database" in said
    assert not (tmp_path / "supabase" / "migrations").exists()


@pytest.mark.timeout(240)
async def test_workers_that_cannot_start_say_why_once(
    database: TestDatabase, tmp_path: Path
) -> None:
    env = settings(database, ANNEX_DATABASE_URL=database.url("postgres"))
    said = sentence(annex("serve", "--port", "0", "--workers", "2", env=env, cwd=tmp_path))
    assert "bypasses row level security" in said


@pytest.mark.timeout(240)
async def test_workers_share_a_port_and_one_that_dies_is_replaced(
    database: TestDatabase, tmp_path: Path
) -> None:
    with two_workers(database, tmp_path) as (parent, log):
        url = log.read_text().split("Annex serves ")[1].split()[0]
        serving = [c for c in psutil.Process(parent.pid).children() if c.net_connections("tcp")]
        assert len(serving) == 2
        serving[0].kill()
        wait_for(lambda: "is replaced" in log.read_text())
        wait_for(lambda: listeners(parent.pid) == 2, 90)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/health/ready")).json()["status"] == "ok"
        parent.terminate()
        assert parent.wait(30) == 0
    assert not any(c.is_running() for c in serving)
    assert "Traceback" not in log.read_text()


@pytest.mark.timeout(240)
async def test_workers_end_when_their_parent_is_killed(
    database: TestDatabase, tmp_path: Path
) -> None:
    with two_workers(database, tmp_path) as (parent, _):
        children = psutil.Process(parent.pid).children()
        parent.kill()
        parent.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []


@contextlib.contextmanager
def two_workers(
    database: TestDatabase, folder: Path
) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Run `annex serve --workers 2` until it serves, and what it says into a file."""
    command = [ANNEX, "serve", "--port", "0", "--workers", "2"]
    log = folder / "log"
    with log.open("w+") as err:
        parent = subprocess.Popen(
            command, cwd=folder, env=os.environ | settings(database), stderr=err, text=True
        )
        try:
            wait_for(lambda: "Annex serves" in log.read_text() or parent.poll(), 90)
            yield parent, log
        finally:
            if parent.poll() is None:
                parent.terminate()
                parent.wait(30)


def listeners(pid: int) -> int:
    """Count the processes below one that serve."""
    return sum(bool(c.net_connections("tcp")) for c in psutil.Process(pid).children())


def test_a_database_that_cannot_be_migrated_is_one_sentence_without_its_password() -> None:
    said = sentence(annex("migrate", "postgresql://postgres:hidden@127.0.0.1:9/postgres"))
    assert "Cannot connect to the database" in said
    assert "hidden" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("install", "--into", "/proc/annex"), "/proc/annex cannot be used: "),
        (("uninstall", "--into", "/proc/annex"), "/proc/annex cannot be used: "),
        (("serve",), ".env cannot be used: Is a directory."),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    if arguments == ("serve",):
        (tmp_path / ".env").mkdir()
    ended = annex(*arguments, cwd=tmp_path)
    assert said in sentence(ended)


def test_the_url_to_migrate_may_stand_in_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANNEX_MIGRATE_URL=postgresql://postgres@127.0.0.1:9/x\n")
    for command in ("migrate", "uninstall"):
        assert "('127.0.0.1', 9)" in sentence(annex(command, cwd=tmp_path))
    assert "set ANNEX_MIGRATE_URL" in annex("migrate", cwd=ROOT / "docs").err


def uvicorn(env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """Start the server as somebody would who does not know our own runner."""
    command = [UVICORN, "app.main:app", "--port", "0"]
    return subprocess.Popen(
        command, cwd=cwd, env=os.environ | env, stderr=subprocess.PIPE, text=True
    )


async def test_plain_uvicorn_serves_too(database: TestDatabase, tmp_path: Path) -> None:
    with uvicorn(settings(database), tmp_path) as process:
        assert process.stderr is not None
        line = next(li for li in process.stderr if "Uvicorn running on" in li)
        url = next(word for word in line.split() if word.startswith("http"))
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/health/ready")).json()["status"] == "ok"
        process.terminate()


async def test_plain_uvicorn_says_what_is_wrong_without_a_traceback(
    database: TestDatabase, tmp_path: Path
) -> None:
    env = settings(
        database, ANNEX_DATABASE_URL=database.url("postgres"), ANNEX_STMP_URL="smtps://unseen"
    )
    with uvicorn(env, tmp_path) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "bypasses row level security" in said
    assert "ANNEX_STMP_URL is no setting of Annex; did you mean ANNEX_SMTP_URL?" in said
    assert "unseen" not in said
    assert "Traceback" not in said


def test_plain_uvicorn_says_the_misspelling_that_keeps_it_from_starting(tmp_path: Path) -> None:
    with uvicorn({"ANNEX_DATABSE_URL": "postgresql://u:hidden@h/d"}, tmp_path) as process:
        _, said = process.communicate(timeout=30)
    warning, *wrong = said.splitlines()
    meant = "ANNEX_DATABSE_URL is no setting of Annex; did you mean ANNEX_DATABASE_URL?"
    assert warning == f"annex: warning: {meant}"
    assert wrong[0].startswith("annex: ANNEX_DATABASE_URL is not set")


class Dev(NamedTuple):
    data: Path
    facts: dict[str, Any]
    greeting: str


@contextlib.contextmanager
def dev(data: Path, *args: str) -> Iterator[Dev]:
    """Run `annex dev` until it has greeted; ends with Ctrl-C."""
    command = [ANNEX, "dev", "--port", "0", "--data", str(data), *args]
    log = data.parent / f"{data.name}.log"
    with log.open("w+") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, text=True)
        try:
            wait_for(lambda: "Ctrl-C stops everything" in log.read_text() or process.poll())
            yield Dev(data, json.loads((data / "dev.json").read_text()), log.read_text())
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    assert process.returncode == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert "background task" not in said, said


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """A data folder inside the checkout, where Postgres can reach it as another user."""
    folder = ROOT / ".data" / f"test-dev-{os.getpid()}-{time.monotonic_ns()}"
    folder.parent.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def shared() -> Iterator[Dev]:
    """One `annex dev` for the tests that only look at it."""
    with data_folder() as folder, dev(folder) as running:
        yield running


def test_dev_json_holds_what_scripts_need(shared: Dev) -> None:
    assert set(shared.facts) == {
        "url",
        "database_url",
        "worker_database_url",
        "workspace",
        "users",
        "api_key",
        "operator_key",
    }
    stranger = {"Authorization": f"Bearer {shared.facts['users']['stranger']['token']}"}
    assert httpx.get(f"{url_of(shared)}/acme", headers=stranger).status_code == 404


@pytest.mark.timeout(240)
def test_a_second_run_keeps_the_data_and_a_fresh_one_does_not() -> None:
    with data_folder() as folder:
        with dev(folder) as first:
            made = httpx.post(url_of(first), headers=owner(first), json={"name": "Kept"})
            assert made.status_code == 201
        assert not (folder / "dev.json").exists()
        with dev(folder) as second:
            assert second.facts["api_key"] == first.facts["api_key"]
            assert slugs(second) == ["kept", "acme"]
        with dev(folder, "--fresh") as third:
            assert slugs(third) == ["acme"]


def owner(running: Dev) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.facts['users']['owner']['token']}"}


def slugs(running: Dev) -> list[str]:
    listed = httpx.get(url_of(running), headers=owner(running)).json()["data"]
    return [w["slug"] for w in listed]


def url_of(running: Dev) -> str:
    url: str = running.facts["url"]
    return f"{url}/api/v1/workspaces"


@pytest.mark.skipif(shutil.which("curl") is None, reason="pastes curl lines; curl is not installed")
def test_every_pasted_line_does_what_it_says(shared: Dev) -> None:
    lines = [li.strip() for li in shared.greeting.splitlines() if li.startswith("  curl ")]
    follow, publish, listing, me, create = lines
    stream = subprocess.Popen(["sh", "-c", f"exec {follow} -s"], stdout=subprocess.PIPE, text=True)
    try:
        assert stream.stdout is not None
        first = [stream.stdout.readline().split(":")[0] for _ in range(4)]
        assert first == ["id", "retry", "event", "data"]
        published = json.loads(paste(publish))["id"]
        live = next(li for li in stream.stdout if li.startswith("data: ") and published in li)
        assert json.loads(live.removeprefix("data: "))["data"] == {"total": 42}
    finally:
        stream.kill()
        stream.communicate()
    assert published in paste(listing)
    assert json.loads(paste(me))["email"] == "owner@example.com"
    assert json.loads(paste(create))["slug"] == "globex"


def paste(line: str) -> str:
    """Run a line as a shell would."""
    done = subprocess.run(["sh", "-c", f"{line} -s"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dev_ends_while_a_stream_is_open() -> None:
    began = threading.Event()
    seen: list[str] = []

    def read(url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with (
            httpx.Client(timeout=30) as client,
            httpx_sse.connect_sse(client, "GET", url, headers=headers) as events,
        ):
            for event in events.iter_sse():
                seen.append(event.event)
                began.set()

    with data_folder() as folder:
        with dev(folder) as running:
            stream = f"{url_of(running)}/acme/stream"
            reader = threading.Thread(target=read, args=(stream, running.facts["api_key"]))
            reader.start()
            assert began.wait(20)
            at = time.monotonic()
        assert time.monotonic() - at < 10
        reader.join(10)
    assert seen == ["cursor"]


def test_a_data_folder_in_use_is_said(shared: Dev) -> None:
    said = sentence(annex("dev", "--port", "0", "--data", str(shared.data)))
    assert "in use" in said


async def test_migrate_applies_what_is_missing_and_no_more(postgres: EmbeddedPostgres) -> None:
    await execute(postgres.admin_url, "create database test_migrate")
    url = postgres.url("postgres", "test_migrate")
    await execute(url, PLATFORM)
    lines = annex("migrate", url).out.splitlines()
    assert sum(line.startswith("Applied ") for line in lines) == MIGRATIONS
    assert "up to date" in annex("migrate", url).out
