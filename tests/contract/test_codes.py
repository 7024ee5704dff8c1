"""Every code has a change that gives it and a benign twin."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from alembic_readonly_check.codes import FAMILIES, REGISTRY, TEXTS
from alembic_readonly_check.db.queries import QUERIES
from alembic_readonly_check.findings import SEVERITIES

HERE = Path(__file__).parent


def covered() -> dict[str, tuple[list[Any], list[Any]]]:
    """Join what every test file covers: code -> changes, benign twins.

    A change is the id of a parameter; where a code takes more than one, it is the test itself.
    """
    joined: dict[str, tuple[list[Any], list[Any]]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(f"tests.contract.{path.stem}")
        for code, (changes, twins) in getattr(module, "COVERED", {}).items():
            held = joined.setdefault(code, ([], []))
            held[0].extend(changes)
            held[1].extend(twins)
    return joined


COVERED_CODES = covered()


@pytest.mark.parametrize("code", REGISTRY)
def test_a_code_has_a_change_that_gives_it_and_a_twin_that_does_not(code: str) -> None:
    changes, twins = COVERED_CODES.get(code, ([], []))
    assert changes, f"no test gives {code}"
    assert twins, f"no test shows what {code} lets pass"


def test_no_test_covers_a_code_that_is_not_registered() -> None:
    assert set(COVERED_CODES) <= set(REGISTRY)


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    rows = [line for line in TEXTS.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert len(REGISTRY) == len([row for row in rows if not row.startswith("| Code |")])
    for entry in REGISTRY.values():
        assert all((entry.title, entry.explanation, entry.example, entry.fix)), entry.code
        assert entry.severity in SEVERITIES


def test_every_code_belongs_to_a_family() -> None:
    for code in REGISTRY:
        assert code[:3] in FAMILIES


def test_the_catalog_is_read_by_few_queries() -> None:
    assert len(QUERIES) == 10
