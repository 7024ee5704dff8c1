"""The promise under faults: `make test-faults`; `make chaos` for longer, with other seeds."""

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from app.dev.migrations import apply
from app.dev.postgres import EmbeddedPostgres, chosen
from tests.conftest import MIGRATING_ROLE, ROOT, execute
from tests.faults.seed import SEED
from tests.ports import free_port

# A killed process leaves what it wrote in the kernel's page cache, so that fsync guards nothing
# here; but a COMMIT must have been written before it is answered.
CRASHABLE = {"fsync": "off", "synchronous_commit": "on", "max_connections": "120"}


def pytest_report_header() -> str:
    """Say how to repeat this run."""
    return f"seed {SEED}: repeat with `make chaos SEED={SEED}`"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what tests have counted, such as how many kills hit an open transaction."""
    reports = [r for found in terminalreporter.stats.values() for r in found]
    for report in (r for r in reports if getattr(r, "when", None) == "call"):
        for name, value in getattr(report, "user_properties", ()):
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {name} {value}")


class Crashable(EmbeddedPostgres):
    """A Postgres at an address that outlives its crashes; its socket may move."""

    def __init__(self, data: Path, port: int) -> None:
        super().__init__(data, chosen(), CRASHABLE, port)
        self.data = data
        self.port = port

    def url(self, role: str, database: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def crash(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, or with SIGQUIT to the first; wait for their end.

        What SIGQUIT does is `pg_ctl -m immediate stop`.
        """
        pid = int((self.data / "cluster" / "postmaster.pid").read_text().split("\n", 1)[0])
        postmaster = psutil.Process(pid)
        all_processes = [postmaster, *postmaster.children(recursive=True)]
        for process in all_processes if number == signal.SIGKILL else all_processes[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(all_processes, timeout=20)
        self.stop()


@pytest.fixture
async def crashable(tmp_path: Path) -> AsyncIterator[Crashable]:
    """Start a migrated server for one test to crash."""
    with Crashable(tmp_path / "pg", free_port()) as server:
        admin = server.admin_url
        await execute(admin, (ROOT / "supabase" / "local" / "platform.sql").read_text())
        await apply(admin, ROOT / "supabase" / "migrations", MIGRATING_ROLE)
        yield server
