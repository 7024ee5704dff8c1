"""Whether the schema is what the migrations made: complete, closed, with its partitions."""

from app.database.migrations import START_ANEW, applied, carried, edited, listed
from app.doctor import Check, Finding, Site, advice, error, warning

OURS = "from pg_class c where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p')"
OPEN = f"select c.relname {OURS} and not (c.relrowsecurity and c.relforcerowsecurity) order by 1"
POLICIES_LOST = """
select c.relname from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
  and not exists (select from pg_policy p where p.polrelid = c.oid) order by 1
"""
RIGHTS = """
select c.relname, coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') as role, a.privilege_type
from pg_class c, aclexplode(c.relacl) a
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
  and (a.grantee = 0
    or a.grantee in (select oid from pg_roles where rolname in ('anon', 'service_role'))
    -- A user may see whole rows of some tables, never of one that holds hashes.
    or a.grantee in (select oid from pg_roles where rolname = 'authenticated') and (
      a.privilege_type <> 'SELECT' or exists (
        select from pg_attribute h where h.attrelid = c.oid and h.attname like '%\\_hash'
      )
    ))
order by 1, 2
"""
FUNCTIONS = """
select p.proname, coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') as role
from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
where p.pronamespace = 'annex'::regnamespace
  and (a.grantee = 0 or a.grantee in (select oid from pg_roles where rolname = 'anon'))
order by 1
"""
FOREIGN = """
select c.relname, pg_get_userbyid(c.relowner) as owner
from pg_class c where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
  and pg_get_userbyid(c.relowner) <> 'annex_owner' order by 1
"""
TRIGGERS_OFF = """
select t.tgname, c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'annex'::regnamespace and t.tgenabled <> 'O' order by 1
"""
PUBLISHED = """
select pubname, count(*) as tables from pg_publication_tables
where schemaname = 'annex' group by 1 order by 1
"""
EXPOSED = """
select split_part(s, '=', 2) from pg_db_role_setting g
join pg_roles r on r.oid = g.setrole and r.rolname = 'authenticator', unnest(g.setconfig) s
where s like 'pgrst.db_schemas=%'
order by g.setdatabase desc limit 1
"""
NEXT_MONTH = """
select to_char(m at time zone 'UTC', 'YYYY_MM')
from unnest(array[now(), date_trunc('month', now() at time zone 'UTC') at time zone 'UTC'
  + interval '35 days']) m
where to_regclass('annex.events_' || to_char(m at time zone 'UTC', 'YYYY_MM')) is null
"""
AGAIN = (
    "Run the statement of the migration again, as the role that migrated: see supabase/migrations."
)


async def find_missing(site: Site) -> Finding | None:
    """The schema must have what this version needs."""
    recorded = await applied(site.api)
    missing = [m.name for m in carried() if m.name not in (recorded or {})]
    if not missing:
        return None
    return error(
        (
            f"The database lacks the migrations {listed(missing)}."
            if recorded is not None
            else "The database has no schema annex."
        ),
        "Run `annex migrate <url>`, or `annex install` and `supabase db push`.",
    )


async def find_unknown(site: Site) -> Finding | None:
    """A newer schema serves an older process, for one release."""
    known = {m.name for m in carried()}
    if not (unknown := sorted((await applied(site.api) or {}).keys() - known)):
        return None
    return warning(
        f"The database has migrations that this version does not know: {listed(unknown)}.",
        "Upgrade Annex on this machine: a newer schema serves the release before it, and no older.",
    )


async def find_edited(site: Site) -> Finding | None:
    """What the database has of a migration must be what this version means by its name."""
    recorded = await applied(site.api)
    if names := edited(recorded, carried()):
        return error(
            f"Edited after the database had applied it: {listed(names)}; calls may fail.",
            f"{START_ANEW[0].upper()}{START_ANEW[1:]}.",
        )
    if recorded and (unknown := [m.name for m in carried() if recorded.get(m.name, "") is None]):
        return advice(
            f"Without a checksum: {listed(unknown)}. A later edit of these cannot be told.",
            "Apply migrations with `annex install` or `annex migrate`, not a checkout's own files.",
        )
    return None


async def find_open_table(site: Site) -> Finding | None:
    """Row level security is forced on every table."""
    if not (tables := [row[0] for row in await site.api.fetch(OPEN)]):
        return None
    return error(
        f"Row level security is off, or not forced, on annex.{listed(tables)}.",
        f"Run `alter table annex.{tables[0]} enable row level security, force row level security`.",
    )


