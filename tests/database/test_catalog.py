"""What must hold for all of the schema, asked of the catalog: later tables are covered too."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from app.permissions import Permission
from tests.conftest import ROOT, TestDatabase
from tests.database.conftest import Connection

DATA_MODEL = ROOT / "docs" / "datamodel.md"


class Rule(NamedTuple):
    """A query that finds what breaks the rule, and a statement that breaks it."""

    name: str
    violations: str
    sabotage: str


OUR_TABLES = """
from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""
# Every right on a table or column, a function or the schema: (what, who, right); PUBLIC is 0.
RIGHTS = """
with rights as (
  select c.oid::regclass::text as what, a.grantee, a.privilege_type, a.is_grantable
  from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
  where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
  union all
  select format('%s.%s', c.oid::regclass, t.attname), a.grantee, a.privilege_type, a.is_grantable
  from pg_attribute t join pg_class c on c.oid = t.attrelid, aclexplode(t.attacl) a
  where c.relnamespace = 'annex'::regnamespace
  union all
  select c.oid::regclass::text, a.grantee, a.privilege_type, a.is_grantable
  from pg_class c, aclexplode(coalesce(c.relacl, acldefault('s', c.relowner))) a
  where c.relnamespace = 'annex'::regnamespace and c.relkind = 'S'
  union all
  select p.oid::regprocedure::text, a.grantee, a.privilege_type, a.is_grantable
  from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
  where p.pronamespace = 'annex'::regnamespace
  union all
  select 'schema', a.grantee, a.privilege_type, a.is_grantable
  from pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  where n.nspname = 'annex'
)
select format('%s: %s to %s', what, privilege_type, grantee::regrole) from rights
"""
# What no user may see. `has_…` also counts rights that come through PUBLIC or another role.
SECRETS = """
'api_keys', 'pending', 'log', 'log_state', 'event_keys', 'retentions', 'idempotency_keys',
'limits', 'migrations', 'invitations', 'removals', 'join_rules', 'public_mail_domains', 'mails',
'mail_state', 'mail_backlogs', 'mail_retries', 'unsubscribe_tokens', 'erasures',
'event_type_changes', 'locks', 'trails'
"""

