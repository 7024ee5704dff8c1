"""Read the sections of what is not a table: functions, enums, domains, views and others."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from alembic_readonly_check.facts import Enum, Extension, Publication
from alembic_readonly_check.sources.document.facts import FUNCTION_TITLES, FUNCTIONS, Facts
from alembic_readonly_check.sources.document.markdown import Section, spans, whole_span
from alembic_readonly_check.sql.objects import (
    parse_domain,
    parse_enum,
    parse_function,
    parse_sequence,
    parse_view,
)
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.tables import parse_grant


class ObjectSections(Facts):
    """Sections of other objects."""

    def objects(self, section: Section) -> None:
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
                        parse_grant(line.name, line.definition or ""), location=line.location
                    )
                    found[last] = replace(view, grants=(*view.grants, granted))
                    continue
                fact = read(name, line.definition or "", self.default_schema)
            except Unparsable as error:
                self.wrong("not read", name, line.location, line.definition, error, code=code)
                continue
            if name in found:
                self.wrong("object twice", name, line.location, name, code=code)
                continue
            found[name] = replace(fact, location=line.location)

    def functions(self, section: Section) -> None:
        if section.header is None or tuple(section.header.cells) != FUNCTIONS:
            location = section.header.location if section.header else section.location
            told = " | ".join(section.header.cells) if section.header else None
            self.wrong("function titles", "Functions", location, told, FUNCTION_TITLES)
            return
        for row in section.rows:
            if len(row.cells) != len(FUNCTIONS):
                told = " | ".join(row.cells)
                self.wrong("function cells", row.cells[0], row.location, told, len(row.cells))
                continue
            signature, returns = whole_span(row.cells[0]), whole_span(row.cells[1])
            security = row.cells[2]
            if signature is None or returns is None or security not in ("definer", "invoker"):
                self.wrong("no function", row.cells[0], row.location, " | ".join(row.cells[:3]))
                continue
            try:
                function = parse_function(signature, returns, self.default_schema)
            except Unparsable as error:
                self.wrong("bad function", signature, row.location, signature, error)
                continue
            function = replace(
                function,
                definer=security == "definer",
                executors=frozenset(
                    "PUBLIC" if role.upper() == "PUBLIC" else role for role in spans(row.cells[3])
                ),
                location=row.location,
            )
            self.named["Functions"][function.signature] = function


def _enum(name: str, text: str, _: str) -> Enum:
    return Enum(name, parse_enum(text))


def _extension(name: str, text: str, _: str) -> Extension:
    return Extension(name, re.sub(r"(?i)^\s*SCHEMA\s+", "", text).strip() or None)


def _publication(name: str, text: str, schema: str) -> Publication:
    tables = (part.strip() for part in text.split(",") if part.strip())
    return Publication(
        name, tuple(sorted(table if "." in table else f"{schema}.{table}" for table in tables))
    )


_OBJECTS: dict[str, Callable[[str, str, str], Any]] = {
    "Enums": _enum,
    "Domains": parse_domain,
    "Views": parse_view,
    "Sequences": parse_sequence,
    "Extensions": _extension,
    "Publications": _publication,
}
