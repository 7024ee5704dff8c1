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
from alembic_readonly_check.sources.document.facts import (
    COLUMN_TITLES,
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
            self.wrong("table twice", name, section.location, name, self.line(name))
            return
        if section.header is None or not section.rows:
            self.wrong("no columns", name, section.location, None, COLUMN_TITLES)
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
            known = child.title in SUBSECTIONS and child.level == 3
            if not known or child.title in seen:
                problem = "subsection twice" if known else "no subsection"
                self.wrong(problem, name, child.location, child.title, ", ".join(SUBSECTIONS))
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
                    self.wrong("security", name, location, stated[1])
                    return None
                return RLS_WORDS[stated[1]]
        return self.rls

    def columns(self, section: Section, name: str) -> Iterator[Column]:
        if section.header is None:
            return
        if tuple(section.header.cells) != COLUMNS:
            told = " | ".join(section.header.cells)
            self.wrong("column titles", name, section.header.location, told, COLUMN_TITLES)
            return
        seen: set[str] = set()
        for row in section.rows:
            column = self.column(row, name)
            if column is None:
                continue
            if column.name in seen:
                self.wrong("column twice", f"{name}.{column.name}", row.location, column.name)
                continue
            seen.add(column.name)
            yield column

    def column(self, row: Row, table: str) -> Column | None:
        if len(row.cells) != len(COLUMNS):
            more = len(row.cells) > len(COLUMNS)
            subject, told = f"{table}.{row.cells[0].strip('`')}", " | ".join(row.cells)
            problem = f"{'surplus' if more else 'missing'} cells"
            self.wrong(problem, subject, row.location, told, len(row.cells))
            return None
        name_cell, type_cell, null_cell, default_cell, key_cell, description = row.cells
        name, raw_type = whole_span(name_cell), whole_span(type_cell)
        subject = f"{table}.{name or name_cell}"
        if name is None or raw_type is None:
            what = "name" if name is None else "type"
            self.wrong(f"bare {what}", subject, row.location, row.cells[what == "type"])
            return None
        bare_type, _, collation = raw_type.partition(" COLLATE ")
        type_ = self.type(bare_type, subject, row.location)
        if null_cell not in ("yes", "no"):
            self.wrong("null", subject, row.location, null_cell)
        if not description:
            self.wrong("undescribed", subject, row.location)
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
            self.wrong("key", subject, row.location, ", ".join(sorted(unknown)))
        self.keys[table].append((column, " ".join(sorted(words))))
        return column

    def default(self, cell: str, column: Column, subject: str) -> Column:
        if not cell:
            return column
        word, _, rest = cell.partition(":")
        value = whole_span(rest if word in ("generated", "identity") else cell)
        if word == "identity":
            kind = (value or "").upper()
            if kind not in ("ALWAYS", "BY DEFAULT"):
                self.wrong("identity", subject, column.location, cell)
                return column
            return replace(column, identity=kind)
        code = "DM013" if word == "generated" else "DM005"
        what = "generated expression" if word == "generated" else "default"
        if value is None:
            self.wrong("bare default", subject, column.location, cell, what, code=code)
            return column
        try:
            parse_expression(value)
        except Unparsable as error:
            self.wrong("bad default", subject, column.location, value, what, error, code=code)
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
                told = line.definition or line.name
                self.wrong("not read", subject, line.location, told, error, code=code)
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
