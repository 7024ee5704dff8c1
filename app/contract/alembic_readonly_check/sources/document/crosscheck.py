"""Find what points to nowhere inside the document."""

from alembic_readonly_check.facts import Table
from alembic_readonly_check.sources.document.facts import Facts
from alembic_readonly_check.sql.parsing import identifier
from alembic_readonly_check.sql.types import is_known_type


class CrossCheck(Facts):
    """References inside the document."""

    def cross_check(self) -> None:
        """Find what points to nowhere inside the document."""
        user_types = {*self.attempted, *self.tables}
        for table in self.tables.values():
            for column in table.columns:
                base = column.type.removesuffix("[]").replace('"', "")
                if (
                    column.type
                    and not is_known_type(base)
                    and base not in user_types
                    # A type of a schema that is described nowhere here is somebody else's.
                    and base.partition(".")[0] in {name.partition(".")[0] for name in user_types}
                ):
                    self.wrong(
                        "unknown type",
                        f"{table.name}.{column.name}",
                        column.location,
                        column.raw_type,
                    )
            if table.columns:
                self.check_keys(table)

    def check_keys(self, table: Table) -> None:
        own = {column.name for column in table.columns}
        for key in table.foreign_keys:
            target = self.tables.get(key.target)
            schemas = {name.partition(".")[0] for name in self.tables}
            missing = [column for column in key.columns if column not in own]
            if target is not None:
                known = {column.name for column in target.columns}
                missing += [
                    f"{key.target}.{c}" for c in key.target_columns if known and c not in known
                ]
            elif key.target.partition(".")[0] in schemas:
                missing.append(key.target)
            if missing:
                self.wrong("nowhere", f"{table.name}.{key.name}", key.location, ", ".join(missing))
        for unique in table.uniques:
            if gone := [c for c in unique.columns if c not in own]:
                self.wrong(
                    "no column", f"{table.name}.{unique.name}", unique.location, ", ".join(gone)
                )
        keyed = {column for key in table.foreign_keys for column in key.columns}
        unique_columns = {identifier(c) for u in table.uniques for c in u.columns} | {
            key.expression for index in table.indexes if index.unique for key in index.keys
        }
        for column, words in self.keys[table.name]:
            subject = f"{table.name}.{column.name}"
            if "FK" in words and column.name not in keyed:
                self.wrong("no key", subject, column.location, "FK")
            if "UQ" in words and identifier(column.name) not in unique_columns:
                self.wrong("no unique", subject, column.location, "UQ")
