"""Read docs/datamodel.md: facts in code spans, prose outside them, every fact with its line.

The format is closed: headings, column titles and words that are not in it are findings (DM001 to
DM014), so that a typo cannot turn a fact into prose. Rows are split on the raw line, because a
Markdown reader pads short rows and drops surplus cells without a word.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from alembic_readonly_check import expressions as sql
from alembic_readonly_check.codes import finding
from alembic_readonly_check.expressions import Unparsable
from alembic_readonly_check.facts import (
    Check,
    Column,
    Domain,
    Enum,
    Exclusion,
    Extension,
    ForeignKey,
    Grant,
    Index,
    Policy,
    PrimaryKey,
    Publication,
    Schema,
    Sequence,
    Table,
    Trigger,
    Unique,
    View,
)
from alembic_readonly_check.findings import CannotCheck, Finding, Location, relative

COLUMNS = ("Column", "Type", "Null", "Default", "Key", "Description")
FUNCTIONS = ("Function", "Returns", "Security", "Executable by", "Description")
SUBSECTIONS = {
    "Foreign keys": "DM007",
    "Unique": "DM008",
    "Checks": "DM009",
    "Indexes": "DM010",
    "Partitions": "DM001",
    "Policies": "DM001",
    "Grants": "DM001",
    "Triggers": "DM001",
}
"""Heading of level 3 inside a table's section -> the code of a line in it that cannot be read."""

SECTIONS = (
    "Functions",
    "Enums",
    "Domains",
    "Views",
    "Sequences",
    "Extensions",
    "Publications",
)
RLS_WORDS = {"off": "off", "enabled": "enabled", "enabled, forced": "forced"}
KEY_WORDS = ("PK", "FK", "UQ")

_CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(slots=True)
class Document:
    """What the document says, and what is wrong with the document itself."""

    path: str
    schema: Schema
    findings: list[Finding] = field(default_factory=list)

    def is_unreadable(self, subject: str) -> bool:
        """Tell whether a fact could not be read, so that it is no drift on top of that.

        A table whose columns have other titles has no readable column at all.
        """
        return any(
            found.subject == subject
            or (found.code == "DM002" and subject.startswith(f"{found.subject}."))
            for found in self.findings
            if found.severity == "error"
        )


@dataclass(slots=True)
class _Line:
    """One fact of a list: `- `name`: `definition` prose`, or only `- `definition``."""

    name: str
    definition: str | None
    location: Location
    nested: bool = False


@dataclass(slots=True)
class _Row:
    cells: list[str]
    location: Location


@dataclass(slots=True)
class _Item:
    """A point of a list; `nested` stands under another one."""

    text: str
    location: Location
    nested: bool


@dataclass(slots=True)
class _Section:
    """A heading of level 2 or 3 and what stands under it, up to the next heading."""

    title: str
    level: int
    location: Location
    header: _Row | None = None
    rows: list[_Row] = field(default_factory=list)
    items: list[_Item] = field(default_factory=list)
    paragraphs: list[tuple[str, Location]] = field(default_factory=list)
    children: list["_Section"] = field(default_factory=list)

    def child(self, title: str) -> "_Section | None":
        return next((section for section in self.children if section.title == title), None)


def read(path: Path, root: Path, default_schema: str = "public", rls: str = "forced") -> Document:
    """Read the document; raises `CannotCheck` if there is no file or no table in it.

    `rls` is what a table is expected to have when its section does not say: off, enabled, forced,
    or any, which compares nothing.
    """
    shown = relative(path, root)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotCheck(f"{shown} cannot be read: {error}.") from None
    reader = _Reader(shown, default_schema, None if rls == "any" else rls)
    for section in _sections(text, shown):
        reader.section(section)
    if not reader.tables:
        raise CannotCheck(f"{shown} has no section of a table (a heading like ## `public.orders`).")
    return reader.document()


