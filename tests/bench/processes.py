"""What the operating system tells of the processes that are measured."""

from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def postmaster_of(data: Path) -> psutil.Process:
    """Find the process that Postgres runs as."""
    file = data / "cluster" / "postmaster.pid"
    return psutil.Process(int(file.read_text().splitlines()[0]))


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Add up what processes have used."""
    times = (p.cpu_times() for p in processes)
    return float(sum(t.user + t.system for t in times))