RULES = [
    Rule(
        "row level security is enabled and forced on every table and partition",
        f"select c.oid::regclass {OUR_TABLES} and c.relkind in ('r', 'p')"
        " and not (c.relrowsecurity and c.relforcerowsecurity)",
        "create table annex.events_open partition of annex.events for values"
        " from (annex.uuid7_floor('2001-01-01')) to (annex.uuid7_floor('2001-02-01'))",
    ),
    Rule(
        "a view asks for its reader's rights, and nothing else stands in for a table",
        f"select c.oid::regclass {OUR_TABLES} and c.relkind not in ('r', 'p')"
        " and not (c.relkind = 'v' and coalesce(c.reloptions @> '{security_invoker=true}', false))",
        "create view annex.every_event as select * from annex.events",
    ),
    Rule(
        "a partition has no policy and no right of its own",
        "select p.polname || ' on ' || c.relname from pg_policy p"
        " join pg_class c on c.oid = p.polrelid and c.relispartition"
        " where c.relnamespace = 'annex'::regnamespace union all"
        f" ({RIGHTS} where what in (select c.oid::regclass::text {OUR_TABLES} and c.relispartition)"
        " and grantee <> 'annex_owner'::regrole)",
        "grant select on annex.events_default to annex_api",
    ),
    Rule(
        "annex_owner owns everything but the function that reads auth.users",
        "select pg_describe_object(d.classid, d.objid, d.objsubid) from pg_depend d"
        " where d.refclassid = 'pg_namespace'::regclass and d.refobjid = 'annex'::regnamespace"
        " and (d.classid, d.objid) <> ('pg_proc'::regclass, 'annex.find_user(uuid)'::regprocedure)"
        " and not exists (select from pg_shdepend o where o.deptype = 'o'"
        " and o.dbid = (select oid from pg_database where datname = current_database())"
        " and (o.classid, o.objid) = (d.classid, d.objid) and o.refobjid = 'annex_owner'::regrole)"
        " union all select 'schema' from pg_namespace"
        " where nspname = 'annex' and nspowner <> 'annex_owner'::regrole",
        "alter function annex.uuid7() owner to supabase_postgres",
    ),
    Rule(
        "annex_owner cannot log in",
        "select rolname from pg_roles where rolname = 'annex_owner' and rolcanlogin",
        "alter role annex_owner login",
    ),
    Rule(
        "no role of ours is a superuser, bypasses row level security or makes roles or databases",
        "select rolname from pg_roles where rolname like 'annex\\_%' and"
        " (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)",
        "alter role annex_worker bypassrls",
    ),
    Rule(
        "what annex_owner does not own is a definer function that only annex_owner may call",
        "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'annex'::regnamespace"
        " and p.proowner <> 'annex_owner'::regrole and (not p.prosecdef or exists"
        " (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
        " where a.grantee not in (p.proowner, 'annex_owner'::regrole)))",
        "grant execute on function annex.find_user(uuid) to annex_api",
    ),
    Rule(
        "only the role that migrates may act as annex_owner",
        "select rolname from pg_roles where pg_has_role(oid, 'annex_owner', 'member')"
        " and not rolsuper and rolname not in ('annex_owner', 'supabase_postgres')",
        "grant annex_owner to annex_api",
    ),
    Rule(
        "the login roles are members of no other role",
        "select roleid::regrole || ' to ' || member::regrole from pg_auth_members"
        " where member in ('annex_api'::regrole, 'annex_worker'::regrole)",
        "grant pg_read_all_data to annex_worker",
    ),
    Rule(
        "nobody but annex_owner makes objects in the schema",
        f"{RIGHTS} where what = 'schema' and privilege_type = 'CREATE'"
        " and grantee <> 'annex_owner'::regrole",
        "grant create on schema annex to annex_api",
    ),
    Rule(
        "PUBLIC and anon have no right on anything",
        f"{RIGHTS} where grantee in (0, 'anon'::regrole)",
        "grant execute on function annex.permissions() to public",
    ),
    Rule(
        "a right once given cannot be passed on",
        f"{RIGHTS} where is_grantable",
        "grant select on annex.roles to annex_api with grant option",
    ),
    Rule(
        "annex_worker has no right on any table but its readers' cursors, of which none goes",
        f"{RIGHTS} where grantee = 'annex_worker'::regrole"
        " and privilege_type not in ('EXECUTE', 'USAGE') and (what, privilege_type) not in"
        " (select 'annex.readers', r from unnest(array['SELECT', 'INSERT', 'UPDATE']) r)",
        "grant select (pos) on annex.log to annex_worker",
    ),
    Rule(
        "service_role has functions, and no table",
        f"{RIGHTS} where grantee = 'service_role'::regrole"
        " and privilege_type not in ('EXECUTE', 'USAGE')",
        "grant select on annex.events to service_role",
    ),
    Rule(
        "only annex_owner writes the log, the limits and the record of migrations",
        f"{RIGHTS} where what ~"
        " '^annex.(events|event_keys|pending|log|log_state|retentions|limits|migrations)'"
        " and privilege_type not in ('SELECT', 'EXECUTE') and grantee <> 'annex_owner'::regrole",
        "grant insert (type) on annex.events to annex_api",
    ),
    Rule(
        "authenticated has no right on the secrets",
        f"select c.oid::regclass {OUR_TABLES} and c.relname in ({SECRETS})"
        " and has_any_column_privilege('authenticated', c.oid, 'select,insert,update,references')"
        f" union all select c.oid::regclass {OUR_TABLES} and c.relname in ({SECRETS})"
        " and has_table_privilege('authenticated', c.oid, 'delete,truncate,trigger')",
        "grant select (id) on annex.api_keys to authenticated",
    ),
    Rule(
        "nobody but annex_owner reads or writes a hash",
        "select format('%s.%s to %s', c.oid::regclass, a.attname, r.rolname)"
        " from pg_attribute a join pg_class c on c.oid = a.attrelid, pg_roles r"
        " where c.relnamespace = 'annex'::regnamespace and a.attname like '%\\_hash'"
        " and not r.rolsuper and not pg_has_role(r.oid, 'annex_owner', 'member')"
        " and r.rolname !~ '^pg_(read|write)_all_data$'"
        " and has_column_privilege(r.oid, c.oid, a.attnum, 'select,insert,update,references')",
        "grant select (secret_hash) on annex.api_keys to annex_api",
    ),
    Rule(
        "a definer function has the search_path that holds nobody's names",
        "select oid::regprocedure from pg_proc where pronamespace = 'annex'::regnamespace and"
        " prosecdef and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)",
        "alter function annex.access(text) set search_path = public, pg_catalog, pg_temp",
    ),
    Rule(
        "no function takes an advisory lock, as every session may",
        "select p.oid::regprocedure from pg_proc p where p.pronamespace = 'annex'::regnamespace"
        " and prosrc ~ 'advisory_[a-z_]*\\('",
        "create function annex.wait() returns void language sql"
        " as 'select pg_advisory_xact_lock(1)'",
    ),
    Rule(
        "only annex.grants reads roles and so grants, beside what guards or writes a role",
        "select oid::regprocedure from pg_proc where pronamespace = 'annex'::regnamespace"
        # `admission` is its rule for `refusals`, a set of users, which a test holds against it.
        " and prosrc ~ '\\mannex\\.roles\\M' and proname <> all (array['grants', 'check_role',"
        " 'require_grantable', 'lock_role', 'put_role', 'delete_role', 'may_give', 'find_role',"
        " 'admission'])",
        "create function annex.shortcut() returns bigint language sql"
        " as 'select count(*) from annex.members join annex.roles on key = role'",
    ),
    Rule(
        "a row that has a version has the trigger that counts it",
        f"select c.oid::regclass {OUR_TABLES} and exists"
        " (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'version')"
        " and not exists (select from pg_trigger t where t.tgrelid = c.oid"
        " and t.tgfoid = 'annex.touch'::regproc and t.tgenabled = 'O')",
        "alter table annex.roles disable trigger roles_touch",
    ),
]
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