def _sections(text: str, path: str) -> list[_Section]:
    """Cut the document into sections of level 2 with their subsections of level 3."""
    lines = text.splitlines()
    # Cells and points are read from their raw text, so no token of inline markup is needed.
    reader = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
    tokens = reader.parse(text)
    found: list[_Section] = []
    current: _Section | None = None
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            section = _Section(
                tokens[position + 1].content.strip(), int(token.tag[1]), _at(token, path)
            )
            if section.level <= 2 or not found:
                found.append(section)
            elif section.level == 3:
                found[-1].children.append(section)
            current = section if section.level > 1 else None
        elif current is None or token.map is None:
            continue
        elif token.type == "table_open":
            start, end = token.map
            rows = [
                _Row(_cells(lines[n]), Location(path, n + 1))
                for n in range(start, end)
                if n != start + 1 and n < len(lines) and lines[n].strip()
            ]
            if current.header is None:
                current.header, *current.rows = rows
        elif token.type == "list_item_open":
            text_ = _content(tokens, position, "list_item_close")
            current.items.append(_Item(text_, _at(token, path), token.level > 1))
        elif token.type == "paragraph_open" and token.level == 0:
            current.paragraphs.append((tokens[position + 1].content, _at(token, path)))
    return found


def _at(token: Token, path: str) -> Location:
    return Location(path, token.map[0] + 1 if token.map else 1)


def _content(tokens: list[Token], position: int, end: str) -> str:
    """Join the text of a list item."""
    level = tokens[position].level
    words = []
    for number in range(position + 1, len(tokens)):
        token = tokens[number]
        if token.type == end and token.level == level:
            break
        if token.type == "inline":
            words.append(token.content)
    return " ".join(words)


def _cells(line: str) -> list[str]:
    """Split a raw row at its unescaped pipes."""
    bare = line.strip()
    bare = bare[1:] if bare.startswith("|") else bare
    bare = bare[:-1] if bare.endswith("|") and not bare.endswith("\\|") else bare
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(bare)]


def _spans(text: str) -> list[str]:
    """List the contents of the code spans of a text."""
    return [" ".join(match[2].split()) for match in _CODE.finditer(text)]


def _whole_span(text: str) -> str | None:
    """Give the content of a text that is exactly one code span."""
    match = _CODE.fullmatch(text.strip())
    return " ".join(match[2].split()) if match else None


