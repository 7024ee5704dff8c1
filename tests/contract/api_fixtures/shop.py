"""The shop of openapi.yaml and orders_app.py, with one piece of text changed on one side."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Literal

from alembic_readonly_check.api.routes import check_routes
from alembic_readonly_check.api.served import Route, routes_of
from alembic_readonly_check.api.structs import check_structs
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.openapi.contract import Contract, parse_contract
from alembic_readonly_check.sources.document import datamodel
from litestar import Litestar

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CONTRACT = (HERE / "openapi.yaml").read_text(encoding="utf-8")
TABLES = (HERE / "datamodel.md").read_text(encoding="utf-8")
EXTERNAL = (HERE / "external_apis.md").read_text(encoding="utf-8")
APP = (HERE / "orders_app.py").read_text(encoding="utf-8")

_numbers = count()


@dataclass(frozen=True, slots=True)
class Change:
    """Replace one piece of text on one side: a drift that is `code`, or a benign twin of it."""

    id: str
    code: str
    side: Literal["contract", "app", "tables", "external"]
    old: str
    new: str
    also: tuple[tuple[str, str], ...] = ()
    benign: bool = False

    def contract(self) -> Contract:
        """Read the contract, changed if this changes it."""
        return parse_contract(self._apply(CONTRACT, "contract"), "docs/openapi.yaml")

    def routes(self) -> list[Route]:
        """Build the app, changed if this changes it, and list its routes."""
        return routes_of_text(self._apply(APP, "app"))

    def tables(self) -> Schema:
        """Read the data model, changed if this changes it."""
        return schema_of_text(self._apply(TABLES, "tables"))

    def external(self) -> str:
        """Give the text of external_apis.md, changed if this changes it."""
        return self._apply(EXTERNAL, "external")

    def _apply(self, text: str, side: str) -> str:
        if self.side != side:
            return text
        for old, new in ((self.old, self.new), *self.also):
            assert text.count(old) >= 1, f"{self.id}: {old!r} is not in the {side}"
            text = text.replace(old, new, 1)
        return text


def schema_of_text(text: str) -> Schema:
    """Read the text of a data model that has nothing wrong with it."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "datamodel.md")
        path.write_text(text, encoding="utf-8")
        document = datamodel.read(path, Path(folder), "shop", "any")
    assert document.findings == []
    return document.schema


def app_of_text(text: str) -> Litestar:
    """Run the text of an app as a module of its own and give its `app`."""
    module = ModuleType(f"orders_app_{next(_numbers)}")
    # Litestar and msgspec look up annotations in the module that a function says it is from.
    sys.modules[module.__name__] = module
    exec(compile(text, HERE / "orders_app.py", "exec"), module.__dict__)
    app = module.__dict__["app"]
    assert isinstance(app, Litestar)
    return app


def routes_of_text(text: str) -> list[Route]:
    """List the routes of an app that is given as text."""
    return routes_of(app_of_text(text), ROOT)


def api_findings(
    contract: Contract, routes: list[Route], rules: ApiRules | None = None
) -> list[Finding]:
    """Run every check that needs no more than the contract and the app."""
    return check_routes(contract, routes, rules or ApiRules()) + check_structs(
        contract, routes, ROOT
    )


def covered(changes: Iterable[Change]) -> dict[str, tuple[list[str], list[str]]]:
    """Group the ids of mutations and of benign twins by code."""
    codes: dict[str, tuple[list[str], list[str]]] = {}
    for change in changes:
        codes.setdefault(change.code, ([], []))[change.benign].append(change.id)
    return codes
