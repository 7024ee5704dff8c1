"""Whether rights, owners and policies in the schema are those that the migrations give."""

from typing import Any

import asyncpg

from app.database.migrations import applied, carried, listed
from app.doctor import Check, Finding, Site, advice, error
from app.doctor.promises import Difference, Right, policies, rights, shortened

OBJECTS = """
select 'schema annex' as object, '' as name, n.nspowner as owner,
  coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
from pg_namespace n where n.nspname = 'annex'
union all
select case c.relkind when 'S' then 'sequence' else 'table' end || format(' annex.%I', c.relname),
  c.relname, c.relowner, coalesce(c.relacl,
    case c.relkind when 'S' then acldefault('s', c.relowner) else acldefault('r', c.relowner) end)
from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
union all
select case p.prokind when 'p' then 'procedure' else 'function' end
    || format(' annex.%I(', p.proname)
    || array_to_string(array(select format_type(t, null) from unnest(p.proargtypes)
      with ordinality u (t, n) order by n), ', ') || ')',
  p.proname, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
from pg_proc p where p.pronamespace = 'annex'::regnamespace
"""
# An owner's rights on what it owns are its own affair, and the check of owners' one.
RIGHTS = f"""
with objects as ({OBJECTS}), acls as (
  select object, '' as "column", owner, acl from objects
  union all
  select format('table annex.%I', c.relname), quote_ident(a.attname), c.relowner, a.attacl
  from pg_attribute a join pg_class c on c.oid = a.attrelid
  where c.relnamespace = 'annex'::regnamespace and a.attacl is not null and not a.attisdropped
)
select a.object, case e.grantee when 0 then 'public' else quote_ident(r.rolname) end as role,
  e.privilege_type as privilege, a."column", e.is_grantable
from acls a, aclexplode(a.acl) e left join pg_roles r on r.oid = e.grantee
where e.grantee <> a.owner
"""
OWNERS = f"""
select o.object, o.name, quote_ident(r.rolname) as owner, r.rolsuper or r.rolcreaterole as migrates
from ({OBJECTS}) o join pg_roles r on r.oid = o.owner
order by o.object not like 'schema%', o.object
"""
POLICIES = """
select c.relname, p.polname from pg_policy p join pg_class c on c.oid = p.polrelid
where c.relnamespace = 'annex'::regnamespace
"""
# Rights that an object gets when it is made: by annex_owner, as migrations make theirs, or by
# anybody in the schema. Without an entry for its maker, everybody may call a function. Who migrated
# owns one function, and may cure what is of roles whose member it is.
DEFAULTS = """
with owner as (select oid from pg_roles where rolname = 'annex_owner'), kinds as (
  select * from (values ('r', 'r', 'tables'), ('S', 's', 'sequences'), ('f', 'f', 'functions'))
    k (type, of_default, name)
), entries as (
  select o.oid as maker, k.name as kind, '' as scope, coalesce(d.defaclacl,
    acldefault(k.of_default::"char", o.oid)) as acl
  from owner o cross join kinds k left join pg_default_acl d on d.defaclrole = o.oid
    and d.defaclnamespace = 0 and d.defaclobjtype = k.type::"char"
  union all
  select d.defaclrole, k.name, ' in schema annex', d.defaclacl
  from pg_default_acl d join kinds k on k.type::"char" = d.defaclobjtype
  where d.defaclnamespace = to_regnamespace('annex')
)
select m.rolname = 'annex_owner' as is_ours, quote_ident(m.rolname) as maker, e.kind,
  array_agg(distinct g.name order by g.name) as grantees,
  (select bool_and(pg_has_role(p.proowner, m.oid, 'member')) from pg_proc p
    where p.oid = to_regprocedure('annex.find_user(uuid)')) is not false as may_be_cured,
  format('alter default privileges for role %I%s revoke all on %s from %s', m.rolname, e.scope,
    e.kind, string_agg(distinct g.name, ', ' order by g.name)) as cure
from entries e join pg_roles m on m.oid = e.maker, aclexplode(e.acl) a left join pg_roles r
  on r.oid = a.grantee, lateral (select coalesce(quote_ident(r.rolname), 'public') as name) g
where a.grantee <> e.maker
group by m.oid, m.rolname, e.scope, e.kind order by m.rolname, e.scope, e.kind
"""
ITS_OWN = "function annex.find_user(uuid)"
"""Reads auth.users, so it stays with the role that migrated."""
ROLES = ("annex_owner", "annex_api", "annex_worker", "anon", "authenticated", "service_role")
OWNER = "annex_owner"
OURS = ("annex_owner", "annex_api", "annex_worker")
AS = "Run this as the role that migrated (Supabase: `postgres`):"


async def is_newer(site: Site) -> bool:
    """Say whether the schema is of a later release, whose rights this one does not know."""
    known = {m.name for m in carried()}
    try:
        return not (await applied(site.api) or {}).keys() <= known
    except asyncpg.InsufficientPrivilegeError:
        return False  # it lacks that right, too


