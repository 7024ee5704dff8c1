"""Structs and contract hold the same values, not only the same fields."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS30Validator

import app.schemas
from tests.factories import make
from tests.operations import DOCUMENT


def structs() -> Iterator[type[msgspec.Struct]]:
    """List the structs that a request or an answer carries."""
    for module in iter_modules(app.schemas.__path__):
        for _, found in inspect.getmembers(import_module(f"app.schemas.{module.name}")):
            if inspect.isclass(found) and issubclass(found, msgspec.Struct):
                if found.__name__ in DOCUMENT["components"]["schemas"]:
                    yield found


def problems(name: str, value: Any) -> list[str]:
    """List what a schema of the contract finds wrong with a value.

    But for null where a schema is referred to: OpenAPI 3.0 has no spelling of it that generators
    take and validators as well.
    """
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return [
        f"{e.json_path}: {e.message}"
        for e in OAS30Validator(schema).iter_errors(value)
        if e.instance is not None or "allOf" not in e.absolute_schema_path
    ]


@pytest.mark.parametrize("struct", sorted(set(structs()), key=repr))
def test_what_a_struct_holds_is_what_the_contract_describes(struct: type[msgspec.Struct]) -> None:
    for _ in range(40):
        value = msgspec.json.decode(msgspec.json.encode(make(struct)))
        assert problems(struct.__name__, value) == [], value


def test_a_value_that_the_contract_forbids_is_seen() -> None:
    assert "$.name: '' should be non-empty" in problems("WorkspaceCreate", {"name": ""})
    assert problems("EventCreate", {"type": "Not a type"})
