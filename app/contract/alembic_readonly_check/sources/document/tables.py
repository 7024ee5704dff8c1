"""Read the section of a table: its columns, and the lines of its subsections."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from alembic_readonly_check.facts import (
    Check,
    Column,
    Exclusion,
    ForeignKey,
    Grant,
    Index,
    Policy,
    PrimaryKey,
    Table,
    Trigger,
    Unique,
)
from alembic_readonly_check.findings import Location
from alembic_readonly_check.sources.document.facts import (
    COLUMNS,
    KEY_WORDS,
    RLS_WORDS,
    SUBSECTIONS,
    Facts,
    Line,
)
from alembic_readonly_check.sources.document.markdown import Row, Section, plain, whole_span
from alembic_readonly_check.sql.expressions import parse_expression
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import (
    parse_constraint,
    parse_grant,
    parse_index,
    parse_partition_key,
    parse_policy,
    parse_trigger,
)


class TableSections(Facts):
    """Sections of tables."""

    def table(self, section: Section, name: str) -> None:
        if name in self.tables:
            self.wrong(
                "DM001",
                name,
                f"the table stands twice, first on line {self.line(name)}",
                section.location,
                name,
                "keep one section of it",
            )
            return
        if section.header is None or not section.rows:
            self.wrong(
                "DM001",
                name,
                "the section has no table of columns",
                section.location,
                None,
                f"add | {' | '.join(COLUMNS)} | and one row a column",
            )
        self.keys[name] = []
        columns = tuple(self.columns(section, name))
        table = Table(
            name,
            columns,
            comment=_prose(section),
            rls=self.rls_of(section, name),
            policies=(),
            grants=(),
            triggers=(),
            location=section.location,
        )
        primary = tuple(column.name for column, words in self.keys[name] if "PK" in words)
        if primary:
            location = next(c.location for c, words in self.keys[name] if "PK" in words)
            table = replace(table, primary_key=PrimaryKey(None, primary, location=location))
        seen: set[str] = set()
        for child in section.children:
            if child.title not in SUBSECTIONS or child.title in seen:
                known = child.title in SUBSECTIONS
                self.wrong(
                    "DM014",
                    name,
                    "the subsection stands twice" if known else "no such subsection is known",
                    child.location,
                    child.title,
                    (
                        "put all its lines into one"
                        if known
                        else f"use one of {', '.join(SUBSECTIONS)}"
                    ),
                )
                continue
            seen.add(child.title)
            table = self.subsection(child, table)
        self.tables[name] = table

    def line(self, name: str) -> int:
        location = self.tables[name].location
        return location.line if location else 0

    def rls_of(self, section: Section, name: str) -> str | None:
        for text, location in section.paragraphs:
            for line in text.splitlines():
                stated = re.match(r"\s*Row level security:\s*(.*?)\.?\s*$", line)
                if stated is None:
                    continue
                if stated[1] not in RLS_WORDS:
                    self.wrong(
                        "DM001",
                        name,
                        "the line of row level security holds an unknown word",
                        location,
                        stated[1],
                        "write off, enabled, or enabled, forced",
                    )
                    return None
                return RLS_WORDS[stated[1]]
        return self.rls

    def columns(self, section: Section, name: str) -> Iterator[Column]:
        if section.header is None:
            return
        if tuple(section.header.cells) != COLUMNS:
            self.wrong(
                "DM002",
                name,
                "the table of columns has other titles",
                section.header.location,
                " | ".join(section.header.cells),
                f"write | {' | '.join(COLUMNS)} |",
            )
            return
        seen: set[str] = set()
        for row in section.rows:
            column = self.column(row, name)
            if column is None:
                continue
            if column.name in seen:
                self.wrong(
                    "DM002",
                    f"{name}.{column.name}",
                    "the column stands twice",
                    row.location,
                    column.name,
                    "keep one row of it",
                )
                continue
            seen.add(column.name)
            yield column

    def column(self, row: Row, table: str) -> Column | None:
        if len(row.cells) != len(COLUMNS):
            more = len(row.cells) > len(COLUMNS)
            self.wrong(
                "DM002",
                f"{table}.{row.cells[0].strip('`')}",
                f"the row has {len(row.cells)} cells, not {len(COLUMNS)}",
                row.location,
                " | ".join(row.cells),
                "write a pipe inside a cell as \\|" if more else "fill in the missing cells",
            )
            return None
        name_cell, type_cell, null_cell, default_cell, key_cell, description = row.cells
        name, raw_type = whole_span(name_cell), whole_span(type_cell)
        subject = f"{table}.{name or name_cell}"
        if name is None or raw_type is None:
            self.wrong(
                "DM002" if name is None else "DM003",
                subject,
                f"the {'name' if name is None else 'type'} is not one code span",
                row.location,
                name_cell if name is None else type_cell,
                "write it between backticks",
            )
            return None
        bare_type, _, collation = raw_type.partition(" COLLATE ")
        type_ = self.type(bare_type, subject, row.location)
        if null_cell not in ("yes", "no"):
            self.wrong(
                "DM004",
                subject,
                "the Null cell is neither yes nor no",
                row.location,
                null_cell,
                "write yes or no",
            )
        if not description:
            self.wrong(
                "DM012",
                subject,
                "the column has no description",
                row.location,
                None,
                "say in a sentence what it holds",
            )
        column = Column(
            name,
            type_,
            null_cell != "no",
            collation=collation.strip().strip('"') or None,
            comment=plain(description) or None,
            raw_type=raw_type,
            location=row.location,
        )
        column = self.default(default_cell, column, subject)
        words = {word.strip() for word in key_cell.split(",") if word.strip()}
        if unknown := words - set(KEY_WORDS):
            self.wrong(
                "DM006",
                subject,
                "the Key cell holds an unknown word",
                row.location,
                ", ".join(sorted(unknown)),
                "write PK, FK or UQ, separated by commas",
            )
        self.keys[table].append((column, " ".join(sorted(words))))
        return column

    def default(self, cell: str, column: Column, subject: str) -> Column:
        if not cell:
            return column
        word, _, rest = cell.partition(":")
        value = whole_span(rest if word in ("generated", "identity") else cell)
        location = column.location or Location(self.path, 1)
        if word == "identity":
            kind = (value or "").upper()
            if kind not in ("ALWAYS", "BY DEFAULT"):
                self.wrong(
                    "DM013",
                    subject,
                    "the kind of identity is unknown",
                    location,
                    cell,
                    "write identity: `ALWAYS` or identity: `BY DEFAULT`",
                )
                return column
            return replace(column, identity=kind)
        code = "DM013" if word == "generated" else "DM005"
        what = "generated expression" if word == "generated" else "default"
        if value is None:
            self.wrong(
                code,
                subject,
                f"the {what} is not one code span",
                location,
                cell,
                "write the SQL between backticks",
            )
            return column
        try:
            parse_expression(value)
        except Unparsable as error:
            self.wrong(
                code,
                subject,
                f"the {what} does not parse: {error}",
                location,
                value,
                "write one SQL expression",
            )
            return column
        return (
            replace(column, generated=value)
            if word == "generated"
            else replace(column, default=value)
        )

    def subsection(self, section: Section, table: Table) -> Table:
        code = SUBSECTIONS[section.title]
        facts: list[Any] = []
        for line in self.lines(section, code, table.name):
            subject = f"{table.name}.{line.name}"
            try:
                fact = self.fact(section.title, line, table)
            except Unparsable as error:
                self.wrong(
                    code,
                    subject,
                    f"the definition does not parse: {error}",
                    line.location,
                    line.definition or line.name,
                    "write it as Postgres would read it",
                )
                continue
            if fact is not None:
                if isinstance(fact, str):
                    return replace(table, partition_key=fact)
                facts.append(replace(fact, location=line.location))
        return _with(table, facts)

    def fact(self, title: str, line: Line, table: Table) -> Any:
        """Read one line of a subsection; raises `Unparsable`."""
        if title == "Partitions":
            parse_partition_key(line.name)
            return line.name
        if line.definition is None:
            raise Unparsable("the definition after the name is missing")
        match title:
            case "Policies":
                return parse_policy(line.name, line.definition, table.name)
            case "Grants":
                return parse_grant(line.name, line.definition)
            case "Triggers":
                return parse_trigger(line.name, line.definition, table.name)
            case "Indexes":
                return parse_index(line.name, line.definition, table.name)
        constraint = parse_constraint(line.name, line.definition, self.default_schema)
        expected = {
            "Foreign keys": (ForeignKey,),
            "Unique": (Unique,),
            "Checks": (Check, Exclusion),
        }[title]
        if not isinstance(constraint, expected):
            raise Unparsable(f"it does not belong under {title}")
        return constraint


def _with(table: Table, facts: list[Any]) -> Table:
    """Put the facts of a subsection where they belong."""
    kinds: dict[str, type] = {
        "foreign_keys": ForeignKey,
        "uniques": Unique,
        "checks": Check,
        "exclusions": Exclusion,
        "indexes": Index,
        "policies": Policy,
        "grants": Grant,
        "triggers": Trigger,
    }
    changes: dict[str, Any] = {
        attribute: tuple(fact for fact in facts if isinstance(fact, kind))
        for attribute, kind in kinds.items()
        if any(isinstance(fact, kind) for fact in facts)
    }
    return replace(table, **changes) if changes else table


def _prose(section: Section) -> str | None:
    """Join the prose of a section, without its line on row level security."""
    lines = [
        line
        for text, _ in section.paragraphs
        for line in text.splitlines()
        if not line.startswith("Row level security:")
    ]
    return plain(" ".join(lines)) or None
