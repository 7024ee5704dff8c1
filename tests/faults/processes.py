"""`annex serve` as a process of its own, that can be killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psutil  # type: ignore[import-untyped]

from app.main import create_app
from app.settings import Settings
from tests.conftest import ROOT, Running, TestDatabase, settings_for
from tests.realtime.reader import until

# What a test changes of the code, for limits that would take it too long to wait for.
PATCHED = """
import ast, importlib, sys
for name, value in ast.literal_eval(sys.argv.pop(1)).items():
    module, _, attribute = name.rpartition(".")
    getattr(importlib.import_module(module), attribute)
    setattr(importlib.import_module(module), attribute, value)
from app.cli import main
main()
"""


def start(log: Path, environ: Mapping[str, str], *program: str) -> subprocess.Popen[bytes]:
    """Start a program with these settings and no others; its output goes to a file."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ANNEX_")}
    with log.open("wb") as output:
        return subprocess.Popen(
            program,
            cwd=ROOT,
            env=kept | dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


@contextlib.contextmanager
def program_running(
    log: Path, environ: Mapping[str, str], *program: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program for the block, and kill it at the end if it still runs."""
    child = start(log, environ, *program)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


class Process:
    """A server in a process of its own."""

    def __init__(
        self,
        database: TestDatabase,
        folder: Path,
        *,
        port: int = 0,
        patches: Mapping[str, Any] = {},
        **others: Any,
    ) -> None:
        settings = settings_for(database, **{"log_level": "warning", **others})
        self.log = folder / f"serve-{uuid4().hex[:8]}.log"
        self.child = start(
            self.log,
            environment(settings),
            *(sys.executable, "-c", PATCHED, repr(dict(patches)), "serve", "--port", str(port)),
        )
        self.database, self.settings = database, settings

    async def started(self, seconds: float = 30) -> Running:
        """Wait until it serves; what it returns makes callers, its application is another one."""
        await until(lambda: "Annex serves" in self.said or self.child.poll() is not None, seconds)
        assert self.child.poll() is None, self.said
        url = self.said.partition("Annex serves ")[2].split()[0]
        return Running(url, create_app(self.settings), self.settings, self.database)

    @property
    def said(self) -> str:
        """Its output up to now."""
        return self.log.read_text(errors="replace")

    @property
    def memory(self) -> int:
        """Its resident memory at the highest up to now, in bytes."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def sockets(self) -> int:
        """How many connections it holds, to the database and from clients."""
        found: int = psutil.Process(self.child.pid).num_fds()
        return found

    def kill(self) -> None:
        """End it as a crash does."""
        self.child.kill()
        self.child.wait()

    async def stop(self, seconds: float = 10) -> float:
        """Ask it to stop; returns the seconds it took, raises TimeoutError when it does not."""
        began = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        await until(lambda: self.child.poll() is not None, seconds)
        return time.monotonic() - began


def environment(settings: Settings) -> dict[str, str]:
    """Say settings as the environment does."""
    given = {k: v for k, v in msgspec.structs.asdict(settings).items() if v is not None}
    return {
        f"ANNEX_{k.upper()}": ",".join(v) if isinstance(v, list) else str(v)
        for k, v in given.items()
        if v != []
    }


@contextlib.asynccontextmanager
async def serving(
    database: TestDatabase, folder: Path, **options: Any
) -> AsyncIterator[tuple[Process, Running]]:
    """Serve in a process of its own; an end that was no kill has to be a clean one."""
    process = Process(database, folder, **options)
    try:
        live = await process.started()
        try:
            yield process, live
        finally:
            await live.close()
        if process.child.poll() is None:
            await process.stop()
        assert process.child.returncode in (0, -signal.SIGKILL), process.said
        assert "Traceback" not in process.said
    finally:
        if process.child.poll() is None:
            process.kill()
