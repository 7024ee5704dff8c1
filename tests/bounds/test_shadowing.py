"""Look-alikes in pg_temp and public: neither functions nor logins take one for their own."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Callers, TestDatabase, add_member, new_tenant, running
from tests.database.conftest import Claims, Connection, new_user, new_workspace, user
from tests.realtime.reader import follow

PWNED = "runs as the owner"
EVIL = f"""
create function {{schema}}.evil(value anyelement) returns boolean language plpgsql as $$
begin
  if current_user in ({{victims}}) then
    raise exception '{PWNED}';
  end if;
  return true;
end
$$
"""
TYPES = (
    "uuid",
    "text",
    "jsonb",
    "integer",
    "int4",
    "bigint",
    "boolean",
    "bool",
    "bytea",
    "record_",
)
# As which types they stand in pg_catalog.
BASES = {"record_": "text", "integer": "int4", "bigint": "int8", "boolean": "bool"}
FUNCTIONS = {
    "now()": "timestamptz",
    "clock_timestamp()": "timestamptz",
    "gen_random_uuid()": "uuid",
    "current_setting(text, bool)": "text",
    "current_setting(text)": "text",
    "set_config(text, text, bool)": "text",
    "lower(text)": "text",
    "sha256(bytea)": "bytea",
    "jsonb_typeof(jsonb)": "text",
    "octet_length(text)": "int4",
    "to_regclass(text)": "regclass",
    "cardinality(text[])": "int4",
    "array_position(text[], text)": "int4",
}
OPERATORS = (
    ("=", "text", "text"),
    ("<>", "text", "text"),
    ("||", "text", "text"),
    ("=", "uuid", "uuid"),
    ("->>", "jsonb", "text"),
    ("->", "jsonb", "text"),
    ("<=", "int4", "int4"),
    ("~", "text", "text"),
)
TABLES = ("workspaces", "members", "roles", "events", "pg_roles", "pg_class", "annex")
FORGED = {
    "domain": len(TYPES),
    "function": 1 + len(FUNCTIONS) + len(OPERATORS),
    "operator": len(OPERATORS),
    "table": len(TABLES),
    "type": 1,
    "cast": 2,
}
"""All of it: each is something that every session may do."""
CALLABLE = """
select p.oid::regprocedure::text as name, p.proname, p.proretset,
  array(select format_type(t, null) from unnest(p.proargtypes::oid[]) t) as types
from pg_proc p where p.pronamespace = 'annex'::regnamespace
  and has_function_privilege(current_user, p.oid, 'execute')
"""
VALUES = {
    "text": "'x'",
    "text[]": "'{}'",
    "jsonb": '\'{"a": {"b": null}}\'',
    "integer": "1",
    "bigint": "1",
    "integer[]": "'{1}'",
    "boolean": "true",
    "bytea": "'\\x00'",
    "timestamp with time zone": "'2030-01-01'",
    "uuid[]": "'{}'",
}


async def forge(
    connection: Connection, schema: str, victims: str = "'annex_owner'"
) -> Counter[str]:
    """Make all look-alikes in a schema that the session lets itself make; returns how many.

    They raise when one of some roles runs them.
    """
    made = Counter[str]()
    kind = "temp" if schema == "pg_temp" else ""
    statements = [EVIL.format(schema=schema, victims=victims)]
    statements += [
        f"create domain {schema}.{t} as pg_catalog.{BASES.get(t, t)}"
        f" check ({schema}.evil(value))"
        for t in TYPES
    ]
    for signature, result in FUNCTIONS.items():
        name, _, rest = signature.partition("(")
        types = ", ".join(f"pg_catalog.{t}" for t in rest[:-1].split(", ") if t)
        statements.append(
            f"create function {schema}.{name}({types}) returns pg_catalog.{result} language sql"
            f" as 'select case when {schema}.evil(1::pg_catalog.int4) then null end"
            f"::pg_catalog.{result}'"
        )
    for n, (operator, left, right) in enumerate(OPERATORS):
        statements.append(
            f"create function {schema}.op_{n}(pg_catalog.{left}, pg_catalog.{right}) returns"
            f" pg_catalog.bool language sql as 'select {schema}.evil(1::pg_catalog.int4)'"
        )
        statements.append(
            f"create operator {schema}.{operator} (leftarg = pg_catalog.{left},"
            f" rightarg = pg_catalog.{right}, function = {schema}.op_{n})"
        )
    statements += [f"create {kind} table {schema}.{t} (id pg_catalog.int4)" for t in TABLES]
    # Of a type of one's own: Postgres ignores casts of domains.
    statements += [
        f"create type {schema}.pair as (a pg_catalog.int4, b pg_catalog.int4)",
        f"create cast ({schema}.pair as pg_catalog.text) with inout as implicit",
        f"create cast (pg_catalog.text as {schema}.pair) with inout as implicit",
    ]
    for statement in statements:
        try:
            await connection.execute(statement)
        except asyncpg.PostgresError as error:
            made[f"{statement[:60]}: {error}"] += 1
        else:
            made[statement.replace("temp table", "table").split()[1]] += 1
    return made


async def call_everything(connection: Connection, workspace: UUID) -> list[str]:
    """Call what the session may call and write what it may write; returns what got through."""
    taken = []
    for row in await connection.fetch(CALLABLE.replace("pg_proc", "pg_catalog.pg_proc")):
        values = [
            f"'{workspace}'::pg_catalog.uuid" if t == "uuid" else f"{VALUES.get(t, 'null')}::{t}"
            for t in row["types"]
        ]
        values = [
            v.replace("::", "::pg_catalog.", 1) if "pg_catalog" not in v else v for v in values
        ]
        values = [v.replace("timestamp with time zone", "timestamptz") for v in values]
        calls = [f"select * from annex.{row['proname']}({', '.join(values)})"]
        calls += [
            f"update annex.{table} set {column} = {column}"
            for table, column in (("workspaces", "name"), ("profiles", "display_name"))
        ]
        for call in calls:
            await connection.execute("begin")
            try:
                await connection.execute(call)
            except asyncpg.PostgresError as error:
                if PWNED in str(error):
                    taken.append(row["name"])
            await connection.execute("rollback")
    return taken


@contextlib.asynccontextmanager
async def session(
    database: TestDatabase, role: str, claims: Claims
) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Log in as a role of ours, or as PostgREST's user."""
    login = "authenticator" if role == "authenticated" else role
    async with database.connect(login, claims) as connection:
        if role == "authenticated":
            await connection.execute("set role authenticated")
        yield connection


