"""Time the command on a generated project of 100 tables and 150 operations.

Measured is the CPU (user and system) of the whole process as a user starts it, the median of five
runs; beside it what starting Python and importing the project alone take, which no check can save.
Bytecode is there, as from the second run on; the first runs are measured beside it. Queries are
counted by the guard, EXPLAINs left out: they are sent only where two texts differ.
"""

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree
from statistics import median

from alembic_readonly_check.command.check import Check
from alembic_readonly_check.command.databases import DatabaseCheck
from alembic_readonly_check.config import load
from alembic_readonly_check.db import guard, scratch
from alembic_readonly_check.db import queries as catalog_queries
from alembic_readonly_check.sql.expressions import _canonical, parse_expression
from alembic_readonly_check.sql.types import parse_type

from tests.bench.drift.generated import OPERATIONS, TABLES, write

OFFLINE_SECONDS, LIVE_SECONDS, QUERIES = 2.0, 1.0, 20

COMMAND = ("-m", "alembic_readonly_check")

# Without the collector of cycles, as the command runs: what is above this is the command's own.
ALONE = "import atexit, gc, sys; gc.disable(); atexit.register(gc.freeze); sys.path.insert(0, '.');"


def cpu(
    folder: Path, *command: str, before: Callable[[], object] = int, **environment: str
) -> float:
    """Give the seconds of CPU of one process, the median of five runs; `before` precedes each."""
    held = os.environ | environment | {"NO_COLOR": "1"}
    held.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = []
    for _ in range(5):
        before()
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command], cwd=folder, env=held, check=True, stdout=subprocess.DEVNULL
        )
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    return median(seconds)


def inside(work: Callable[[], object]) -> float:
    """Give the seconds of CPU of a call in this process, the median of five."""
    gc.disable()
    seconds = []
    for _ in range(5):
        for cached in (
            parse_type,
            parse_expression,
            _canonical,
        ):
            cached.cache_clear()
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    gc.enable()
    return median(seconds)


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
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        sys.path.insert(0, str(folder))
        offline(folder)
        own = inside(lambda: offline(folder))
        cpu(folder, *COMMAND)
        whole = cpu(folder, *COMMAND)
        libraries = cpu(folder, "-c", f"{ALONE} import litestar, msgspec, sqlalchemy")
        project = cpu(folder, "-c", f"{ALONE} import big.tables, big.web")
        models = cpu(folder, "-c", f"{ALONE} import big.tables")
        own_none = partial(rmtree, folder / "big/__pycache__")
        unread = cpu(folder, *COMMAND, before=own_none)
        compiled = folder / "compiled"
        none = partial(rmtree, compiled, ignore_errors=True)
        first = cpu(folder, *COMMAND, before=none, PYTHONPYCACHEPREFIX=str(compiled))
        server = guard.driver_url(server_url, "server")
        migrations = [folder / "migrations/0001_all.sql"]
        scripts = scratch.Scripts(migrations=migrations)
        with scratch.databases(server, "server", scripts, None, "public") as made:
            url = made.migrated.set(drivername="postgresql").render_as_string(hide_password=False)
            os.environ["BIG_DATABASE_URL"] = url
            run = Check(load(folder))
            run.docs()
            run.mapped()
            queries = guard.run(made.migrated, "big", run.scope().schemas, partial(_queries, run))
            assert {found.code for found in run.findings} <= {"RO901"}, run.findings[:3]
            live = inside(DatabaseCheck(run).compare)
            command = cpu(folder, *COMMAND, "db", BIG_DATABASE_URL=url)
    loads.append(os.getloadavg()[0])
    rows = (
        ("offline, the whole command", whole, OFFLINE_SECONDS),
        ("- the check itself", own, None),
        ("- Python and `import litestar, msgspec, sqlalchemy` alone", libraries, None),
        ("- Python and the project's own modules alone, which import these", project, None),
        ("offline, the project's bytecode not written yet", unread, None),
        ("offline, no bytecode at all: the first run after an installation", first, None),
        ("live, the check itself", live, LIVE_SECONDS),
        ("live, the whole command `db`", command, None),
        ("- Python and the project's models alone", models, None),
    )
    told = " and ".join(f"{one:.1f}" for one in loads)
    lines = [
        f"CPU seconds on {TABLES} tables and {OPERATIONS} operations, measured, the median of five"
        f" ({os.cpu_count()} CPUs, load {told} before and after;"
        f" {len(catalog_queries.QUERIES)} of the queries read the catalog):\n",
        "\n| What | Measured | Limit | Held |\n|---|---|---|---|\n",
    ]
    lines += [_row(what, f"{seconds:.2f} s", seconds, limit) for what, seconds, limit in rows]
    lines.append(_row("live, queries", str(queries), queries, QUERIES))
    return lines


def _row(what: str, shown: str, figure: float, limit: float | None) -> str:
    if limit is None:
        return f"| {what} | {shown} | - | - |\n"
    unit = shown.partition(" ")[2]
    return f"| {what} | {shown} | {limit:g} {unit}".rstrip() + (
        f" | {'yes' if figure <= limit else 'NO'} |\n"
    )
