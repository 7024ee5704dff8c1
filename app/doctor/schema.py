"""Whether the schema is what the migrations made: complete, closed, with its partitions."""

from datetime import UTC, datetime
from uuid import UUID

from app.database.migrations import START_ANEW, applied, carried, edited, listed
from app.doctor import Check, Finding, Site, advice, error, warning

MIGRATE = "Run `annex migrate <url>`, or `annex install` and `supabase db push`."
OURS = "from pg_class c where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p')"
OPEN = f"select c.relname {OURS} and not (c.relrowsecurity and c.relforcerowsecurity) order by 1"
TRIGGERS_OFF = """
select quote_ident(t.tgname) as name, c.relname, t.tgisinternal as of_key
from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'annex'::regnamespace and t.tgenabled <> 'O' order by c.relname, t.tgname
"""
DETACHED = """
select c.relname from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind = 'r' and not c.relispartition
  and c.relname ~ '^events_[0-9]{4}_[0-9]{2}$'
order by 1
"""
ESTIMATES = """
select split_part(s, '=', 2) from pg_db_role_setting g
join pg_roles r on r.oid = g.setrole and r.rolname = 'authenticator', unnest(g.setconfig) s
where s like 'pgrst.db_plan_enabled=%'
order by g.setdatabase desc limit 1
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
    # A key's two triggers have names of numbers, and only a superuser turns them on.
    keys = sorted({row["relname"] for row in rows if row["of_key"]})
    names = [f"foreign keys of annex.{table}" for table in keys]
    names += [f"{row['name']} on annex.{row['relname']}" for row in rows if not row["of_key"]]
    single = [row for row in rows if row["relname"] not in keys]
    return error(
        f"Triggers are off: {listed(names)}; rules and the audit trail have gaps.",
        "Run this as a superuser:" if keys else "Run this as the role that migrated:",
        *(f"alter table annex.{table} enable trigger all" for table in keys),
        *(f"alter table annex.{row['relname']} enable trigger {row['name']}" for row in single),
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


async def find_detached(site: Site) -> Finding | None:
    """A month that was detached is in no list, and the worker makes none in its place."""
    if not (names := [row[0] for row in await site.api.fetch(DETACHED)]):
        return None
    return error(
        f"No partition of annex.events any more: annex.{listed(names)}; nobody sees the events in "
        "there, and new ones go into events_default.",
        "Run this as the role that migrated; if it is refused, because events_default has events "
        "of that month, move them into the table first:",
        *(
            f"alter table annex.events attach partition annex.{name}"
            f" for values from ('{first_id(name)}') to ('{first_id(name, 1)}')"
            for name in names
        ),
    )


def first_id(partition: str, months: int = 0) -> UUID:
    """Return the lowest id of a partition's month, or of one so many months later."""
    year, month = map(int, partition.removeprefix("events_").split("_"))
    years, months = divmod(month - 1 + months, 12)
    moment = datetime(year + years, months + 1, 1, tzinfo=UTC)
    return UUID(f"{int(moment.timestamp() * 1000):012x}70008000000000000000")


async def find_estimates(site: Site) -> Finding | None:
    """Plans tell how many rows the planner expects, of all tenants."""
    schemas = await site.api.fetchval(EXPOSED)
    is_exposed = "annex" in [name.strip(' "') for name in (schemas or "").split(",")]
    if not is_exposed or await site.api.fetchval(ESTIMATES) not in ("true", "on", "1"):
        return None
    return warning(
        "PostgREST shows plans (pgrst.db_plan_enabled) and serves annex: who may read there sees "
        "about how many rows all tenants have.",
        "Run this as a role that may change authenticator (Supabase: `postgres`):",
        "alter role authenticator reset pgrst.db_plan_enabled",
        "notify pgrst, 'reload config'",
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
    Check("plans in PostgREST", find_estimates),
    Check("detached partitions", find_detached, ("roles", "schema")),
    Check("partitions", find_partition, ("roles", "schema")),
    Check("default partition", find_strays, ("roles", "schema")),
)
