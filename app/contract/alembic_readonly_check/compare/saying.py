"""What every part of a comparison needs: saying a difference, and telling whether it is one."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from alembic_readonly_check.codes import finding
from alembic_readonly_check.compare.sides import CODES, Family, Forbidden, Planner, Rules, Side
from alembic_readonly_check.facts import Column, Table
from alembic_readonly_check.findings import Finding, Location
from alembic_readonly_check.sql.expressions import Scope, canonical


@dataclass(slots=True)
class Pair:
    """Two sides under comparison, and what was found so far."""

    family: Family
    lead: Side
    follow: Side
    rules: Rules = field(default_factory=Rules)
    planner: Planner | None = None
    current: Table | None = None
    findings: list[Finding] = field(default_factory=list)
    unable: set[str] = field(default_factory=set)

    @property
    def deep(self) -> bool:
        """Tell whether both sides are catalogs, so that everything counts."""
        return self.family == "MG"

    def say(
        self,
        kind: str,
        subject: str,
        expected: object,
        actual: object,
        what: str | None = None,
        *,
        column: str | None = None,
        code: str | None = None,
    ) -> None:
        """Add a finding with both raw values; a kind that the family does not know adds none.

        It lies where the leading fact is written, else where its table is that is compared.
        """
        code = "MG403" if self.deep else code or CODES[kind].get(self.family)
        if code is None or self.lead.is_unreadable(subject):
            return
        at: Location | None = getattr(expected, "location", None)
        other: Location | None = None
        if (table := self.current) is not None:
            at = at or ((table.column(column) if column else None) or table).location
            at = at or self.lead.locate(table.name, column) or self.lead.locate(table.name, None)
            other = self.follow.locate(table.name, column) or self.follow.locate(table.name, None)
        wanted, held = _shown(expected), _shown(actual)
        if wanted == held:
            wanted, held = _told_apart(expected, actual)
        place = f" ({other})" if other is not None else ""
        self.findings.append(
            finding(
                code,
                subject,
                f"{what or f'{kind} differs'}:"
                f" {self.lead.label} {wanted}, {self.follow.label} {held}{place}",
                at or other,
                expected=wanted,
                actual=held,
                fix=self.fix(wanted),
            )
        )

    def fix(self, wanted: str) -> str | None:
        todo = "remove it from the model" if wanted == "none" else f"write {wanted}"
        return f"models must follow the document; {todo}" if self.family == "DM" else None

    def missing(
        self, kind: str, subject: str, mine: Any, theirs: Any, column: str | None = None
    ) -> None:
        """Say that an object is on one side only."""
        what = f"the {kind} is {'missing' if theirs is None else 'extra'}"
        self.say(kind, subject, mine, theirs, what, column=column)

    def equal(
        self, first: str | None, second: str | None, names: Scope, type_: str | None = None
    ) -> bool:
        """Tell whether two expressions mean the same: by text, by shape, then by the server."""
        if first is None or second is None:
            return first == second
        if first == second or canonical(first, names) == canonical(second, names):
            return True
        if type_ is not None:
            typed = [canonical(f"({text}\n)::{type_}", names) for text in (first, second)]
            if typed[0] == typed[1]:
                return True
        if self.planner is None:
            return False
        try:
            one, other = (self.planner.plan(text, names, type_) for text in (first, second))
        except Forbidden as error:
            self.unable.add(f"{first} and {second}: {error}")
            return True
        if one is None or other is None:
            return False
        return one == other or canonical(one, names) == canonical(other, names)

    def names(self, table: Table) -> Scope:
        """Say what an expression on a table may refer to, with the types that the follower has."""
        held = self.follow.schema.tables.get(table.name, table)
        return Scope(
            table.name,
            tuple((column.name, column.type) for column in held.columns if column.type),
            self.rules.default_schema,
            self.deep,
        )


def _told_apart(expected: Any, actual: Any) -> tuple[str, str]:
    """Add what differs to two facts that are written alike."""
    wanted, held = _shown(expected), _shown(actual)
    if not is_dataclass(expected) or type(expected) is not type(actual):
        return repr(expected), repr(actual)
    names = [
        one.name
        for one in fields(expected)
        if one.name != "location" and getattr(expected, one.name) != getattr(actual, one.name)
    ]
    mine, theirs = (
        ", ".join(f"{name} {getattr(fact, name)}" for name in names) for fact in (expected, actual)
    )
    return f"{wanted} [{mine}]", f"{held} [{theirs}]"


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case Table():
            return value.name
        case Column():
            return f"{value.name} {value.raw_type or value.type}"
        case _:
            return str(value)
