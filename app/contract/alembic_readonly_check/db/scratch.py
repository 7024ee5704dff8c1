"""Scratch databases: the only module that creates anything, and never on the live database.

Two databases with random names on a server of one's own: the first holds what the migrations make,
the second is a copy of it in which the models are compiled beside the migrated tables, in a schema
of their own, so that defaults and checks find the functions they call. Both are dropped at the end.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pglast
from sqlalchemy import MetaData
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGIdentifierPreparer
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.schema import CreateIndex, CreateTable, SetColumnComment, SetTableComment
from sqlalchemy.sql.ddl import DDLElement

from alembic_readonly_check.db.guard import dsn, finish, run
from alembic_readonly_check.db.scripts import Session, refuse_stdin
from alembic_readonly_check.facts import (
    Check,
    Exclusion,
    ForeignKey,
    Index,
    PrimaryKey,
    Schema,
    Table,
    Unique,
)
from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.sources.migrations import read
from alembic_readonly_check.sources.models import added
from alembic_readonly_check.sql.parsing import identifier, quoted

T = TypeVar("T", PrimaryKey, ForeignKey, Unique, Check, Exclusion, Index)

PREFIX = "readonly_check_"
_LOCK = 0x0A1E3B1C
_WAIT_SECONDS = 60
_LIMIT = "600s"


@dataclass(frozen=True, slots=True)
class Scripts:
    """How a scratch database is filled: files of the platform, then migrations as a role.

    `outside` migrates a database by its URL, and returns the SQL that is still to be carried out.
    """

    platform: Sequence[Path] = ()
    migrations: Sequence[Path] = ()
    role: str | None = None
    outside: Callable[[URL], str] | None = None


@dataclass(frozen=True, slots=True)
class Databases:
    """The URLs of the migrated database and, if models were given, of their compile.

    `shadows` pairs the schemas of the compile with those of the models; `refused` says what of the
    models the server would not make, in its own words.
    """

    migrated: URL
    compiled: URL | None
    shadows: tuple[tuple[str, str], ...] = ()
    refused: tuple[str, ...] = ()


@contextmanager
def databases(
    server: URL, name: str, scripts: Scripts, metadata: MetaData | None, default_schema: str
) -> Iterator[Databases]:
    """Make both databases, yield their URLs, drop them.

    Raises `CannotCheck` with Postgres' sentence if a file cannot be applied. The caller has put
    the server to `refuse_live` before.
    """
    stem = PREFIX + secrets.token_hex(6)
    first, second = f"{stem}_a", f"{stem}_b"
    shadows = tuple(_shadows(metadata, default_schema, stem)) if metadata is not None else ()
    roles: set[str] = set()
    try:
        with _plainly(name):
            finish(_make(server, first, scripts, roles))
            refused = (
                finish(_compile(server, first, second, metadata, default_schema, dict(shadows)))
                if metadata is not None
                else ()
            )
        yield Databases(
            server.set(database=first),
            server.set(database=second) if metadata is not None else None,
            tuple((shadow, schema) for schema, shadow in shadows),
            refused,
        )
    finally:
        with _plainly(name):
            finish(_drop(server, first, second, roles=roles))


def refuse_live(server: URL, name: str, live: tuple[str, URL]) -> bool:
    """Raise RO904 if both URLs lead to one database, by whatever names and addresses.

    Returns whether they lead to one server.
    """
    live_name, live_url = live
    one, other = (
        json.loads(run(url, its, (), lambda reader: reader.ask("state")))
        for url, its in ((server, name), (live_url, live_name))
    )
    if all(one[key] == other[key] for key in ("started", "port", "database")):
        raise CannotCheck(f"{name} and {live_name} name the same database.", "RO904")
    return bool(one["started"] == other["started"] and one["port"] == other["port"])


@contextmanager
def _plainly(name: str) -> Iterator[None]:
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise CannotCheck(f"The scratch server of {name} failed: {error}.") from None


async def _connect(url: URL, database: str | None = None) -> Any:
    held = url.set(database=database or url.database or "postgres")
    limits = {"statement_timeout": _LIMIT, "lock_timeout": _LIMIT}
    return await asyncpg.connect(dsn(held), timeout=_WAIT_SECONDS, server_settings=limits)


async def _make(server: URL, name: str, scripts: Scripts, roles: set[str]) -> None:
    role = scripts.role
    admin = await _connect(server)
    try:
        await admin.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
        # Roles belong to the whole server: two checks at once would trip over each other's.
        await admin.execute(f"SELECT pg_advisory_lock({_LOCK})")
        connection = await _connect(server, name)
        session = Session(connection, admin, roles)
        try:
            for path in scripts.platform:
                await session.apply(path.name, read(path))
            if role is not None:
                known = await admin.fetchval(
                    "SELECT count(*) FROM pg_roles WHERE rolname = $1", role
                )
                if not known:
                    raise CannotCheck(
                        f"The migrating role {role} does not exist; let a platform file create it."
                    )
                await admin.execute(f'ALTER DATABASE "{name}" OWNER TO {quoted(role)}')
                await connection.execute(f"SET SESSION AUTHORIZATION {quoted(role)}")
            for path in scripts.migrations:
                await session.apply(path.name, read(path))
            if scripts.outside is not None:
                url = server.set(database=name)
                rendered = await asyncio.to_thread(scripts.outside, url)
                refuse_stdin("Alembic's SQL", rendered)
                try:
                    # It opens and ends its own transactions, so each statement goes alone.
                    for statement in pglast.split(rendered):
                        await connection.execute(statement)
                except (asyncpg.PostgresError, pglast.parser.ParseError) as error:
                    raise CannotCheck(f"Alembic's SQL cannot be applied: {error}.") from None
        finally:
            await connection.close()
    finally:
        await admin.close()


def _shadows(metadata: MetaData, default_schema: str, stem: str) -> Iterator[tuple[str, str]]:
    """Name a schema of the compile for each schema of the models, unlike any other text."""
    schemas = {table.schema or default_schema for table in metadata.tables.values()}
    for number, schema in enumerate(sorted(schemas)):
        # It needs quotes where the schema does, so that one stands for the other in any SQL.
        case = "Q" if identifier(schema) != schema else "q"
        yield schema, f"{stem}_{number:03}{case}"


async def _compile(
    server: URL,
    source: str,
    name: str,
    metadata: MetaData,
    default_schema: str,
    shadows: dict[str, str],
) -> tuple[str, ...]:
    refused = []
    admin = await _connect(server)
    try:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    finally:
        await admin.close()
    connection = await _connect(server, name)
    try:
        path = ", ".join(quoted(name) for name in (default_schema, "public", "extensions"))
        await connection.execute(f"SET search_path = {path}")
        for shadow in shadows.values():
            await connection.execute(f"CREATE SCHEMA {quoted(shadow)}")
        for statement in statements(metadata, default_schema, shadows):
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                # What the migrated database lacks, the comparison of the facts names.
                refused.append(f"{' '.join(statement.split())[:60]} …: {error}")
    finally:
        await connection.close()
    return tuple(refused)


def statements(metadata: MetaData, default_schema: str, shadows: dict[str, str]) -> Iterator[str]:
    """Write the models' DDL as text: listeners that refuse DDL from metadata are not in the way."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    dialect.identifier_preparer = Beside(dialect, default_schema, shadows)

    def sql(element: DDLElement) -> str:
        return str(element.compile(dialect=dialect)).replace("%%", "%")

    tables = metadata.tables.values()
    for table in tables:
        yield sql(CreateTable(table, include_foreign_key_constraints=[]))
    for table in tables:
        for key in table.foreign_key_constraints:
            # What a key leads to need not be mapped; then the facts know it by its name.
            with suppress(NoReferenceError):
                yield added(key, dialect)
        for index in table.indexes:
            yield sql(CreateIndex(index))
        if table.comment is not None:
            yield sql(SetTableComment(table))
        for column in table.columns:
            if column.comment is not None:
                yield sql(SetColumnComment(column))


