import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import TestDatabase
from tests.database.conftest import Connection, new_event

FLOOR = "select annex.uuid7_floor($1)"
ROLL = "select annex.roll_partitions($1)"
MADE_AT_FIRST = 5  # last month to three months ahead


def month(ahead: int) -> datetime:
    """Return the first moment of a month, counted from this one."""
    now = datetime.now(UTC)
    years, index = divmod(now.month - 1 + ahead, 12)
    return datetime(now.year + years, index + 1, 1, tzinfo=UTC)


@pytest.fixture
async def worker(own_database: TestDatabase) -> AsyncIterator[Connection]:
    async with own_database.connect("annex_worker") as connection:
        yield connection


async def event_at(admin: Connection, moment: datetime) -> str:
    """Write an event of a moment; returns the partition that took it."""
    made: UUID = await admin.fetchval(FLOOR, moment)
    await new_event(admin, uuid4(), event_id=made)
    partition: str = await admin.fetchval(
        "select tableoid::regclass::text from annex.events where event_id = $1", made
    )
    return partition


@pytest.mark.parametrize("ahead", range(-1, 4))
async def test_an_event_lands_in_its_months_partition(ahead: int, admin: Connection) -> None:
    name = f"annex.events_{month(ahead):%Y_%m}"
    assert await event_at(admin, month(ahead)) == name
    assert await event_at(admin, month(ahead + 1) - timedelta(milliseconds=1)) == name


@pytest.mark.parametrize("ahead", [-2, 4])
async def test_an_event_of_any_other_month_lands_in_the_default(
    ahead: int, admin: Connection
) -> None:
    assert await event_at(admin, month(ahead)) == "annex.events_default"


async def test_rolling_makes_what_is_missing_and_then_nothing(worker: Connection) -> None:
    assert [await worker.fetchval(ROLL, n) for n in (3, 5, 5, 2)] == [0, 2, 0, 0]


@pytest.mark.parametrize(("ahead", "made"), [(-5, 0), (0, 0), (1000, 24 + 2 - MADE_AT_FIRST)])
async def test_rolling_goes_at_most_two_years_ahead(
    ahead: int, made: int, worker: Connection
) -> None:
    assert await worker.fetchval(ROLL, ahead) == made


async def test_several_may_roll_at_once(own_database: TestDatabase) -> None:
    async def roll() -> int:
        async with own_database.connect("annex_worker") as connection:
            made: int = await connection.fetchval(ROLL, 8)
            return made

    assert sum(await asyncio.gather(*[roll() for _ in range(5)])) == 5


async def test_a_new_partition_is_closed(own_database: TestDatabase, worker: Connection) -> None:
    await worker.execute(ROLL, 4)
    name = f"annex.events_{month(4):%Y_%m}"
    (row,) = await worker.fetch(
        "select relrowsecurity, relforcerowsecurity, relowner::regrole::text from pg_class"
        " where oid = $1::text::regclass",
        name,
    )
    assert tuple(row) == (True, True, "annex_owner")
    for role in ("annex_api", "annex_worker"):
        async with own_database.connect(role) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"select from {name}")


async def test_rolling_goes_on_past_a_month_that_the_default_partition_already_holds(
    own_database: TestDatabase, worker: Connection
) -> None:
    async with own_database.connect("postgres") as admin:
        await event_at(admin, month(4) + timedelta(days=3))
        assert await worker.fetchval(ROLL, 6) == 2
        assert await event_at(admin, month(4)) == "annex.events_default"
        assert await event_at(admin, month(5)) == f"annex.events_{month(5):%Y_%m}"
