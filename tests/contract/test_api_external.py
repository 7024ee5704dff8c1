"""external_apis.md against the contract: each change gives exactly its code, twins nothing."""

import pytest
from alembic_readonly_check.api.external import FACTS, check_external
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import Finding

from tests.contract.api_fixtures.shop import EXTERNAL, Change, covered

SECTION = """## billing
- Base URL: `https://billing.example/v2`
- Authentication: bearer token
- Operations: `POST /charges`
- Failure: none
- Timeout: 5 s
"""

CHANGES = (
    Change("section missing", "EX801", "external", EXTERNAL, "# Systems that we call\n"),
    Change(
        "section under another heading",
        "EX801",
        "contract",
        "x-external-api: billing",
        "x-external-api: [billing, stock]",
    ),
    Change(
        "two systems",
        "EX801",
        "contract",
        "x-external-api: billing",
        "x-external-api: [billing]",
        benign=True,
    ),
    Change("fact missing", "EX802", "external", "- Timeout: 5 s\n", ""),
    Change("fact empty", "EX802", "external", "- Timeout: 5 s", "- Timeout:"),
    Change("fact twice", "EX802", "external", "- Timeout: 5 s", "- Timeout: 5 s\n- Timeout: 6 s"),
    Change(
        "facts in another order, in bold",
        "EX802",
        "external",
        "- Timeout: 5 s\n",
        "",
        (("- Base URL", "* **Timeout:** 5 s\n\n- Base URL"),),
        benign=True,
    ),
    Change("section twice", "EX802", "external", "- Owner: the till\n", f"\n{SECTION}"),
    Change(
        "system that nothing calls",
        "EX803",
        "external",
        "- Owner: the till\n",
        f"\n{SECTION.replace('billing', 'stock')}",
    ),
    Change(
        "system that operations do not wait for",
        "EX803",
        "external",
        "- Owner: the till\n",
        f"\n{SECTION.replace('billing', 'stock')}- Used by: the nightly report\n",
        benign=True,
    ),
)
COVERED = covered(CHANGES)


def findings(change: Change) -> list[Finding]:
    return check_external(change.contract(), change.external(), "docs/external_apis.md", ApiRules())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_code(change: Change) -> None:
    assert {f.code for f in findings(change)} == (set() if change.benign else {change.code})


def test_operations_wait_for_a_document_that_is_not_there() -> None:
    change = Change("", "EX801", "contract", "", "")
    (found,) = check_external(change.contract(), None, "docs/external_apis.md", ApiRules())
    assert found.heading == (
        "BLOCKED: external_apis.md incomplete - createOrder, createPayment integrates billing"
    )


def test_a_section_without_facts_lacks_each_of_them() -> None:
    change = Change("", "EX802", "contract", "", "")
    found = check_external(change.contract(), "## `billing`\n", "docs/external_apis.md", ApiRules())
    assert [f.subject for f in found] == [f"billing {fact}" for fact in FACTS]
    assert {str(f.location) for f in found} == {"docs/external_apis.md:1"}
