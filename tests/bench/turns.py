"""Servers and pgbench, measured one turn at a time."""

import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import psutil  # type: ignore[import-untyped]

from tests.bench.load import Plan, Tally
from tests.bench.operations import Caller, Operation
from tests.bench.processes import cpu_seconds, pgbench

ROOT = Path(__file__).parent.parent.parent
WARMUP_SECONDS = 0.7
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Result(NamedTuple):
    """What one way did in one turn."""

    rate: float
    cpu_us: float
    """CPU time of the server process, a request."""
    postgres_us: float
    """CPU time of Postgres, a request."""
    client_share: float
    """Of one core, taken by the load generator."""


class Running(NamedTuple):
    """A server process."""

    port: int
    process: "subprocess.Popen[bytes]"


@contextmanager
def running(variant: str, given: bytes) -> Iterator[Running]:
    """Serve a variant in a process of its own, on a socket that is open from the start."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.servers", variant, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd=ROOT,
        )
        port = listener.getsockname()[1]
    assert process.stdin is not None
    process.stdin.write(given)
    process.stdin.close()
    try:
        yield Running(port, process)
    finally:
        process.terminate()
        process.wait()


def load(server: Running, postmaster: psutil.Process, plan: Plan) -> Result:
    """Measure one server for a while."""
    watched = psutil.Process(server.process.pid)
    before = cpu_seconds([watched]), cpu_seconds(postmaster.children())
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    after = cpu_seconds([watched]), cpu_seconds(postmaster.children())
    tally = msgspec.json.decode(done.stdout, type=Tally)
    if tally.failures:
        raise click.ClickException(f"{tally.failures} answers were no success.")
    cpu_us, postgres_us = (
        (a - b) / (tally.warmup_answers + tally.answers) * 1e6
        for a, b in zip(after, before, strict=True)
    )
    rate, share = tally.answers / tally.seconds, tally.cpu_seconds / tally.seconds
    return Result(rate, cpu_us, postgres_us, share)


def limit(operation: Operation, caller: Caller, url: str, clients: int, seconds: float) -> float:
    """Let pgbench run an operation's statement, prepared; returns transactions a second."""
    values = (caller.claims, *operation.values(caller))
    # pgbench's variables have names, Postgres' parameters numbers.
    script = re.sub(r"\$(\d+)", r":v\1", operation.sql)
    named = [f"-Dv{n}={value}" for n, value in enumerate(values, 1)]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(f"{' '.join(script.split())};\n")
        file.flush()
        done = subprocess.run(
            [
                str(pgbench()),
                *("-n", "-M", "prepared", "-c", str(clients), "-j", "2"),
                *("-T", str(max(1, round(seconds))), "-f", file.name, *named, url),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    found = RATE.search(done.stdout)
    if done.returncode or found is None:
        raise click.ClickException(done.stderr)
    return float(found[1])
