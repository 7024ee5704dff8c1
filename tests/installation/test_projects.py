"""Annex beside the migrations of a real project: installed, pushed, migrated, upgraded, removed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from app.dev import DevError
from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen
from app.installation import InstallationError
from app.installation.database import LOCK, migrate
from app.installation.history import to_repair
from app.installation.removal import dependents, removal
from app.server import check
from app.settings import SettingsError
from tests.conftest import MIGRATING_ROLE, TestDatabase, execute, settings_for
from tests.installation.projects import (
    CARRIED,
    NOW,
    PLATFORM,
    Project,
    later_release,
    shape,
)

NAMES = [migration.name for migration in CARRIED]
DAY = timedelta(days=1)


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
async def project(tmp_path: Path, database: TestDatabase) -> AsyncIterator[Project]:
    """A project with 20 migrations of its own; its databases are dropped afterwards."""
    made = Project(tmp_path / "supabase" / "migrations", database)
    made.write(NOW - 30 * DAY, 20)
    yield made
    admin = await asyncpg.connect(database.postgres.admin_url)
    for row in await admin.fetch("select datname from pg_database where datname ~ '^test_project'"):
        await admin.execute(f"drop database {row[0]} with (force)")
    await admin.close()


@pytest.fixture
async def hosted(project: Project) -> TestDatabase:
    """The project's database, with its own 20 migrations applied."""
    database = await project.new()
    assert len(await project.push(database)) == 20
    return database


def own_url(database: TestDatabase) -> str:
    """Log in as Supabase's `postgres`, which is no superuser."""
    return database.url(MIGRATING_ROLE)


async def test_install_and_push_go_on_with_the_projects_own_migrations(
    project: Project, hosted: TestDatabase
) -> None:
    done = project.install(NOW)
    assert [copy.name for copy in done.added] == NAMES
    assert len(await project.push(hosted)) == len(NAMES)
    await check(settings_for(hosted))
    # The project goes on, and somebody starts a database from its folder alone.
    project.write(NOW, 5, first=20)
    assert len(await project.push(hosted)) == 5
    assert project.install(NOW + DAY).added == []
    fresh = await project.new()
    assert len(await project.push(fresh)) == 25 + len(NAMES)
    assert await shape(fresh) == await shape(hosted)


async def test_before_any_migration_of_its_own_too(project: Project) -> None:
    for path in project.folder.iterdir():
        path.unlink()
    project.install(NOW - 60 * DAY)
    database = await project.new()
    await project.push(database)
    project.write(NOW - 30 * DAY, 20)
    assert len(await project.push(database)) == 20
    fresh = await project.new()
    assert len(await project.push(fresh)) == 20 + len(NAMES)
    await check(settings_for(fresh))


async def test_an_upgrade_adds_and_applies_what_is_new(
    project: Project, hosted: TestDatabase, tmp_path: Path
) -> None:
    project.install(NOW)
    await project.push(hosted)
    project.write(NOW, 2, first=20)
    await project.push(hosted)
    newer = later_release(tmp_path / "release")
    (added,) = project.install(NOW + 60 * DAY, newer).added
    assert added.path.name == "20270430120000_annex_90_greetings.sql"
    assert await project.push(hosted) == [added.path.name]
    assert project.install(NOW + 61 * DAY, newer).added == []
    fresh = await project.new()
    await project.push(fresh)
    assert await shape(fresh) == await shape(hosted)


async def test_migrate_applies_as_supabases_postgres_and_skips_what_is_there(
    project: Project, hosted: TestDatabase, tmp_path: Path
) -> None:
    said: list[str] = []
    assert await migrate(own_url(hosted), CARRIED, said.append) == NAMES
    assert [line.split()[1] for line in said] == NAMES
    assert await migrate(own_url(hosted), CARRIED, said.append) == []
    await check(settings_for(hosted))
    newer = later_release(tmp_path)
    assert await migrate(own_url(hosted), [*CARRIED, newer], said.append) == ["90_greetings"]
    # The project's own history is none of Annex', so the project's next push is as it was.
    project.write(NOW, 1, first=20)
    assert len(await project.push(hosted)) == 1


