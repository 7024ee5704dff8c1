"""Whether the server's own settings, and who may act as Annex's roles, keep what is promised."""

from app.database.migrations import listed
from app.doctor import Check, Finding, Site, error, warning

# What sessions have by themselves, unless ALTER DATABASE or ALTER ROLE gave them something else.
NEEDED = {
    "default_transaction_isolation": "read committed",
    "row_security": "on",
    "session_replication_role": "origin",
    "synchronous_commit": "on",
}
HARM = {
    "default_transaction_isolation": "statements then fail that would have waited for each other",
    "row_security": "statements then fail where row level security applies",
    "session_replication_role": "no trigger fires: rules and the audit trail have gaps",
    "synchronous_commit": "a crash of Postgres can lose what a client was told is stored",
}
STRONGER = {"synchronous_commit": {"on", "remote_apply", "remote_write", "local"}}
SETTING = "select setting, source from pg_settings where name = $1"
# PostgREST's roles that may act as one of ours, directly or through others.
MEMBERS = """
select m.rolname as member, o.rolname as ours
from pg_roles o join pg_roles m on pg_has_role(m.oid, o.oid, 'member') and m.oid <> o.oid
where o.rolname in ('annex_owner', 'annex_api', 'annex_worker') and not m.rolsuper
  and m.rolname in ('anon', 'authenticated', 'authenticator', 'service_role')
order by 1, 2
"""
OWNER = """
select rolname, rolcanlogin, rolsuper, rolbypassrls from pg_roles
where rolname = 'annex_owner' and (rolcanlogin or rolsuper or rolbypassrls)
"""


async def find_read_only(site: Site) -> Finding | None:
    """A database that takes no writes serves nobody who writes."""
    for connection in (site.api, site.worker):
        if await connection.fetchval("show transaction_read_only") == "on":
            return error(
                "Transactions are read-only by default; nothing can be written.",
                "Supabase does so when a project's disk is full: make room, or enlarge the disk. "
                "Otherwise run `alter database … reset default_transaction_read_only`.",
            )
    return None


async def find_settings(site: Site) -> Finding | None:
    """Settings of the database or of a role that take away what Annex relies on."""
    for connection in (site.api, site.worker):
        for name, wanted in NEEDED.items():
            row = await connection.fetchrow(SETTING, name)
            assert row is not None
            found, source = row
            # What is said at the server's start is meant: so tests make one that may lose all.
            if source != "command line" and found not in STRONGER.get(name, {wanted}):
                return warning(
                    f"{name} is {found}: {HARM[name]}.",
                    f"Find where it is set (`\\drds` in psql, or the server's own settings), and "
                    f"reset it there; Annex needs {wanted}.",
                )
    return None


async def find_encoding(site: Site) -> Finding | None:
    """Texts are UTF-8."""
    encoding = await site.api.fetchval("show server_encoding")
    if encoding == "UTF8":
        return None
    return error(
        f"The database's encoding is {encoding}: texts from clients cannot be stored.",
        "Make a database with the encoding UTF8, and move to it.",
    )


async def find_autovacuum(site: Site) -> Finding | None:
    """Queues and the log are deleted from all day."""
    if await site.api.fetchval("show autovacuum") == "on":
        return None
    return warning(
        "autovacuum is off: tables grow with what was deleted, and statements get slow.",
        "Set autovacuum = on in the server's settings.",
    )


async def find_members(site: Site) -> Finding | None:
    """Whoever may act as one of Annex's roles is bound by nothing."""
    if not (rows := await site.api.fetch(MEMBERS)):
        return None
    member, ours = rows[0]
    return error(
        f"{member} may act as {ours}: whoever PostgREST lets in has its rights.",
        f"Run `revoke {ours} from …` for the role that {member} has it from, as the one who "
        "granted it or as a superuser.",
    )


async def find_strong_owner(site: Site) -> Finding | None:
    """annex_owner is a name for rights, not a login."""
    row = await site.api.fetchrow(OWNER)
    if row is None:
        return None
    held = {"rolcanlogin": "login", "rolsuper": "superuser", "rolbypassrls": "bypassrls"}
    words = [word for column, word in held.items() if row[column]]
    return error(
        f"annex_owner has the attribute {listed(words)}; it is to own the schema, and no more.",
        f"Run `alter role annex_owner {' '.join(f'no{word}' for word in words)}`, as a superuser.",
    )


CHECKS = (
    Check("writable", find_read_only, ("primary",)),
    Check("settings of the server", find_settings, ("roles",)),
    Check("encoding", find_encoding),
    Check("autovacuum", find_autovacuum),
    Check("members of Annex's roles", find_members),
    Check("annex_owner", find_strong_owner),
)
