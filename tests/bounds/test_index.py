"""The list of bounds names tests that there are."""

import re

from tests.conftest import ROOT

ROW = re.compile(r"^\| (?P<row>\w+) \| [^|]+ \| (?P<answer>[^|]+) \|$", re.MULTILINE)
PLACE = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<test>\w+)`")
ROWS = {
    *(f"C{n}" for n in range(1, 5)),
    *(f"H{n}" for n in range(1, 6)),
    *(f"M{n}" for n in range(1, 11)),
    *(f"R{n}" for n in range(1, 9)),
    *("chunks", "lists", "allow", "origins", "claims", "zones", "gzip", "offsets", "binary"),
    *("roles", "rings", "unread", "locks", "keys", "begin", "strangers", "codings"),
    *("answers", "busy"),
    *("delete", "profiles", "worker", "slug", "trails", "bodies", "framing"),
    *("remembered", "numbers", "groups", "quotes"),
}


def test_every_bound_has_a_test_or_a_reason() -> None:
    text = (ROOT / "tests" / "bounds" / "index.md").read_text()
    rows = {found["row"]: found["answer"] for found in ROW.finditer(text)}
    del rows["row"]
    assert rows.keys() == ROWS
    for row, answer in rows.items():
        places = list(PLACE.finditer(answer))
        assert places or len(answer.split()) > 6, f"{row} has neither a test nor a reason"
        for place in places:
            file = ROOT / "tests" / place["file"]
            assert file.exists(), (row, place[0])
            assert f"def {place['test']}(" in file.read_text(), (row, place[0])
