"""`make bench-lists`: that a page of notifications is read in its index's order, at a million."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import asyncpg
import rich_click as click

from app.dev.postgres import EmbeddedPostgres
from tests.bench.rows import migrate
from tests.inbox.test_plans import FILL, STATES, check_list

ROOT = Path(__file__).parent.parent.parent
DATABASE = "bench"


async def measure(folder: Path, items: int, users: int) -> None:
    """Fill the table, and look at each list; raises AssertionError for a plan that may not be."""
    with EmbeddedPostgres(folder, settings={"max_wal_size": "4GB"}) as postgres:
        admin = await migrate(postgres, DATABASE)
        began = time.perf_counter()
        await admin.execute(FILL.format(users=users, items=items))
        click.echo(
            f"{items:,} notifications of {users:,} users: {time.perf_counter() - began:.0f} s"
        )
        who = await admin.fetchval("select user_id from annex.inboxes limit 1")
        session = await asyncpg.connect(postgres.url("annex_api", DATABASE))
        for name in STATES:
            for is_first in (True, False):
                took = [await check_list(session, who, name, is_first) for _ in range(5)]
                page = "first page" if is_first else "a later page"
                click.echo(f"{name}, {page}: {statistics.median(took):.2f} ms, in order, no sort")
        await session.close()
        await admin.close()


@click.command()
@click.option("--items", default=1_000_000, show_default=True, help="Notifications of all users.")
@click.option("--users", default=1000, show_default=True, help="Users who share them.")
def main(items: int, users: int) -> None:
    """Look at the plan of each list of notifications where there are many."""
    (ROOT / ".data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".data", prefix="bench-lists-") as folder:
        Path(folder).chmod(0o755)
        asyncio.run(measure(Path(folder), items, users))


if __name__ == "__main__":
    main()
