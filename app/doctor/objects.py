"""Whether what the migrations made is still there: tables, functions, triggers, indexes."""

import re
from functools import cache
from typing import NamedTuple

from app.database.migrations import carried, listed
from app.doctor import Check, Finding, Site, error
from app.doctor.promises import statements

MADE = re.compile(
    r"^(create|drop) (?:or replace )?(?:unique )?(?:constraint )?(table|function|trigger|index) "
    r"(?:if (?:not )?exists )?(?:annex\.)?(\w+)",
    re.MULTILINE,
)
CONSTRAINT = re.compile(r"\bconstraint (\w+) (?:primary key|unique|check|foreign key|exclude)\b")
KINDS = ("table", "function", "trigger", "index", "constraint")
THERE = """
select case c.relkind when 'i' then 'index' when 'I' then 'index' else 'table' end as kind,
  c.relname as name
from pg_class c left join pg_index i on i.indexrelid = c.oid
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'i', 'I')
  and coalesce(i.indisvalid, true)
union select 'function', p.proname from pg_proc p where p.pronamespace = 'annex'::regnamespace
union select 'constraint', conname from pg_constraint
where connamespace = 'annex'::regnamespace and convalidated
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

UNLOGGED = """
select relname from pg_class
where relnamespace = 'annex'::regnamespace and relkind = 'r' and relpersistence = 'u' order by 1
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
    for text in statements():
        if text.startswith(("create table annex.", "alter table annex.")):
            found |= {Made("constraint", name) for name in CONSTRAINT.findall(text)}
    return frozenset(found)


async def find_lost(site: Site) -> Finding | None:
    """What was dropped, or is an index that could not be built."""
    there = {Made(row["kind"], row["name"]) for row in await site.api.fetch(THERE)}
    lost = sorted(promised() - there, key=lambda each: (KINDS.index(each.kind), each.name))
    if not lost:
        return None
    return error(
        f"The schema lacks what its migrations made: {listed([' '.join(each) for each in lost])}.",
        "Run the statements that make it again, as annex_owner: see supabase/migrations. An index "
        "that is there and not valid is made anew with `reindex index`; a constraint is made valid "
        "with `alter table … validate constraint`.",
    )


async def find_unlogged(site: Site) -> Finding | None:
    """A crash empties a table that is not logged, and no backup's log and no replica has it."""
    if not (tables := [row[0] for row in await site.api.fetch(UNLOGGED)]):
        return None
    return error(
        f"Not logged: annex.{listed(tables)}; a crash of Postgres empties what is not.",
        "Run this as the role that migrated:",
        *(f"alter table annex.{table} set logged" for table in tables),
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
    Check("crash safety", find_unlogged, ("schema",)),
    Check("users' addresses", find_users, ("schema", "owners")),
)
