"""Whether the server's own settings, and who may act as Annex's roles, keep what is promised."""

from app.database.migrations import listed
from app.doctor import Check, Finding, Site, error, warning

# What sessions have by themselves, unless ALTER DATABASE or ALTER ROLE gave them something else.
NEEDED = {
    "default_transaction_isolation": "read committed",
    "row_security": "on",
    "idle_session_timeout": "0",
    "session_replication_role": "origin",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
}
HARM = {
    "default_transaction_isolation": "statements then fail that would have waited for each other",
    "row_security": "statements then fail where row level security applies",
    "idle_session_timeout": "connections that listen or wait in a pool are cut off all day",
    "standard_conforming_strings": "a backslash in a string means something else",
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
select rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolreplication from pg_roles
where rolname = 'annex_owner'
  and (rolcanlogin or rolsuper or rolbypassrls or rolcreaterole or rolreplication)
"""
SLOT_BYTES = 2**30
"""Of the write-ahead log that a slot nobody reads may keep on the disk."""
SLOTS = """
select slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint as kept
from pg_replication_slots
where not active and pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) >= $1
order by 2 desc
"""
PREPARED_SECONDS = 600.0
PREPARED = """
select gid, prepared, owner from pg_prepared_xacts
where database = current_database() and prepared <= now() - make_interval(secs => $1)
order by prepared
"""
NOT_VACUUMED = """
select c.relname from pg_namespace n join pg_class c on c.relnamespace = n.oid,
  unnest(c.reloptions) o
where n.nspname = 'annex'
  and o ~* '^autovacuum_enabled=(off|false|no|n|f|0)$'
order by 1
"""
COLLATION = """
select datcollversion as made, pg_database_collation_actual_version(oid) as found
from pg_database where datname = current_database()
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
    for name in ("autovacuum", "track_counts"):
        if await site.api.fetchval("select current_setting($1)", name) != "on":
            return warning(
                f"{name} is off: tables grow with what was deleted, and statements get slow.",
                f"Set {name} = on in the server's settings.",
            )
    if tables := [row[0] for row in await site.api.fetch(NOT_VACUUMED)]:
        return warning(
            f"autovacuum is off for annex.{listed(tables)}, which grow with what was deleted.",
            "Run this as the role that migrated:",
            *(f"alter table annex.{table} reset (autovacuum_enabled)" for table in tables),
        )
    return None


async def find_slots(site: Site) -> Finding | None:
    """A slot that nobody reads keeps the write-ahead log until the disk is full."""
    if not (rows := await site.api.fetch(SLOTS, SLOT_BYTES)):
        return None
    name, kept = rows[0]
    return warning(
        f"Nobody reads the replication slot {name}, which keeps {kept / 2**20:.0f} MiB of the "
        "write-ahead log; when the disk is full, nothing can be written.",
        "If its reader is gone for good, run this as a role with REPLICATION (Supabase: "
        "`postgres`); otherwise start the reader again, and set max_slot_wal_keep_size.",
        *(f"select pg_drop_replication_slot('{row[0]}')" for row in rows),
    )


async def find_prepared(site: Site) -> Finding | None:
    """A transaction that was prepared and forgotten holds its locks, and back all vacuums."""
    if not (rows := await site.api.fetch(PREPARED, PREPARED_SECONDS)):
        return None
    gid, since, owner = rows[0]
    return warning(
        f"The prepared transaction {gid} of {owner} has been open since {since:%Y-%m-%d %H:%M} "
        "UTC: it holds its locks, and nothing that was deleted since is cleared away.",
        f"Run `rollback prepared '{gid}'` or `commit prepared '{gid}'`, as {owner} and outside of "
        "a transaction.",
    )


async def find_collation(site: Site) -> Finding | None:
    """Another version of the system's library may sort texts in another order than indexes do."""
    row = await site.api.fetchrow(COLLATION)
    assert row is not None
    made, found = row
    if made is None or found is None or made == found:
        return None
    return warning(
        f"Indexes on texts were made with version {made} of the collation, and the server has "
        f"{found}: rows may not be found, and unique ones be there twice.",
        "Run `reindex database …`, and then `alter database … refresh collation version`, as the "
        "owner of the database.",
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
    held = {
        "rolcanlogin": "login",
        "rolsuper": "superuser",
        "rolbypassrls": "bypassrls",
        "rolcreaterole": "createrole",
        "rolreplication": "replication",
    }
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
    Check("replication slots", find_slots, ("primary",)),
    Check("prepared transactions", find_prepared),
    Check("collation", find_collation),
    Check("members of Annex's roles", find_members),
    Check("annex_owner", find_strong_owner),
)
