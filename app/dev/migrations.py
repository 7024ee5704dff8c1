"""Apply supabase/migrations to a development database, recorded as the Supabase CLI records them.

What the CLI does (pkg/migration and pkg/parser of supabase/cli) is done here too, its oddities
included, so that a migration which works here works there: statements are split without a grammar
and sent one by one over the extended protocol, each file in a transaction of its own after
`RESET ALL`, and stored trimmed in `supabase_migrations.schema_migrations`. A database migrated by
either can be continued by the other.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from app.database.migrations import with_checksum
from app.dev import DevError
from app.installation.statements import failure, split

_FILE_NAME = re.compile(r"([0-9]+)_(.*)\.sql")

_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key
);
alter table supabase_migrations.schema_migrations
  add column if not exists statements text[],
  add column if not exists name text;
"""

_RECORD = """
insert into supabase_migrations.schema_migrations(version, name, statements) values ($1, $2, $3)
"""


@dataclass(frozen=True)
class Migration:
    """One file: `<version>_<name>.sql` and its statements."""

    path: Path
    version: str
    name: str
    statements: list[str]
    """As the file has them, and as the CLI's history does."""
    applied: list[str]
    """The same; a file of ours also records its checksum."""


async def apply(admin_url: str, migrations: Path, as_role: str | None = None) -> list[str]:
    """Apply the files that the database has not seen, oldest first, and return their names.

    `as_role` does the work in place of the role that logs in, a superuser, and has nothing of its
    rights. Raises `DevError` for an unreachable server, a history that does not match the files, or
    a failing statement, whose whole file is then rolled back.
    """
    files = _read(migrations)
    try:
        # No cache: a statement prepared before a migration may not fit the schema after it.
        connection = await asyncpg.connect(admin_url, statement_cache_size=0)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DevError(f"Cannot connect to the database to migrate: {error}") from error
    try:
        # Waits for whoever else migrates this database; ends with the connection.
        await connection.execute("select pg_advisory_lock(hashtext('supabase_migrations'))")
        if as_role is not None:
            # Unlike SET ROLE this changes session_user too, as if the role had logged in.
            role = '"' + as_role.replace('"', '""') + '"'
            await connection.execute(f"set session authorization {role}")
        await connection.execute(_HISTORY)
        pending = _pending(files, await _recorded(connection))
        for migration in pending:
            await _run(connection, migration)
        return [migration.path.name for migration in pending]
    except asyncpg.PostgresError as error:
        raise DevError(f"Cannot migrate this database: {error}") from error
    finally:
        await connection.close()


def _read(folder: Path) -> list[Migration]:
    """Read the migrations in the order of their file names."""
    if not folder.is_dir():
        raise DevError(f"There is no folder {folder} with migrations; run this in the checkout.")
    found: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise DevError(
                f"Rename {path.name} to <timestamp>_<name>.sql, as the Supabase CLI wants it."
            )
        version, name = match.groups()
        if version in found:
            other = found[version].path.name
            raise DevError(f"Give {path.name} a timestamp of its own; {other} has the same.")
        # Bytes, since text mode would turn \r\n into \n and the record would differ from the CLI's.
        sql = path.read_bytes().decode()
        found[version] = Migration(path, version, name, split(sql), split(with_checksum(sql)))
    return list(found.values())


async def _recorded(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> dict[str, list[str] | None]:
    rows = await connection.fetch(
        "select version, statements from supabase_migrations.schema_migrations order by version"
    )
    return {row["version"]: row["statements"] for row in rows}


def _pending(files: list[Migration], recorded: dict[str, list[str] | None]) -> list[Migration]:
    """Return what is left to apply, or raise when files and history have gone different ways."""
    start_over = "or start over with an empty database (`make run FRESH=1`)"
    if missing := sorted(recorded.keys() - {file.version for file in files}):
        raise DevError(
            f"The database has the migration {missing[0]}, which is not among the files; "
            f"bring the file back, {start_over}."
        )
    for file in files:
        # A row of an early CLI has no statements to compare with.
        if recorded.get(file.version) not in (None, file.statements):
            raise DevError(
                f"{file.path.name} was changed after it had been applied; "
                f"undo that and write a new migration, {start_over}."
            )
    pending = [file for file in files if file.version not in recorded]
    if pending and recorded and pending[0].version < max(recorded):
        raise DevError(
            f"{pending[0].path.name} is older than the last applied migration; "
            f"give it a newer timestamp, {start_over}."
        )
    return pending


async def _run(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    """Apply one file and record it, both or neither."""
    await connection.execute("reset all")
    number = 0
    try:
        async with connection.transaction():
            for statement in migration.applied:
                number += 1
                # fetch, unlike execute, takes one command only, as the CLI's protocol does.
                await connection.fetch(statement)
            number = 0
            await connection.execute(
                _RECORD, migration.version, migration.name, migration.statements
            )
    except asyncpg.PostgresError as error:
        where = migration.path.name
        raise DevError(failure(where, migration.statements, number, error)) from error
