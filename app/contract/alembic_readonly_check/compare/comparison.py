"""Compare two descriptions fact by fact; each difference becomes one finding of one code.

One walk serves every pair. The family decides which code a difference bears and which facts count:
the models know no policies, a document knows no function bodies, two catalogs know everything.
"""

from dataclasses import dataclass

from alembic_readonly_check.compare.access import RLS_ORDER, common
from alembic_readonly_check.compare.pairing import pairs
from alembic_readonly_check.compare.tables import Tables
from alembic_readonly_check.facts import Column, Table
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.sql.types import same_type


@dataclass(slots=True)
class Comparison(Tables):
    """One pair under comparison; `run` walks it and returns the findings."""

    def run(self) -> list[Finding]:
        """Walk both descriptions once."""
        for name, wanted, held in pairs(self.lead.schema.tables, self.follow.schema.tables):
            self.current = wanted or held
            if held is None and self.family == "DB":
                # A model may be mapped on one partition, which is a table like another.
                held = self.follow.schema.partitions.get(name)
            if wanted is None or held is None:
                self.view_or_missing(name, wanted, held)
            else:
                self.table(wanted, held)
        self.current = None
        if self.deep:
            self.partitions()
        else:
            self.back_doors()
        self.objects()
        return self.findings

    def view_or_missing(self, name: str, wanted: Table | None, held: Table | None) -> None:
        """Compare a model that is mapped on a view with its columns; else the table is missing."""
        side = self.follow if wanted else self.lead
        view = (side.schema.views or {}).get(name)
        if view is None or self.family not in ("DM", "DB"):
            self.missing("table", name, wanted, held)
            return
        shown = {column: Column(column, type_, True) for column, type_ in view.columns}
        mine, theirs = ({c.name: c for c in t.columns} if t else shown for t in (wanted, held))
        for column, one, other in pairs(mine, theirs):
            subject = f"{name}.{column}"
            if one is None or other is None:
                self.missing("column", subject, one, other, column)
            elif one.type and not same_type(one.type, other.type):
                self.say("type", subject, one.type, other.type, column=column)

    def partitions(self) -> None:
        """Compare partitions one by one."""
        for name, one, other in pairs(self.lead.schema.partitions, self.follow.schema.partitions):
            if self.rules.rolling_partitions and (one is None or other is None):
                continue  # Partitions come and go with time, by the project's own doing.
            if one is None or other is None or one.bounds != other.bounds:
                self.say("partition", name, one and one.bounds, other and other.bounds)
            elif one.partition_of == other.partition_of:
                self.table(one, other)

    def back_doors(self) -> None:
        """Find partitions that are more open than their parents."""
        for partition in self.follow.schema.partitions.values():
            parent = self.lead.schema.tables.get(self.root_of(partition))
            if parent is None or parent.rls is None or parent.grants is None:
                continue
            self.current, held = parent, partition.rls or "off"
            if RLS_ORDER[held] < RLS_ORDER[parent.rls]:
                what = "row level security of a partition differs"
                self.row_security(partition.name, parent.rls, held, what)
            allowed = {grant.grantee: grant for grant in parent.grants}
            for grant in partition.grants or ():
                wider = allowed.get(grant.grantee)
                privileges = wider.privileges if wider else frozenset()
                if grant.grantee not in self.rules.hosting.roles and not (
                    common(grant, wider) <= privileges
                ):
                    subject = f"{partition.name}.{grant.grantee}"
                    what = "a partition grants more than its parent"
                    self.say("grant", subject, None, grant, what)
        self.current = None

    def root_of(self, partition: Table) -> str:
        parent = partition
        while parent.partition_of in self.follow.schema.partitions:
            parent = self.follow.schema.partitions[parent.partition_of]
        return parent.partition_of or parent.name
