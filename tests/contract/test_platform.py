"""A database that Supabase hosts is clean out of the box; drift of the project is found."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from alembic_readonly_check.command import cli
from alembic_readonly_check.platforms import SUPABASE
from click.testing import CliRunner
from sqlalchemy.engine import make_url

MODELS = """
from sqlalchemy import Column, ForeignKey, MetaData, Table, Text, Uuid

metadata = MetaData()
Table("users", metadata, Column("id", Uuid, primary_key=True), schema="auth")
Table("notes", metadata, Column("id", Uuid, primary_key=True), Column("text", Text),
      Column("owner_id", Uuid, ForeignKey("auth.users.id", ondelete="CASCADE")))
"""
MIGRATION = """
create table public.notes (id uuid primary key, text text,
  owner_id uuid references auth.users (id) on delete cascade);
alter table public.notes enable row level security;
create policy own on public.notes using (owner_id = auth.uid());
"""
# What a hosted project has beside the part that scratch databases are given.
HOSTED = """
create schema graphql;
create schema _realtime;
create table _realtime.tenants (id int);
create schema supabase_migrations;
create table supabase_migrations.schema_migrations
  (version text primary key, statements text[], name text);
create publication supabase_realtime_messages_publication for table realtime.messages;
create function extensions.grant_access() returns event_trigger language plpgsql as
  'begin end';
create event trigger issue_access on ddl_command_end execute function extensions.grant_access();
alter default privileges for role supabase_admin in schema public grant all on tables to anon;
alter default privileges for role supabase_admin grant all on sequences to anon;
"""


def execute(url: str, *statements: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(work())


@pytest.fixture
def hosted(tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Stand in a Supabase project whose hosted database has its one migration applied."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hosted_models.py").write_text(MODELS)
    (tmp_path / "supabase/migrations").mkdir(parents=True)
    (tmp_path / "supabase/migrations/1_notes.sql").write_text(MIGRATION)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.alembic-readonly-check]\nmetadata = "hosted_models:metadata"\n'
        'platform = "supabase"\n'
    )
    name = f"hosted_{secrets.token_hex(6)}"
    execute(server_url, f"CREATE DATABASE {name}")
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    assert SUPABASE.script is not None
    try:
        execute(
            url,
            SUPABASE.script.read_text("utf-8"),
            HOSTED,
            MIGRATION,
            "insert into supabase_migrations.schema_migrations values"
            f" ('1', array[$m${MIGRATION}$m$], 'notes')",
        )
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("SCRATCH_DATABASE_URL", server_url)
        yield url
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def found(*arguments: str) -> tuple[list[str], list[str]]:
    result = CliRunner().invoke(cli.main, [*arguments, "--format", "json", "--ignore", "RO901"])
    assert result.exit_code in (0, 1), result.output
    report = json.loads(result.stdout)
    return [f"{one['code']} {one['subject']}" for one in report["findings"]], report["notes"]


@pytest.mark.usefixtures("hosted")
def test_a_hosted_database_is_clean_out_of_the_box() -> None:
    findings, notes = found()
    assert findings == []
    assert [note for note in notes if "schema" in note] == []


def test_drift_of_the_project_itself_is_found(hosted: str) -> None:
    execute(
        hosted,
        "alter table public.notes add extra int; create schema aside;"
        " create function aside.f() returns int language sql as 'select 1';"
        " create type aside.kind as enum ('a');"
        " alter publication supabase_realtime add table notes",
    )
    findings, notes = found()
    assert findings == [
        "DB202 public.notes.extra",
        "MG403 public.notes.extra",
        "MG403 supabase_realtime",
    ]
    assert any("schema aside of the database (2 objects)" in note for note in notes)


@pytest.mark.usefixtures("hosted")
def test_without_the_platform_the_same_is_drift(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(path.read_text().replace('platform = "supabase"\n', ""))
    result = CliRunner().invoke(cli.main, ["--format", "json"])
    assert result.exit_code == 2
    assert "cannot be applied" in result.stderr
