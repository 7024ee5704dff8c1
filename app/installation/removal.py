"""What it takes to remove Annex, for a person to read before they run it."""

from app.installation import InstallationError
from app.installation.database import connected
from app.resources import resource

# What refers to something of the schema and is not of it: policies, foreign keys, views, defaults.
DEPENDENTS = """
with ours as (
  select 'pg_class'::regclass as classid, oid from pg_class
  where relnamespace = 'annex'::regnamespace
  union all
  select 'pg_proc'::regclass, oid from pg_proc where pronamespace = 'annex'::regnamespace
  union all
  select 'pg_type'::regclass, oid from pg_type where typnamespace = 'annex'::regnamespace
), found as (
  select distinct coalesce(i.type, '') as kind, coalesce(i.identity, '') as identity
  from pg_depend d
  join ours o on o.classid = d.refclassid and o.oid = d.refobjid
  -- Of a view, its rule depends on what it reads.
  left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid,
  pg_identify_object(
    case when r.oid is null then d.classid else 'pg_class'::regclass end,
    coalesce(r.ev_class, d.objid), case when r.oid is null then d.objsubid else 0 end
  ) i
  where d.deptype in ('n', 'a')
    and coalesce(i.schema, '') not in ('annex', 'pg_toast')
    and i.identity !~ '(^|(on|for) )annex[.]'
    and not exists (select from ours x where x.classid = d.classid and x.oid = d.objid)
)
select kind || ' ' || identity from found where kind <> 'default acl' order by 1
"""

IS_ANOTHERS = """
select n.nspowner is distinct from to_regrole('annex_owner')::oid
  and not exists (select from pg_proc p
    where p.pronamespace = n.oid and p.proname = 'applied_migrations')
from pg_namespace n where n.nspname = 'annex'
"""


def removal() -> str:
    """Return the SQL that removes Annex, with comments that say what is lost."""
    return resource("supabase/uninstall.sql").read_text(encoding="utf-8")


async def dependents(url: str) -> list[str]:
    """List what of the project's own refers to Annex and would go along.

    Raises `InstallationError` if the database does not answer.
    """
    async with connected(url) as connection:
        if not await connection.fetchval("select to_regnamespace('annex') is not null"):
            return []
        if await connection.fetchval(IS_ANOTHERS):
            raise InstallationError(
                "The schema annex is not one that Annex's migrations made: to run what this command"
                " prints would delete somebody else's tables."
            )
        return [row[0] for row in await connection.fetch(DEPENDENTS)]
