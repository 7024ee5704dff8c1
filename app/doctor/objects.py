"""Whether what the migrations made is still there: tables, functions, triggers, indexes."""

import re
from functools import cache
from typing import NamedTuple

from app.database.migrations import carried, listed
from app.doctor import Check, Finding, Site, error

MADE = re.compile(
    r"^(create|drop) (?:or replace )?(?:unique )?(?:constraint )?(table|function|trigger|index) "
    r"(?:if (?:not )?exists )?(?:annex\.)?(\w+)",
    re.MULTILINE,
)
THERE = """
select case c.relkind when 'i' then 'index' when 'I' then 'index' else 'table' end as kind,
  c.relname as name
from pg_class c left join pg_index i on i.indexrelid = c.oid
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'i', 'I')
  and coalesce(i.indisvalid, true)
union select 'function', p.proname from pg_proc p where p.pronamespace = 'annex'::regnamespace
union select 'trigger', t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'annex'::regnamespace
"""

FIND_USER = """
select pg_get_userbyid(p.proowner) as owner
from pg_proc p, pg_class c join pg_namespace n on n.oid = c.relnamespace
where p.pronamespace = 'annex'::regnamespace and p.proname = 'find_user'
  and n.nspname = 'auth' and c.relname = 'users'
  and not has_table_privilege(p.proowner, c.oid, 'select')
"""


class Made(NamedTuple):
    """Something that a migration makes."""

    kind: str
    name: str


@cache
def promised() -> frozenset[Made]:
    """Return what the migrations make and do not drop again."""
    found = set[Made]()
    for migration in carried():
        for verb, kind, name in MADE.findall(migration.sql):
            (found.add if verb == "create" else found.discard)(Made(kind, name))
    return frozenset(found)


async def find_lost(site: Site) -> Finding | None:
    """What was dropped, or is an index that could not be built."""
    there = {Made(row["kind"], row["name"]) for row in await site.api.fetch(THERE)}
    if not (lost := sorted(promised() - there)):
        return None
    return error(
        f"The schema lacks what its migrations made: {listed([' '.join(each) for each in lost])}.",
        "Run the statements that make it again, as annex_owner: see supabase/migrations. An index "
        "that is there and not valid is made anew with `reindex index`.",
    )


async def find_users(site: Site) -> Finding | None:
    """Invitations ask for a user's confirmed address, with the rights of who migrated."""
    row = await site.api.fetchrow(FIND_USER)
    if row is None:
        return None
    return error(
        f"annex.find_user belongs to {row['owner']}, who may not read auth.users: nobody can accept"
        " an invitation.",
        f"Run `grant select on auth.users to {row['owner']}`, or give the function back to the "
        "role that migrated.",
    )


CHECKS = (
    Check("objects of the schema", find_lost, ("migrations",)),
    Check("users' addresses", find_users, ("schema", "owners")),
)
