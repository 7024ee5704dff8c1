"""The local platform is what hosted Supabase has, and Annex is at home on it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TestDatabase, execute

CHECK = str(Path(sys.executable).parent / "alembic-readonly-check")
PLATFORM = (ROOT / "supabase" / "local" / "platform.sql").read_text()

# One query a fact, true on a hosted project (there the stand-in is called `postgres`).
FACTS = {
    "postgres makes roles and bypasses row level security, and is no superuser": """
        select rolcreaterole and rolbypassrls and rolcanlogin and not rolsuper
        from pg_roles where rolname = 'supabase_postgres'""",
    "postgres is no member of the role that owns auth": """
        select not pg_has_role('supabase_postgres', 'supabase_auth_admin', 'member')""",
    "postgres may give the roles of the API to others": """
        select pg_has_role('supabase_postgres', 'authenticated', 'member with admin option')""",
    "authenticator inherits nothing and is bounded in time": """
        select not rolinherit and rolconfig @> array['statement_timeout=8s', 'lock_timeout=8s']
        from pg_roles where rolname = 'authenticator'""",
    "the roles of the API are bounded in time": """
        select bool_and(rolconfig is not null and rolinherit) and count(*) = 2
        from pg_roles where rolname in ('anon', 'authenticated')""",
    "auth.users belongs to supabase_auth_admin, under row level security": """
        select relowner = 'supabase_auth_admin'::regrole and relrowsecurity
        from pg_class where oid = 'auth.users'::regclass""",
    "postgres may reference auth.users, and cannot let others do so": """
        select has_table_privilege('supabase_postgres', 'auth.users', 'references')
          and not has_table_privilege(
            'supabase_postgres', 'auth.users', 'references with grant option')""",
    "postgres makes nothing in auth": """
        select not has_schema_privilege('supabase_postgres', 'auth', 'create')""",
    "the publication of Supabase Realtime is there, without a table of ours": """
        select count(*) = 1 and not exists (
          select from pg_publication_tables where schemaname = 'annex')
        from pg_publication where pubname = 'supabase_realtime'""",
    "extensions that the server has are in their schema": """
        select count(*) = (select count(*) from pg_available_extensions
                           where name in ('pgcrypto', 'uuid-ossp'))
        from pg_extension where extnamespace = 'extensions'::regnamespace""",
    "DDL fires PostgREST's event triggers": """
        select count(*) = 2 from pg_event_trigger where evtname like 'pgrst%watch'""",
}


@pytest.mark.parametrize("fact", FACTS)
async def test_the_platform_is_as_supabase_has_it(fact: str, database: TestDatabase) -> None:
    async with database.connect("postgres") as admin:
        assert await admin.fetchval(FACTS[fact]) is True


async def test_what_the_project_makes_in_public_is_open_to_the_api(
    own_database: TestDatabase,
) -> None:
    async with own_database.connect("supabase_postgres") as project:
        await project.execute("create table public.todos (id int)")
        for role in ("anon", "authenticated", "service_role"):
            can = await project.fetchval(f"select has_table_privilege('{role}', 'todos', 'insert')")
            assert can is True


async def test_the_platform_can_be_laid_again_under_a_migrated_database(
    own_database: TestDatabase,
) -> None:
    await execute(own_database.url("postgres"), PLATFORM)


@pytest.fixture
async def reader(database: TestDatabase) -> AsyncIterator[str]:
    """Make the role that the check wants: LOGIN, and a view of the migrations' history."""
    async with database.connect("postgres") as admin:
        await admin.execute("""
            create role drift_reader login;
            grant usage on schema supabase_migrations to drift_reader;
            grant select on supabase_migrations.schema_migrations to drift_reader;
            """)
        yield "drift_reader"
        await admin.execute("drop owned by drift_reader; drop role drift_reader")


@pytest.mark.timeout(180)
async def test_a_live_database_on_the_platform_has_no_drift(
    database: TestDatabase, reader: str
) -> None:
    urls = {
        "DATABASE_URL": database.url(reader),
        "SCRATCH_DATABASE_URL": database.postgres.admin_url,
    }
    checking = await asyncio.create_subprocess_exec(
        CHECK, cwd=ROOT, env=os.environ | urls, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await checking.communicate()
    assert checking.returncode == 0, said.decode()
    assert b" error " not in said, said.decode()
    assert b" warning " not in said, said.decode()
