"""Apply migrations straight to a database: `annex migrate`.

For hosts without the Supabase CLI. Each file is one transaction, which takes a lock, looks into
annex.migrations and records itself there; so several may migrate at once, also through a
transaction pooler, and what the Supabase CLI applied is known.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from app.database.migrations import START_ANEW, Migration, applied, edited, listed, with_checksum
from app.installation import InstallationError
from app.installation.statements import failure, split

Connection: TypeAlias = "asyncpg.Connection[Any]"

LOCK = "select pg_advisory_xact_lock(1095653376, 0)"
# Long enough for an index on a large table; a lock that does not come is given up, because all
# others would wait behind it.
LIMITS = "set local statement_timeout = 0; set local lock_timeout = '10s'"
OLDEST = 150000
FACTS = """
select current_setting('server_version_num')::int as version,
  (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) as may_make_roles,
  has_database_privilege(current_database(), 'create') as may_create,
  array(select n from unnest(array['anon', 'authenticated', 'service_role']) n
    where not exists (select from pg_roles where rolname = n)) as missing_roles,
  exists (select from pg_class c join pg_namespace s on s.oid = c.relnamespace
    where s.nspname = 'auth' and c.relname = 'users') as has_users,
  current_user::text as role
"""


async def migrate(
    url: str, migrations: Sequence[Migration], say: Callable[[str], None]
) -> list[str]:
    """Apply the migrations that the database lacks, in order; `say` gets a line for each.

    The URL is of a role with CREATEROLE, such as Supabase's `postgres`; no superuser is needed.
    Returns the names. Raises `InstallationError` for a server that does not answer, a database
    that is not fit, or a failing statement, whose whole migration is then undone.
    """
    async with connected(url) as connection:
        async with connection.transaction():
            await check(connection, migrations)
        done = []
        for migration in migrations:
            began = time.monotonic()
            if await apply(connection, migration):
                done.append(migration.name)
                say(f"Applied {migration.name} ({time.monotonic() - began:.2f} s)")
        return done


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect to a database; raises `InstallationError` if that fails or breaks off."""
    try:
        # No cache: a statement prepared before a migration may not fit the schema after it.
        connection = await asyncpg.connect(url, statement_cache_size=0, timeout=15)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise InstallationError(f"Cannot connect to the database: {reason}") from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise InstallationError(f"The connection to the database broke: {error}") from error
    finally:
        connection.terminate()


async def check(connection: Connection, migrations: Sequence[Migration]) -> None:
    """Refuse a database that Annex cannot be put into."""
    facts = await connection.fetchrow(FACTS)
    assert facts is not None
    recorded = await applied_here(connection)
    if facts["version"] < OLDEST:
        raise InstallationError(
            f"This is Postgres {facts['version'] // 10000}; Annex needs 15 or newer."
        )
    if facts["missing_roles"] or not facts["has_users"]:
        lacking = [f"the role {name}" for name in facts["missing_roles"]]
        lacking += [] if facts["has_users"] else ["the table auth.users"]
        raise InstallationError(
            f"This is no Supabase database: it lacks {', '.join(lacking)}. On a plain Postgres, "
            "run supabase/local/platform.sql first, as a superuser."
        )
    if not recorded and not (facts["may_make_roles"] and facts["may_create"]):
        raise InstallationError(
            f"{facts['role']} may not make roles and schemas here; connect as Supabase's `postgres`"
            " or another role with CREATEROLE and CREATE on the database."
        )
    if names := edited(recorded, migrations):
        raise InstallationError(
            f"Edited after this database had applied it: {listed(names)}. Nothing was applied; "
            f"{START_ANEW}."
        )


async def applied_here(connection: Connection) -> dict[str, str | None]:
    """Return what the database records; raises `InstallationError` if the role may not read it."""
    try:
        recorded = await applied(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise InstallationError(
            "This role may not read annex.migrations; connect as the role that migrated before."
        ) from error
    if recorded == {}:
        raise InstallationError(
            "The schema annex was made by a version that kept no record of its migrations, or by "
            "somebody else; remove it with `annex uninstall` and migrate again."
        )
    return recorded or {}


async def apply(connection: Connection, migration: Migration) -> bool:
    """Apply one migration unless it is there; returns whether it was applied."""
    statements = split(with_checksum(migration.sql))
    number = 0
    try:
        async with connection.transaction():
            await connection.execute(LIMITS)
            await connection.execute(LOCK)
            if migration.name in await applied_here(connection):
                return False
            for statement in statements:
                number += 1
                await connection.execute(statement)
            number = 0
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.LockNotAvailableError as error:
        raise InstallationError(
            f"{migration.name} waited 10 s for a table that another transaction holds, and was "
            "undone; run this again in a quieter moment."
        ) from error
    except asyncpg.PostgresError as error:
        said = failure(migration.path.name, statements, number, error)
        raise InstallationError(f"{said}; nothing of this migration stays.") from error
    return True
