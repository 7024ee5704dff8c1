"""Compare two descriptions fact by fact; each difference becomes one finding of one code.

One walk serves every pair. The family decides which code a difference bears and which facts count:
the models know no policies, a document knows no function bodies, two catalogs know everything.
"""

from dataclasses import dataclass

from alembic_readonly_check.compare.access import RLS_ORDER
from alembic_readonly_check.compare.pairing import pairs
from alembic_readonly_check.compare.tables import Tables
from alembic_readonly_check.facts import Table
from alembic_readonly_check.findings import Finding


@dataclass(slots=True)
class Comparison(Tables):
    """One pair under comparison; `run` walks it and returns the findings."""

    def run(self) -> list[Finding]:
        """Walk both descriptions once."""
        for name, wanted, held in pairs(self.lead.schema.tables, self.follow.schema.tables):
            self.current = wanted or held
            if wanted is None or held is None:
                self.missing("table", name, wanted, held)
            else:
                self.table(wanted, held)
        self.current = None
        if self.deep:
            self.partitions()
        else:
            self.back_doors()
        self.objects()
        return self.findings

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
            allowed = {grant.grantee: grant.privileges for grant in parent.grants}
            for grant in partition.grants or ():
                if not self.rules.ignores_grantee(grant.grantee) and not (
                    grant.privileges <= allowed.get(grant.grantee, frozenset())
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
