"""Drives the load generator `clients.c`, compiled on the spot."""

import hashlib
import os
import selectors
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

SOURCE = Path(__file__).with_name("clients.c")
OPEN_SECONDS = 180.0
ANSWER_SECONDS = 30.0


class Opened(msgspec.Struct):
    """How the opening of all connections went."""

    live: int
    refused: int
    """Tries that were refused or cut off, and made again."""
    seconds: float


class Counts(msgspec.Struct):
    """What arrived since the mark, and what each connection has had since the start."""

    seconds: float
    live: int
    lost: int
    """Streams that the server ended unasked, since the start."""
    events: int
    bytes: int
    reads: int
    """Reads with at least one event."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    least: int
    """Events of the connection that has had the fewest since the start."""
    most: int
    sum: int
    disorder: int
    """Events that did not have the number after that of the last one, since the start."""
    malformed: int
    last_event_ns: int
    cpu_seconds: float


def build(folder: Path) -> Path:
    """Compile the load generator, once for each version of its source."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise click.ClickException(
            "The load generator is written in C and there is no compiler: apt install gcc."
        )
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = folder / f"clients-{version}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        options = ["-O2", "-Wall", "-Wextra", "-o", str(unfinished)]
        subprocess.run([compiler, *options, str(SOURCE)], check=True)
        unfinished.rename(program)
    return program


class Clients:
    """Connections of one load generator."""

    def __init__(self, process: "subprocess.Popen[str]", counter: Path) -> None:
        self.process, self.counter = process, counter
        self.count = 0

    def ask(self, command: str, seconds: float = ANSWER_SECONDS) -> bytes:
        """Give a command and wait for its answer; ends the bench when there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise click.ClickException("The load generator has ended.") from None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise click.ClickException(f"The load generator does not answer {command!r}.")
        return self.process.stdout.readline().encode()

    def open(self, port: int, in_flight: int = 64, count: int = 0) -> Opened:
        """Connect all that are not, and wait until each has had so many events.

        Ends the bench when that takes more than three minutes.
        """
        command = f"open {port} {in_flight} {OPEN_SECONDS} {count}"
        opened = msgspec.json.decode(self.ask(command, OPEN_SECONDS + 10), type=Opened)
        if opened.seconds >= OPEN_SECONDS:
            raise click.ClickException(
                f"After {OPEN_SECONDS:.0f} s {opened.live:,} of {self.count:,} streams are open "
                f"and some have not had all their {count:,} events; {opened.refused:,} tries were "
                "refused or cut off."
            )
        return opened

    def load(self, requests: Iterable[bytes]) -> None:
        """Say which requests to send, one a connection."""
        file = self.counter.with_suffix(".requests")
        parts = [b"%d\n%b" % (len(r), r) for r in requests]
        file.write_bytes(b"".join(parts))
        self.count = len(parts)
        self.ask(f"requests {file.name}")

    def mark(self) -> None:
        """Count from here on."""
        self.ask("mark")

    def stat(self) -> Counts:
        """Return the counts since the mark."""
        return msgspec.json.decode(self.ask("stat"), type=Counts)

    def kill(self) -> None:
        """Reset every connection; the next `open` resumes."""
        self.ask("kill")

    @property
    def delivered(self) -> int:
        """Events that have arrived, over all connections."""
        return int(struct.unpack("=Q", self.counter.read_bytes())[0])


@contextmanager
def connecting(program: Path, folder: Path, requests: Iterable[bytes]) -> Iterator[Clients]:
    """Run a load generator with a connection for each request."""
    counter = folder / "counter"
    counter.write_bytes(bytes(8))
    # Runs in its folder, so that no path in a command has a space.
    process = subprocess.Popen(
        [program, counter.name],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        clients = Clients(process, counter)
        clients.load(requests)
        yield clients
    finally:
        process.kill()
        process.communicate()