class _Reader:
    """Collects facts and findings section by section."""

    def __init__(self, path: str, default_schema: str, rls: str | None) -> None:
        self.path = path
        self.default_schema = default_schema
        self.rls = rls
        self.findings: list[Finding] = []
        self.tables: dict[str, Table] = {}
        self.keys: dict[str, list[tuple[Column, str]]] = {}
        self.named: dict[str, dict[str, Any]] = {title: {} for title in SECTIONS}
        self.stated: set[str] = set()
        self.attempted: set[str] = set()

    def wrong(
        self,
        code: str,
        subject: str,
        message: str,
        location: Location,
        actual: str | None,
        fix: str,
    ) -> None:
        self.findings.append(finding(code, subject, message, location, actual=actual, fix=fix))

    def section(self, section: _Section) -> None:
        name = _whole_span(section.title)
        if section.level == 2 and name is not None:
            self.table(section, self.full(name))
        elif section.level == 2 and section.title in SECTIONS:
            if section.title in self.stated:
                self.wrong(
                    "DM014",
                    section.title,
                    "the section stands twice",
                    section.location,
                    section.title,
                    "put all its lines into one section",
                )
            self.stated.add(section.title)
            if section.title == "Functions":
                self.functions(section)
            else:
                self.objects(section)

    def full(self, name: str) -> str:
        bare = name.replace('"', "")
        return bare if "." in bare else f"{self.default_schema}.{bare}"

    # ------------------------------------------------------------------ tables

    def table(self, section: _Section, name: str) -> None:
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

    def rls_of(self, section: _Section, name: str) -> str | None:
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

    def columns(self, section: _Section, name: str) -> Iterator[Column]:
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

    def column(self, row: _Row, table: str) -> Column | None:
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
        name, raw_type = _whole_span(name_cell), _whole_span(type_cell)
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
            comment=_plain(description) or None,
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

    def type(self, raw: str, subject: str, location: Location) -> str:
        try:
            return sql.qualified(sql.parse_type(raw), self.default_schema)
        except Unparsable as error:
            self.wrong(
                "DM003",
                subject,
                f"the type does not parse: {error}",
                location,
                raw,
                "write a type as Postgres knows it",
            )
            return ""

    def default(self, cell: str, column: Column, subject: str) -> Column:
        if not cell:
            return column
        word, _, rest = cell.partition(":")
        value = _whole_span(rest if word in ("generated", "identity") else cell)
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
            sql.parse_expression(value)
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

    def lines(self, section: _Section, code: str, subject: str) -> Iterator[_Line]:
        for item in section.items:
            text, location = item.text, item.location
            match = re.match(
                r"(?P<name>(`+).+?\2)(?:\s*:\s*(?P<definition>(`+).+?(?<!`)\4(?!`)))?",
                text.strip(),
                re.DOTALL,
            )
            if match is None:
                self.wrong(
                    code,
                    subject,
                    f"a line of {section.title} is no fact",
                    location,
                    text,
                    "write - `name`: `definition`",
                )
                continue
            definition = match["definition"]
            yield _Line(
                _whole_span(match["name"]) or "",
                _whole_span(definition) if definition else None,
                location,
                item.nested,
            )

    def subsection(self, section: _Section, table: Table) -> Table:
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

    def fact(self, title: str, line: _Line, table: Table) -> Any:
        """Read one line of a subsection; raises `Unparsable`."""
        if title == "Partitions":
            sql.parse_partition_key(line.name)
            return line.name
        if line.definition is None:
            raise Unparsable("the definition after the name is missing")
        match title:
            case "Policies":
                return sql.parse_policy(line.name, line.definition, table.name)
            case "Grants":
                return sql.parse_grant(line.name, line.definition)
            case "Triggers":
                return sql.parse_trigger(line.name, line.definition, table.name)
            case "Indexes":
                return sql.parse_index(line.name, line.definition, table.name)
        constraint = sql.parse_constraint(line.name, line.definition, self.default_schema)
        expected = {
            "Foreign keys": (ForeignKey,),
            "Unique": (Unique,),
            "Checks": (Check, Exclusion),
        }[title]
        if not isinstance(constraint, expected):
            raise Unparsable(f"it does not belong under {title}")
        return constraint

    # ------------------------------------------------------------------ other objects

    def objects(self, section: _Section) -> None:
        read = _OBJECTS[section.title]
        code = "DM011" if section.title == "Enums" else "DM001"
        found = self.named[section.title]
        for line in self.lines(section, code, section.title):
            name = (
                line.name
                if section.title in ("Extensions", "Publications")
                else self.full(line.name)
            )
            self.attempted.add(name)
            try:
                if line.nested and section.title == "Views" and found:
                    last, view = next(reversed(found.items()))
                    granted = replace(
                        sql.parse_grant(line.name, line.definition or ""), location=line.location
                    )
                    found[last] = replace(view, grants=(*view.grants, granted))
                    continue
                fact = read(name, line.definition or "", self.default_schema)
            except Unparsable as error:
                self.wrong(
                    code,
                    name,
                    f"the definition does not parse: {error}",
                    line.location,
                    line.definition,
                    "write it as Postgres would read it",
                )
                continue
            if name in found:
                self.wrong(code, name, "it stands twice", line.location, name, "keep one line")
                continue
            found[name] = replace(fact, location=line.location)

    def functions(self, section: _Section) -> None:
        if section.header is None or tuple(section.header.cells) != FUNCTIONS:
            location = section.header.location if section.header else section.location
            self.wrong(
                "DM001",
                "Functions",
                "the table of functions has other titles",
                location,
                " | ".join(section.header.cells) if section.header else None,
                f"write | {' | '.join(FUNCTIONS)} |",
            )
            return
        for row in section.rows:
            if len(row.cells) != len(FUNCTIONS):
                self.wrong(
                    "DM001",
                    row.cells[0],
                    f"the row has {len(row.cells)} cells, not 5",
                    row.location,
                    " | ".join(row.cells),
                    "write a pipe as \\|",
                )
                continue
            signature, returns = _whole_span(row.cells[0]), _whole_span(row.cells[1])
            security = row.cells[2]
            if signature is None or returns is None or security not in ("definer", "invoker"):
                self.wrong(
                    "DM001",
                    row.cells[0],
                    "the row is no function",
                    row.location,
                    " | ".join(row.cells[:3]),
                    "write `name(arguments)`, `result` and definer or invoker",
                )
                continue
            try:
                function = sql.parse_function(signature, returns, self.default_schema)
            except Unparsable as error:
                self.wrong(
                    "DM001",
                    signature,
                    f"the function does not parse: {error}",
                    row.location,
                    signature,
                    "write it as CREATE FUNCTION would",
                )
                continue
            function = replace(
                function,
                definer=security == "definer",
                executors=frozenset(
                    "PUBLIC" if role.upper() == "PUBLIC" else role for role in _spans(row.cells[3])
                ),
                location=row.location,
            )
            self.named["Functions"][function.signature] = function

    # ------------------------------------------------------------------ the whole

    def document(self) -> Document:
        self.cross_check()
        schema = Schema(
            "document",
            self.tables,
            enums=self.named["Enums"],
            domains=self.named["Domains"],
            sequences=self.named["Sequences"],
            views=self.named["Views"],
            functions=self.named["Functions"],
            extensions=self.named["Extensions"],
            publications=self.named["Publications"],
        )
        return Document(self.path, schema, self.findings)

    def cross_check(self) -> None:
        """Find what points to nowhere inside the document."""
        user_types = {*self.attempted, *self.tables}
        for table in self.tables.values():
            for column in table.columns:
                base = column.type.removesuffix("[]")
                if column.type and not sql.is_known_type(base) and base not in user_types:
                    self.wrong(
                        "DM003",
                        f"{table.name}.{column.name}",
                        "the type is unknown",
                        column.location or Location(self.path, 1),
                        column.raw_type,
                        "write a type of Postgres, or list it under ## Enums or ## Domains",
                    )
            if table.columns:
                self.check_keys(table)

    def check_keys(self, table: Table) -> None:
        own = {column.name for column in table.columns}
        for key in table.foreign_keys:
            location = key.location or Location(self.path, 1)
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
                self.wrong(
                    "DM007",
                    f"{table.name}.{key.name}",
                    "the foreign key leads nowhere",
                    location,
                    ", ".join(missing),
                    "name tables and columns that stand here",
                )
        for unique in table.uniques:
            if gone := [c for c in unique.columns if c not in own]:
                self.wrong(
                    "DM008",
                    f"{table.name}.{unique.name}",
                    "it names no column of the table",
                    unique.location or Location(self.path, 1),
                    ", ".join(gone),
                    "name columns of this table",
                )
        keyed = {column for key in table.foreign_keys for column in key.columns}
        unique_columns = {c for u in table.uniques for c in u.columns} | {
            key.expression for index in table.indexes if index.unique for key in index.keys
        }
        for column, words in self.keys[table.name]:
            location = column.location or Location(self.path, 1)
            subject = f"{table.name}.{column.name}"
            if "FK" in words and column.name not in keyed:
                self.wrong(
                    "DM007",
                    subject,
                    "the Key cell says FK, no line does",
                    location,
                    "FK",
                    "add the line under ### Foreign keys",
                )
            if "UQ" in words and column.name not in unique_columns:
                self.wrong(
                    "DM008",
                    subject,
                    "the Key cell says UQ, no line does",
                    location,
                    "UQ",
                    "add the line under ### Unique or ### Indexes",
                )


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


