"""Read SQLAlchemy's `MetaData` as facts; nothing is compiled against a server, nothing executed."""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Computed,
    Constraint,
    FetchedValue,
    ForeignKeyConstraint,
    Identity,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy import Column as SqlColumn
from sqlalchemy import Enum as EnumType
from sqlalchemy import Index as SqlIndex
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import DOMAIN, ExcludeConstraint
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import NoReferenceError, SQLAlchemyError
from sqlalchemy.schema import AddConstraint, CreateIndex, DefaultClause
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import ARRAY, TypeDecorator, TypeEngine

from alembic_readonly_check.facts import (
    Check,
    Column,
    Domain,
    Enum,
    Exclusion,
    ForeignKey,
    Index,
    PrimaryKey,
    Schema,
    Table,
    Unique,
)
from alembic_readonly_check.findings import CannotCheck, Location, relative
from alembic_readonly_check.sources.conditions import is_optional
from alembic_readonly_check.sources.inheritance import inherit
from alembic_readonly_check.sources.lines import lines_of
from alembic_readonly_check.sources.loading import load
from alembic_readonly_check.sources.sequences import identity, sequences
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import parse_index
from alembic_readonly_check.sql.types import parse_type, qualified

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
COMPILER = DIALECT.ddl_compiler(DIALECT, None)  # type: ignore[arg-type]


@dataclass(slots=True)
class Models:
    """The mapped tables as facts, and where in the source a table or column is written."""

    metadata: MetaData
    schema: Schema
    root: Path
    classes: dict[str, type] = field(default_factory=dict)

    def locate(self, table: str, column: str | None = None) -> Location | None:
        """Find the line of a mapped class or of its attribute; None for tables without a class."""
        owner = self.classes.get(table)
        for base in owner.__mro__ if owner is not None else ():
            lines = lines_of(base)
            if lines is None:
                continue
            path, start, attributes = lines
            if column is None:
                return Location(relative(path, self.root), start)
            if column in attributes:
                return Location(relative(path, self.root), attributes[column])
        return None


def read(
    target: str,
    root: Path,
    default_schema: str = "public",
    is_compared: Callable[[str], bool] = lambda _: True,
    is_excluded: Callable[[str], bool] = lambda _: False,
) -> Models:
    """Import the metadata and read its tables of the schemas that are compared.

    A table of the platform (auth.users) is often mapped only as the target of foreign keys. Raises
    `CannotCheck` if the target is no MetaData or holds no table.
    """
    metadata = load(target, root)
    if not isinstance(metadata, MetaData):
        raise CannotCheck(
            f"{target} is not a SQLAlchemy MetaData; write it as `app.models:Base.metadata`."
        )
    if not metadata.tables:
        raise CannotCheck(f"{target} holds no table; import the modules of the models beside it.")
    described = describe(metadata, default_schema, is_compared, is_excluded)
    models = Models(metadata, described, root)
    if not models.schema.tables:
        raise CannotCheck(f"{target} maps no table of the schemas that are compared.")
    held = vars(sys.modules[target.partition(":")[0]]).values()
    bases = (base for base in held if getattr(base, "metadata", None) is metadata)
    # Every mapped class leads to the one registry that its base has.
    for registry in dict.fromkeys(getattr(base, "registry", None) for base in bases):
        for mapper in getattr(registry, "mappers", ()):
            if isinstance(mapper.local_table, SqlTable):
                models.classes[_name(mapper.local_table, default_schema)] = mapper.class_
    return models


def describe(
    metadata: MetaData,
    default_schema: str,
    is_compared: Callable[[str], bool],
    is_excluded: Callable[[str], bool] = lambda _: False,
) -> Schema:
    """Read every table of the metadata, and the enums and domains that their columns use."""
    enums: dict[str, Enum] = {}
    domains: dict[str, Domain] = {}
    tables, counted = {}, {}
    for table in metadata.tables.values():
        if not is_compared(table.schema or default_schema):
            continue
        if is_excluded(_name(table, default_schema)):
            continue
        described = _table(table, default_schema)
        tables[described.name] = described
        for column in table.columns:
            _user_types(column.type, default_schema, enums, domains)
            subject = f"{described.name}.{column.name}"
            type_ = type_name(column.type, default_schema)
            if counter := identity(column, subject, type_):
                counted[subject] = counter
    inherit(metadata, tables, default_schema)
    held = sequences(metadata, default_schema, is_compared)
    return Schema("models", tables, {}, enums, domains, sequences=held, owned_sequences=counted)


def _name(table: SqlTable, default_schema: str) -> str:
    return f"{table.schema or default_schema}.{table.name}"


