"""Compare tables: columns, keys, checks, indexes, partitioning."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from alembic_readonly_check.compare.objects import Objects
from alembic_readonly_check.compare.pairing import by_name, matched, pairs
from alembic_readonly_check.compare.sides import DEFERRED, UNVALIDATED
from alembic_readonly_check.facts import (
    Check,
    Column,
    Exclusion,
    ForeignKey,
    Index,
    PrimaryKey,
    Table,
    Unique,
)
from alembic_readonly_check.sql.expressions import Scope, canonical
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import parse_exclusion, parse_partition_key
from alembic_readonly_check.sql.types import same_type

R = TypeVar("R", ForeignKey, Unique, Check)


@dataclass(slots=True)
class Tables(Objects):
    """The tables."""

    def table(self, wanted: Table, held: Table) -> None:
        """Compare two tables of one name."""
        for name, one, other in pairs(by_name(wanted.columns), by_name(held.columns)):
            if one is None or other is None:
                self.missing("column", f"{wanted.name}.{name}", one, other, name)
            else:
                self.column(wanted, one, other)
        self.order(wanted, held)
        self.primary_key(wanted, held)
        self.rules_of(wanted, "foreign key", wanted.foreign_keys, held.foreign_keys, _reference)
        self.rules_of(wanted, "unique", wanted.uniques, held.uniques, _unique)
        self.checks(wanted, held)
        self.exclusions(wanted, held)
        self.indexes(wanted, held)
        self.partition_key(wanted, held)
        self.comment(wanted.name, wanted, held)
        self.security(wanted, held)
        if self.deep and wanted.extra != held.extra:
            self.say("extra", wanted.name, wanted.extra, held.extra, "settings differ")

    def order(self, wanted: Table, held: Table) -> None:
        mine, theirs = ([column.name for column in side.columns] for side in (wanted, held))
        if set(mine) == set(theirs) and mine != theirs:
            one, other = (", ".join(names) for names in (mine, theirs))
            self.say("order", wanted.name, one, other, "order of the columns differs")

    def column(self, table: Table, wanted: Column, held: Column) -> None:
        subject = f"{table.name}.{wanted.name}"

        def say(kind: str, expected: object, actual: object, what: str | None = None) -> None:
            told = f"{what} differs" if what else None
            self.say(kind, subject, expected, actual, told, column=wanted.name)

        if wanted.type and not same_type(wanted.type, held.type):
            raws = (wanted.raw_type or wanted.type, held.raw_type or held.type)
            say("type", *(raws if raws[0] != raws[1] else (wanted.type, held.type)))
        if wanted.nullable != held.nullable:
            words = ("not null", "nullable")
            say("null", words[wanted.nullable], words[held.nullable], "nullability")
        if (wanted.collation or "default") != (held.collation or "default"):
            say("collation", wanted.collation, held.collation)
        self.value(table, wanted, held, say)
        self.comment(subject, wanted, held, wanted.name)
        if self.deep and wanted.extra != held.extra:
            say("extra", wanted.extra, held.extra, "storage")

    def value(self, table: Table, wanted: Column, held: Column, say: Callable[..., None]) -> None:
        """Compare where a column's value comes from: default, identity or generation."""
        if wanted.fetched or held.fetched:
            return  # The model leaves it to the server, by a default or a trigger.
        for mine, theirs in ((wanted, held), (held, wanted)):
            # A mapped key without a default is filled by the server, however it does it.
            if mine.implicit and (theirs.identity or theirs.default or theirs.implicit):
                if self.family == "DB" and not self.counts(table, theirs):
                    say("default", "the next number", theirs.default)
                return
        names, type_ = self.names(table), wanted.type or None
        if self.family == "DB" and wanted.implicit:
            say("default", "the next number", held.default)
            return
        if wanted.identity != held.identity:
            say("generated", wanted.identity, held.identity, "identity")
        elif (wanted.generated or held.generated) and not self.equal(
            wanted.generated, held.generated, names, type_
        ):
            say("generated", wanted.generated, held.generated, "generated expression")
        elif None not in (wanted.stored, held.stored) and wanted.stored != held.stored:
            words = ("computed when it is read", "stored")
            say("generated", words[bool(wanted.stored)], words[bool(held.stored)], "generation")
        elif not self.equal(
            *(_stated(wanted.default), _stated(held.default)),
            *(replace(names, table="", types=()), type_),
        ):
            say("default", wanted.default, held.default)

    def counts(self, table: Table, column: Column) -> bool:
        """Tell whether the server numbers a column's rows: by an identity or a free sequence."""
        if column.identity or column.implicit:
            return True
        shape = canonical(column.default or "null", Scope(schema=self.rules.default_schema))
        if shape[:2] != ("call", "nextval") or not isinstance(shape[2], tuple):
            return False
        owned = self.follow.schema.owned_sequences.get(str(shape[2][1]))
        return owned is None or owned.owned_by == f"{table.name}.{column.name}"

    def comment(
        self, subject: str, one: Table | Column, other: Table | Column, column: str | None = None
    ) -> None:
        """Compare a comment where the following side states one; models are compared exactly."""
        wanted, held = one.comment, other.comment
        stated = held is not None or self.deep or self.family == "DB"
        if self.family == "DB" and wanted is None:
            return
        if stated and _prose(wanted) != _prose(held):
            self.say("comment", subject, wanted, held, column=column)

    def primary_key(self, wanted: Table, held: Table) -> None:
        mine, theirs = wanted.primary_key, held.primary_key
        if mine is None and theirs is None:
            return
        if mine is None or theirs is None or not self.same_key(mine, theirs):
            self.say("primary key", wanted.name, mine, theirs)
        elif mine.deferral != theirs.deferral or (self.deep and mine.include != theirs.include):
            self.say("primary key", wanted.name, mine, theirs, code=DEFERRED.get(self.family))

    def same_key(self, mine: PrimaryKey, theirs: PrimaryKey) -> bool:
        # A document marks key columns in the order of its rows, which is not the key's order.
        if mine.name is None or theirs.name is None:
            same = sorted(mine.columns) == sorted(theirs.columns)
            return same if self.family in ("DM", "DC") else mine.columns == theirs.columns
        return mine.name == theirs.name and mine.columns == theirs.columns

    def rules_of(
        self,
        table: Table,
        kind: str,
        mine: Iterable[R],
        theirs: Iterable[R],
        shape: Callable[[R], Any],
        same: Callable[[R, R], bool] | None = None,
    ) -> None:
        """Say how rules differ: in substance, in when they hold, or in whom they bind."""
        for name, one, other in matched(mine, theirs, shape):
            subject, code = f"{table.name}.{name}", None
            if one is None or other is None:
                self.missing(kind, subject, one, other)
                continue
            if same(one, other) if same else shape(one) == shape(other):
                if getattr(one, "deferral", "") != getattr(other, "deferral", ""):
                    code = DEFERRED.get(self.family)
                elif getattr(one, "valid", True) != getattr(other, "valid", True):
                    code = UNVALIDATED.get(self.family)
                else:
                    continue
            told = "check text" if kind == "check" else kind
            self.say(told, subject, one, other, f"{kind} differs", code=code)

    def checks(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(check: Check) -> Any:
            return canonical(check.expression, names)

        def same(one: Check, other: Check) -> bool:
            return one.inherited == other.inherited and self.equal(
                one.expression, other.expression, names, "boolean"
            )

        self.rules_of(wanted, "check", wanted.checks, held.checks, shape, same)

    def exclusions(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(exclusion: Exclusion) -> Any:
            return parse_exclusion(exclusion.definition, names)

        for name, mine, theirs in matched(wanted.exclusions, held.exclusions, shape):
            if mine is None or theirs is None or shape(mine) != shape(theirs):
                what = "exclusion constraint differs"
                self.say("exclusion", f"{wanted.name}.{name}", mine, theirs, what)

    def indexes(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(index: Index) -> Any:
            return tuple(canonical(key.expression, names) for key in index.keys)

        for name, mine, theirs in matched(wanted.indexes, held.indexes, shape):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                if not any(index and index.optional for index in (mine, theirs)):
                    self.missing("index", subject, mine, theirs)
                continue
            for kind, code in self.index(names, mine, theirs):
                self.say(kind, subject, mine, theirs, "index differs", code=code)

    def index(self, names: Scope, mine: Index, theirs: Index) -> Iterator[tuple[str, str | None]]:
        """List in which respects two indexes of one name differ."""
        same_keys = len(mine.keys) == len(theirs.keys) and all(
            self.equal(one.expression, other.expression, names)
            for one, other in zip(mine.keys, theirs.keys, strict=True)
        )
        kinds = ((index.unique, index.nulls_distinct) for index in (mine, theirs))
        if next(kinds) != next(kinds) or not same_keys:
            yield "index", None
        elif not _same_manner(mine, theirs):
            yield "method", None
        if not self.equal(mine.predicate, theirs.predicate, names, "boolean"):
            yield "predicate", None
        if mine.include != theirs.include:
            yield "include", None
        if mine.valid != theirs.valid:
            yield "index", UNVALIDATED.get(self.family)

    def partition_key(self, wanted: Table, held: Table) -> None:
        mine, theirs = wanted.partition_key, held.partition_key
        if mine is None and self.family in ("DM", "DB"):
            return  # Partitioning does not show through a mapping.
        if self.family == "DM" and theirs is None:
            return
        if not self.same_partition_key(wanted, mine, theirs):
            self.say("partition", wanted.name, mine, theirs, "partition key differs")

    def same_partition_key(self, table: Table, mine: str | None, theirs: str | None) -> bool:
        if mine is None or theirs is None or mine == theirs:
            return mine == theirs
        try:
            (one, keys), (other, others) = map(parse_partition_key, (mine, theirs))
        except Unparsable:
            return False
        names = self.names(table)
        return (
            one == other
            and len(keys) == len(others)
            and all(self.equal(key, held, names) for key, held in zip(keys, others, strict=True))
        )


def _stated(default: str | None) -> str | None:
    """Leave DEFAULT NULL out: Postgres does not keep it."""
    return None if default is None or canonical(default, Scope()) == ("null",) else default


def _reference(key: ForeignKey) -> Any:
    return (key.columns, key.target, key.target_columns, key.on_delete, key.on_update, key.match)


def _unique(unique: Unique) -> Any:
    return (unique.columns, unique.include, unique.nulls_distinct)


def _same_manner(mine: Index, theirs: Index) -> bool:
    """Tell whether two indexes keep their keys in one manner; a default may be written out."""
    return (mine.method, sorted(mine.options)) == (theirs.method, sorted(theirs.options)) and all(
        (one.descending, one.nulls_first, one.collation or "default")
        == (other.descending, other.nulls_first, other.collation or "default")
        and (
            one.opclass == other.opclass
            or (one.opclass is None and one.usual == other.opclass)
            or (other.opclass is None and other.usual == one.opclass)
        )
        for one, other in zip(mine.keys, theirs.keys, strict=True)
    )


def _prose(text: str | None) -> str | None:
    return " ".join(text.replace("`", "").split()) if text is not None else None
