"""The postmaster: how a program of Postgres is started, waited for and ended."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.dev import DevError

DEFAULT_PORT = 5432
LEFTOVER_SECONDS = 15.0
"""How long a server that was left alone may take to end."""
_START_SECONDS = 300.0
# Nothing of the user's: PGDATA, PGPORT, PGOPTIONS or a locale would change the server.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True)
class Identity:
    """Whom a child runs as; nothing means as ourselves."""

    user: int | None = None
    group: int | None = None

    def adopt(self, folder: Path) -> None:
        """Give an empty folder to this user."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def popen(self, arguments: list[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a program in its own session, so that a Ctrl-C reaches us and not Postgres."""
        return subprocess.Popen(
            arguments,
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            umask=0o077,
        )


def options(socket_folder: Path, port: int | None) -> list[str]:
    """Write the options that say where the server listens."""
    quoted = str(socket_folder).replace('"', '""')
    return [
        f'--unix_socket_directories="{quoted}"',
        f"--listen_addresses={'' if port is None else '127.0.0.1'}",
        f"--port={port or DEFAULT_PORT}",
    ]


def start_postmaster(
    arguments: list[str], cluster: Path, log: Path, identity: Identity, port: int | None
) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]":
    """Start the server with its watchdog and wait until it accepts connections."""
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while True:
        with log.open("wb") as output:
            postmaster = identity.popen(arguments, output)
        watchdog = None
        try:
            watchdog = _watch(postmaster)
            if _is_ready(postmaster, cluster):
                return postmaster, watchdog
        except BaseException:
            end(postmaster)
            if watchdog is not None:
                dismiss(watchdog)
            raise
        dismiss(watchdog)
        text = log.read_text(errors="replace")
        if "Address already in use" in text:
            raise DevError(f"Port {port} of 127.0.0.1 is in use; choose another for Postgres.")
        # After a kill -9 of the postmaster its children take a moment to notice.
        if "pre-existing shared memory block" not in text or time.monotonic() > deadline:
            raise DevError(f"Postgres did not start: {reason_of(text)} (see {log})")
        time.sleep(0.1)


def _watch(postmaster: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Start a shell that stops Postgres at the end of its input: when we end, in whatever way."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -INT "$0"', str(postmaster.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(watchdog: "subprocess.Popen[bytes]") -> None:
    """End the watchdog before its pipe, or it would stop whatever has the number by then."""
    watchdog.kill()
    watchdog.communicate()


def _is_ready(postmaster: "subprocess.Popen[bytes]", cluster: Path) -> bool:
    """Wait until the server says that it is ready; return False when it ends instead."""
    deadline = time.monotonic() + _START_SECONDS
    while postmaster.poll() is None:
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if lines[:1] == [str(postmaster.pid)] and lines[7:] and lines[7].strip() == "ready":
            return True
        if time.monotonic() > deadline:
            end(postmaster)
            return False
        time.sleep(0.01)
    return False


def reason_of(text: str) -> str:
    """Pick the line of a log that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in ("FATAL:", "PANIC:", "error:"):
        for line in lines:
            if mark in line:
                return line.split(": ", 1)[-1].strip()
    return lines[-1] if lines else "it said nothing"


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a Postgres program: a fast shutdown, then an immediate one, then a kill."""
    for sign, patience_seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        process.send_signal(sign)
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            continue
