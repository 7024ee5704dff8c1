"""Whether the database is reached as it should be: roles, poolers, limits of connections."""

import socket
import time
from datetime import UTC, datetime

import asyncpg

from app.database.check import PLACE, WHO, changes_servers
from app.database.migrations import listed
from app.database.pools import CONNECT_SECONDS, WORKERS, Database
from app.doctor import Check, Finding, Site, advice, error, warning
from app.doctor.addresses import is_near
from app.settings import PREFIX, Settings, database_url

OLDEST = 150000
SKEW_SECONDS, LEEWAY_SECONDS = 3.0, 20.0
ROLES = (("annex_api", "ANNEX_DATABASE_URL"), ("annex_worker", "ANNEX_WORKER_DATABASE_URL"))
IS_REPLICA = "select pg_is_in_recovery()"
LISTENING = 3
"""Connections as annex_worker that a process of `annex serve` opens."""
STARTING = 1
"""Connections as annex_api of an `annex worker`, at its start, before it opens its others."""
ROOM = """
select current_setting('max_connections')::int
  - current_setting('superuser_reserved_connections')::int
  - coalesce(current_setting('reserved_connections', true)::int, 0)  -- from Postgres 16 on
"""
OF_DATABASE = "select datconnlimit from pg_database where datname = current_database()"
IS_ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
LIMITS = """
select rolname, rolconnlimit from pg_roles
where rolname = any ($1) and rolconnlimit >= 0 order by rolname
"""


async def find_role(site: Site) -> Finding | None:
    """Each URL must connect as its own role."""
    said, cures = list[str](), list[str]()
    for connection, (role, setting) in zip((site.api, site.worker), ROLES, strict=True):
        found = await connection.fetchrow(WHO)
        assert found is not None
        if found["rolname"] == role:
            continue
        is_free = found["rolsuper"] or found["rolbypassrls"]
        bypassing = ", which bypasses row level security" if is_free else ""
        said.append(f"{setting} connects as {found['rolname']}{bypassing}, not as {role}.")
        cures.append(f"Put the user {role} and its password into {setting}.")
    return error(" ".join(said), " ".join(cures)) if said else None


async def find_powers(site: Site) -> Finding | None:
    """Neither role may bypass row level security or change the schema."""
    for connection, (role, setting) in zip((site.api, site.worker), ROLES, strict=True):
        found = await connection.fetchrow(WHO)
        assert found is not None
        held = (("superuser", found["rolsuper"]), ("bypassrls", found["rolbypassrls"]))
        if powers := [power for power, is_held in held if is_held]:
            return error(
                f"{setting} connects as {role}, which bypasses row level security.",
                "Run this as a superuser (Supabase: as `postgres`):",
                *(f"alter role {role} no{power}" for power in powers),
            )
        if found["acts_as"]:
            return error(
                f"{role} may act as {listed(found['acts_as'])}, which lets it around row level "
                "security or into the schema annex as its owner.",
                "Run this as the role that granted it, or as a superuser:",
                *found["memberships"],
            )
    return None


async def find_pooler(site: Site) -> Finding | None:
    """A transaction pooler must be known as one."""
    if site.settings.transaction_pooler:
        if await site.worker.fetchval("select pg_backend_pid()") == site.worker.get_server_pid():
            return advice(
                "ANNEX_TRANSACTION_POOLER is true, but no pooler stands before this Postgres.",
                "Take the setting out: events of other processes then come at once, and each "
                "statement takes one round trip, not two.",
            )
        return None
    async with Database(site.settings) as database:
        for pool, (_, setting) in zip((database.api, database.worker), ROLES, strict=True):
            if await changes_servers(pool, setting):
                return error(
                    f"{setting} leads through a transaction pooler, on which statements with a "
                    "name fail and nothing can be listened to.",
                    "Set ANNEX_TRANSACTION_POOLER=true, or connect directly or through a session "
                    "pooler (Supabase: port 5432).",
                )
    return None


