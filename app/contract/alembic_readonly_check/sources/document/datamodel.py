"""Read docs/datamodel.md: facts in code spans, prose outside them, every fact with its line.

The format is closed: headings, column titles and words that are not in it are findings (DM001 to
DM014), so that a typo cannot turn a fact into prose. Rows are split on the raw line, because a
Markdown reader pads short rows and drops surplus cells without a word.
"""

from dataclasses import dataclass, field
from pathlib import Path

from alembic_readonly_check.facts import Schema, Table
from alembic_readonly_check.findings import CannotCheck, Finding, relative
from alembic_readonly_check.sources.document.facts import SECTIONS, Facts
from alembic_readonly_check.sources.document.markdown import Section, sections, whole_span
from alembic_readonly_check.sources.document.objects import ObjectSections
from alembic_readonly_check.sources.document.tables import TableSections
from alembic_readonly_check.sql.parsing import identifier
from alembic_readonly_check.sql.types import is_known_type


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
    for section in sections(text, shown):
        reader.section(section)
    if not reader.tables:
        raise CannotCheck(f"{shown} has no section of a table (a heading like ## `public.orders`).")
    return reader.document()


class _CrossCheck(Facts):
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


class _Reader(TableSections, ObjectSections, _CrossCheck):
    """Collects facts and findings section by section."""

    def section(self, section: Section) -> None:
        name = whole_span(section.title)
        if section.level == 2 and name is not None:
            self.table(section, self.full(name))
        elif section.level == 2 and section.title in SECTIONS:
            if section.title in self.stated:
                self.wrong("section twice", section.title, section.location, section.title)
            self.stated.add(section.title)
            for child in section.children:
                # Facts under a heading of their own would pass for prose.
                if child.rows or child.items:
                    self.wrong(
                        *("no subsection", section.title, child.location, child.title, "none here")
                    )
            if section.title == "Functions":
                self.functions(section)
            else:
                self.objects(section)

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
