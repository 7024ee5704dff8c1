"""Write findings for people and for machines; each reporter turns a report into one text."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import dumps
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from alembic_readonly_check.codes import REGISTRY
from alembic_readonly_check.findings import SEVERITIES, Finding, Location

STYLES = {"error": "\x1b[31m", "warning": "\x1b[33m", "info": "\x1b[36m"}
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Report:
    """What is reported: ordered findings, what was compared, and what was left out and why."""

    findings: tuple[Finding, ...]
    compared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    home: str = "pyproject.toml"
    """The file to name where a fact is written in none, as of a live database."""

    def place(self, found: Finding) -> Location:
        """Give every finding a line, which code scanning insists on."""
        return found.location or Location(self.home, 1)

    def fingerprints(self) -> Iterator[tuple[Finding, str]]:
        """Name each finding over time: by code and subject, so that a moved line is the same.

        The second of two findings with one code and subject is told from the first by its number.
        """
        seen: Counter[tuple[str, str]] = Counter()
        for found in self.findings:
            key = (found.code, found.subject)
            number = f"\n{seen[key]}" if seen[key] else ""
            seen[key] += 1
            name = f"{found.code}\n{found.subject}{number}"
            yield found, hashlib.sha256(name.encode()).hexdigest()

    @property
    def summary(self) -> str:
        """Say the result in one line."""
        counts = Counter(found.severity for found in self.findings)
        told = ", ".join(
            f"{counts[severity]} {severity}{plural if counts[severity] > 1 else ''}"
            for severity, plural in zip(SEVERITIES, ("s", "s", ""), strict=True)
            if counts[severity]
        )
        return f"{told or 'no drift'} in {', '.join(self.compared)}"


Reporter = Callable[[Report], str]


def text(report: Report, colour: bool = False) -> str:
    """Write one paragraph a finding: place, code, severity, subject, both values, the fix."""
    blocks = []
    for found in report.findings:
        place = f"{found.location}: " if found.location else ""
        code, severity = found.code, str(found.severity)
        fix = f"  fix: {found.fix}" if found.fix else ""
        if colour:
            code, severity = f"{BOLD}{code}{PLAIN}", f"{STYLES[severity]}{severity}{PLAIN}"
            fix = f"{DIM}{fix}{PLAIN}" if fix else ""
        lines = [found.heading] if found.heading else []
        lines.append(f"{place}{code} {severity} {found.subject}: {found.message}")
        lines += [fix] if fix else []
        blocks.append("\n".join(lines) + "\n")
    blocks += [f"note: {note}\n" for note in report.notes]
    blocks.append(f"{report.summary}\n")
    return "".join(blocks)


def coloured(report: Report) -> str:
    """Write the text with colours, for a terminal."""
    return text(report, True)


def _plain(found: Finding, fingerprint: str) -> dict[str, Any]:
    return {
        "code": found.code,
        "severity": found.severity,
        "subject": found.subject,
        "message": found.message,
        "path": found.location.path if found.location else None,
        "line": found.location.line if found.location else None,
        "expected": found.expected,
        "actual": found.actual,
        "fix": found.fix,
        "heading": found.heading,
        "title": REGISTRY[found.code].title,
        "fingerprint": fingerprint,
    }


def _json(value: Any) -> str:
    return dumps(value, indent=2, ensure_ascii=False) + "\n"


def json(report: Report) -> str:
    """Write one JSON object: findings, what was compared, counts by severity."""
    counts = Counter(found.severity for found in report.findings)
    return _json(
        {
            "format": 1,
            "findings": [_plain(found, name) for found, name in report.fingerprints()],
            "compared": report.compared,
            "notes": report.notes,
            "counts": {severity: counts[severity] for severity in SEVERITIES},
        }
    )


def sarif(report: Report) -> str:
    """Write SARIF 2.1.0."""
    used = sorted({found.code for found in report.findings})
    levels = {"error": "error", "warning": "warning", "info": "note"}
    rules = [
        {
            "id": code,
            "shortDescription": {"text": REGISTRY[code].title},
            "fullDescription": {"text": REGISTRY[code].explanation},
            "help": {"text": REGISTRY[code].fix},
            "defaultConfiguration": {"level": levels[REGISTRY[code].severity]},
        }
        for code in used
    ]
    results = [
        {
            "ruleId": found.code,
            "ruleIndex": used.index(found.code),
            "level": levels[found.severity],
            "message": {"text": f"{found.subject}: {found.message}. Fix: {found.fix}"},
            "partialFingerprints": {"codeAndSubject/v1": name},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(report.place(found).path)},
                        "region": {"startLine": report.place(found).line},
                    }
                }
            ],
        }
        for found, name in report.fingerprints()
    ]
    return _json(
        {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {"driver": {"name": "alembic-readonly-check", "rules": rules}},
                    "results": results,
                }
            ],
        }
    )


def _value(text_: str) -> str:
    return text_.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _attribute(text_: str) -> str:
    return _value(text_).replace(":", "%3A").replace(",", "%2C")


def github_line(level: str, place: str, title: str, message: str) -> str:
    """Write one workflow command."""
    return f"::{level} {place}title={_attribute(title)}::{_value(message)}"


def github(report: Report) -> str:
    """Write workflow commands, which GitHub shows beside the lines of a pull request."""
    levels = {"error": "error", "warning": "warning", "info": "notice"}
    lines = []
    for found in report.findings:
        at = found.location
        place = f"file={_attribute(at.path)},line={at.line}," if at else ""
        heading = f"{found.heading}\n" if found.heading else ""
        told = f"{heading}{found.subject}: {found.message}\nfix: {found.fix}"
        lines.append(github_line(levels[found.severity], place, found.code, told))
    return "\n".join([*lines, report.summary, ""])


# XML 1.0, section 2.2: it can hold no other characters, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """Write JUnit XML: an error is a failed case, a warning or what was compared a passed one."""
    failures = [found for found in report.findings if found.severity == "error"]
    suite = "alembic-readonly-check"
    cases = []
    for found in report.findings:
        name = quoteattr(f"{found.code} {found.subject}")
        place = f" file={quoteattr(found.location.path)}" if found.location else ""
        body = escape(f"{found.location or ''}\n{found.message}\nfix: {found.fix}".strip())
        if found.severity != "error":
            inside = f"<system-out>{body}</system-out>"
        else:
            told = f"type={quoteattr(found.code)} message={quoteattr(found.message)}"
            inside = f"<failure {told}>{body}</failure>"
        cases.append(f'  <testcase classname="{suite}" name={name}{place}>{inside}</testcase>\n')
    cases += [
        f'  <testcase classname="{suite}" name={quoteattr(compared)}/>\n'
        for compared in report.compared
    ]
    written = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="{suite}" tests="{len(cases)}" failures="{len(failures)}">\n'
        + "".join(cases)
        + "</testsuite>\n"
    )
    return _NOT_XML.sub("\ufffd", written)


FORMATS: dict[str, Reporter] = {
    "text": text,
    "json": json,
    "sarif": sarif,
    "github": github,
    "junit": junit,
}
