"""What it takes to remove Annex, for a person to read before they run it."""

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


def removal() -> str:
    """Return the SQL that removes Annex, with comments that say what is lost."""
    return resource("supabase/uninstall.sql").read_text()


async def dependents(url: str) -> list[str]:
    """List what of the project's own refers to Annex and would go along.

    Raises `InstallationError` if the database does not answer.
    """
    async with connected(url) as connection:
        if not await connection.fetchval("select to_regnamespace('annex') is not null"):
            return []
        return [row[0] for row in await connection.fetch(DEPENDENTS)]