async def test_an_edited_migration_is_said_by_migrate_and_by_a_start_whoever_applied_it(
    project: Project, hosted: TestDatabase, tmp_path: Path
) -> None:
    newer = later_release(tmp_path / "release")
    project.install(NOW, newer)
    await project.push(hosted)
    other = await project.new()
    await migrate(own_url(other), [*CARRIED, newer], lambda _: None)
    newer.path.write_text(newer.sql.replace("hello", "good morning"))
    for database in (hosted, other):
        before = await shape(database)
        with pytest.raises(
            InstallationError,
            match=r"Edited after this database had applied it: 90_greetings\. Nothing was applied;",
        ):
            await migrate(own_url(database), [*CARRIED, newer], print)
        assert await shape(database) == before
        # The printed cure.
        await execute(own_url(database), removal())
        await migrate(own_url(database), [*CARRIED, newer], lambda _: None)
        await check(settings_for(database))


async def test_what_was_pushed_is_known_to_migrate(project: Project, hosted: TestDatabase) -> None:
    project.install(NOW)
    await project.push(hosted)
    assert await migrate(own_url(hosted), CARRIED, print) == []


async def test_what_was_migrated_is_refused_by_a_push_until_the_cli_is_told(
    project: Project, hosted: TestDatabase, tmp_path: Path
) -> None:
    await migrate(own_url(hosted), CARRIED, lambda _: None)
    newer = later_release(tmp_path / "release")
    copies = project.install(NOW, newer).added
    before = await shape(hosted)
    with pytest.raises(DevError, match="already exists"):
        await project.push(hosted)
    assert await shape(hosted) == before
    known = await to_repair(own_url(hosted), copies)
    assert [copy.name for copy in known] == NAMES
    await project.repair(hosted, [copy.version for copy in known])
    assert await project.push(hosted) == [copies[-1].path.name]
    assert await to_repair(own_url(hosted), copies) == []
    fresh = await project.new()
    await project.push(fresh)
    assert await shape(fresh) == await shape(hosted)


async def test_a_migration_that_is_applied_twice_fails_as_a_whole(
    project: Project, hosted: TestDatabase
) -> None:
    project.install(NOW)
    await project.push(hosted)
    again = project.folder / "20290101000000_again.sql"
    again.write_text("insert into annex.migrations (name) values ('02_profiles');")
    with pytest.raises(DevError, match="migrations_pkey"):
        await project.push(hosted)


async def test_a_failing_migration_is_undone_and_said(
    project: Project, hosted: TestDatabase, tmp_path: Path
) -> None:
    newer = later_release(tmp_path)
    newer.path.write_text(newer.sql.replace("pronouns text", "email text"))
    with pytest.raises(
        InstallationError,
        match=r"greetings\.sql, statement 2, its line 1: column .* exists; nothing",
    ):
        await migrate(own_url(hosted), [*CARRIED, newer], lambda _: None)
    assert "record 90_greetings" not in await shape(hosted)
    await check(settings_for(hosted))


async def test_two_who_migrate_at_once_apply_each_migration_once(
    project: Project, hosted: TestDatabase
) -> None:
    both = [migrate(own_url(hosted), CARRIED, lambda _: None) for _ in range(2)]
    first, second = await asyncio.gather(*both)
    assert sorted([*first, *second]) == NAMES


async def test_a_database_that_is_not_supabases_is_told_what_it_lacks(
    project: Project, database: TestDatabase
) -> None:
    await execute(database.postgres.admin_url, "create database test_project_bare")
    bare = TestDatabase(database.postgres, "test_project_bare")
    with pytest.raises(InstallationError, match=r"lacks the table auth\.users.*platform\.sql"):
        await migrate(bare.url("postgres"), CARRIED, print)


