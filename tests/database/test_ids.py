from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from tests.database.conftest import Connection

FLOOR = "select annex.uuid7_floor($1)"
LOOP = """
do $$ begin for i in 1 .. 2000 loop insert into made (id) values (annex.uuid7()); end loop; end $$
"""


def made_at(made: UUID) -> datetime:
    """Read the moment out of a UUID v7, to the microsecond."""
    fraction = (made.int >> 64 & 0xFFF) * 1000 / 4096
    return datetime.fromtimestamp(0, UTC) + timedelta(
        milliseconds=made.int >> 80, microseconds=fraction
    )


async def test_an_id_is_a_uuid_of_version_7(admin: Connection) -> None:
    rows = await admin.fetch("select annex.uuid7() as id from generate_series(1, 1000)")
    assert {(row["id"].version, row["id"].variant) for row in rows} == {(7, RFC_4122)}


async def test_ids_differ(admin: Connection) -> None:
    rows = await admin.fetch("select annex.uuid7() as id from generate_series(1, 10000)")
    assert len({row["id"] for row in rows}) == 10_000


async def test_an_id_carries_its_moment(admin: Connection) -> None:
    (row,) = await admin.fetch(
        "select clock_timestamp() as a, annex.uuid7() as id, clock_timestamp() as b"
    )
    slack = timedelta(microseconds=1)
    assert row["a"] - slack <= made_at(row["id"]) <= row["b"] + slack


async def test_ids_made_one_after_the_other_sort_in_that_order(admin: Connection) -> None:
    await admin.execute("create temp table made (n integer generated always as identity, id uuid)")
    await admin.execute(LOOP)
    # The random half decides only between ids of the same microsecond.
    times = [row["id"].int >> 64 for row in await admin.fetch("select id from made order by n")]
    assert times == sorted(times)
    assert len(set(times)) > 1000


@pytest.mark.parametrize("microsecond", [0, 1, 499, 500, 999, 1500, 999_499, 999_500, 999_999])
async def test_the_floor_is_not_above_an_id_of_its_moment(
    microsecond: int, admin: Connection
) -> None:
    moment = datetime(2026, 11, 30, 23, 59, 59, microsecond, tzinfo=UTC)
    floor = await admin.fetchval(FLOOR, moment)
    assert timedelta() <= moment - made_at(floor) < timedelta(milliseconds=1)


async def test_the_floor_is_the_lowest_id_of_its_millisecond(admin: Connection) -> None:
    floor = await admin.fetchval(FLOOR, datetime(2026, 12, 1, tzinfo=UTC))
    assert (floor.version, floor.variant) == (7, RFC_4122)
    assert floor.int & ~(0xF << 76 | 0b11 << 62) == floor.int >> 80 << 80


async def test_the_floor_does_not_depend_on_the_sessions_time_zone(admin: Connection) -> None:
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    floors = set()
    for zone in ("UTC", "Pacific/Kiritimati", "America/New_York"):
        await admin.execute(f"set time zone '{zone}'")
        floors.add(await admin.fetchval(FLOOR, moment))
    assert len(floors) == 1


async def test_ids_of_one_moment_are_a_run_of_version_7_and_differ_by_their_seed(
    admin: Connection,
) -> None:
    rows = await admin.fetch(
        "select annex.uuid7_of($1, seed, n) as id, seed, n"
        " from unnest(array['a', 'b']) seed, generate_series(1, 1000) n order by seed, n",
        1_796_083_199_999_500,
    )
    assert {(row["id"].version, row["id"].variant) for row in rows} == {(7, RFC_4122)}
    assert len({row["id"] for row in rows}) == 2000
    for seed in ("a", "b"):
        ids = [row["id"] for row in rows if row["seed"] == seed]
        assert ids == sorted(ids)
    moment = datetime.fromtimestamp(1_796_083_199.9995, UTC)
    assert abs(made_at(rows[0]["id"]) - moment) < timedelta(microseconds=3)
