"""Whether the schema is what the migrations made: complete, closed, with its partitions."""

from app.database.migrations import START_ANEW, applied, carried, edited, listed
from app.doctor import Check, Finding, Site, advice, error, warning

MIGRATE = "Run `annex migrate <url>`, or `annex install` and `supabase db push`."
OURS = "from pg_class c where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p')"
OPEN = f"select c.relname {OURS} and not (c.relrowsecurity and c.relforcerowsecurity) order by 1"
TRIGGERS_OFF = """
select t.tgname, c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'annex'::regnamespace and t.tgenabled <> 'O' order by 1
"""
# One for all tables cannot be narrowed, so it is made anew, with its options, for those of others.
PUBLISHED = """
with tables as (
  select pubname, schemaname = 'annex' as is_ours, format('%I.%I', schemaname, tablename) as name
  from pg_publication_tables
)
select p.pubname as name, case
  when p.puballtables then array[
    format('drop publication %I', p.pubname),
    format('create publication %I%s with (publish = %L, publish_via_partition_root = %s)',
      p.pubname,
      ' for table ' || (select string_agg(t.name, ', ' order by t.name) from tables t
        where t.pubname = p.pubname and not t.is_ours),
      concat_ws(', ', case when p.pubinsert then 'insert' end, case when p.pubupdate then 'update'
        end, case when p.pubdelete then 'delete' end, case when p.pubtruncate then 'truncate' end),
      p.pubviaroot::text)]
  else array(
    select format('alter publication %I drop tables in schema annex', p.pubname)
    from pg_publication_namespace n
    where n.pnpubid = p.oid and n.pnnspid = 'annex'::regnamespace
    union all
    select format('alter publication %I drop table %s', p.pubname, r.prrelid::regclass)
    from pg_publication_rel r join pg_class c on c.oid = r.prrelid
    where r.prpubid = p.oid and c.relnamespace = 'annex'::regnamespace)
  end as cure
from pg_publication p
where exists (select from tables t where t.pubname = p.pubname and t.is_ours)
order by 1
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


async def find_schema(site: Site) -> Finding | None:
    """Without the schema there is nothing else to look at."""
    if await site.api.fetchval("select to_regnamespace('annex') is not null"):
        return None
    return error("The database has no schema annex.", MIGRATE)


async def find_missing(site: Site) -> Finding | None:
    """The schema must have what this version needs."""
    recorded = await applied(site.api) or {}
    if not (missing := [m.name for m in carried() if m.name not in recorded]):
        return None
    return error(f"The database lacks the migrations {listed(missing)}.", MIGRATE)


async def find_unknown(site: Site) -> Finding | None:
    """A newer schema serves an older process, for one release."""
    known = {m.name for m in carried()}
    if not (unknown := sorted((await applied(site.api) or {}).keys() - known)):
        return None
    return warning(
        f"The database has migrations that this version does not know: {listed(unknown)}.",
        "Upgrade Annex on this machine: a newer schema serves the release before it, and no older. "
        "Rights and policies are compared by the newer version alone.",
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
        "Run this as the role that migrated:",
        *(
            f"alter table annex.{table} enable row level security, force row level security"
            for table in tables
        ),
    )


async def find_disabled_trigger(site: Site) -> Finding | None:
    """Triggers keep the audit trail and the rules; a restore may leave them off."""
    if not (rows := await site.api.fetch(TRIGGERS_OFF)):
        return None
    return error(
        f"Triggers are off: {listed([f'{row[0]} on annex.{row[1]}' for row in rows])}; rules and "
        "the audit trail have gaps.",
        "Run this as the role that migrated:",
        *(f"alter table annex.{row[1]} enable trigger {row[0]}" for row in rows),
    )


async def find_publication(site: Site) -> Finding | None:
    """Realtime and replicas get what a publication holds; hashes of keys are no part of it."""
    if not (rows := await site.worker.fetch(PUBLISHED)):
        return None
    return warning(
        f"Tables of annex are published by {listed([row['name'] for row in rows])}, hashes of keys "
        "and tokens included if all are; subscribers see them.",
        "Run this as the owner of the publication, in one transaction:",
        *(statement for row in rows for statement in row["cure"]),
    )


async def find_exposure(site: Site) -> Finding | None:
    """Browsers read through PostgREST only what its settings expose."""
    schemas = await site.api.fetchval(EXPOSED)
    if schemas is None or "annex" in [name.strip(' "') for name in schemas.split(",")]:
        return None
    return advice(
        f"PostgREST serves {schemas} and not annex: `supabase.schema('annex')` answers 406.",
        "If browsers are to read there, add annex to the exposed schemas (on supabase.com: API "
        "settings), or run:",
        f"alter role authenticator set pgrst.db_schemas = '{schemas}, annex'",
        "notify pgrst, 'reload config'",
    )


async def find_partition(site: Site) -> Finding | None:
    """This month's and the next month's events need their partitions."""
    missing = [row[0] for row in await site.api.fetch(NEXT_MONTH)]
    if not missing:
        return None
    return warning(
        f"There is no partition events_{missing[0]}; its events would go into events_default.",
        "Run `annex worker`, which makes it within the hour; or, as the role that migrated:",
        "select annex.roll_partitions()",
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
    Check("schema", find_schema, ("one database",)),
    Check("migrations", find_missing, ("roles", "schema")),
    Check("newer migrations", find_unknown, ("roles", "schema")),
    Check("edited migrations", find_edited, ("roles", "schema")),
    Check("row level security", find_open_table, ("schema",)),
    Check("triggers", find_disabled_trigger, ("schema",)),
    Check("publications", find_publication, ("schema",)),
    Check("exposure in PostgREST", find_exposure),
    Check("partitions", find_partition, ("roles", "schema")),
    Check("default partition", find_strays, ("roles", "schema")),
)
