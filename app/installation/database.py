"""Apply migrations straight to a database: `annex migrate`.

For hosts without the Supabase CLI. Each file is one transaction, which takes a lock, looks into
annex.migrations and records itself there; so several may migrate at once, also through a
transaction pooler, and what the Supabase CLI applied is known.
"""

import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy.engine import URL

from app.database.migrations import START_ANEW, Migration, applied, edited, listed, with_checksum
from app.installation import InstallationError
from app.installation.statements import failure, split
from app.resources import resource
from app.settings import read_database_url

Connection: TypeAlias = "asyncpg.Connection[Any]"

LOCK = "select pg_advisory_xact_lock(1095653376, 0)"
TRY_LOCK = "select pg_try_advisory_xact_lock(1095653376, 0)"
WAITS = "Another command is migrating this database; waiting until it is done."
# Long enough for an index on a large table; a lock that does not come is given up, because all
# others would wait behind it.
LIMITS = "set local statement_timeout = 0; set local lock_timeout = '10s'"
# Who waits for another one who migrates waits for as long as that takes.
PATIENCE = "set local statement_timeout = 0; set local lock_timeout = 0"
DIRECT_HOST = re.compile(r"db\.[a-z0-9]+\.supabase\.co")
OLDEST = 150000
CONNECT_SECONDS = 15
CURES: tuple[tuple[type[Exception], str], ...] = (
    (
        socket.gaierror,
        "see that the host is right, and that special characters of the password are "
        "percent-encoded: `@` is `%40`, `/` is `%2F`, `#` is `%23`",
    ),
    (TimeoutError, "see that host and port are right, and that no firewall is between"),
    (OSError, "see that the server runs, and that host and port are right"),
    (
        asyncpg.InvalidPasswordError,
        "take the user's own password (Supabase: database settings of the project), "
        "percent-encoded where it has special characters",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "see that the user is right, and write ?sslmode=require behind the database's name if the "
        "server takes encrypted connections only",
    ),
    (asyncpg.InvalidCatalogNameError, "see that its name is right; Supabase's is `postgres`"),
    (asyncpg.TooManyConnectionsError, "end processes that hold some, and try again"),
    (asyncpg.CannotConnectNowError, "try again in a moment"),
)
"""What to do about each kind of failure; the first one that fits."""
FACTS = """
select current_setting('server_version_num')::int as version,
  (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) as may_make_roles,
  has_database_privilege(current_database(), 'create') as may_create,
  array(select n from unnest(array['anon', 'authenticated', 'service_role']) n
    where not exists (select from pg_roles where rolname = n)) as missing_roles,
  exists (select from pg_class c join pg_namespace s on s.oid = c.relnamespace
    where s.nspname = 'auth' and c.relname = 'users') as has_users,
  array(select rolname from pg_roles where rolname in ('annex_owner', 'annex_api', 'annex_worker')
    and current_setting('server_version_num')::int >= 160000
    and not pg_has_role(oid, 'member with admin option') order by 1) as others_roles,
  current_setting('transaction_read_only')::bool as is_read_only,
  current_setting('server_encoding') as encoding,
  current_setting('standard_conforming_strings')::bool as conforms,
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
            recorded = await check(connection, migrations)
        if later := sorted(recorded.keys() - {migration.name for migration in migrations}):
            say(
                f"The database has {listed(later)}, which this version does not know: a later "
                "release migrated it. Upgrade Annex on this machine."
            )
        done: list[str] = []
        waits = [WAITS]

        def wait() -> None:
            if waits:  # said once
                say(waits.pop())

        for migration in migrations:
            began = time.monotonic()
            if await apply(connection, migration, wait):
                done.append(migration.name)
                say(f"Applied {migration.name} ({time.monotonic() - began:.2f} s)")
        return done


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect to a database; raises `InstallationError` if that fails or breaks off."""
    try:
        target = read_database_url(url)
    except ValueError as error:
        raise InstallationError(f"The database's URL {error}.") from None
    try:
        # No cache: a statement prepared before a migration may not fit the schema after it.
        connection = await asyncpg.connect(
            target.render_as_string(hide_password=False),
            statement_cache_size=0,
            timeout=CONNECT_SECONDS,
        )
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        if isinstance(error, TimeoutError):
            reason = f"no answer within {CONNECT_SECONDS} s"
        raise InstallationError(
            f"Cannot connect to the database: {reason}{hint(target, error)}"
        ) from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise InstallationError(f"The connection to the database broke: {error}") from error
    except asyncpg.PostgresError as error:
        raise InstallationError(f"The database refuses: {error}") from error
    finally:
        connection.terminate()


