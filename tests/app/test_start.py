"""What a database must be before anything is served from it."""

import pytest

from app.server import check
from app.settings import SettingsError
from tests.conftest import TestDatabase, execute, settings_for


@pytest.mark.parametrize(
    ("setting", "role", "said"),
    [
        ("database_url", "postgres", "postgres, which bypasses row level security"),
        ("worker_database_url", "supabase_postgres", "supabase_postgres, which bypasses row level"),
        ("database_url", "annex_worker", "connects as annex_worker; connect as annex_api"),
        ("worker_database_url", "annex_api", "connects as annex_api; connect as annex_worker"),
    ],
)
async def test_another_role_is_refused(
    database: TestDatabase, setting: str, role: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        await check(settings_for(database, **{setting: database.url(role)}))


async def test_two_databases_are_refused(
    database: TestDatabase, own_database: TestDatabase
) -> None:
    settings = settings_for(database, worker_database_url=own_database.url("annex_worker"))
    with pytest.raises(SettingsError, match=r"lead to different databases: test_.*, and test_"):
        await check(settings)


async def test_missing_migrations_are_said(database: TestDatabase) -> None:
    await execute(database.postgres.admin_url, "create database test_empty")
    with pytest.raises(
        SettingsError, match=r"has no schema annex yet; apply .* with `annex migrate`"
    ):
        await check(settings_for(TestDatabase(database.postgres, "test_empty")))


async def test_an_older_schema_is_refused_by_the_names_of_what_it_lacks(
    own_database: TestDatabase,
) -> None:
    forget = "delete from annex.migrations where name in ('09_retention', '12_mails')"
    await execute(own_database.url("postgres"), forget)
    lacks = "lacks the migrations 09_retention and 12_mails, which Annex .* needs; apply"
    with pytest.raises(SettingsError, match=lacks):
        await check(settings_for(own_database))


@pytest.mark.parametrize(
    "edit",
    [
        "update annex.migrations set checksum = repeat('0', 64) where name = '03_workspaces'",
        # What the function was before there were checksums.
        "drop function annex.applied_migrations(); create function annex.applied_migrations()"
        " returns setof text language sql security definer set search_path = pg_catalog, pg_temp"
        " as 'select name from annex.migrations'",
    ],
)
async def test_a_migration_that_was_edited_after_it_was_applied_is_refused(
    own_database: TestDatabase, edit: str
) -> None:
    await execute(own_database.url("postgres"), edit)
    said = "after the database had applied it: .*03_workspaces.*; there is no upgrade .* uninstall"
    with pytest.raises(SettingsError, match=said):
        await check(settings_for(own_database))


async def test_a_migration_from_a_checkout_is_served(own_database: TestDatabase) -> None:
    await execute(own_database.url("postgres"), "update annex.migrations set checksum = null")
    await check(settings_for(own_database))


@pytest.mark.parametrize(
    ("revoked", "said"),
    [
        ("execute on function annex.applied_migrations()", "function applied_migrations"),
        ("usage on schema annex", "schema annex"),
    ],
)
async def test_a_right_that_the_start_itself_takes_is_said(
    own_database: TestDatabase, revoked: str, said: str
) -> None:
    await execute(own_database.url("postgres"), f"revoke {revoked} from annex_api")
    lacks = rf"annex_api lacks a right .*\(permission denied for {said}\); `annex doctor` prints"
    with pytest.raises(SettingsError, match=lacks):
        await check(settings_for(own_database))


async def test_a_newer_schema_is_served(own_database: TestDatabase) -> None:
    later = "insert into annex.migrations (name) values ('99_of_a_later_release')"
    await execute(own_database.url("postgres"), later)
    await check(settings_for(own_database))


async def test_a_role_that_may_change_the_schema_is_refused(own_database: TestDatabase) -> None:
    await execute(own_database.url("postgres"), "grant create on schema annex to annex_api")
    with pytest.raises(SettingsError, match="may change the schema annex"):
        await check(settings_for(own_database))


@pytest.mark.parametrize(
    ("planted", "undone", "said"),
    [
        (
            "grant service_role to annex_api",
            "revoke service_role from annex_api",
            "annex_api may act as service_role, .*; run `revoke service_role from annex_api",
        ),
        (
            "create role middle; grant annex_owner to middle; grant middle to annex_worker",
            "drop role middle",
            "annex_worker may act as annex_owner, .*; run `revoke middle from annex_worker",
        ),
        (
            "alter table annex.roles owner to annex_api",
            "alter table annex.roles owner to annex_owner",
            r"annex_api owns annex\.roles, .* `annex doctor` prints",
        ),
    ],
)
async def test_a_role_above_row_level_security_is_refused(
    own_database: TestDatabase, planted: str, undone: str, said: str
) -> None:
    await execute(own_database.url("postgres"), planted)
    try:
        with pytest.raises(SettingsError, match=said):
            await check(settings_for(own_database))
    finally:
        await execute(own_database.url("postgres"), undone)
    await check(settings_for(own_database))


async def test_a_database_that_is_not_there_is_said(database: TestDatabase) -> None:
    with pytest.raises(SettingsError, match=r'refuses ANNEX_DATABASE_URL: .*"nowhere" does not'):
        await check(settings_for(TestDatabase(database.postgres, "nowhere")))


async def test_what_is_as_it_should_be_is_accepted(database: TestDatabase) -> None:
    await check(settings_for(database))