@pytest.mark.parametrize("role", ["annex_api", "annex_worker", "authenticated"])
@pytest.mark.parametrize("schema", ["pg_temp", "public"])
async def test_no_look_alike_runs_with_the_owners_rights(
    role: str, schema: str, own_database: TestDatabase
) -> None:
    async with own_database.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        # As it was by default before Postgres 15, and still is where somebody granted it.
        await admin.execute("grant create on schema public to public")
    async with session(own_database, role, user(owner)) as attacker:
        assert await forge(attacker, schema) == FORGED
        for path in (f"{schema}, pg_catalog", f"pg_catalog, {schema}", schema):
            await attacker.execute(f"set search_path = {path}")
            assert await call_everything(attacker, workspace) == []


async def test_that_test_sees_a_function_that_looks_in_the_wrong_place(
    own_database: TestDatabase,
) -> None:
    async with own_database.connect("postgres") as admin:
        owner = await new_user(admin)
        workspace = await new_workspace(admin, owner)
        await admin.execute(
            "alter function annex.access(text) set search_path = pg_temp, pg_catalog"
        )
    async with session(own_database, "annex_api", user(owner)) as attacker:
        await forge(attacker, "pg_temp")
        found = await call_everything(attacker, workspace)
        assert any("access" in name for name in found)


LOGINS = "'annex_api', 'annex_worker'"


async def test_no_look_alike_runs_with_the_apis_rights(own_database: TestDatabase) -> None:
    async with running(own_database) as server:
        before = Callers(server)
        tenant = await new_tenant(before)
        member = await add_member(before, tenant, "admin")
        key = await before.key(tenant.id, "workspace:read", "events:read", "events:publish")
        await before.close()
    async with own_database.connect("postgres") as admin:
        await admin.execute("grant create on schema public to public")
    assert member.user_id is not None
    async with session(own_database, "authenticated", user(member.user_id)) as attacker:
        assert await forge(attacker, "public", LOGINS) == FORGED
    await lead(own_database, "database {}")
    async with running(own_database) as server:
        callers = Callers(server)
        for caller in (tenant.owner, member, key):
            credential = caller.client.headers["authorization"].removeprefix("Bearer ")
            client = callers.client(credential)
            async with follow(client, f"{tenant.path}/stream", types="x") as reader:
                body = {"type": "x", "data": {"n": 1}, "topics": ["a:1"]}
                made = await client.post(
                    f"{tenant.path}/events", json=body, headers={"Idempotency-Key": credential[-9:]}
                )
                assert made.status_code == 201, made.text
                while (await reader.message(10)).event != "message":
                    pass
            found = await client.get(
                f"{tenant.path}/events?types=x&topics=a:1&where=data.n:1&limit=1"
            )
            assert [e["type"] for e in found.json()["data"]] == ["x"]
            assert (await client.get(tenant.path)).status_code == 200
        owner = callers.client(tenant.owner.client.headers["authorization"].removeprefix("Bearer "))
        changed = await owner.patch(tenant.path, json={"metadata": {"a": 1}})
        assert changed.status_code == 200, changed.text
        for path in ("members", "roles", "api-keys", "invitations"):
            assert (await owner.get(f"{tenant.path}/{path}")).status_code == 200
        assert (await owner.get("/api/v1/me/notifications")).status_code == 200
        assert (await owner.get("/health/ready")).status_code == 200
        await callers.close()


@pytest.mark.parametrize("role", ["annex_api", "annex_worker"])
async def test_that_test_sees_a_login_that_looks_in_the_wrong_place(
    role: str, own_database: TestDatabase
) -> None:
    async with own_database.connect("postgres") as admin:
        await forge(admin, "public", LOGINS)
    await lead(own_database, f"role {role} in database {{}}")
    async with own_database.connect(role) as login:
        with pytest.raises(asyncpg.RaiseError, match=PWNED):
            await login.fetchval("select now()")


async def lead(database: TestDatabase, whom: str) -> None:
    """Let new sessions look into public before they look anywhere else."""
    async with database.connect("postgres") as admin:
        await admin.execute(
            f"alter {whom.format(database.name)} set search_path = public, pg_catalog"
        )
