"""Compare two descriptions fact by fact; each difference becomes one finding of one code.

One walk serves every pair. The family decides which code a difference bears and which facts count:
the models know no policies, a document knows no function bodies, two catalogs know everything.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from alembic_readonly_check import expressions as sql
from alembic_readonly_check.codes import finding
from alembic_readonly_check.expressions import Scope, Unparsable
from alembic_readonly_check.facts import (
    Check,
    Column,
    Domain,
    Exclusion,
    ForeignKey,
    Grant,
    Index,
    Policy,
    PrimaryKey,
    Schema,
    Table,
    Trigger,
    Unique,
)
from alembic_readonly_check.findings import Finding, Location

Family = Literal["DM", "DB", "DC", "MG"]
T = TypeVar("T")

CODES: dict[str, dict[Family, str]] = {
    "table": {"DM": "DM101", "DB": "DB201", "DC": "DC301"},
    "column": {"DM": "DM102", "DB": "DB202", "DC": "DC302"},
    "type": {"DM": "DM103", "DB": "DB203", "DC": "DC303"},
    "collation": {"DM": "DM103", "DB": "DB230", "DC": "DC303"},
    "null": {"DM": "DM104", "DB": "DB204", "DC": "DC304"},
    "default": {"DM": "DM105", "DB": "DB205", "DC": "DC305"},
    "primary key": {"DM": "DM106", "DB": "DB206", "DC": "DC306"},
    "foreign key": {"DM": "DM107", "DB": "DB207", "DC": "DC307"},
    "unique": {"DM": "DM108", "DB": "DB208", "DC": "DC308"},
    "check": {"DM": "DM109", "DB": "DB209", "DC": "DC309"},
    "check text": {"DM": "DM109", "DB": "DB231", "DC": "DC309"},
    "exclusion": {"DM": "DM109", "DB": "DB236", "DC": "DC309"},
    "index": {"DM": "DM110", "DB": "DB210", "DC": "DC310"},
    "predicate": {"DM": "DM110", "DB": "DB233", "DC": "DC310"},
    "include": {"DM": "DM110", "DB": "DB234", "DC": "DC310"},
    "method": {"DM": "DM110", "DB": "DB235", "DC": "DC310"},
    "enum": {"DM": "DM111", "DB": "DB211", "DC": "DC311"},
    "comment": {"DM": "DM112", "DB": "DB212", "DC": "DC312"},
    "generated": {"DM": "DM113", "DB": "DB213", "DC": "DC313"},
    "order": {"DM": "DM114", "DC": "DC314"},
    "rls": {"DC": "DC320"},
    "policy": {"DC": "DC321"},
    "grant": {"DC": "DC322"},
    "trigger": {"DC": "DC323"},
    "function": {"DC": "DC324"},
    "view": {"DC": "DC325"},
    "extension": {"DC": "DC326"},
    "partition": {"DM": "DM101", "DB": "DB237", "DC": "DC327"},
    "publication": {"DC": "DC328"},
    "sequence": {"DC": "DC329"},
    "domain": {"DM": "DM103", "DB": "DB238", "DC": "DC330"},
    "other": {"DC": "DC390"},
    "extra": {},
}
"""Kind of difference -> its code in each family; two catalogs (MG) always end in MG403."""

# A rule that holds later or not for old rows: its own code for the models, else that of its kind.
DEFERRED = {"DB": "DB239"}
UNVALIDATED = {"DB": "DB232"}


class Planner(Protocol):
    """What can put an expression to a server without executing it."""

    def plan(self, expression: str, names: Scope, type_: str | None = None) -> str | None:
        """Write the expression as the server understands it; None if it refuses."""
        ...


@dataclass(frozen=True, slots=True)
class Side:
    """One description: what it says, what to call it in a message, where its facts are written.

    `is_unreadable` tells which subjects it states in a way that nobody can read; those are findings
    of their own and no drift.
    """

    schema: Schema
    label: str
    locate: Callable[[str, str | None], Location | None] = lambda _table, _column: None
    is_unreadable: Callable[[str], bool] = lambda _: False


@dataclass(frozen=True, slots=True)
class Rules:
    """What the comparison leaves out or takes for granted, from the configuration."""

    default_schema: str = "public"
    ignore_grantees: tuple[str, ...] = ()
    ignore_extensions: tuple[str, ...] = ("plpgsql",)
    rolling_partitions: bool = True


@dataclass(slots=True)
class Comparison:
    """One pair under comparison; `run` walks it and returns the findings."""

    family: Family
    lead: Side
    follow: Side
    rules: Rules = Rules()
    planner: Planner | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def deep(self) -> bool:
        """Tell whether both sides are catalogs, so that everything counts."""
        return self.family == "MG"

    def run(self) -> list[Finding]:
        """Walk both descriptions once."""
        for name, wanted, held in _pairs(self.lead.schema.tables, self.follow.schema.tables):
            if wanted is None or held is None:
                self.missing("table", name, wanted, held, table=name)
            else:
                self.table(wanted, held)
        self.partitions()
        self.objects()
        return self.findings

    # ------------------------------------------------------------------ saying it

    def say(
        self,
        kind: str,
        subject: str,
        what: str,
        expected: object,
        actual: object,
        *,
        table: str | None = None,
        column: str | None = None,
        at: Location | None = None,
        code: str | None = None,
    ) -> None:
        """Add a finding with both raw values; a kind that the family does not know adds none."""
        code = "MG403" if self.deep else code or CODES[kind].get(self.family)
        if code is None or self.lead.is_unreadable(subject):
            return
        lead_at, follow_at = at, None
        if table is not None:
            lead_at = at or self.lead.locate(table, column) or self.lead.locate(table, None)
            follow_at = self.follow.locate(table, column) or self.follow.locate(table, None)
        wanted, held = _shown(expected), _shown(actual)
        place = f" ({follow_at})" if follow_at is not None else ""
        self.findings.append(
            finding(
                code,
                subject,
                f"{what}: {self.lead.label} {wanted}, {self.follow.label} {held}{place}",
                lead_at or follow_at,
                expected=wanted,
                actual=held,
                fix=self.fix(kind, wanted),
            )
        )

    def fix(self, kind: str, wanted: str) -> str | None:
        if self.family == "DM":
            if wanted == "none":
                return "models must follow the document; remove it from the model"
            return f"models must follow the document; write {wanted}"
        return None

    def missing(
        self,
        kind: str,
        subject: str,
        expected: Any,
        actual: Any,
        *,
        table: str | None = None,
        column: str | None = None,
    ) -> None:
        """Say that an object is on one side only."""
        what = f"the {kind} is {'missing' if actual is None else 'extra'}"
        self.say(
            kind,
            subject,
            what,
            None if expected is None else _named(expected),
            None if actual is None else _named(actual),
            table=table,
            column=column,
            at=getattr(expected, "location", None),
        )

    # ------------------------------------------------------------------ expressions

    def equal(
        self, first: str | None, second: str | None, names: Scope, type_: str | None = None
    ) -> bool:
        """Tell whether two expressions mean the same: by text, by shape, then by the server."""
        if first is None or second is None:
            return first == second
        if first == second or sql.canonical(first, names) == sql.canonical(second, names):
            return True
        if self.planner is None:
            return False
        planned = self.planner.plan(first, names, type_)
        return planned is not None and planned == self.planner.plan(second, names, type_)

    def names(self, table: Table) -> Scope:
        """Say what an expression on a table may refer to, with the types that the follower has."""
        held = self.follow.schema.tables.get(table.name, table)
        return Scope(
            table.name,
            tuple((column.name, column.type) for column in held.columns if column.type),
            self.rules.default_schema,
        )

    # ------------------------------------------------------------------ tables

    def table(self, wanted: Table, held: Table) -> None:
        """Compare two tables of one name."""
        for name, one, other in _pairs(_by_name(wanted.columns), _by_name(held.columns)):
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

        if wanted.type and _bare(wanted.type) != _bare(held.type):
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
            wanted.default, held.default, Scope("", (), names.schema), wanted.type or None
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
        elif mine.deferral != theirs.deferral:
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
        for name, mine, theirs in _matched(wanted.foreign_keys, held.foreign_keys, _reference):
            subject = f"{wanted.name}.{name}"
            if mine is None or theirs is None:
                self.missing("foreign key", subject, mine, theirs, table=wanted.name)
                continue
            self.rule(
                "foreign key", wanted, subject, mine, theirs, _reference(mine) == _reference(theirs)
            )

    def uniques(self, wanted: Table, held: Table) -> None:
        for name, mine, theirs in _matched(wanted.uniques, held.uniques, _unique):
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
            return sql.canonical(check.expression, names)

        for name, mine, theirs in _matched(wanted.checks, held.checks, shape):
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
            return sql.parse_exclusion(exclusion.definition, names)

        for name, mine, theirs in _matched(wanted.exclusions, held.exclusions, shape):
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
            return tuple(sql.canonical(key.expression, names) for key in index.keys)

        for name, mine, theirs in _matched(wanted.indexes, held.indexes, shape):
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
            (one, keys), (other, others) = map(sql.parse_partition_key, (mine, theirs))
        except Unparsable:
            return False
        names = self.names(table)
        return (
            one == other
            and len(keys) == len(others)
            and all(self.equal(key, held, names) for key, held in zip(keys, others, strict=True))
        )

    # ------------------------------------------------------------------ access

    def security(self, wanted: Table, held: Table) -> None:
        if wanted.rls is not None and held.rls is not None and wanted.rls != held.rls:
            self.say(
                "rls",
                wanted.name,
                "row level security differs",
                _rls(wanted.rls),
                _rls(held.rls),
                table=wanted.name,
                at=wanted.location,
            )
        if wanted.policies is not None and held.policies is not None:
            self.policies(wanted, wanted.policies, held.policies)
        if wanted.grants is not None and held.grants is not None:
            self.grants(wanted.name, wanted.grants, held.grants, wanted.location)
        if wanted.triggers is not None and held.triggers is not None:
            self.triggers(wanted, wanted.triggers, held.triggers)

    def policies(self, table: Table, mine: Sequence[Policy], theirs: Sequence[Policy]) -> None:
        names = self.names(table)
        for name, one, other in _pairs(_by_name(mine), _by_name(theirs)):
            same = (
                one is not None
                and other is not None
                and (
                    (one.command, one.permissive, sorted(one.roles))
                    == (other.command, other.permissive, sorted(other.roles))
                    and self.equal(one.using, other.using, names, "boolean")
                    and self.equal(one.check, other.check, names, "boolean")
                )
            )
            if not same:
                self.say(
                    "policy",
                    f"{table.name}.{name}",
                    "policy differs",
                    one,
                    other,
                    table=table.name,
                    at=one.location if one else table.location,
                )

    def grants(
        self, owner: str, mine: Iterable[Grant], theirs: Iterable[Grant], at: Location | None
    ) -> None:
        wanted = {grant.grantee: grant for grant in mine}
        held = {grant.grantee: grant for grant in theirs}
        for grantee, one, other in _pairs(wanted, held):
            if grantee in self.rules.ignore_grantees and not self.deep:
                continue
            if (one.privileges if one else None) != (_common(other, one) if other else None):
                self.say(
                    "grant",
                    f"{owner}.{grantee}",
                    "grant differs",
                    one,
                    other,
                    table=owner,
                    at=one.location if one else at,
                )

    def triggers(self, table: Table, mine: Sequence[Trigger], theirs: Sequence[Trigger]) -> None:
        for name, one, other in _pairs(_by_name(mine), _by_name(theirs)):
            same = (
                one is not None
                and other is not None
                and one.enabled == other.enabled
                and (
                    one.definition == other.definition
                    or _trigger(one, table.name) == _trigger(other, table.name)
                )
            )
            if not same:
                self.say(
                    "trigger",
                    f"{table.name}.{name}",
                    "trigger differs",
                    one,
                    other,
                    table=table.name,
                    at=one.location if one else table.location,
                )

    def partitions(self) -> None:
        """Compare partitions: all of them between catalogs, else only that none is a back door."""
        wanted, held = self.lead.schema.partitions, self.follow.schema.partitions
        if self.deep:
            for name, one, other in _pairs(wanted, held):
                if self.rules.rolling_partitions and (one is None or other is None):
                    continue  # Partitions come and go with time, by the project's own doing.
                if one is None or other is None or one.bounds != other.bounds:
                    self.say(
                        "partition",
                        name,
                        "partition differs",
                        one and one.bounds,
                        other and other.bounds,
                    )
                elif one.partition_of == other.partition_of:
                    self.table(one, other)
            return
        for partition in held.values():
            parent = self.lead.schema.tables.get(self.root_of(partition))
            if parent is None or parent.rls is None or parent.grants is None:
                continue
            if _RLS_ORDER[partition.rls or "off"] < _RLS_ORDER[parent.rls]:
                self.say(
                    "rls",
                    partition.name,
                    "row level security of a partition differs",
                    _rls(parent.rls),
                    _rls(partition.rls or "off"),
                    table=parent.name,
                    at=parent.location,
                )
            allowed = {grant.grantee: grant.privileges for grant in parent.grants}
            for grant in partition.grants or ():
                if grant.grantee not in self.rules.ignore_grantees and not (
                    grant.privileges <= allowed.get(grant.grantee, frozenset())
                ):
                    self.say(
                        "grant",
                        f"{partition.name}.{grant.grantee}",
                        "a partition grants more than its parent",
                        None,
                        grant,
                        table=parent.name,
                        at=parent.location,
                    )

    def root_of(self, partition: Table) -> str:
        parent = partition
        while parent.partition_of in self.follow.schema.partitions:
            parent = self.follow.schema.partitions[parent.partition_of]
        return parent.partition_of or parent.name

    # ------------------------------------------------------------------ other objects

    def objects(self) -> None:
        """Compare what is not a table, kind by kind, where both sides know the kind."""
        lead, follow = self.lead.schema, self.follow.schema
        if lead.enums is not None and follow.enums is not None:
            for name, one, other in _pairs(lead.enums, follow.enums):
                if self.covers(one) and (one and one.values) != (other and other.values):
                    self.say(
                        "enum", name, "enum differs", one, other, at=one.location if one else None
                    )
        if lead.domains is not None and follow.domains is not None:
            for name, mine, theirs in _pairs(lead.domains, follow.domains):
                if self.covers(mine) and not self.same_domain(mine, theirs):
                    self.say(
                        "domain",
                        name,
                        "domain differs",
                        mine,
                        theirs,
                        at=mine.location if mine else None,
                    )
        self.kind("sequence", lead.sequences, follow.sequences)
        self.functions()
        self.views()
        self.extensions()
        self.publications()
        self.others()

    def others(self) -> None:
        """Compare the rest between catalogs; against a document, say that nothing compares it."""
        lead, follow = self.lead.schema, self.follow.schema
        if self.deep:
            self.kind("sequence", lead.owned_sequences, follow.owned_sequences)
            mine = {(held.kind, held.name): held.definition for held in lead.others}
            theirs = {(held.kind, held.name): held.definition for held in follow.others}
            for (kind, name), one, other in _pairs(mine, theirs):
                if one != other:
                    self.say("other", name, f"{kind} differs", one, other)
        elif self.family == "DC":
            for held in follow.others:
                if held.kind not in ("attribute", "comment", "schema"):
                    what = f"a {held.kind} is compared by no document"
                    self.say("other", held.name, what, None, held.definition)

    def covers(self, wanted: object) -> bool:
        """Leave out types that a database has for others: models name only what they map."""
        return (self.family != "DB" and self.family != "DM") or wanted is not None

    def same_domain(self, mine: Domain | None, theirs: Domain | None) -> bool:
        if mine is None or theirs is None:
            return False
        names = Scope("", (("value", theirs.type),), self.rules.default_schema)
        return (
            _bare(mine.type) == _bare(theirs.type)
            and mine.nullable == theirs.nullable
            and mine.collation == theirs.collation
            and self.equal(mine.default, theirs.default, names, mine.type)
            and len(mine.checks) == len(theirs.checks)
            and all(
                one.valid == other.valid
                and (one.name is None or one.name == other.name)
                and sql.canonical(one.expression, names) == sql.canonical(other.expression, names)
                for one, other in zip(
                    sorted(mine.checks, key=lambda c: c.name or ""),
                    sorted(theirs.checks, key=lambda c: c.name or ""),
                    strict=True,
                )
            )
        )

    def kind(self, kind: str, mine: dict[str, T] | None, theirs: dict[str, T] | None) -> None:
        """Compare objects that are equal when they are written the same."""
        if mine is None or theirs is None:
            return
        for name, one, other in _pairs(mine, theirs):
            if (one and str(one)) != (other and str(other)):
                self.say(
                    kind, name, f"{kind} differs", one, other, at=getattr(one, "location", None)
                )

    def functions(self) -> None:
        mine, theirs = self.lead.schema.functions, self.follow.schema.functions
        if mine is None or theirs is None:
            return
        for name, one, other in _pairs(mine, theirs):
            if one is None and other is not None and other.returns == "trigger" and not self.deep:
                continue  # The lines of triggers name it.
            if (one and str(one)) != (other and str(other)):
                self.say(
                    "function",
                    name,
                    "function differs",
                    one,
                    other,
                    at=one.location if one else None,
                )
            elif self.deep and one and other and one.body != other.body:
                self.say("function", name, "function differs inside", one.body, other.body)

    def views(self) -> None:
        mine, theirs = self.lead.schema.views, self.follow.schema.views
        if mine is None or theirs is None:
            return
        for name, one, other in _pairs(mine, theirs):
            if one is None or other is None or str(one) != str(other):
                self.say("view", name, "view differs", one, other, at=one.location if one else None)
                continue
            if self.deep and (one.definition, one.extra) != (other.definition, other.extra):
                self.say(
                    "view",
                    name,
                    "view differs inside",
                    f"{one.definition} {one.extra}",
                    f"{other.definition} {other.extra}",
                )
            if one.grants is not None and other.grants is not None:
                self.grants(name, one.grants, other.grants, one.location)

    def extensions(self) -> None:
        mine, theirs = self.lead.schema.extensions, self.follow.schema.extensions
        if mine is None or theirs is None:
            return
        for name, one, other in _pairs(mine, theirs):
            if one is None and name in self.rules.ignore_extensions and not self.deep:
                continue
            moved = one and other and one.schema is not None and one.schema != other.schema
            if one is None or other is None or moved:
                self.say(
                    "extension",
                    name,
                    "extension differs",
                    one,
                    other,
                    at=one.location if one else None,
                )

    def publications(self) -> None:
        mine, theirs = self.lead.schema.publications, self.follow.schema.publications
        if mine is None or theirs is None:
            return
        for name, one, other in _pairs(mine, theirs):
            if (one.tables if one else ()) != (other.tables if other else ()) or (
                self.deep and one != other
            ):
                self.say(
                    "publication",
                    name,
                    "publication differs",
                    one,
                    other,
                    at=one.location if one else None,
                )


_RLS_ORDER = {"off": 0, "enabled": 1, "forced": 2}


def _rls(word: str) -> str:
    return "enabled, forced" if word == "forced" else word


def _pairs(mine: dict[Any, T], theirs: dict[Any, T]) -> Iterator[tuple[Any, T | None, T | None]]:
    for name in sorted({*mine, *theirs}):
        yield name, mine.get(name), theirs.get(name)


def _by_name(items: Iterable[T]) -> dict[str, T]:
    return {item.name: item for item in items}  # type: ignore[attr-defined]


def _parted(items: Iterable[T]) -> tuple[dict[str, T], list[T]]:
    """Tell rules with a name, by it, from those without."""
    named: dict[str, T] = {}
    nameless: list[T] = []
    for item in items:
        name = item.name  # type: ignore[attr-defined]
        if name is None:
            nameless.append(item)
        else:
            named[name] = item
    return named, nameless


def _matched(
    mine: Iterable[T], theirs: Iterable[T], shape: Callable[[T], Any]
) -> Iterator[tuple[str, T | None, T | None]]:
    """Pair rules by name, and those that one side leaves nameless by what they say."""
    left, nameless = _parted(mine)
    right, rest = _parted(theirs)
    for item in nameless:
        twin = next(
            (
                o
                for o in [*right.values(), *rest]
                if shape(o) == shape(item) and getattr(o, "name", None) not in left
            ),
            None,
        )
        if twin is None:
            yield str(shape(item)), item, None
        elif twin in rest:
            rest.remove(twin)
            yield str(shape(item)), replace(twin, location=item.location), twin  # type: ignore[type-var, attr-defined]
        else:
            name = str(twin.name)  # type: ignore[attr-defined]
            del right[name]
            yield name, item, twin
    for item in rest:
        twin = next(
            (o for n, o in left.items() if n not in right and shape(o) == shape(item)), None
        )
        if twin is None:
            yield str(shape(item)), None, item
        else:
            name = str(twin.name)  # type: ignore[attr-defined]
            del left[name]
            yield name, twin, item
    yield from _pairs(left, right)


def _reference(key: ForeignKey) -> Any:
    return (key.columns, key.target, key.target_columns, key.on_delete, key.on_update, key.match)


def _unique(unique: Unique) -> Any:
    return (unique.columns, unique.include, unique.nulls_distinct)


def _manner(index: Index) -> Any:
    """Say how an index keeps its keys."""
    keys = [(k.collation, k.opclass, k.descending, k.nulls_first) for k in index.keys]
    return (index.method, keys, sorted(index.options))


def _trigger(trigger: Trigger, table: str) -> Any:
    try:
        return sql.trigger_shape(trigger.definition, table)
    except Unparsable:
        return trigger.definition


def _common(held: Grant, wanted: Grant | None) -> frozenset[tuple[str, str | None]]:
    """Leave MAINTAIN, which Postgres 17 added to ALL, out where nobody asked for it."""
    if wanted is not None and any(name == "MAINTAIN" for name, _ in wanted.privileges):
        return held.privileges
    return frozenset(p for p in held.privileges if not p[0].startswith("MAINTAIN"))


def _bare(type_: str) -> str:
    """Spell a type without the schema that its extension happens to lie in."""
    return sql.qualified(type_, "public") if "." in type_ else type_


def _prose(text: str | None) -> str | None:
    return " ".join(text.replace("`", "").split()) if text is not None else None


def _named(fact: Any) -> str:
    if isinstance(fact, Table):
        return fact.name
    if isinstance(fact, Column):
        return f"{fact.name} {fact.raw_type or fact.type}"
    return str(fact)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
