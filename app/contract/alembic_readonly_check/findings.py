"""What a check says: one `Finding` per drifted fact, with both raw values and the fix."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a file; `path` is relative to the project's root, `line` counts from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact on which two descriptions differ, blamed on the side lower in the order of truth.

    `subject` is the stable name of the fact (`annex.members.role`): with the code it identifies the
    finding in ignores, so it holds no line number. `expected` is the raw value of the
    side that leads, `actual` that of the side to change. `heading` is the whole `MISMATCH: …` or
    `BLOCKED: …` line where the two documents are at fault.
    """

    code: str
    severity: Severity
    message: str
    location: Location | None
    subject: str
    expected: str | None = None
    actual: str | None = None
    fix: str = ""
    heading: str | None = None


class CannotCheck(Exception):
    """Say in one sentence why no verdict is possible; the command prints it and ends with 2.

    `code` is one of RO901 to RO904 where the tool's own guard stopped it.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


def relative(path: Path, root: Path) -> str:
    """Write a path as findings carry it: with `/`, relative to the root if it lies below it."""
    resolved = path.resolve()
    if resolved.is_relative_to(root.resolve()):
        return resolved.relative_to(root.resolve()).as_posix()
    return path.as_posix()


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by file, line, code and subject, so that two runs print the same bytes."""
    return sorted(
        findings,
        key=lambda f: (
            f.location.path if f.location else "",
            f.location.line if f.location else 0,
            f.code,
            f.subject,
            f.message,
        ),
    )
