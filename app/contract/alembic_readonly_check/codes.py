"""The registry of codes, read from codes.md: `explain` prints an entry, a finding takes its fix."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from alembic_readonly_check.findings import Finding, Location, Severity

TEXTS = Path(__file__).with_name("codes.md")
"""The one list of codes, a Markdown table a family, for people and for this module."""


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of drift; the texts are for the person who has to repair it."""

    code: str
    severity: Severity
    title: str
    explanation: str
    example: str
    fix: str


def _read(text: str) -> tuple[dict[str, str], dict[str, Code]]:
    families, codes = {}, {}
    for line in text.splitlines():
        if line.startswith("### "):
            family, _, title = line[4:].partition(": ")
            families[family] = title
        elif re.match(r"\| [A-Z]{2}\d", line):
            code, severity, *texts = (
                cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]
            )
            title, explanation, example, fix = texts
            codes[code] = Code(
                code, cast(Severity, severity), title, explanation, example[1:-1], fix
            )
    return families, codes


FAMILIES, REGISTRY = _read(TEXTS.read_text("utf-8"))
"""First letters and digit of a code -> the pair that the family compares; code -> its texts."""


def finding(
    code: str,
    subject: str,
    message: str,
    location: Location | None = None,
    *,
    expected: str | None = None,
    actual: str | None = None,
    fix: str | None = None,
    heading: str | None = None,
) -> Finding:
    """Make a finding with the severity, and unless told otherwise the fix, of its code."""
    known = REGISTRY[code]
    return Finding(
        code,
        known.severity,
        message,
        location,
        subject,
        expected,
        actual,
        known.fix if fix is None else fix,
        heading,
    )
