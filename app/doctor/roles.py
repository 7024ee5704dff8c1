"""Whether the login roles have what the migrations gave them, and nothing that lets them out."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.database.migrations import listed
from app.doctor import Check, Finding, Site, error, warning
from app.doctor.promises import role_setting

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
PLANS = {
    "annex_api": ("plan_cache_mode", "enable_bitmapscan", "jit"),
    "annex_worker": ("jit",),
}
SEARCH_PATH = "pg_catalog, pg_temp"
ROLES = ("annex_api", "annex_worker")
SOON_DAYS = 14
# A setting of a role in one database goes before the role's own.
IN_DATABASE = """
select split_part(s, '=', 1) as name, quote_ident(current_database()) as place
from pg_db_role_setting g join pg_roles r on r.oid = g.setrole, unnest(g.setconfig) s
where r.rolname = $1
  and g.setdatabase = (select oid from pg_database where datname = current_database())
"""
ATTRIBUTES = """
select rolname, rolcreaterole, rolcreatedb, rolreplication from pg_roles
where rolname = any ($1) and (rolcreaterole or rolcreatedb or rolreplication) order by 1
"""
EXPIRY = """
select rolname, rolvaliduntil from pg_roles
where rolname = any ($1) and rolvaliduntil is not null and isfinite(rolvaliduntil) order by 1
"""


async def find_attributes(site: Site) -> Finding | None:
    """An attribute that leads around the rights in the schema."""
    said, cure = list[str](), list[str]()
    for row in await site.api.fetch(ATTRIBUTES, list(ROLES)):
        held = [a for a in ("createrole", "createdb", "replication") if row[f"rol{a}"]]
        said.append(f"{row['rolname']} has the attribute {listed(held)}.")
        cure.append(f"alter role {row['rolname']} {' '.join(f'no{word}' for word in held)}")
    if not said:
        return None
    return error(
        f"{' '.join(said)} With createrole it may give itself rights, and with replication it reads"
        " every table.",
        "Run this as a superuser (Supabase: as `postgres`):",
        *cure,
    )


async def find_expiry(site: Site) -> Finding | None:
    """A password that ends keeps every new connection out."""
    soon = datetime.now(UTC) + timedelta(days=SOON_DAYS)
    rows = [r for r in await site.api.fetch(EXPIRY, list(ROLES)) if r["rolvaliduntil"] < soon]
    if not rows:
        return None
    ends = [f"{row['rolname']} on {row['rolvaliduntil']:%Y-%m-%d}" for row in rows]
    return warning(
        f"Passwords end: of {listed(ends)}; new connections are then refused.",
        "Run this as the role that migrated, or set a new password and a later day:",
        *(f"alter role {row['rolname']} valid until 'infinity'" for row in rows),
    )


async def find_time_limits(site: Site) -> Finding | None:
    """The login roles carry their own limits, through every pooler."""
    lost = {
        role: [name for name in LIMITS if await current(connection, name) == "0"]
        for role, connection in each(site)
    }
    return await report(site, lost, "a statement may now hold a connection and locks for ever")


async def find_search_path(site: Site) -> Finding | None:
    """The login roles carry their own search_path, in which no look-alike is found."""
    paths = {role: await current(connection, "search_path") for role, connection in each(site)}
    lost = {role: ["search_path"] for role, path in paths.items() if path != SEARCH_PATH}
    others = listed(
        sorted({path or "''" for path in paths.values() if path != SEARCH_PATH} or {""})
    )
    harm = f"a function or operator in {others} may now run in place of Postgres' own"
    return await report(site, lost, harm)


async def find_plans(site: Site) -> Finding | None:
    """The login roles carry settings with which their statements are planned once, and well."""
    lost = {
        role: [
            name
            for name in PLANS[role]
            if await current(connection, name) != role_setting(role, name).rpartition(" ")[2]
        ]
        for role, connection in each(site)
    }
    return await report(site, lost, "requests and lists may now take many times as long")


def each(site: Site) -> tuple[tuple[str, Any], ...]:
    """Pair the roles with their connections."""
    return ("annex_api", site.api), ("annex_worker", site.worker)


async def current(connection: Any, name: str) -> str:
    """Return a setting as a new connection has it."""
    return str(await connection.fetchval("select pg_catalog.current_setting($1)", name))


async def report(site: Site, lost: dict[str, list[str]], harm: str) -> Finding | None:
    """Say which settings the roles have lost, what that does, and the statements that cure it."""
    said, cure = list[str](), list[str]()
    for role, names in lost.items():
        if names:
            said.append(f"The role {role} has lost its {listed(names)}")
            rows = await site.api.fetch(IN_DATABASE, role)
            cure += [
                f"alter role {role} in database {row['place']} reset {row['name']}"
                for row in rows
                if row["name"] in names
            ]
            cure += [role_setting(role, name) for name in names]
    if not said:
        return None
    return warning(
        f"{'; '.join(said)}; {harm}.",
        "Set it again, as the role that migrated; new connections will have it:",
        *cure,
    )


CHECKS = (
    Check("attributes of the roles", find_attributes),
    Check("passwords of the roles", find_expiry),
    Check("time limits of the roles", find_time_limits, ("roles",)),
    Check("search_path of the roles", find_search_path, ("roles",)),
    Check("plans of the roles", find_plans, ("roles",)),
)