async def test_a_role_without_createrole_is_told_so(hosted: TestDatabase) -> None:
    with pytest.raises(InstallationError, match="authenticator may not make roles"):
        await migrate(hosted.url("authenticator"), CARRIED, print)


async def test_a_database_that_takes_no_writes_is_said(
    project: Project, hosted: TestDatabase
) -> None:
    only = f"alter database {hosted.name} set default_transaction_read_only = on"
    await execute(hosted.url("postgres"), only)
    with pytest.raises(InstallationError, match=r"takes no writes: .* when the disk is full"):
        await migrate(own_url(hosted), CARRIED, print)


async def test_a_schema_of_the_projects_own_is_left_alone(hosted: TestDatabase) -> None:
    own = "create schema annex; create table annex.own (id int)"
    await execute(hosted.url("postgres"), own)
    with pytest.raises(InstallationError, match="Rename it if it is your own"):
        await migrate(own_url(hosted), CARRIED, print)


@pytest.mark.parametrize(
    "own",
    [
        "create schema annex; create table annex.own (id int)",
        "create schema annex; create table annex.migrations (id int)",
        "create schema annex authorization authenticator;"
        "create table annex.migrations (name text)",
    ],
)
async def test_a_schema_of_another_product_is_not_removed(hosted: TestDatabase, own: str) -> None:
    await execute(hosted.url("postgres"), own)
    with pytest.raises(InstallationError, match="Rename it if it is your own"):
        await migrate(own_url(hosted), CARRIED, print)
    with pytest.raises(InstallationError, match="would delete somebody else's tables"):
        await dependents(own_url(hosted))
    with pytest.raises(asyncpg.RaiseError, match="is not one that Annex's migrations made"):
        await execute(hosted.url("postgres"), removal())
    connection = await asyncpg.connect(hosted.url("postgres"))
    assert await connection.fetchval(
        "select count(*) from pg_class where relnamespace = 'annex'::regnamespace"
    )
    await connection.close()


async def test_strings_of_another_kind_are_said(hosted: TestDatabase) -> None:
    strings = f"alter database {hosted.name} set standard_conforming_strings = off"
    try:
        await execute(hosted.url("postgres"), strings)
    except asyncpg.PostgresError:  # from Postgres 19 on there is one kind
        return
    with pytest.raises(InstallationError, match="standard_conforming_strings is off here"):
        await migrate(own_url(hosted), CARRIED, print)


async def test_settings_of_the_database_change_nothing_that_is_made(
    project: Project, hosted: TestDatabase
) -> None:
    await migrate(own_url(hosted), CARRIED, lambda _: None)
    odd = await project.new()
    for setting in (
        "search_path = 'own', 'public'",
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "default_transaction_isolation = 'serializable'",
        "idle_in_transaction_session_timeout = '1min'",
        "check_function_bodies = off",
        "quote_all_identifiers = on",
    ):
        await execute(odd.url("postgres"), f"alter database {odd.name} set {setting}")
    await migrate(own_url(odd), CARRIED, lambda _: None)
    await execute(odd.url("postgres"), f"alter database {odd.name} reset all")
    assert await shape(odd) == await shape(hosted)
    await check(settings_for(odd))


async def test_a_database_of_a_later_release_is_said_and_left(
    hosted: TestDatabase, tmp_path: Path
) -> None:
    await migrate(own_url(hosted), [*CARRIED, later_release(tmp_path)], lambda _: None)
    before = await shape(hosted)
    said: list[str] = []
    assert await migrate(own_url(hosted), CARRIED, said.append) == []
    assert [line.partition(":")[0] for line in said] == [
        "The database has 90_greetings, which this version does not know"
    ]
    assert await shape(hosted) == before


async def test_who_waits_for_another_migration_is_told(hosted: TestDatabase) -> None:
    other = await asyncpg.connect(own_url(hosted))
    said: list[str] = []
    async with other.transaction():
        await other.execute(LOCK)
        waiting = asyncio.create_task(migrate(own_url(hosted), CARRIED, said.append))
        while not said:
            await asyncio.sleep(0.05)
            assert not waiting.done()
    assert await waiting == NAMES
    await other.close()
    assert said[0] == "Another command is migrating this database; waiting until it is done."


