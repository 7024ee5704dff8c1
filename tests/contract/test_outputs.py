"""What the reports for machines promise to the programs that read them."""

import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]
import pytest
from alembic_readonly_check.codes import REGISTRY, finding
from alembic_readonly_check.command import reporters
from alembic_readonly_check.command.reporters import Report
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Side
from alembic_readonly_check.facts import Column, PrimaryKey, Schema, Table
from alembic_readonly_check.findings import Location

TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}


def closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


PLACE = closed(
    "artifactLocation region",
    artifactLocation=closed("uri", uri={"type": "string", "format": "uri-reference"}),
    region=closed("startLine", startLine={"type": "integer", "minimum": 1}),
)
RULE = closed(
    "id",
    id={"type": "string"},
    shortDescription=TEXT,
    fullDescription=TEXT,
    help=TEXT,
    defaultConfiguration=closed("level", level={"enum": ["none", "note", "warning", "error"]}),
)
RESULT = closed(
    "message locations ruleId partialFingerprints",
    ruleId={"type": "string"},
    ruleIndex={"type": "integer", "minimum": 0},
    level={"enum": ["none", "note", "warning", "error"]},
    message=TEXT,
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    locations={
        "type": "array",
        "minItems": 1,
        "items": closed("physicalLocation", physicalLocation=PLACE),
    },
)
SARIF = closed(
    "version runs",
    **{
        "$schema": {"type": "string", "format": "uri"},
        "version": {"enum": ["2.1.0"]},
        "runs": {
            "type": "array",
            "items": closed(
                "tool results",
                tool=closed(
                    "driver",
                    driver=closed(
                        "name",
                        name={"type": "string"},
                        rules={"type": "array", "items": RULE, "uniqueItems": True},
                    ),
                ),
                results={"type": "array", "items": RESULT},
            ),
        },
    },
)
"""SARIF 2.1.0 (OASIS, sections 3.13 to 3.52), as far as the command uses it, and a location."""


def every_kind() -> Report:
    """Make a report with every code twice: with a line, and of a fact that no file holds."""
    found = [
        finding(code, "a.b", "it differs", where)
        for code in REGISTRY
        for where in (Location("docs/a b.md", 3), None)
    ]
    return Report(tuple(found), ("3 tables",))


def test_sarif_follows_its_schema_and_names_a_line_for_every_kind_of_finding() -> None:
    held = json.loads(reporters.sarif(every_kind()))
    jsonschema.Draft202012Validator(SARIF).validate(held)
    results = held["runs"][0]["results"]
    assert len(results) == 2 * len(REGISTRY)
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results}
    assert uris == {"docs/a%20b.md", "pyproject.toml"}


@pytest.mark.parametrize("broken", ["locations", "message", "partialFingerprints"])
def test_the_schema_would_refuse_less(broken: str) -> None:
    held = json.loads(reporters.sarif(every_kind()))
    del held["runs"][0]["results"][0][broken]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SARIF).validate(held)


def test_every_finding_has_a_fingerprint_of_its_own_that_a_moved_line_keeps() -> None:
    report = every_kind()
    names = [name for _, name in report.fingerprints()]
    assert len(set(names)) == len(names)
    moved = Report(tuple(finding(f.code, f.subject, "x") for f in report.findings))
    assert [name for _, name in moved.fingerprints()] == names


def test_junit_fails_for_errors_alone() -> None:
    report = every_kind()
    suite = ElementTree.fromstring(reporters.junit(report))
    errors = sum(found.severity == "error" for found in report.findings)
    assert 0 < errors < len(report.findings)
    assert suite.get("failures") == str(errors) == str(len(suite.findall("testcase/failure")))
    assert suite.get("tests") == str(len(report.findings) + 1)


def test_junit_is_xml_whatever_a_value_holds() -> None:
    found = finding("DM105", "a.b\x00", "document E'\x1b', model '\ud800'")
    ElementTree.fromstring(reporters.junit(Report((found,))))


def test_sides_that_print_alike_say_what_differs() -> None:
    def side(name: str) -> Side:
        key = PrimaryKey(name, ("id",))
        table = Table("a.t", (Column("id", "integer", False),), key)
        return Side(Schema(name, {"a.t": table}), name)

    (found,) = Comparison("DB", side("one"), side("other")).run()
    assert found.expected == "PRIMARY KEY (id) [name one]"
    assert found.actual == "PRIMARY KEY (id) [name other]"
