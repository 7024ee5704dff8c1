"""Time the command on a generated project of 100 tables and 150 operations.

Measured is the CPU of the whole process, and what of it goes into starting Python and importing
libraries and the project itself, which the check needs but does not do. Queries are counted by the
guard, EXPLAINs left out: they are sent only where two texts differ.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alembic_readonly_check import catalog, expressions, guard, scratch
from alembic_readonly_check.check import Check
from alembic_readonly_check.config import load
from alembic_readonly_check.databases import DatabaseCheck

from tests.bench.drift.generated import OPERATIONS, TABLES, write

OFFLINE_SECONDS, LIVE_SECONDS, QUERIES = 2.0, 1.0, 20

IMPORTS = "import alembic_readonly_check.cli, asyncpg, sys; sys.path.insert(0, '.');"


def cpu(folder: Path, *command: str, **environment: str) -> float:
    """Give the seconds of CPU of one process, the least of three runs."""
    held = os.environ | environment | {"NO_COLOR": "1"}
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command], cwd=folder, env=held, check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def inside(work: Callable[[], object]) -> float:
    """Give the seconds of CPU of a call in this process, the least of three."""
    seconds = []
    for _ in range(3):
        for cached in (
            expressions.parse_type,
            expressions.parse_expression,
            expressions._canonical,
        ):
            cached.cache_clear()
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def _queries(run: Check, reader: guard.Reader) -> int:
    """Do a whole live check and give the number of its queries."""
    live = DatabaseCheck(run)
    live.with_live(live.read_live(reader), only=frozenset({"facts", "migrations"}), held=[])
    return reader.queries


def offline(folder: Path) -> Check:
    run = Check(load(folder))
    run.docs()
    run.mapped()
    run.offline()
    run.api()
    assert run.findings == [], run.findings[:3]
    return run


def measure(server_url: str) -> list[str]:
    """Make the project, check it offline and live, and write the figures as Markdown lines."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        sys.path.insert(0, str(folder))
        offline(folder)
        own = inside(lambda: offline(folder))
        whole = cpu(folder, "-m", "alembic_readonly_check")
        imports = cpu(folder, "-c", f"{IMPORTS} import big.tables, big.web")
        server = guard.driver_url(server_url, "server")
        migrations = [folder / "migrations/0001_all.sql"]
        with scratch.databases(server, "server", [], migrations, None, None, "public") as made:
            url = made.migrated.set(drivername="postgresql").render_as_string(hide_password=False)
            os.environ["BIG_DATABASE_URL"] = url
            run = Check(load(folder))
            run.docs()
            run.mapped()
            queries = guard.run(made.migrated, "big", run.scope().schemas, partial(_queries, run))
            assert {found.code for found in run.findings} <= {"RO901"}, run.findings[:3]
            live = inside(run.databases)
            command = cpu(folder, "-m", "alembic_readonly_check", "db", BIG_DATABASE_URL=url)
    rows = (
        ("offline, the check itself", f"{own:.2f} s", f"{OFFLINE_SECONDS:.0f} s", own <= 2),
        ("offline, the whole command", f"{whole:.2f} s", "-", True),
        ("of that, starting and importing libraries and project", f"{imports:.2f} s", "-", True),
        ("live, the check itself", f"{live:.2f} s", f"{LIVE_SECONDS:.0f} s", live <= LIVE_SECONDS),
        ("live, the whole command `db`", f"{command:.2f} s", "-", True),
        ("live, queries", str(queries), str(QUERIES), queries <= QUERIES),
    )
    lines = [
        f"CPU seconds on {TABLES} tables and {OPERATIONS} operations"
        f" ({len(catalog.QUERIES)} of the queries read the catalog):\n",
        "\n| What | Measured | Limit | Held |\n|---|---|---|---|\n",
    ]
    lines += [
        f"| {what} | {figure} | {limit} | {'yes' if held else 'NO'} |\n"
        for what, figure, limit, held in rows
    ]
    return lines