async def find_two_databases(site: Site) -> Finding | None:
    """Both URLs must lead to one database."""
    api, worker = await site.api.fetchval(PLACE), await site.worker.fetchval(PLACE)
    if api == worker:
        return None
    return error(
        f"The two database URLs lead to different databases: {api}, and {worker}.",
        "Give ANNEX_DATABASE_URL and ANNEX_WORKER_DATABASE_URL the same host and database.",
    )


async def find_version(site: Site) -> Finding | None:
    """Postgres 15 is the oldest that is tested."""
    version = await site.api.fetchval("select current_setting('server_version_num')::int")
    if version >= OLDEST:
        return None
    return error(
        f"This is Postgres {version // 10000}; Annex needs 15 or newer.",
        "Upgrade the database; Supabase does so in the project's settings.",
    )


async def find_replica(site: Site) -> Finding | None:
    """A replica cannot be written."""
    if not await site.worker.fetchval(IS_REPLICA):
        return None
    return error(
        "The database is a read replica; nothing can be published or sequenced there.",
        "Let both URLs lead to the primary.",
    )


async def find_connection_limit(site: Site) -> Finding | None:
    """A role's own limit of connections must suffice for all processes.

    Behind a transaction pooler, its connections count there, and their number is the pooler's own.
    """
    settings = site.settings
    if settings.transaction_pooler:
        return None
    serving, said = processes(settings), list[str]()
    wanted = {
        "annex_api": settings.pool_size * settings.processes + STARTING,
        "annex_worker": LISTENING * settings.processes + WORKERS,
    }
    short = [row for row in await site.api.fetch(LIMITS, list(wanted)) if row[1] < wanted[row[0]]]
    if not short:
        return None
    for role, limit in short:
        said.append(
            f"The role {role} may have {limit} connections; {serving} and a worker: up to "
            f"{wanted[role]}."
        )
    lower = "Lower ANNEX_POOL_SIZE, or run" if short[0][0] == "annex_api" else "Run"
    return error(
        " ".join(said),
        f"{lower} this as the role that migrated:",
        *(f"alter role {role} connection limit -1" for role, _ in short),
    )


async def find_max_connections(site: Site) -> Finding | None:
    """The pools of all processes must fit into the server."""
    settings = site.settings
    room = await site.api.fetchval(ROOM)
    wanted = settings.processes * (settings.pool_size + LISTENING) + WORKERS
    if settings.transaction_pooler:
        return None
    limit = await site.api.fetchval(OF_DATABASE)
    if 0 <= limit < min(wanted, room):
        return error(
            f"{processes(settings)} and a worker take up to {wanted} connections, and this database"
            f" may have {limit}.",
            "Lower ANNEX_POOL_SIZE, or run `alter database … connection limit -1`, as its owner.",
        )
    if wanted <= room:
        return None
    return error(
        f"{processes(settings)} and a worker take up to {wanted} connections, and Postgres has "
        f"{room}.",
        "Lower ANNEX_POOL_SIZE, use a transaction pooler, or raise max_connections.",
    )


def processes(settings: Settings) -> str:
    """Say how many processes serve: of every `annex serve`, with its workers."""
    count = settings.processes
    return f"{count} process{'es' if count > 1 else ''} of `annex serve`"


async def find_encryption(site: Site) -> Finding | None:
    """Passwords and rows should not cross a network in the clear."""
    for connection, (_, setting) in zip((site.api, site.worker), ROLES, strict=True):
        name = setting.removeprefix(PREFIX)
        url = database_url(name, getattr(site.settings, name.lower()))
        if url.host is None or is_near(url.host) or site.settings.transaction_pooler:
            continue
        if await connection.fetchval(IS_ENCRYPTED) is False:
            return warning(
                f"{setting} leads over a network without encryption: who is on the way reads and "
                "changes all rows.",
                "Let Postgres offer TLS (`ssl = on`), and write ?sslmode=require behind the "
                "database's name, or verify-full with an sslrootcert.",
            )
    return None