class Beside(PGIdentifierPreparer):
    """Writes tables into the schemas of the compile; types stay the migrated ones.

    The models themselves are compiled, not a copy in another schema: names that SQLAlchemy derives
    hold the schema's.
    """

    def __init__(self, dialect: Dialect, default_schema: str, shadows: dict[str, str]) -> None:
        super().__init__(dialect)
        self.default_schema = default_schema
        self.shadows = shadows

    def schema_for_object(self, item: Any) -> str | None:  # type: ignore[override]
        """Give the schema to write before a name."""
        schema: str | None = item.schema
        if not isinstance(item, SqlTable):
            return schema
        held = schema or self.default_schema
        return self.shadows.get(held, held)


async def _drop(server: URL, *names: str, roles: Iterable[str] = ()) -> None:
    admin = await _connect(server)
    try:
        for name in names:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        if roles:
            await admin.execute(f"SELECT pg_advisory_lock({_LOCK})")
        for role in sorted(roles):
            # Another run that stands on the role at this moment keeps it.
            with suppress(asyncpg.PostgresError):
                await admin.execute(f"DROP ROLE IF EXISTS {quoted(role)}")
    finally:
        await admin.close()


def as_models(compiled: Schema, described: Schema) -> Schema:
    """Take the tables as the server spells them, and the rest as the models say it.

    A table that could not be compiled keeps the models' own spelling.
    """
    tables = {
        name: _merged(table, compiled.tables.get(name)) for name, table in described.tables.items()
    }
    return replace(described, tables=tables)


def _merged(described: Table, compiled: Table | None) -> Table:
    if compiled is None:
        return described
    columns = {column.name: column for column in described.columns}
    optional = {index.name for index in described.indexes if index.optional}
    return replace(
        compiled,
        columns=tuple(
            replace(
                column,
                raw_type=columns[column.name].raw_type,
                implicit=columns[column.name].implicit,
                extra="",
                fetched=columns[column.name].fetched,
                stored=columns[column.name].stored,
            )
            for column in compiled.columns
            if column.name in columns
        ),
        primary_key=next(iter(_named([compiled.primary_key], [described.primary_key])), None),
        foreign_keys=_whole(compiled.foreign_keys, described.foreign_keys),
        uniques=_named(compiled.uniques, described.uniques),
        checks=_named(compiled.checks, described.checks),
        exclusions=_named(compiled.exclusions, described.exclusions),
        indexes=tuple(
            replace(index, optional=index.name in optional)
            for index in _whole(compiled.indexes, described.indexes)
        ),
        partition_key=compiled.partition_key if described.partition_key else None,
        rls=None,
        policies=None,
        grants=None,
        triggers=None,
    )


def _named(compiled: Iterable[T | None], described: Iterable[T | None]) -> tuple[T, ...]:
    """Take names back that Postgres chose because the models state none."""
    stated = {rule.name for rule in described if rule}
    return tuple(
        rule if rule.name in stated else replace(rule, name=None) for rule in compiled if rule
    )


def _whole(compiled: tuple[T, ...], described: tuple[T, ...]) -> tuple[T, ...]:
    """Keep the models' own spelling where the server refused a part."""
    return _named(compiled, described) if len(compiled) == len(described) else described
