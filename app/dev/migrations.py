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
from urllib.parse import parse_qs, urlsplit

import asyncpg

from app.dev import DevError

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

# What can hide or delimit a statement's end. The lone `end` closes BEGIN ATOMIC wherever it stands.
_TOKEN = re.compile(
    r"""
      --[^\n]*\n?
    | (?P<block>/\*)
    | '(?:[^']|'')*(?:'|\Z)
    | "(?:[^"]|"")*(?:"|\Z)
    | (?P<tag>\$\w*\$)
    | \\.?
    | (?P<atomic>(?<![\w$])begin\s+atomic)
    | (?P<mark>[();]|end)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Migration:
    """One file: `<version>_<name>.sql` and its statements."""

    path: Path
    version: str
    name: str
    statements: list[str]


async def apply(admin_url: str, migrations: Path, as_role: str | None = None) -> list[str]:
    """Apply the files that the database has not seen, oldest first, and return their names.

    `as_role` does the work in place of the role that logs in, a superuser, and has nothing of its
    rights. Raises `DevError` for a Supabase host, an unreachable server, a history that does not
    match the files, or a failing statement, whose whole file is then rolled back.
    """
    if is_supabase_host(admin_url):
        raise DevError("This is a Supabase project; migrate it with `supabase db push`.")
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


def is_supabase_host(url: str) -> bool:
    """Tell whether a database URL points to Supabase's cloud, directly or through its pooler.

    A project behind a domain of its own or behind a tunnel cannot be told.
    """
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")  # libpq takes several
    hosts += [host for value in parse_qs(parts.query).get("host", []) for host in value.split(",")]
    names = (host.partition(":")[0].rstrip(".").lower() for host in hosts)
    return any(name.endswith((".supabase.co", ".supabase.com")) for name in names)


def split(sql: str) -> list[str]:
    """Split a file into the statements that the Supabase CLI sends, comments kept with them."""
    statements: list[str] = []
    open_until: list[str] = []  # ")" for a parenthesis, "end" for a body of BEGIN ATOMIC
    start = position = 0
    while token := _TOKEN.search(sql, position):
        position = token.end()
        if token["block"]:
            position = _end_of_block(sql, position)
        elif token["tag"]:
            closing = sql.find(token["tag"], position)
            position = len(sql) if closing < 0 else closing + len(token["tag"])
        elif token["atomic"]:
            open_until.append("end")
        elif token["mark"] == "(":
            open_until.append(")")
        elif token["mark"] == ";" and not open_until:
            statements.append(sql[start:position])
            start = position
        elif token["mark"]:
            # One `)` closes all the parentheses that are open; the CLI does so.
            while open_until and open_until[-1] == token["mark"].lower():
                open_until.pop()
    trimmed = (statement.rstrip(";").strip() for statement in [*statements, sql[start:]])
    return [statement for statement in trimmed if statement]


def _end_of_block(sql: str, position: int) -> int:
    depth = 1
    while depth and (edge := _BLOCK_EDGE.search(sql, position)):
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(sql) if depth else position


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
        found[version] = Migration(path, version, name, split(sql))
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
            for statement in migration.statements:
                number += 1
                # fetch, unlike execute, takes one command only, as the CLI's protocol does.
                await connection.fetch(statement)
            number = 0
            await connection.execute(
                _RECORD, migration.version, migration.name, migration.statements
            )
    except asyncpg.PostgresError as error:
        raise DevError(_failure(migration, number, error)) from error


def _failure(migration: Migration, number: int, error: asyncpg.PostgresError) -> str:
    """Say where a file failed: in a statement, counted from 1, or (0) not before the commit."""
    where = migration.path.name
    if number:
        # Postgres counts characters from 1, or gives none.
        before = migration.statements[number - 1][: max(int(error.position or 0) - 1, 0)]
        where += f", statement {number}, its line {before.count(chr(10)) + 1}"
    detail = f" ({error.detail})" if error.detail else ""
    return f"{where}: {error.args[0]}{detail}"