def hint(url: URL, error: Exception) -> str:
    """Say what else to try where a host cannot be reached; empty if there is nothing to say."""
    if isinstance(error, OSError) and DIRECT_HOST.fullmatch(url.host or ""):
        return (
            "; Supabase's direct host has an IPv6 address only: take the session pooler's URL, "
            "port 5432, where this machine has none"
        )
    return next((f"; {cure}" for kind, cure in CURES if isinstance(error, kind)), "")


async def check(connection: Connection, migrations: Sequence[Migration]) -> dict[str, str | None]:
    """Refuse a database that Annex cannot be put into; returns what it records."""
    facts = await connection.fetchrow(FACTS)
    assert facts is not None
    recorded = await applied_here(connection)
    if facts["version"] < OLDEST:
        raise InstallationError(
            f"This is Postgres {facts['version'] // 10000}; Annex needs 15 or newer."
        )
    if facts["is_read_only"]:
        raise InstallationError(
            "This database takes no writes: it is a replica, or default_transaction_read_only is on"
            " (Supabase sets that when the disk is full)."
        )
    if not facts["conforms"]:
        raise InstallationError(
            "standard_conforming_strings is off here, so that a backslash in a string means "
            "something else; run `alter database … set standard_conforming_strings = on`."
        )
    if facts["encoding"] != "UTF8":
        raise InstallationError(f"This database's encoding is {facts['encoding']}, not UTF8.")
    if facts["missing_roles"] or not facts["has_users"]:
        lacking = [f"the role {name}" for name in facts["missing_roles"]]
        lacking += [] if facts["has_users"] else ["the table auth.users"]
        raise InstallationError(
            f"This is no Supabase database: it lacks {', '.join(lacking)}. On a plain Postgres, "
            f"run {resource('supabase/local/platform.sql')} first, as a superuser."
        )
    if not recorded and not (facts["may_make_roles"] and facts["may_create"]):
        raise InstallationError(
            f"{facts['role']} may not make roles and schemas here; connect as Supabase's `postgres`"
            " or another role with CREATEROLE and CREATE on the database."
        )
    if not recorded and facts["others_roles"]:
        others = ", ".join(facts["others_roles"])
        raise InstallationError(
            f"{others} exist on this server, and {facts['role']} may not use them. Connect as the "
            f"role that made them, or run `grant {others} to {facts['role']} with admin option` as "
            "a superuser."
        )
    if names := edited(recorded, migrations):
        raise InstallationError(
            f"Edited after this database had applied it: {listed(names)}. Nothing was applied; "
            f"{START_ANEW}."
        )
    return recorded


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
            "The schema annex is not one that these migrations made. Rename it if it is your own "
            "(`alter schema annex rename to …`); if it is of an Annex that kept no record yet, "
            "remove it with `annex uninstall`."
        )
    return recorded or {}


async def apply(connection: Connection, migration: Migration, wait: Callable[[], None]) -> bool:
    """Apply one migration unless it is there; returns whether it was applied.

    `wait` is called if another command holds the lock.
    """
    statements = split(with_checksum(migration.sql))
    number = 0
    try:
        async with connection.transaction():
            await connection.execute(PATIENCE)
            if not await connection.fetchval(TRY_LOCK):
                wait()
                await connection.execute(LOCK)
            await connection.execute(LIMITS)
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