async def find_lost_policies(site: Site) -> Finding | None:
    """Without its policies a table is closed to everybody, Annex's own functions included."""
    if not (tables := [row[0] for row in await site.api.fetch(POLICIES_LOST)]):
        return None
    return error(f"annex.{listed(tables)} has no policy any more; nobody can read it.", AGAIN)


async def find_rights(site: Site) -> Finding | None:
    """PostgREST's roles have column grants at most; anon has nothing."""
    for row in await site.api.fetch(RIGHTS):
        return error(
            f"{row['role']} has {row['privilege_type']} on the whole table annex.{row['relname']}; "
            "PostgREST offers it to the internet.",
            f"Run `revoke all on annex.{row['relname']} from {row['role']}`; column grants stay.",
        )
    for row in await site.api.fetch(FUNCTIONS):
        return error(
            f"{row['role']} may execute annex.{row['proname']}, which PostgREST then offers.",
            f"Run `revoke execute on function annex.{row['proname']} from {row['role']}`.",
        )
    return None


async def find_owner(site: Site) -> Finding | None:
    """annex_owner owns every table, so that definer functions reach it."""
    for row in await site.api.fetch(FOREIGN):
        return error(
            f"annex.{row['relname']} belongs to {row['owner']}; Annex's functions cannot use it.",
            f"Run `alter table annex.{row['relname']} owner to annex_owner`.",
        )
    return None


async def find_disabled_trigger(site: Site) -> Finding | None:
    """Triggers keep the audit trail and the rules; a restore may leave them off."""
    for row in await site.api.fetch(TRIGGERS_OFF):
        return error(
            f"The trigger {row['tgname']} on annex.{row['relname']} is off; rules and the audit "
            "trail have gaps.",
            f"Run `alter table annex.{row['relname']} enable trigger {row['tgname']}`.",
        )
    return None


async def find_publication(site: Site) -> Finding | None:
    """Realtime and replicas get what a publication holds; hashes of keys are no part of it."""
    for row in await site.api.fetch(PUBLISHED):
        return warning(
            f"The publication {row['pubname']} holds {row['tables']} table(s) of annex, hashes of "
            "keys and tokens included if all are in it; its subscribers see them.",
            f"Run `alter publication {row['pubname']} drop table …`, or, if it is for all tables, "
            "make it anew for the schemas that are meant.",
        )
    return None


async def find_exposure(site: Site) -> Finding | None:
    """Browsers read through PostgREST only what its settings expose."""
    schemas = await site.api.fetchval(EXPOSED)
    if schemas is None or "annex" in [name.strip(' "') for name in schemas.split(",")]:
        return None
    return advice(
        f"PostgREST serves {schemas} and not annex: `supabase.schema('annex')` answers 406.",
        "If browsers are to read there, add annex to the exposed schemas (on supabase.com: API "
        f"settings), or run `alter role authenticator set pgrst.db_schemas = '{schemas}, annex'` "
        "and `notify pgrst, 'reload config'`.",
    )


async def find_partition(site: Site) -> Finding | None:
    """This month's and the next month's events need their partitions."""
    missing = [row[0] for row in await site.api.fetch(NEXT_MONTH)]
    if not missing:
        return None
    return warning(
        f"There is no partition events_{missing[0]}; its events would go into events_default.",
        "Run `annex worker`, which makes it within the hour; or `select annex.roll_partitions()`.",
    )


async def find_strays(site: Site) -> Finding | None:
    """Events in the default partition stay there: it cannot be dropped month by month."""
    size = await site.api.fetchval("select pg_relation_size('annex.events_default')")
    if not size:
        return None
    return warning(
        f"annex.events_default holds events ({size // 1024} KiB): no partition was there in time.",
        "Keep `annex worker` running. Retention deletes these events, too, but not with their "
        "month; once they are gone, `vacuum full annex.events_default` frees the disk.",
    )


CHECKS = (
    Check("migrations", find_missing),
    Check("newer migrations", find_unknown),
    Check("edited migrations", find_edited),
    Check("row level security", find_open_table),
    Check("policies", find_lost_policies),
    Check("rights of PostgREST's roles", find_rights),
    Check("owner", find_owner),
    Check("triggers", find_disabled_trigger),
    Check("publications", find_publication),
    Check("exposure in PostgREST", find_exposure),
    Check("partitions", find_partition),
    Check("default partition", find_strays),
)
