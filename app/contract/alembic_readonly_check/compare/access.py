"""Compare who may do what: row level security, policies, grants, triggers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alembic_readonly_check.compare.pairing import T, by_name, pairs
from alembic_readonly_check.compare.saying import Pair
from alembic_readonly_check.facts import Grant, Policy, Table, Trigger
from alembic_readonly_check.sql.expressions import Scope
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import ALL_PRIVILEGES, trigger_shape


@dataclass(slots=True)
class Access(Pair):
    """The access to tables."""

    def security(self, wanted: Table, held: Table) -> None:
        """Compare what both sides know of a table's access."""
        if wanted.rls is not None and held.rls is not None and wanted.rls != held.rls:
            self.row_security(wanted.name, wanted.rls, held.rls, "row level security differs")
        if wanted.policies is not None and held.policies is not None:
            names = self.names(wanted)

            def same_policy(one: Policy, other: Policy) -> bool:
                return (one.command, one.permissive, sorted(one.roles)) == (
                    other.command,
                    other.permissive,
                    sorted(other.roles),
                ) and all(
                    self.equal(mine, theirs, names, "boolean")
                    for mine, theirs in ((one.using, other.using), (one.check, other.check))
                )

            self.each("policy", wanted, wanted.policies, held.policies, same_policy)
        if wanted.grants is not None and held.grants is not None:
            self.grants(wanted.name, wanted.grants, held.grants)
        if wanted.triggers is not None and held.triggers is not None:
            names = self.names(wanted)

            def same_trigger(one: Trigger, other: Trigger) -> bool:
                shapes = (_trigger(trigger, names) for trigger in (one, other))
                return one.enabled == other.enabled and (
                    one.definition == other.definition or next(shapes) == next(shapes)
                )

            self.each("trigger", wanted, wanted.triggers, held.triggers, same_trigger)

    def each(
        self,
        kind: str,
        table: Table,
        mine: Sequence[T],
        theirs: Sequence[T],
        same: Callable[[T, T], bool],
    ) -> None:
        """Compare facts of one kind by name."""
        for name, one, other in pairs(by_name(mine), by_name(theirs)):
            if one is None or other is None or not same(one, other):
                self.say(kind, f"{table.name}.{name}", one, other)

    def row_security(self, table: str, wanted: str, held: str, what: str) -> None:
        told = {"forced": "enabled, forced"}
        self.say("rls", table, told.get(wanted, wanted), told.get(held, held), what)

    def grants(self, owner: str, mine: Iterable[Grant], theirs: Iterable[Grant]) -> None:
        """Compare what each role may do with an object."""
        sides = ({grant.grantee: grant for grant in side} for side in (mine, theirs))
        for grantee, one, other in pairs(*sides):
            if grantee in self.rules.hosting.roles and not self.deep:
                continue
            if (one.privileges if one else None) != (common(other, one) if other else None):
                self.say("grant", f"{owner}.{grantee}", one, other)


RLS_ORDER = {"off": 0, "enabled": 1, "forced": 2}


def _trigger(trigger: Trigger, names: Scope) -> Any:
    try:
        return trigger_shape(trigger.definition, names.table, names.schema, names.exact)
    except Unparsable:
        return trigger.definition


def common(held: Grant, wanted: Grant | None) -> frozenset[tuple[str, str | None]]:
    """Leave MAINTAIN out, which Postgres 17 added to ALL, where ALL of before is wanted."""
    wanted_ = wanted.privileges if wanted is not None else frozenset()
    added = {
        (f"MAINTAIN{option}", None)
        for option in ("", " WITH GRANT OPTION")
        if wanted_.issuperset((f"{name}{option}", None) for name in ALL_PRIVILEGES)
    }
    return held.privileges - (added - wanted_)
