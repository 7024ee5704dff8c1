"""Tests hold on every day: none has a date that is to come now and will have passed later."""

import re
from datetime import date
from pathlib import Path

from tests.conftest import ROOT

WRITTEN = re.compile(r"\b(20\d\d)-([01]\d)-([0-3]\d)|\bdate(?:time)?\((20\d\d), *(\d+), *(\d+)")
BEGUN, FAR = date(2026, 11, 27), date(2098, 1, 1)
"""From when to when a date that stands in a test would pass while the project lives."""
WITHOUT_A_CLOCK = {
    # A document that is compared as text.
    "bench/drift/detection.py",
    # A function of its argument alone.
    "database/test_ids.py",
    # The clock of an installation is an argument.
    "installation/projects.py",
    "installation/test_urls.py",
    # An argument of functions whose names are looked at, and not what they do.
    "bounds/test_shadowing.py",
}
"""Where such a date is compared with no clock."""


def days(text: str) -> list[date]:
    """Read the dates that a text writes; what is no day of the calendar is none."""
    found = []
    for parts in WRITTEN.findall(text):
        year, month, day = (int(p) for p in parts if p)
        if 1 <= month <= 12 and 1 <= day <= 31:
            found.append(date(year, month, min(day, 28)))
    return found


def reached(text: str) -> list[date]:
    """Return those of a text's dates that the calendar will reach."""
    return [day for day in days(text) if BEGUN < day < FAR]


def test_no_test_has_a_date_that_the_calendar_will_reach() -> None:
    here = ROOT / "tests"
    files = [p for p in sorted(here.rglob("*.py")) if p != Path(__file__)]
    assert len(files) > 100
    found = {str(p.relative_to(here)): reached(p.read_text("utf-8")) for p in files}
    assert {name for name, dates in found.items() if dates} == WITHOUT_A_CLOCK


def test_such_a_date_is_found_however_it_is_written() -> None:
    assert (
        len(reached('"2027-01-01T00:00:00Z" datetime(2027, 1, 2, tzinfo=UTC) date(2028, 1,3)')) == 3
    )
    assert reached("2020-01-01 2099-01-01 2999-01-01 2027-13-01 20270101") == []
