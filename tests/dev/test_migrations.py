"""Migrations are applied, recorded and refused as the Supabase CLI would."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from app.dev import DevError
from app.dev.migrations import apply
from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen

HISTORY = "select version, name, statements from supabase_migrations.schema_migrations order by 1"

SHAPE = """
select string_agg(
  concat_ws(' ', column_name, data_type, is_nullable), ', ' order by ordinal_position
)
from information_schema.columns where table_schema = 'supabase_migrations'
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run one server for this file."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("data"), chosen(), THROWAWAY) as running:
        yield running


@pytest.fixture
async def admin(server: EmbeddedPostgres) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect to an empty database as its superuser."""
    setup = await asyncpg.connect(server.admin_url)
    await setup.execute("drop database if exists fresh with (force)")
    await setup.execute("create database fresh")
    await setup.close()
    connection = await asyncpg.connect(server.url("postgres", "fresh"))
    yield connection
    await connection.close()


@pytest.fixture
def url(server: EmbeddedPostgres, admin: object) -> str:
    """Return the URL of the empty database."""
    assert admin
    return server.url("postgres", "fresh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two migrations."""
    (tmp_path / "20260101000000_tables.sql").write_text(
        "-- The first table.\ncreate table one (id int);\n\ncomment on table one is 'a;b';\n"
    )
    (tmp_path / "20260102000000_rows_and_more.sql").write_text("insert into one values (1)")
    (tmp_path / "README.md").write_text("not a migration")
    return tmp_path


async def test_files_are_applied_in_order_and_recorded_like_the_cli(
    admin: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path
) -> None:
    done = await apply(url, folder, None)
    assert done == ["20260101000000_tables.sql", "20260102000000_rows_and_more.sql"]
    assert [tuple(row) for row in await admin.fetch(HISTORY)] == [
        (
            "20260101000000",
            "tables",
            [
                "-- The first table.\ncreate table one (id int)",
                "comment on table one is 'a;b'",
            ],
        ),
        ("20260102000000", "rows_and_more", ["insert into one values (1)"]),
    ]
    assert await admin.fetchval(SHAPE) == ("version text NO, statements ARRAY YES, name text YES")


@pytest.mark.usefixtures("admin")
async def test_only_new_files_are_applied(url: str, folder: Path) -> None:
    await apply(url, folder, None)
    assert await apply(url, folder, None) == []
    (folder / "20260103000000_more.sql").write_text("insert into one values (2);")
    assert await apply(url, folder, None) == ["20260103000000_more.sql"]


async def test_a_failing_file_is_rolled_back_and_the_ones_before_it_stay(
    admin: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path
) -> None:
    (folder / "20260103000000_bad.sql").write_text(
        "create table two ();\ninsert into one\nselect id, nothing from one;\n"
    )
    with pytest.raises(DevError, match=r"bad\.sql, statement 2, its line 2: .*nothing"):
        await apply(url, folder, None)
    assert len(await admin.fetch(HISTORY)) == 2
    assert await admin.fetchval("select to_regclass('two')") is None


@pytest.mark.usefixtures("admin")
async def test_what_fails_at_the_commit_names_its_file(url: str, folder: Path) -> None:
    (folder / "20260103000000_later.sql").write_text(
        "create table p (id int primary key);"
        "create table c (id int references p deferrable initially deferred);"
        "insert into c values (1);"
    )
    with pytest.raises(DevError, match=r"later\.sql: .*violates foreign key .*is not present"):
        await apply(url, folder, None)


async def test_each_file_starts_from_the_connections_own_settings(
    admin: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path
) -> None:
    (folder / "20260103000000_path.sql").write_text(
        "select pg_catalog.set_config('search_path', '', false);"
    )
    (folder / "20260104000000_after.sql").write_text("create table plain ();")
    await apply(url, folder, None)
    assert await admin.fetchval("select to_regclass('public.plain') is not null")


async def test_a_role_does_the_work_with_its_own_rights_only(
    admin: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path
) -> None:
    await admin.execute("""drop role if exists "Mi""grator"; create role "Mi""grator" createrole;
        grant create on database fresh to "Mi""grator";
        grant create on schema public to "Mi""grator";""")
    (folder / "20260103000000_who.sql").write_text(
        "create table who as select session_user::text as s, current_user::text as c;"
    )
    await apply(url, folder, 'Mi"grator')
    assert tuple((await admin.fetch("select s, c from who"))[0]) == ('Mi"grator', 'Mi"grator')
    (folder / "20260104000000_too_much.sql").write_text("create role r superuser;")
    with pytest.raises(
        DevError, match=r"too_much\.sql, statement 1, its line 1: permission denied"
    ):
        await apply(url, folder, 'Mi"grator')
    await admin.execute('drop owned by "Mi""grator"; drop role "Mi""grator"')


@pytest.mark.usefixtures("admin")
async def test_a_history_that_differs_from_the_files_is_refused(url: str, folder: Path) -> None:
    await apply(url, folder, None)
    first = folder / "20260101000000_tables.sql"
    original = first.read_text()
    first.write_text(original.replace("int", "bigint"))
    with pytest.raises(DevError, match=r"tables\.sql was changed .*FRESH=1"):
        await apply(url, folder, None)
    first.unlink()
    with pytest.raises(DevError, match="has the migration 20260101000000, which is not among"):
        await apply(url, folder, None)
    first.write_text(original)
    (folder / "20251231000000_late.sql").write_text("select 1")
    with pytest.raises(DevError, match=r"late\.sql is older than the last applied"):
        await apply(url, folder, None)


async def test_a_row_without_statements_is_taken_as_it_is(
    admin: "asyncpg.Connection[asyncpg.Record]", url: str, folder: Path
) -> None:
    await apply(url, folder, None)
    await admin.execute("update supabase_migrations.schema_migrations set statements = null")
    assert await apply(url, folder, None) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("1_twice.sql", "timestamp of its own"), ("setup.sql", "Rename setup.sql")],
)
async def test_a_file_name_that_the_cli_would_not_take_is_refused(
    tmp_path: Path, name: str, sentence: str
) -> None:
    (tmp_path / "1_once.sql").touch()
    (tmp_path / name).touch()
    with pytest.raises(DevError, match=sentence):
        await apply("postgresql://127.0.0.1:1/none", tmp_path, None)


async def test_an_unreachable_database_or_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="Cannot connect"):
        await apply("postgresql://127.0.0.1:1/none", tmp_path, None)
    with pytest.raises(DevError, match="There is no folder"):
        await apply("postgresql://127.0.0.1:1/none", tmp_path / "none", None)
