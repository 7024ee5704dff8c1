"""What a start refuses."""

import asyncio

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engines import (
    POOLER_HINT,
    UNREACHABLE,
    Database,
    connect_lazily,
    driver_of,
    is_poolers,
)
from app.settings import SettingsError
from db_models import Base


async def check_database(database: Database) -> None:
    """Refuse a database that is not ours or not safe to serve.

    Raises `SettingsError` with what to do.
    """
    for engine, role in ((database.api, "annex_api"), (database.worker, "annex_worker")):
        setting = f"ANNEX_{'WORKER_' if role == 'annex_worker' else ''}DATABASE_URL"
        where = f"{engine.url.host or engine.url.query.get('host', 'localhost')}"
        try:
            if not database.is_pooled and await changes_servers(engine):
                raise SettingsError(f"{setting}: {POOLER_HINT}.")
            async with engine.connect() as connection:
                found = (await connection.execute(text(WHO))).one()
                names = list(Base.metadata.tables)
                missing = await connection.scalars(text(MISSING), {"names": names})
        except UNREACHABLE as error:
            raise SettingsError(
                f"Postgres at {where} does not answer ({type(error).__name__}); is the server "
                f"running, and is {setting} right?"
            ) from None
        except (DBAPIError, asyncpg.PostgresError) as error:
            if is_poolers(error):
                raise SettingsError(f"{setting}: {POOLER_HINT}.") from None
            reason = str(getattr(error, "orig", None) or error).partition(">: ")
            raise SettingsError(
                f"Postgres at {where} refuses {setting}: {reason[2] or reason[0]}."
            ) from None
        if found.rolsuper or found.rolbypassrls:
            raise SettingsError(
                f"{setting} connects as {found.rolname}, which bypasses row level security; "
                f"connect as {role}."
            )
        if found.rolname != role:
            raise SettingsError(f"{setting} connects as {found.rolname}; connect as {role}.")
        if absent := sorted(missing):
            raise SettingsError(
                f"The database lacks {absent[0]}; apply supabase/migrations with "
                "`supabase db push`, or with `annex migrate` in development."
            )
        if found.may_ddl:
            raise SettingsError(
                f"{role} may change the schema annex or act as its owner; revoke that right."
            )


async def changes_servers(engine: AsyncEngine) -> bool:
    """Say whether a pooler gives a connection another server with each transaction.

    With named statements that would be worse than an error: another client's statement may have the
    same name there. Tells nothing of a pooler with a single server, which is never another one.
    """
    async with engine.connect() as connection:
        driver = driver_of(connection)
        # A pooler answers to a number of its own.
        if driver.get_server_pid() == await driver.fetchval(PID):
            return False
    probe = connect_lazily(engine.url, 2, is_pooled=True)
    try:
        async with probe.connect() as one, probe.connect() as other, asyncio.timeout(5):
            first, second = driver_of(one), driver_of(other)
            # Two transactions at once take two servers. Given back in this order, the next one of
            # the first client gets the other server; or the one after that, if they take turns.
            await first.execute("begin")
            pid = await first.fetchval(PID)
            await second.execute("begin")
            await first.execute("commit")
            await second.execute("commit")
            return any([await first.fetchval(PID) != pid for _ in range(2)])
    except TimeoutError:
        return False
    finally:
        await probe.dispose()


PID = "select pg_backend_pid()"
WHO = """
select r.rolname, r.rolsuper, r.rolbypassrls,
  exists (select from pg_namespace n where n.nspname = 'annex' and has_schema_privilege(n.oid,
  'create')) or exists (select from pg_roles o where o.rolname = 'annex_owner' and
  pg_has_role(o.oid, 'member')) as may_ddl
from pg_roles r where r.rolname = session_user
"""
# By name and not by privilege: an existing table may well be closed to the role that asks.
MISSING = """
select name from unnest(cast(:names as text[])) as name
where name not in (
  select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
)
"""
