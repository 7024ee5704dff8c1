"""The embedded Postgres starts anywhere, serves one process, and never outlives it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.dev import DevError
from app.dev.postgres import THROWAWAY, VERSIONS, EmbeddedPostgres
from tests.ports import free_port

CHECKOUT = Path(__file__).parents[2]
VERSION, OTHER_VERSION = sorted(VERSIONS, reverse=True)

FACTS = """
select concat_ws(
  ' ', current_setting('server_version_num')::int / 10000, current_setting('server_encoding'),
  current_setting('timezone'), lower('Ä'), 'B' < 'a'
)
"""

STARTER = """
import sys, time
from pathlib import Path
from app.dev.postgres import THROWAWAY, EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), int(sys.argv[2]), THROWAWAY)
server.start()
print("started", flush=True)
if sys.argv[3] == "raise":
    raise RuntimeError
time.sleep(60)
"""


def embedded(data: Path, **more: Any) -> EmbeddedPostgres:
    """Make a server for a test, without the price of durability."""
    return EmbeddedPostgres(data, VERSION, more.pop("settings", THROWAWAY), **more)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Name a data folder that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def starter(data: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a server over the data folder in a process of its own."""
    with start_elsewhere(data, "sleep") as process:
        yield process
        process.kill()


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program that has nothing to do with Postgres."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def start_elsewhere(data: Path, then: str) -> "subprocess.Popen[str]":
    """Start a server in another process and return once it answers."""
    said = data.with_name("starter.log")
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(data), str(VERSION), then],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n", said.read_text()
    return process


def socket_of(server: EmbeddedPostgres) -> Path:
    """Return the path of the server's socket."""
    query = parse_qs(urlsplit(server.admin_url).query)
    return Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"


def is_gone(path: Path) -> bool:
    """Tell whether nothing is left at a path."""
    return not path.exists()


def postmaster(data: Path) -> int:
    """Return the process number of the server over this folder."""
    return int((data / "cluster" / "postmaster.pid").read_text().splitlines()[0])


def ends(pid: int) -> bool:
    """Wait at most ten seconds for a process to end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


async def ask(url: str, query: str) -> Any:
    """Log in and ask for one value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_server_answers_and_keeps_its_data_for_the_next_start(data: Path) -> None:
    with embedded(data) as server:
        await ask(server.admin_url, "create table kept as select 1 as one")
    with embedded(data) as server:
        assert await ask(server.admin_url, "select one from kept") == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_versions_of_the_wheel_run_in_utf8_and_utc(data: Path, version: int) -> None:
    with EmbeddedPostgres(data, version, THROWAWAY) as server:
        assert await ask(server.admin_url, FACTS) == f"{version} UTF8 UTC ä t"


async def test_the_defaults_are_durable_and_settings_override_them(data: Path) -> None:
    with embedded(data, settings={"max_connections": "17"}) as server:
        assert await ask(server.admin_url, "show max_connections") == "17"
        assert await ask(server.admin_url, "show fsync") == "on"
        assert await ask(server.admin_url, "show listen_addresses") == ""


@pytest.mark.parametrize("name", ["my data", "a, 'b' \"c\" & %20 ü", "long" * 40])
async def test_odd_and_long_paths_and_spaces_work_for_asyncpg_and_sqlalchemy(
    data: Path, name: str
) -> None:
    with embedded(data / name) as server:
        assert await ask(server.url("postgres", "postgres"), "select 1") == 1
        engine = create_async_engine(server.admin_url.replace("://", "+asyncpg://", 1))
        async with engine.connect() as connection:
            assert (await connection.exec_driver_sql("select 1")).scalar() == 1
        await engine.dispose()
        sock = socket_of(server)
        assert not is_gone(sock)
    assert is_gone(sock)
    assert is_gone(sock.parent) != sock.is_relative_to(data)  # a folder in /tmp goes with it


