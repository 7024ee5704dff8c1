"""Read the lines of a section as facts; what cannot be read is a finding."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alembic_readonly_check.codes import finding
from alembic_readonly_check.facts import Column, Table
from alembic_readonly_check.findings import Finding, Location
from alembic_readonly_check.sources.document.markdown import Section, whole_span
from alembic_readonly_check.sources.document.problems import PROBLEMS
from alembic_readonly_check.sql.parsing import Unparsable
from alembic_readonly_check.sql.types import parse_type, qualified

COLUMNS = ("Column", "Type", "Null", "Default", "Key", "Description")
FUNCTIONS = ("Function", "Returns", "Security", "Executable by", "Description")
COLUMN_TITLES, FUNCTION_TITLES = (f"| {' | '.join(titles)} |" for titles in (COLUMNS, FUNCTIONS))
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

SECTIONS = ("Functions", "Enums", "Domains", "Views", "Sequences", "Extensions", "Publications")
RLS_WORDS = {"off": "off", "enabled": "enabled", "enabled, forced": "forced"}
KEY_WORDS = ("PK", "FK", "UQ")


@dataclass(slots=True)
class Line:
    """One fact of a list: `- `name`: `definition` prose`, or only `- `definition``."""

    name: str
    definition: str | None
    location: Location
    nested: bool = False


class Facts:
    """Collects facts and findings."""

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
        problem: str,
        subject: str,
        at: Location | None,
        actual: str | None = None,
        *told: object,
        code: str | None = None,
    ) -> None:
        """Add a finding; `problem` is a key of `PROBLEMS`, `told` fills the gaps of its texts."""
        its_code, message, fix = PROBLEMS[problem]
        self.findings.append(
            finding(
                code or its_code,
                subject,
                message.format(*told),
                at or Location(self.path, 1),
                actual=actual,
                fix=fix.format(*told),
            )
        )

    def full(self, name: str) -> str:
        bare = name.replace('"', "")
        return bare if "." in bare else f"{self.default_schema}.{bare}"

    def type(self, raw: str, subject: str, location: Location) -> str:
        try:
            return qualified(parse_type(raw), self.default_schema)
        except Unparsable as error:
            self.wrong("no type", subject, location, raw, error)
            return ""

    def lines(self, section: Section, code: str, subject: str) -> Iterator[Line]:
        for item in section.items:
            text, location = item.text, item.location
            match = re.match(
                r"(?P<name>(`+).+?\2)(?:\s*:\s*(?P<definition>(`+).+?(?<!`)\4(?!`)))?",
                text.strip(),
                re.DOTALL,
            )
            if match is None:
                self.wrong("no fact", subject, location, text, section.title, code=code)
                continue
            definition = match["definition"]
            yield Line(
                whole_span(match["name"]) or "",
                whole_span(definition) if definition else None,
                location,
                item.nested,
            )
