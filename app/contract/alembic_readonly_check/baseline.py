"""Known drift, borne for a while: each entry has a reason and a day on which it counts again."""

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import msgspec

from alembic_readonly_check.findings import CannotCheck, Finding


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding; it counts again when a value changes, when `until` has passed, or both."""

    code: str
    subject: str
    expected: str | None
    actual: str | None
    reason: str
    until: dt.date


def make(findings: Iterable[Finding], reason: str, until: dt.date) -> str:
    """Write the findings of today as a baseline."""
    entries = [
        Entry(found.code, found.subject, found.expected, found.actual, reason, until)
        for found in findings
    ]
    return msgspec.json.format(msgspec.json.encode(entries), indent=2).decode() + "\n"


def read(path: Path) -> list[Entry]:
    """Read a baseline; raises `CannotCheck` if it is none or gives no reason."""
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[Entry])
    except (OSError, msgspec.DecodeError) as error:
        raise CannotCheck(f"{path.name} is not a baseline: {error}.") from None
    for entry in entries:
        if not entry.reason.strip():
            raise CannotCheck(f"{path.name} gives no reason for {entry.code} {entry.subject}.")
    return entries


def apply(findings: Iterable[Finding], entries: Iterable[Entry], today: dt.date) -> list[Finding]:
    """Leave out what the baseline still covers."""
    known = {
        (entry.code, entry.subject, entry.expected, entry.actual)
        for entry in entries
        if today <= entry.until
    }
    return [
        found
        for found in findings
        if (found.code, found.subject, found.expected, found.actual) not in known
    ]
