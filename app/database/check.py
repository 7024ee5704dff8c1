"""Checks of the database at the start of a process."""

import asyncio

import asyncpg

from app import __version__
from app.database.migrations import START_ANEW, applied, carried, edited, listed
from app.database.pools import POOLER_HINT, Database, Pool, is_poolers
from app.errors import Unavailable
from app.settings import SettingsError


async def check_database(database: Database) -> None:
    """Refuse a database that is not ours or not safe to serve.

    Raises `SettingsError` with what to do.
    """
    places = []
    for pool, role in ((database.api, "annex_api"), (database.worker, "annex_worker")):
        setting = f"ANNEX_{'WORKER_' if role == 'annex_worker' else ''}DATABASE_URL"
        try:
            if not database.is_pooled and await changes_servers(pool, setting):
                raise SettingsError(f"{setting}: {POOLER_HINT}.")
            async with pool.lend() as driver:
                found = await driver.fetchrow(WHO)
                places.append(await driver.fetchval(PLACE))
        except Unavailable as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise SettingsError(
                f"Postgres at {pool.host} does not answer ({reason}); is the server "
                f"running, and is {setting} right?"
            ) from None
        except asyncpg.PostgresError as error:
            if is_poolers(error):
                raise SettingsError(f"{setting}: {POOLER_HINT}.") from None
            raise SettingsError(
                f"Postgres at {pool.host} refuses {setting}: {error}; `annex doctor` says what "
                "cures it."
            ) from None
        assert found is not None
        if found["rolsuper"] or found["rolbypassrls"]:
            raise SettingsError(
                f"{setting} connects as {found['rolname']}, which bypasses row level security; "
                f"connect as {role}."
            )
        if found["rolname"] != role:
            raise SettingsError(f"{setting} connects as {found['rolname']}; connect as {role}.")
        if found["acts_as"]:
            raise SettingsError(
                f"{role} may act as {listed(found['acts_as'])}, which lets it around row level "
                f"security or into the schema annex as its owner; run "
                f"`{'; '.join(found['memberships'])}`."
            )
        if found["may_ddl"]:
            raise SettingsError(
                f"{role} may change the schema annex; run "
                f"`revoke create on schema annex from {role}` (or from public)."
            )
        if found["owns"]:
            raise SettingsError(
                f"{role} owns {listed(found['owns'])}, and an owner is above row level security; "
                "`annex doctor` prints what gives it back to annex_owner."
            )
    if places[0] != places[1]:
        raise SettingsError(
            "ANNEX_DATABASE_URL and ANNEX_WORKER_DATABASE_URL lead to different databases: "
            f"{places[0]}, and {places[1]}."
        )
    await check_migrations(database.api)


async def check_migrations(pool: Pool) -> None:
    """Refuse a schema that lacks a migration of this version, or has another state of one.

    A newer schema will do.

    Raises `SettingsError` with the migrations' names, or for a right that this takes.
    """
    try:
        async with pool.lend() as driver:
            recorded = await applied(driver)
    except asyncpg.InsufficientPrivilegeError as error:
        raise SettingsError(
            f"annex_api lacks a right that the migrations give ({error}); `annex doctor` prints "
            "what gives it back."
        ) from None
    if recorded is None:
        raise SettingsError(f"The database has no schema annex yet; {HOW_TO_MIGRATE}.")
    if missing := [m.name for m in carried() if m.name not in recorded]:
        word = "migration" if len(missing) == 1 else "migrations"
        raise SettingsError(
            f"The database lacks the {word} {listed(missing)}, which Annex {__version__} needs; "
            f"{HOW_TO_MIGRATE}."
        )
    if names := edited(recorded, carried()):
        raise SettingsError(
            f"Edited after the database had applied it: {listed(names)}; {START_ANEW}."
        )


async def changes_servers(pool: Pool, setting: str) -> bool:
    """Say whether a pooler gives a connection another server with each transaction.

    With named statements that would be worse than an error: another client's statement may have the
    same name there. Tells nothing of a pooler with a single server, which is never another one.
    """
    async with pool.lend() as driver:
        # A pooler answers to a number of its own.
        if driver.get_server_pid() == await driver.fetchval(PID):
            return False
    probe = Pool(setting, str(pool.dsn), 2, is_pooled=True)
    try:
        async with probe.lend() as first, probe.lend() as second, asyncio.timeout(5):
            # Two transactions at once take two servers. Given back in this order, the next one of
            # the first client gets the other server; or the one after that, if they take turns.
            await first.execute("begin")
            pid = await first.fetchval(PID)
            await second.execute("begin")
            await first.execute("commit")
            await second.execute("commit")
            return any([await first.fetchval(PID) != pid for _ in range(2)])
    except (TimeoutError, Unavailable):
        return False
    finally:
        probe.close()


PID = "select pg_backend_pid()"
PLACE = """
select format('%s on a server started at %s', current_database(),
  pg_postmaster_start_time() at time zone 'UTC')
"""
# What a role may act as counts as its own: by SET ROLE, or by inheriting its rights.
WHO = """
with above as (
  select o.oid, o.rolname from pg_roles o
  where o.rolsuper or o.rolbypassrls or o.rolname = 'annex_owner'
)
select r.rolname, r.rolsuper, r.rolbypassrls,
  array(select a.rolname from above a where pg_has_role(r.oid, a.oid, 'member')
    and a.oid <> r.oid order by 1)::text[] as acts_as,
  array(select format('revoke %I from %I', pg_get_userbyid(m.roleid), r.rolname)
      || case when current_setting('server_version_num')::int >= 160000
        then format(' granted by %I', pg_get_userbyid(m.grantor)) else '' end
    from pg_auth_members m
    where m.member = r.oid
      and exists (select from above a where pg_has_role(m.roleid, a.oid, 'member'))
    order by 1) as memberships,
  exists (select from pg_namespace n where n.nspname = 'annex'
    and has_schema_privilege(n.oid, 'create')) as may_ddl,
  array(select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'annex' and c.relowner = r.oid and c.relkind in ('r', 'p', 'v', 'm')
    order by 1) as owns
from pg_roles r where r.rolname = session_user
"""
HOW_TO_MIGRATE = (
    "apply what is missing with `annex migrate`, or with `annex install` and `supabase db push`"
)