async def test_a_migration_that_is_cut_off_is_taken_up_again(hosted: TestDatabase) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            raise KilledError

    with pytest.raises(KilledError):
        await migrate(own_url(hosted), CARRIED, say)
    other = await asyncpg.connect(hosted.url("postgres"))
    async with other.transaction():
        await other.execute(LOCK)
        waiting = asyncio.create_task(migrate(own_url(hosted), CARRIED, said.append))
        while len(said) == 3:
            await asyncio.sleep(0.05)
            assert not waiting.done()
        await other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        with pytest.raises(InstallationError, match="The connection to the database broke"):
            await waiting
    await other.close()
    assert await migrate(own_url(hosted), CARRIED, lambda _: None) == NAMES[3:]
    await check(settings_for(hosted))


async def test_roles_that_somebody_else_made_are_said(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", chosen(), THROWAWAY) as server:
        alone = TestDatabase(server, "postgres")
        await execute(alone.url("postgres"), PLATFORM.read_text())
        await execute(alone.url("postgres"), "create role annex_owner")
        connection = await asyncpg.connect(alone.url("postgres"))
        # Up to 15, CREATEROLE is a right on all roles.
        if connection.get_server_version().major >= 16:
            with pytest.raises(InstallationError, match="grant annex_owner to supabase_postgres"):
                await migrate(own_url(alone), CARRIED, print)
            await connection.execute("grant annex_owner to supabase_postgres with admin option")
        await connection.close()
        assert await migrate(own_url(alone), CARRIED, lambda _: None) == NAMES


async def test_uninstall_leaves_the_projects_own_and_says_what_goes_along(
    project: Project, hosted: TestDatabase
) -> None:
    project.install(NOW)
    await project.push(hosted)
    own = "using (id = any (array(select 1 from annex.workspace_ids('events:read'))))"
    await execute(
        hosted.url("postgres"),
        f"create policy members on public.own_0 for select to authenticated {own};"
        "alter table public.own_1 add column ws uuid references annex.workspaces (id);"
        "create view public.seen as select id from annex.workspaces;"
        "insert into public.own_0 values (1)",
    )
    assert await dependents(own_url(hosted)) == [
        "policy members on public.own_0",
        "table constraint own_1_ws_fkey on public.own_1",
        "view public.seen",
    ]
    # As a migration of the project: statement by statement, and so again in a fresh database.
    removing = project.folder / "20270401000000_remove_annex.sql"
    removing.write_text(removal())
    await execute(hosted.url("postgres"), "drop view public.seen")
    assert await project.push(hosted) == [removing.name]
    connection = await asyncpg.connect(own_url(hosted))
    assert await connection.fetchval("select to_regnamespace('annex')") is None
    assert await connection.fetchval("select count(*) from public.own_0") == 1
    assert not await connection.fetch(
        "select from pg_default_acl where pg_get_userbyid(defaclrole) like 'annex%'"
    )
    await connection.close()
    with pytest.raises(SettingsError, match="no schema annex yet"):
        await check(settings_for(hosted))
    fresh = await project.new()
    await project.push(fresh)
    # Who comes back gets it all anew.
    assert len(project.install(NOW + 60 * DAY).added) == len(NAMES)
    assert len(await project.push(hosted)) == len(NAMES)
    await check(settings_for(hosted))


async def test_the_roles_go_with_the_last_database(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "data", chosen(), THROWAWAY) as server:
        alone = TestDatabase(server, "postgres")
        await execute(alone.url("postgres"), PLATFORM.read_text())
        await migrate(own_url(alone), CARRIED, lambda _: None)
        await execute(own_url(alone), removal())
        connection = await asyncpg.connect(own_url(alone))
        assert not await connection.fetch("select from pg_roles where rolname like 'annex%'")
        await migrate(own_url(alone), CARRIED, lambda _: None)
        await connection.close()
