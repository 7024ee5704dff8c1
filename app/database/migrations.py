"""Which migrations this version of Annex carries, and which of them a database has.

A migration is known by the name that its last statement writes into annex.migrations. Its file may
have any name: in a user's project it bears the time at which it was copied.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from app.database.pools import Driver
from app.resources import resource

LEDGER_LINE = re.compile(
    r"^insert into annex\.migrations \(name\) values \('([0-9]{2,3}_[a-z0-9_]{1,60})'\);\s*\Z",
    re.MULTILINE,
)
HAS_LEDGER = """
select n.oid is not null as has_schema, c.oid is not null as has_ledger
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


def name_in(sql: str) -> str | None:
    """Return the name that a file's last statement records; None for a file that is not ours."""
    found = LEDGER_LINE.search(sql)
    return found[1] if found else None


def read_folder(folder: Path) -> tuple[Migration, ...]:
    """Read a folder of Annex's migrations, oldest first."""
    named = [(name_in(path.read_text()), path) for path in sorted(folder.glob("*.sql"))]
    return tuple(Migration(name, path) for name, path in named if name)


@cache
def carried() -> tuple[Migration, ...]:
    """Return the migrations of this version, oldest first; read once."""
    return read_folder(resource("supabase/migrations"))


async def applied(connection: "asyncpg.Connection[Any] | Driver") -> set[str] | None:
    """Return the names that the database records; None without Annex' schema.

    A schema without a record is one that was made before there was one: an empty set.
    """
    found = await connection.fetchrow(HAS_LEDGER)
    assert found is not None
    if not found["has_ledger"]:
        return set() if found["has_schema"] else None
    return {row[0] for row in await connection.fetch("select * from annex.applied_migrations()")}


def listed(names: list[str]) -> str:
    """Write names for people: at most six of them."""
    shown = names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    *others, last = shown
    return f"{', '.join(others)} and {last}" if others else last