async def owners_in(site: Site) -> dict[str, str]:
    """Return who owns each object of the schema."""
    return {row["object"]: row["owner"] for row in await site.api.fetch(OWNERS)}


async def compare(site: Site) -> Difference:
    """Compare the rights in the schema with those of the migrations."""
    owners = await owners_in(site)
    found: set[Right] = set()
    for row in await site.api.fetch(RIGHTS):
        right = Right(row["object"], row["role"], row["privilege"], row["column"])
        found.add(right)
        if row["is_grantable"]:
            found.add(right._replace(privilege=f"GRANT OPTION FOR {right.privilege}"))
    # What is not there at all is found elsewhere; and an owner needs no right.
    wanted = {r for r in rights() if owners.get(r.object, r.role) != r.role}
    return Difference(frozenset(found - rights()), frozenset(wanted - found))


async def find_rights(site: Site) -> Finding | None:
    """Everybody may do what the migrations say and nothing else; anon may do nothing."""
    if await is_newer(site):
        return None  # said by the check of newer migrations
    difference = await compare(site)
    if not (words := difference.words()):
        return None
    open_to = {r.role for r in difference.excess} - set(OURS)
    offered = " PostgREST may offer that to the internet." if open_to else ""
    return error(
        f"Rights are not what the migrations give: {shortened(words, 6, '; ')}.{offered}",
        AS,
        *difference.cure([o for o, owner in (await owners_in(site)).items() if owner == OWNER]),
    )


async def find_owners(site: Site) -> Finding | None:
    """annex_owner owns all but one function: definer functions run as it, under its policies."""
    wrong: list[Any] = []
    for row in await site.api.fetch(OWNERS):
        if row["object"].startswith("sequence "):
            continue  # goes with its table
        if row["object"] == ITS_OWN:
            wrong += [row] if row["owner"] in ROLES else []
        elif row["owner"] != OWNER:
            wrong.append(row)
    if not wrong:
        return None
    owners = sorted({row["owner"] for row in wrong})
    # To give away what a role owns takes membership in it.
    lent = sorted({r["owner"] for r in wrong if not r["migrates"] and r["owner"] != "annex_owner"})
    moved = [
        f"alter {row['object']} owner to "
        + ("current_user" if row["object"] == ITS_OWN else "annex_owner")
        for row in wrong
    ]
    # Rights that a role had as the owner hide its own.
    had = {(row["object"], row["owner"]) for row in wrong}
    lost = Difference(frozenset(), frozenset(r for r in rights() if r[:2] in had))
    names = [row["object"].partition("(")[0] for row in wrong]
    return error(
        f"Owned by {listed(owners)}, under whose rights Annex's functions then run or fail: "
        f"{shortened(names, 6)}.",
        AS,
        *(f"grant {owner} to current_user" for owner in lent),
        *moved,
        *lost.cure({row["object"] for row in wrong} - {ITS_OWN}),
        *(f"revoke {owner} from current_user" for owner in lent),
    )


async def find_policies(site: Site) -> Finding | None:
    """Each policy of the migrations is there, and none that opens more."""
    found = {(row["relname"], row["polname"]) for row in await site.api.fetch(POLICIES)}
    there = {row["name"] for row in await site.api.fetch(OWNERS)}
    lost = sorted(key for key in policies() if key not in found and key[0] in there)
    more = [] if await is_newer(site) else sorted(found - policies().keys())
    if not lost and not more:
        return None
    words = [f"lost: {name} on annex.{table}" for table, name in lost]
    words += [f"not of a migration: {name} on annex.{table}" for table, name in more]
    return error(
        f"Policies are not what the migrations make; {shortened(words, 6)}.",
        AS,
        *(policies()[key] for key in lost),
        *(f'drop policy "{name}" on annex."{table}"' for table, name in more),
    )


async def find_defaults(site: Site) -> Finding | None:
    """What the next migration makes starts closed, apart from what it grants itself."""
    if not (rows := await site.api.fetch(DEFAULTS)):
        return None
    found = [f"{row['kind']} to {', '.join(row['grantees'])}" for row in rows]
    # One statement that the role may not run would undo the others.
    cure = [row["cure"] for row in rows if row["may_be_cured"]]
    if any(row["is_ours"] for row in rows):
        return error(
            f"Default privileges open what the next migration makes: {shortened(found, 6, '; ')}.",
            AS,
            *cure,
        )
    makers = listed(sorted({row["maker"] for row in rows}))
    return advice(
        f"Default privileges would open what {makers} makes in the schema annex: "
        f"{shortened(found, 6, '; ')}. Migrations make their objects as annex_owner.",
        AS if cure else "Leave it, or let that role or a superuser take it back.",
        *cure,
    )


CHECKS = (
    Check("owners", find_owners, ("schema",)),
    Check("rights in the schema", find_rights, ("schema",)),
    Check("policies", find_policies, ("schema",)),
    Check("default privileges", find_defaults, ("schema",)),
)
