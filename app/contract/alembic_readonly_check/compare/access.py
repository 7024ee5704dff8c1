"""Compare who may do what: row level security, policies, grants, triggers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alembic_readonly_check.compare.pairing import by_name, pairs
from alembic_readonly_check.compare.saying import Pair
from alembic_readonly_check.facts import Grant, Policy, Table, Trigger
from alembic_readonly_check.findings import Location
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import trigger_shape


@dataclass(slots=True)
class Access(Pair):
    """The access to tables."""

    def security(self, wanted: Table, held: Table) -> None:
        if wanted.rls is not None and held.rls is not None and wanted.rls != held.rls:
            self.say(
                "rls",
                wanted.name,
                "row level security differs",
                rls_words(wanted.rls),
                rls_words(held.rls),
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
        for name, one, other in pairs(by_name(mine), by_name(theirs)):
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
        for grantee, one, other in pairs(wanted, held):
            if self.rules.ignores_grantee(grantee) and not self.deep:
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
        for name, one, other in pairs(by_name(mine), by_name(theirs)):
            same = (
                one is not None
                and other is not None
                and one.enabled == other.enabled
                and (
                    one.definition == other.definition
                    or _trigger(one, table.name, self.rules.default_schema)
                    == _trigger(other, table.name, self.rules.default_schema)
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


RLS_ORDER = {"off": 0, "enabled": 1, "forced": 2}


def rls_words(word: str) -> str:
    return "enabled, forced" if word == "forced" else word


def _trigger(trigger: Trigger, table: str, schema: str) -> Any:
    try:
        return trigger_shape(trigger.definition, table, schema)
    except Unparsable:
        return trigger.definition


def _common(held: Grant, wanted: Grant | None) -> frozenset[tuple[str, str | None]]:
    """Leave MAINTAIN, which Postgres 17 added to ALL, out where nobody asked for it."""
    if wanted is not None and any(name == "MAINTAIN" for name, _ in wanted.privileges):
        return held.privileges
    return frozenset(p for p in held.privileges if not p[0].startswith("MAINTAIN"))