async def test_a_port_opens_tcp_on_loopback_besides_the_socket(data: Path) -> None:
    port = free_port()
    with embedded(data, port=port) as server:
        assert await ask(f"postgresql://postgres@127.0.0.1:{port}/postgres", "select 1") == 1
        assert await ask(server.admin_url, "select inet_server_port()") is None


def test_a_taken_port_is_one_sentence(data: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DevError, match=f"^Port {port} of 127.0.0.1 is in use"):
            embedded(data, port=port).start()


async def test_servers_of_one_process_over_one_folder_are_one_server(data: Path) -> None:
    with embedded(data) as first:
        with embedded(data) as second:
            assert second.admin_url == first.admin_url
        assert await ask(first.admin_url, "select 1") == 1
        with pytest.raises(DevError, match="stop it before erasing"):
            first.erase()
    with pytest.raises(DevError, match="Start the embedded Postgres"):
        _ = first.admin_url


@pytest.mark.usefixtures("starter")
def test_a_second_process_gets_one_sentence_and_the_first_goes_on(data: Path) -> None:
    pid = postmaster(data)
    with pytest.raises(DevError, match=r"in use by another `annex dev`.*DATA="):
        embedded(data).start()
    with pytest.raises(DevError, match="in use by another"):
        embedded(data).erase()
    os.kill(pid, 0)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_ends_with_the_process_that_started_it(
    data: Path, starter: "subprocess.Popen[str]", sign: signal.Signals
) -> None:
    pid = postmaster(data)
    starter.send_signal(sign)
    starter.wait()
    with embedded(data) as server:  # at once, while the other may still be shutting down
        assert await ask(server.admin_url, "select 1") == 1
    assert ends(pid)


def test_a_server_ends_when_its_starter_raises(data: Path) -> None:
    with start_elsewhere(data, "raise") as process:
        assert process.wait() == 1
    assert not (data / "cluster" / "postmaster.pid").exists()


async def test_a_stale_pid_file_is_forgotten_even_if_its_number_is_someone_elses(
    data: Path, starter: "subprocess.Popen[str]", stranger: "subprocess.Popen[bytes]"
) -> None:
    pid = postmaster(data)
    pid_file = data / "cluster" / "postmaster.pid"
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    starter.kill()
    starter.wait()
    pid_file.write_text(pid_file.read_text().replace(str(pid), str(stranger.pid), 1))
    with embedded(data) as server:
        assert await ask(server.admin_url, "select 1") == 1
    assert stranger.poll() is None


def test_an_unknown_version_or_setting_is_one_sentence(data: Path) -> None:
    with pytest.raises(DevError, match="no embedded Postgres 9; choose one of 16 and 18"):
        EmbeddedPostgres(data, 9).start()
    with pytest.raises(
        DevError, match='did not start: unrecognized configuration parameter "colour"'
    ):
        embedded(data, settings={"colour": "blue"}).start()


async def test_erase_starts_over_also_for_another_version(data: Path) -> None:
    with EmbeddedPostgres(data, OTHER_VERSION, THROWAWAY):
        pass
    server = embedded(data)
    with pytest.raises(
        DevError, match=rf"made by Postgres {OTHER_VERSION}, not {VERSION}.*FRESH=1"
    ):
        server.start()
    server.erase()
    with server:
        assert await ask(server.admin_url, "select 1") == 1


async def test_a_half_made_cluster_is_made_again(data: Path) -> None:
    (data / "cluster.new" / "base").mkdir(parents=True)
    with embedded(data) as server:
        assert await ask(server.admin_url, "select 1") == 1


def test_a_file_in_the_way_is_one_sentence(data: Path) -> None:
    data.write_text("")
    with pytest.raises(DevError, match="is not a folder"):
        embedded(data).start()


def test_the_server_is_its_folders_owner_and_never_root(data: Path) -> None:
    with embedded(data):
        owner = (data / "cluster").stat().st_uid
        assert owner == os.geteuid() or os.geteuid() == 0
        assert owner != 0
        assert Path(f"/proc/{postmaster(data)}").stat().st_uid == owner