def _prose(section: _Section) -> str | None:
    """Join the prose of a section, without its line on row level security."""
    lines = [
        line
        for text, _ in section.paragraphs
        for line in text.splitlines()
        if not line.startswith("Row level security:")
    ]
    return _plain(" ".join(lines)) or None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[`*_]", "", text).split())


def _enum(name: str, text: str, _: str) -> Enum:
    return Enum(name, sql.parse_enum(text))


def _view(name: str, text: str, schema: str) -> View:
    materialized, columns, options = sql.parse_view(name, text, schema)
    return View(name, columns, materialized, options, grants=())


def _extension(name: str, text: str, _: str) -> Extension:
    return Extension(name, re.sub(r"(?i)^\s*SCHEMA\s+", "", text).strip() or None)


def _publication(name: str, text: str, schema: str) -> Publication:
    tables = (part.strip() for part in text.split(",") if part.strip())
    return Publication(
        name, tuple(sorted(table if "." in table else f"{schema}.{table}" for table in tables))
    )


def _sequence(name: str, text: str, _: str) -> Sequence:
    return sql.parse_sequence(name, text)


def _domain(name: str, text: str, schema: str) -> Domain:
    return sql.parse_domain(name, text, schema)


_OBJECTS: dict[str, Callable[[str, str, str], Any]] = {
    "Enums": _enum,
    "Domains": _domain,
    "Views": _view,
    "Sequences": _sequence,
    "Extensions": _extension,
    "Publications": _publication,
}