def _table(table: SqlTable, default_schema: str) -> Table:
    name = _name(table, default_schema)
    primary = table.primary_key
    keys: list[ForeignKey] = []
    uniques: list[Unique] = []
    checks: list[Check] = []
    exclusions: list[Exclusion] = []
    # A check that is written in a column stays the column's, though Postgres makes it the table's.
    written = table.constraints.union(*(column.constraints for column in table.columns))
    for constraint in sorted(written, key=lambda c: str(_constraint_name(c))):
        if not constraint._should_create_for_compiler(COMPILER):
            continue  # Postgres has booleans of its own, which need no CHECK.
        match constraint:
            case ForeignKeyConstraint():
                keys.append(_foreign_key(constraint, default_schema))
            case UniqueConstraint():
                options = constraint.dialect_options["postgresql"]
                uniques.append(
                    Unique(
                        _constraint_name(constraint),
                        _names(constraint.columns),
                        _include(options),
                        not options.get("nulls_not_distinct"),
                        _deferral(constraint),
                    )
                )
            case CheckConstraint():
                checks.append(
                    Check(
                        _constraint_name(constraint),
                        _text(constraint.sqltext),
                        not constraint.dialect_options["postgresql"].get("not_valid"),
                        not constraint.dialect_options["postgresql"].get("no_inherit"),
                    )
                )
            case ExcludeConstraint():
                exclusions.append(Exclusion(_constraint_name(constraint), _exclusion(constraint)))
    return Table(
        name,
        # A column of the system, as `xmin`, is mapped and never made.
        tuple(_column(column, default_schema) for column in table.columns if not column.system),
        (
            PrimaryKey(
                _constraint_name(primary),
                _names(primary.columns),
                _deferral(primary),
            )
            if len(primary.columns)
            else None
        ),
        tuple(keys),
        tuple(uniques),
        tuple(checks),
        tuple(exclusions),
        tuple(_index(index, name) for index in sorted(table.indexes, key=lambda i: str(i.name))),
        partition_key=table.dialect_options["postgresql"].get("partition_by"),
        comment=table.comment,
    )


def _names(columns: Iterable[SqlColumn[Any]]) -> tuple[str, ...]:
    """Name columns as Postgres does, which keeps 63 bytes of a name."""
    return tuple(column.name.encode()[:63].decode(errors="ignore") for column in columns)


def _constraint_name(constraint: Constraint | SqlIndex) -> str | None:
    """Apply the naming convention; None if Postgres is left to choose."""
    if constraint.name is None:
        return None
    formatted = (
        DIALECT.identifier_preparer.format_index(constraint)
        if isinstance(constraint, SqlIndex)
        else DIALECT.identifier_preparer.format_constraint(constraint)
    )
    if formatted is None:
        return None
    name = str(formatted).replace("%%", "%")
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _column(column: SqlColumn[Any], default_schema: str) -> Column:
    raw = spelled(column.type)
    default = column.server_default
    value = None
    if isinstance(default, DefaultClause):
        value = default.arg if isinstance(default.arg, str) else _text(default.arg)
        if isinstance(default.arg, str):
            value = "'" + value.replace("'", "''") + "'"
    computed = column.computed
    identity = column.identity
    automatic = (
        column.table._autoincrement_column is column
        and identity is None
        and not isinstance(default, FetchedValue)
    )
    sequence = column.default if getattr(column.default, "is_sequence", False) else None
    return Column(
        _names([column])[0],
        type_name(column.type, default_schema),
        bool(column.nullable) and not column.primary_key,
        value,
        _text(computed.sqltext) if isinstance(computed, Computed) else None,
        ("ALWAYS" if identity.always else "BY DEFAULT") if isinstance(identity, Identity) else None,
        _collation(column.type),
        column.comment,
        raw,
        automatic and sequence is None,
        fetched=isinstance(default, FetchedValue)
        and not isinstance(default, DefaultClause | Computed | Identity),
        stored=computed.persisted if isinstance(computed, Computed) else None,
    )


def spelled(type_: TypeEngine[Any]) -> str:
    """Write a type as SQLAlchemy would in DDL for Postgres."""
    try:
        return str(type_.compile(dialect=DIALECT))
    except SQLAlchemyError as error:
        return f"unknown ({error})"


def type_name(type_: TypeEngine[Any], default_schema: str) -> str:
    """Spell a type as `format_type` does; what does not parse keeps SQLAlchemy's spelling."""
    text = spelled(type_).split(" COLLATE ")[0]
    try:
        return qualified(parse_type(text), default_schema)
    except Unparsable:
        return text


