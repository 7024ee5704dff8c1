"""Which migrations this version of Annex carries, and which of them a database has.

A migration is known by the name that its last statement writes into annex.migrations. Its file may
have any name: in a user's project it bears the time at which it was copied. The statement of a copy
writes the file's checksum beside the name, so that a later edit of the migration is told.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from app.database.drivers import Driver
from app.resources import resource

LEDGER_LINE = re.compile(
    r"^insert into annex\.migrations \(name(?:, checksum)?\)"
    r" values \('([0-9]{2,3}_[a-z0-9_]{1,60})'(?:, '([0-9a-f]{64})')?\);\s*\Z",
    re.MULTILINE,
)
START_ANEW = (
    "there is no upgrade of an edited migration: run what `annex uninstall` prints, which deletes "
    "all that Annex keeps, and install again (`annex dev --fresh` does both)"
)
HAS_LEDGER = """
select n.oid is not null as has_schema,
  -- Another product's schema may have a table of that name.
  c.oid is not null and exists (select from pg_proc p
    where p.pronamespace = n.oid and p.proname = 'applied_migrations') as has_ledger
from (select 1) one
left join pg_namespace n on n.nspname = 'annex'
left join pg_class c on c.relnamespace = n.oid and c.relname = 'migrations'
"""


class Migration(msgspec.Struct, frozen=True):
    """A migration that this version carries."""

    name: str
    path: Path

    @property
    def sql(self) -> str:
        """Its file's content."""
        return self.path.read_bytes().decode()

    @property
    def checksum(self) -> str:
        """What identifies its content."""
        return checksum_of(self.sql)


def checksum_of(sql: str) -> str:
    """Return the SHA-256 of a file of ours, in hex.

    Neither line ends nor the checksum in its last statement count.
    """
    text = sql.replace("\r\n", "\n").strip()
    found = LEDGER_LINE.search(text)
    return sha256(text[: found.start() if found else None].encode()).hexdigest()


def with_checksum(sql: str) -> str:
    """Let the last statement of a file of ours record its checksum; others stay as they are."""
    if (found := LEDGER_LINE.search(sql)) is None:
        return sql
    record = "insert into annex.migrations (name, checksum)"
    return f"{sql[: found.start()]}{record} values ('{found[1]}', '{checksum_of(sql)}');\n"


def claimed_checksum(sql: str) -> str:
    """Return the checksum that a file's last statement records, or else its own."""
    found = LEDGER_LINE.search(sql)
    return (found and found[2]) or checksum_of(sql)


def name_in(sql: str) -> str | None:
    """Return the name that a file's last statement records; None for a file that is not ours."""
    found = LEDGER_LINE.search(sql)
    return found[1] if found else None


def read_folder(folder: Path) -> tuple[Migration, ...]:
    """Read a folder of Annex's migrations, oldest first."""
    named = [(name_in(path.read_bytes().decode()), path) for path in sorted(folder.glob("*.sql"))]
    return tuple(Migration(name, path) for name, path in named if name)


@cache
def carried() -> tuple[Migration, ...]:
    """Return the migrations of this version, oldest first; read once."""
    return read_folder(resource("supabase/migrations"))


async def applied(connection: "asyncpg.Connection[Any] | Driver") -> dict[str, str | None] | None:
    """Return the names that the database records, with their checksums; None without our schema.

    A schema without a record is one that was made before there was one: no names.
    """
    found = await connection.fetchrow(HAS_LEDGER)
    assert found is not None
    if not found["has_ledger"]:
        return {} if found["has_schema"] else None
    rows = await connection.fetch("select * from annex.applied_migrations()")
    # A schema from before there were checksums returns names alone; its first migration was edited.
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


def edited(recorded: Mapping[str, str | None] | None, migrations: Iterable[Migration]) -> list[str]:
    """Name the migrations that were edited after the database had applied them.

    Says nothing of one that was recorded without a checksum: it came from a checkout.
    """
    known = recorded or {}
    return [m.name for m in migrations if known.get(m.name) not in (None, m.checksum)]


def listed(names: list[str]) -> str:
    """Write names for people: at most six of them."""
    shown = names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    *others, last = shown
    return f"{', '.join(others)} and {last}" if others else last
