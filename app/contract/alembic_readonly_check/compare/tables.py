"""Compare tables: columns, keys, checks, indexes, partitioning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from alembic_readonly_check.findings import Location
from alembic_readonly_check.sql.expressions import Scope, canonical
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import parse_exclusion, parse_partition_key
from alembic_readonly_check.sql.types import same_type


@dataclass(slots=True)
class Tables(Objects):
    """The tables."""

    def table(self, wanted: Table, held: Table) -> None:
        """Compare two tables of one name."""
        for name, one, other in pairs(by_name(wanted.columns), by_name(held.columns)):
            subject = f"{wanted.name}.{name}"
            if one is None or other is None:
                self.missing("column", subject, one, other, table=wanted.name, column=name)
            else:
                self.column(wanted, one, other)
        self.order(wanted, held)
        self.primary_key(wanted, held)
        self.foreign_keys(wanted, held)
        self.uniques(wanted, held)
        self.checks(wanted, held)
        self.exclusions(wanted, held)
        self.indexes(wanted, held)
        self.partition_key(wanted, held)
        self.comment(wanted.name, wanted.comment, held.comment, table=wanted.name)
        self.security(wanted, held)
        if self.deep and wanted.extra != held.extra:
            self.say("extra", wanted.name, "settings differ", wanted.extra, held.extra)

    def order(self, wanted: Table, held: Table) -> None:
        mine = [column.name for column in wanted.columns]
        theirs = [column.name for column in held.columns]
        if set(mine) == set(theirs) and mine != theirs:
            self.say(
                "order",
                wanted.name,
                "order of the columns differs",
                ", ".join(mine),
                ", ".join(theirs),
                table=wanted.name,
                at=wanted.location,
            )

    def column(self, table: Table, wanted: Column, held: Column) -> None:
        subject = f"{table.name}.{wanted.name}"

        def say(kind: str, what: str, expected: object, actual: object) -> None:
            self.say(
                kind,
                subject,
                f"{what} differs",
                expected,
                actual,
                table=table.name,
                column=wanted.name,
                at=wanted.location,
            )

        if wanted.type and not same_type(wanted.type, held.type):
            raws = (wanted.raw_type or wanted.type, held.raw_type or held.type)
            say("type", "type", *(raws if raws[0] != raws[1] else (wanted.type, held.type)))
        if wanted.nullable != held.nullable:
            words = ("nullable", "not null")
            say("null", "nullability", words[not wanted.nullable], words[not held.nullable])
        if wanted.collation != held.collation:
            say("collation", "collation", wanted.collation, held.collation)
        self.value(table, wanted, held, say)
        self.comment(
            subject,
            wanted.comment,
            held.comment,
            table=table.name,
            column=wanted.name,
            at=wanted.location,
        )
        if self.deep and wanted.extra != held.extra:
            say("extra", "storage", wanted.extra, held.extra)

    def value(
        self,
        table: Table,
        wanted: Column,
        held: Column,
        say: Callable[[str, str, object, object], None],
    ) -> None:
        """Compare where a column's value comes from: default, identity or generation."""
        for mine, theirs in ((wanted, held), (held, wanted)):
            # A mapped key without a default is filled by the server, however it does it.
            if mine.implicit and (theirs.identity or theirs.default or theirs.implicit):
                return
        names = self.names(table)
        if wanted.identity != held.identity:
            say("generated", "identity", wanted.identity, held.identity)
            return
        if (wanted.generated or held.generated) and not self.equal(
            wanted.generated, held.generated, names, wanted.type or None
        ):
            say("generated", "generated expression", wanted.generated, held.generated)
            return
        if not self.equal(
            _stated(wanted.default),
            _stated(held.default),
            Scope("", (), names.schema),
            wanted.type or None,
        ):
            say("default", "default", wanted.default, held.default)

    def comment(
        self,
        subject: str,
        wanted: str | None,
        held: str | None,
        *,
        table: str,
        column: str | None = None,
        at: Location | None = None,
    ) -> None:
        """Compare a comment where the following side states one; models are compared exactly."""
        stated = held is not None or self.deep or (self.family == "DB" and wanted is not None)
        if self.family == "DB" and wanted is None:
            return
        if stated and _prose(wanted) != _prose(held):
            self.say(
                "comment",
                subject,
                "comment differs",
                wanted,
                held,
                table=table,
                column=column,
                at=at,
            )

    def primary_key(self, wanted: Table, held: Table) -> None:
        mine, theirs = wanted.primary_key, held.primary_key
        if mine is None and theirs is None:
            return
        if mine is None or theirs is None or not self.same_key(mine, theirs):
            self.say(
                "primary key",
                wanted.name,
                "primary key differs",
                mine,
                theirs,
                table=wanted.name,
                at=mine.location if mine else wanted.location,
            )
        elif mine.deferral != theirs.deferral or (self.deep and mine.include != theirs.include):
            self.say(
                "primary key",
                wanted.name,
                "primary key differs",
                mine,
                theirs,
                table=wanted.name,
                code=DEFERRED.get(self.family),
            )

    def same_key(self, mine: PrimaryKey, theirs: PrimaryKey) -> bool:
        # A document marks key columns in the order of its rows, which is not the key's order.
        if mine.name is None or theirs.name is None:
            same = sorted(mine.columns) == sorted(theirs.columns)
            return same if self.family in ("DM", "DC") else mine.columns == theirs.columns
        return mine.name == theirs.name and mine.columns == theirs.columns

    def foreign_keys(self, wanted: Table, held: Table) -> None:
        for name, mine, theirs in matched(wanted.foreign_keys, held.foreign_keys, _reference):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                self.missing("foreign key", subject, mine, theirs, table=wanted.name)
                continue
            self.rule(
                "foreign key", wanted, subject, mine, theirs, _reference(mine) == _reference(theirs)
            )

    def uniques(self, wanted: Table, held: Table) -> None:
        for name, mine, theirs in matched(wanted.uniques, held.uniques, _unique):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                self.missing("unique", subject, mine, theirs, table=wanted.name)
                continue
            self.rule("unique", wanted, subject, mine, theirs, _unique(mine) == _unique(theirs))

    def rule(
        self,
        kind: str,
        table: Table,
        subject: str,
        mine: ForeignKey | Unique | Check,
        theirs: ForeignKey | Unique | Check,
        same: bool,
    ) -> None:
        """Say how two rules of one name differ: in substance, in when, or in whom they bind."""
        code: str | None = None
        if same:
            if getattr(mine, "deferral", "") != getattr(theirs, "deferral", ""):
                code = DEFERRED.get(self.family)
            elif getattr(mine, "valid", True) != getattr(theirs, "valid", True):
                code = UNVALIDATED.get(self.family)
            else:
                return
        shown = "check" if kind == "check text" else kind
        self.say(
            kind,
            subject,
            f"{shown} differs",
            mine,
            theirs,
            table=table.name,
            at=mine.location,
            code=code,
        )

    def checks(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(check: Check) -> Any:
            return canonical(check.expression, names)

        for name, mine, theirs in matched(wanted.checks, held.checks, shape):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                self.missing("check", subject, mine, theirs, table=wanted.name)
                continue
            same = mine.inherited == theirs.inherited and self.equal(
                mine.expression, theirs.expression, names, "boolean"
            )
            self.rule("check text", wanted, subject, mine, theirs, same)

    def exclusions(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(exclusion: Exclusion) -> Any:
            return parse_exclusion(exclusion.definition, names)

        for name, mine, theirs in matched(wanted.exclusions, held.exclusions, shape):
            if mine is None or theirs is None or shape(mine) != shape(theirs):
                self.say(
                    "exclusion",
                    f"{wanted.name}.{name}",
                    "exclusion constraint differs",
                    mine,
                    theirs,
                    table=wanted.name,
                    at=getattr(mine, "location", None),
                )

    def indexes(self, wanted: Table, held: Table) -> None:
        names = self.names(wanted)

        def shape(index: Index) -> Any:
            return tuple(canonical(key.expression, names) for key in index.keys)

        for name, mine, theirs in matched(wanted.indexes, held.indexes, shape):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                self.missing("index", subject, mine, theirs, table=wanted.name)
                continue
            self.index(wanted, subject, mine, theirs)

    def index(self, table: Table, subject: str, mine: Index, theirs: Index) -> None:
        names = self.names(table)

        def say(kind: str, code: str | None = None) -> None:
            self.say(
                kind,
                subject,
                "index differs",
                mine,
                theirs,
                table=table.name,
                at=mine.location,
                code=code,
            )

        same_keys = len(mine.keys) == len(theirs.keys) and all(
            self.equal(one.expression, other.expression, names)
            for one, other in zip(mine.keys, theirs.keys, strict=True)
        )
        if (
            mine.unique != theirs.unique
            or mine.nulls_distinct != theirs.nulls_distinct
            or not same_keys
        ):
            say("index")
        elif _manner(mine) != _manner(theirs):
            say("method")
        if not self.equal(mine.predicate, theirs.predicate, names, "boolean"):
            say("predicate")
        if mine.include != theirs.include:
            say("include")
        if mine.valid != theirs.valid:
            say("index", UNVALIDATED.get(self.family))

    def partition_key(self, wanted: Table, held: Table) -> None:
        mine, theirs = wanted.partition_key, held.partition_key
        if mine is None and self.family in ("DM", "DB"):
            return  # Partitioning does not show through a mapping.
        if self.family == "DM" and theirs is None:
            return
        if not self.same_partition_key(wanted, mine, theirs):
            self.say(
                "partition",
                wanted.name,
                "partition key differs",
                mine,
                theirs,
                table=wanted.name,
                at=wanted.location,
            )

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


def _manner(index: Index) -> Any:
    """Say how an index keeps its keys."""
    keys = [(k.collation, k.opclass, k.descending, k.nulls_first) for k in index.keys]
    return (index.method, keys, sorted(index.options))


def _prose(text: str | None) -> str | None:
    return " ".join(text.replace("`", "").split()) if text is not None else None