def _collation(type_: TypeEngine[Any]) -> str | None:
    held = plain_type(type_)
    collation = getattr(held, "collation", None)
    return str(collation).strip('"') if collation else None


def plain_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Look through decorators and arrays at the type that Postgres sees."""
    while True:
        if (variant := type_._variant_mapping.get("postgresql")) is not None:
            type_ = variant
        elif isinstance(type_, TypeDecorator):
            type_ = type_.load_dialect_impl(DIALECT)
        elif isinstance(type_, ARRAY):
            type_ = type_.item_type
        else:
            return type_


def _user_types(
    type_: TypeEngine[Any], default_schema: str, enums: dict[str, Enum], domains: dict[str, Domain]
) -> None:
    held = plain_type(type_)
    if isinstance(held, EnumType) and held.native_enum and held.name:
        name = f"{held.schema or default_schema}.{held.name}"
        enums[name] = Enum(name, tuple(held.enums))
    elif isinstance(held, DOMAIN):
        name = f"{held.schema or default_schema}.{held.name}"
        check = held.check
        domains[name] = Domain(
            name,
            type_name(held.data_type, default_schema),
            not held.not_null,
            _default_text(held.default),
            str(held.collation) if held.collation else None,
            (
                (Check(str(held.constraint_name) if held.constraint_name else None, _text(check)),)
                if check is not None
                else ()
            ),
        )


def _default_text(default: Any) -> str | None:
    if default is None:
        return None
    return default if isinstance(default, str) else _text(default)


def _text(clause: Any) -> str:
    """Write an expression as SQL for Postgres with its literals in place."""
    if isinstance(clause, str):
        return clause
    if isinstance(clause, ClauseElement):
        compiled = clause.compile(
            dialect=DIALECT, compile_kwargs={"literal_binds": True, "include_table": False}
        )
        return str(compiled).replace("%%", "%")
    return str(clause)


def _deferral(constraint: Constraint) -> str:
    if str(constraint.initially or "").upper() == "DEFERRED":
        return " DEFERRABLE INITIALLY DEFERRED"
    return " DEFERRABLE" if constraint.deferrable else ""


def _include(options: Any) -> tuple[str, ...]:
    return tuple(
        column if isinstance(column, str) else column.name
        for column in options.get("include") or ()
    )


def _foreign_key(constraint: ForeignKeyConstraint, default_schema: str) -> ForeignKey:
    target, columns = _target(constraint, default_schema)
    return ForeignKey(
        _constraint_name(constraint),
        _names(constraint.columns),
        target,
        columns,
        re.sub(r"^[^(]+", lambda words: words[0].upper(), constraint.ondelete or "NO ACTION"),
        (constraint.onupdate or "NO ACTION").upper(),
        (constraint.match or "SIMPLE").upper(),
        _deferral(constraint),
        not constraint.dialect_options["postgresql"].get("not_valid"),
    )


def _target(constraint: ForeignKeyConstraint, default_schema: str) -> tuple[str, tuple[str, ...]]:
    """Find what a key leads to; a table that is not mapped is known by what the key says."""
    try:
        columns = [element.column for element in constraint.elements]
        return _name(columns[0].table, default_schema), _names(columns)
    except NoReferenceError:
        parts = [element.target_fullname.split(".") for element in constraint.elements]
        schema = ".".join(parts[0][:-2]) or constraint.table.metadata.schema or default_schema
        return f"{schema}.{parts[0][-2]}", tuple(part[-1] for part in parts)


def added(constraint: Constraint, dialect: Dialect = DIALECT) -> str:
    """Write ALTER TABLE … ADD; SQLAlchemy then takes it for made elsewhere, which is undone."""
    rule = constraint._create_rule
    try:
        return str(AddConstraint(constraint).compile(dialect=dialect)).replace("%%", "%")
    finally:
        constraint._create_rule = rule


def _exclusion(constraint: ExcludeConstraint) -> str:
    return "EXCLUDE" + added(constraint).partition("EXCLUDE")[2]


def _index(index: SqlIndex, table: str) -> Index:
    """Let SQLAlchemy write the index and take that apart, so that no option of it is forgotten."""
    sql = str(CreateIndex(index).compile(dialect=DIALECT)).replace("%%", "%")
    method = str(index.dialect_options["postgresql"].get("using") or "btree")
    name, keys = _constraint_name(index), sql[sql.index("(", sql.index(" ON ")) :]
    text = f"{'UNIQUE ' if index.unique else ''}{method} {keys}"
    try:
        return replace(parse_index(str(name), text, table), optional=is_optional(index, COMPILER))
    except Unparsable as error:
        raise CannotCheck(f"The index {name} of {table} cannot be read: {error}.") from None