@pytest.fixture(scope="module")
async def catalog(database: TestDatabase) -> AsyncIterator[Connection]:
    """A superuser on a database that may be sabotaged."""
    async with database.connect("postgres") as connection:
        yield connection


@by_rule
async def test_holds_that(rule: Rule, catalog: Connection) -> None:
    assert [str(v[0]) for v in await catalog.fetch(rule.violations)] == []


@by_rule
async def test_is_noticed_when_it_no_longer_holds_that(rule: Rule, catalog: Connection) -> None:
    attempt = catalog.transaction()
    await attempt.start()
    try:
        await catalog.execute(rule.sabotage)
        assert await catalog.fetch(rule.violations)
    finally:
        await attempt.rollback()


async def test_the_documented_functions_are_those_of_the_catalog(catalog: Connection) -> None:
    found = await catalog.fetch("""
        select format('annex.%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as name,
          pg_get_function_result(p.oid) as returns,
          case when p.prosecdef then 'definer' else 'invoker' end as security,
          array(
            select a.grantee::regrole::text from aclexplode(p.proacl) a
            where a.grantee <> p.proowner order by 1
          ) as roles
        from pg_proc p where p.pronamespace = 'annex'::regnamespace
        """)
    assert {documented(row) for row in function_rows()} == {
        (short(f["name"]), short(f["returns"]), f["security"], tuple(f["roles"])) for f in found
    }


SETTINGS = {
    "annex_api": {
        "plan_cache_mode": "force_generic_plan",
        "enable_bitmapscan": "off",
        "jit": "off",
        "statement_timeout": "5s",
        "lock_timeout": "2s",
        "search_path": "pg_catalog, pg_temp",
        "idle_in_transaction_session_timeout": "5s",
    },
    "annex_worker": {
        "jit": "off",
        "statement_timeout": "1min",
        "lock_timeout": "10s",
        "search_path": "pg_catalog, pg_temp",
        "idle_in_transaction_session_timeout": "1min",
    },
}


@pytest.mark.parametrize("role", SETTINGS)
async def test_a_login_role_carries_its_own_settings(role: str, database: TestDatabase) -> None:
    async with database.connect(role) as connection:
        found = {name: await connection.fetchval(f"show {name}") for name in SETTINGS[role]}
    assert found == SETTINGS[role]


async def test_python_and_sql_know_the_same_permissions(catalog: Connection) -> None:
    assert await catalog.fetchval("select annex.permissions()") == [*Permission]


async def test_what_users_write_about_themselves_decides_nothing(catalog: Connection) -> None:
    found = await catalog.fetch(
        "select prosrc from pg_proc where pronamespace = 'annex'::regnamespace union all"
        " select pg_get_expr(polqual, polrelid) from pg_policy where polqual is not null"
    )
    written = [row[0] for row in found]
    for folder in ("app/auth", "app/database", "app/services", "controllers"):
        for file in (ROOT / folder).rglob("*.py"):
            # A comment may say why not.
            written += re.findall(r"[\"']\w*user_metadata\w*[\"']", file.read_text())
    assert len(written) > 50
    assert not any("user_metadata" in text for text in written)


async def test_each_lock_has_its_row(catalog: Connection) -> None:
    taken = await catalog.fetch(
        "select distinct m[1] as name from pg_proc,"
        " regexp_matches(prosrc, 'annex\\.try_lock\\(.([a-z_]+).\\)', 'g') m"
        " where pronamespace = 'annex'::regnamespace"
    )
    rows = await catalog.fetch("select name from annex.locks")
    assert taken
    assert {row["name"] for row in taken} == {row["name"] for row in rows}


async def test_no_function_is_documented_twice() -> None:
    names = [documented(row)[0] for row in function_rows()]
    assert len(names) == len(set(names)) > 0


def function_rows() -> list[str]:
    """Return the rows of the Functions table in docs/datamodel.md."""
    section = DATA_MODEL.read_text().partition("\n## Functions\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def documented(row: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Read a row: name with arguments, what it returns, security, who may execute it."""
    name, returns, security, roles = [cell.strip() for cell in row.split("|")[1:5]]
    return name.strip("`"), returns.strip("`"), security, tuple(re.findall(r"`(\w+)`", roles))


def short(signature: str) -> str:
    """Name a type as the document does."""
    return signature.replace("timestamp with time zone", "timestamptz")
