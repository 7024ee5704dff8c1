"""Every migration records itself, by the number and the noun of its file."""

import re
from pathlib import Path

import pytest

from app.database.migrations import (
    carried,
    checksum_of,
    claimed_checksum,
    name_in,
    with_checksum,
)
from tests.conftest import ROOT, TestDatabase

FILES = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))
LINE = "insert into annex.migrations (name) values ('{}');"


def expected(file: Path) -> str:
    """Return the name that a file's last statement must record."""
    found = re.fullmatch(r"[0-9]{8}00([0-9]{2})00_([a-z0-9_]+)\.sql", file.name)
    assert found, f"{file.name}: call it <yyyymmdd>00<nn>00_<noun>.sql"
    return f"{found[1]}_{found[2]}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_migration_ends_with_its_line_of_the_ledger(file: Path) -> None:
    wanted = LINE.format(expected(file))
    assert name_in(file.read_text()) == expected(file), f"{file.name} must end with: {wanted}"


def test_no_two_migrations_have_one_number() -> None:
    numbers = [expected(file)[:2] for file in FILES]
    assert len(set(numbers)) == len(numbers) > 0


async def test_the_database_knows_what_it_has(database: TestDatabase) -> None:
    async with database.connect("annex_api") as connection:
        found = await connection.fetch("select * from annex.applied_migrations() order by 1")
    assert [row[0] for row in found] == [m.name for m in carried()] == [expected(f) for f in FILES]
    assert [row[1] for row in found] == [m.checksum for m in carried()]


def test_a_checksum_is_of_the_content_alone() -> None:
    for migration in carried():
        copy = with_checksum(migration.sql)
        assert name_in(copy) == migration.name
        assert claimed_checksum(copy) == checksum_of(copy) == migration.checksum
        assert with_checksum(copy) == copy
        assert checksum_of(copy.replace("\n", "\r\n")) == migration.checksum
        assert checksum_of("-- edited\n" + migration.sql) != migration.checksum
    assert with_checksum("select 1;") == "select 1;"