async def find_clock(site: Site) -> Finding | None:
    """Tokens and tickets are checked by this machine's clock, the rest by the database's."""
    began = time.monotonic()
    there: datetime = await site.api.fetchval("select clock_timestamp()")
    took = time.monotonic() - began
    skew = abs((datetime.now(UTC) - there).total_seconds()) - took
    if skew < SKEW_SECONDS:
        return None
    found = error if skew > LEEWAY_SECONDS else warning
    return found(
        f"The clocks of this machine and of the database are {skew:.0f} s apart; tokens are then "
        "refused too early or accepted too long.",
        "Let both follow NTP; on a virtual machine, see that it does so after a suspension.",
    )


async def find_time_zone(site: Site) -> Finding | None:
    """Nothing depends on the time zone; people who read the logs do."""
    zone = await site.worker.fetchval("show time zone")
    if zone in ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Universal", "Zulu"):
        return None
    return advice(
        f"The database's time zone is {zone}; what it logs and prints is not in UTC.",
        "Annex itself depends on none; for what annex_worker prints, run, as the role that "
        "migrated:",
        "alter role annex_worker set timezone = 'UTC'",
    )


def unreachable(setting: str, user: str | None, reason: BaseException) -> Finding:
    """Say that a connection as a setting's user could not be made."""
    said = str(reason) or type(reason).__name__
    if isinstance(reason, TimeoutError):
        said = f"no answer within {CONNECT_SECONDS:g} s"
    role = next(role for role, name in ROLES if name == setting)
    is_refused = isinstance(reason, asyncpg.InvalidAuthorizationSpecificationError)
    sql: tuple[str, ...] = ()
    # Supabase's poolers take `<role>.<project>`.
    if is_refused and (user or "").partition(".")[0] != role:
        cure = f"Put the user {role} and its password into {setting}."
    elif isinstance(reason, asyncpg.InvalidPasswordError):
        # Postgres says the same of a role that does not exist.
        cure = (
            f"If the role {role} is not there yet, migrate first: `annex migrate` makes it. Then "
            f"set its password (`alter role {role} password …`) and put it into {setting}."
        )
    elif is_refused:
        if "not permitted to log in" in said:
            cure, sql = "Run this as the role that migrated:", (f"alter role {role} login",)
        else:
            cure = (
                f"See that the role exists (`annex migrate` makes it), that it may log in (`alter "
                f"role {role} login`), and that the server's pg_hba.conf lets it in from here."
            )
    elif isinstance(reason, asyncpg.InvalidCatalogNameError):
        cure = f"Put the database's name into {setting}; Supabase's is `postgres`."
    elif isinstance(reason, TimeoutError):
        cure = "See that host and port are right, and that no firewall is between."
    elif isinstance(reason, asyncpg.TooManyConnectionsError):
        cure = "Raise the limit of connections, or end processes that hold some."
    elif isinstance(reason, socket.gaierror):
        cure = (
            "See that the host is right, and that special characters of the password are "
            "percent-encoded: `@` is `%40`, `/` is `%2F`, `#` is `%23`."
        )
    else:
        cure = "See that the server runs, and that host, port and database are right."
    return error(f"{setting} does not connect: {said}.", cure, *sql)


CHECKS = (
    Check("roles", find_role),
    Check("rights of the roles", find_powers, ("roles",)),
    Check("pooler", find_pooler),
    Check("one database", find_two_databases),
    Check("version of Postgres", find_version),
    Check("primary", find_replica),
    Check("encryption", find_encryption),
    Check("connections of a role", find_connection_limit),
    Check("connections of the server", find_max_connections),
    Check("clock", find_clock),
    Check("time zone", find_time_zone, ("roles",)),
)
