"""Structs against the contract: each change gives exactly its code, each twin nothing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Required, TypedDict

import pytest
from alembic_readonly_check.api.differences import compare
from alembic_readonly_check.api.served import routes_of
from alembic_readonly_check.api.shapes import StructShapes
from alembic_readonly_check.openapi.schemas import canonical
from msgspec import Meta, Raw, Struct, field

from tests.contract.api_fixtures.shop import ROOT, Change, api_findings, covered

MAPPING = (
    '        mapping:\n          card: "#/components/schemas/Card"\n'
    '          cash: "#/components/schemas/Cash"\n'
)

CHANGES = (
    Change(
        "property added",
        "AS602",
        "contract",
        "        count: { type: integer }\n",
        "        count: { type: integer }\n        seen: { type: integer }\n",
    ),
    Change("property removed", "AS602", "app", "    labels: list[str]\n", ""),
    Change(
        "property renamed",
        "AS602",
        "contract",
        "        number: {",
        "        digits: {",
        (("required: [kind, number]", "required: [kind, digits]"),),
    ),
    Change(
        "nested property",
        "AS602",
        "app",
        "    price: Decimal\n",
        "    price: Decimal\n    tax: Decimal\n",
    ),
    Change(
        "property of a request by readOnly",
        "AS602",
        "contract",
        "        code:\n",
        "        id: { type: string, readOnly: true }\n        code:\n",
        benign=True,
    ),
    Change(
        "component renamed",
        "AS602",
        "contract",
        "    Imported:\n",
        "    Intake:\n",
        (("schemas/Imported", "schemas/Intake"),),
        benign=True,
    ),
    Change(
        "$ref against inline",
        "AS602",
        "contract",
        '{ $ref: "#/components/schemas/Imported" }',
        "{ type: object, required: [count], properties: { count: { type: integer } } }",
        benign=True,
    ),
    Change(
        "type",
        "AS603",
        "contract",
        "quantity: { type: integer, x-db",
        "quantity: { type: string, x-db",
    ),
    Change("integer to number", "AS603", "app", "extra: dict[str, int]", "extra: dict[str, float]"),
    Change("nested item type", "AS603", "app", "    labels: list[str]", "    labels: list[int]"),
    Change("object to anything", "AS603", "app", "    labels: list[str]", "    labels: Any"),
    Change(
        "type in allOf",
        "AS603",
        "contract",
        "count: { type: integer }",
        "count: { allOf: [{ type: integer }] }",
        benign=True,
    ),
    Change("required removed", "AS604", "contract", "required: [count]", "required: []"),
    Change(
        "required added",
        "AS604",
        "contract",
        "required: [code, quantity, lines]",
        "required: [code, quantity, lines, due_at]",
    ),
    Change(
        "required in the app",
        "AS604",
        "app",
        "    due_at: Instant | UnsetType = UNSET\n",
        "",
        (
            (
                "    lines: Annotated[list[NewLine]",
                "    due_at: Instant\n    lines: Annotated[list[NewLine]",
            ),
        ),
    ),
    Change(
        "field with a default is always sent",
        "AS604",
        "app",
        "    count: int\n",
        "    count: int = 0\n",
        benign=True,
    ),
    Change(
        "default may be left out",
        "AS604",
        "app",
        "class Imported(Struct):",
        "class Imported(Struct, omit_defaults=True):",
        (("    count: int\n", "    count: int = 0\n"),),
    ),
    Change("default", "AS605", "contract", "default: open", "default: paid"),
    Change("default undocumented", "AS605", "contract", "          default: open\n", ""),
    Change(
        "factory default",
        "AS605",
        "app",
        "extra: dict[str, int] | UnsetType = UNSET",
        "extra: dict[str, int] = {}",
    ),
    Change(
        "default null against absent",
        "AS605",
        "contract",
        "note: { type: string, nullable: true, maxLength: 200,",
        "note: { type: string, nullable: true, default: null, maxLength: 200,",
        benign=True,
    ),
    Change(
        "default 1 as 1.0",
        "AS605",
        "contract",
        "minimum: 1, default: 1 }",
        "minimum: 1, default: 1.0 }",
        benign=True,
    ),
    Change(
        "nullable dropped",
        "AS606",
        "contract",
        "next: { type: string, nullable: true }",
        "next: { type: string }",
    ),
    Change("nullable added", "AS606", "app", "    up: bool", "    up: bool | None"),
    Change(
        "nullable of a request",
        "AS606",
        "app",
        "note: Note | UnsetType | None",
        "note: Note | UnsetType",
    ),
    Change(
        "3.1 null",
        "AS606",
        "contract",
        "openapi: 3.0.3",
        "openapi: 3.1.0",
        (
            ("note: { type: string, nullable: true, x-", "note: { type: [string, 'null'], x-"),
            (
                "next: { type: string, nullable: true }",
                "next: { anyOf: [{ type: string }, { type: 'null' }] }",
            ),
            (
                "note: { type: string, nullable: true, maxLength: 200,",
                "note: { type: ['null', string], maxLength: 200,",
            ),
            (
                "note: { type: string, nullable: true, maxLength: 200,",
                "note: { type: ['null', string], maxLength: 200,",
            ),
            (
                "          nullable: true\n"
                '          allOf: [{ $ref: "#/components/schemas/Order" }]',
                '          oneOf: [{ $ref: "#/components/schemas/Order" }, { type: "null" }]',
            ),
            (
                "          minimum: 0\n          exclusiveMinimum: true\n",
                "          exclusiveMinimum: 0\n",
            ),
        ),
        benign=True,
    ),
    Change(
        "format", "AS607", "contract", "id: { type: string, format: uuid,", "id: { type: string,"
    ),
    Change("format of a time", "AS607", "app", "    due_at: Instant", "    due_at: str"),
    Change("time without an offset", "AS607", "app", "    due_at: Instant", "    due_at: datetime"),
    Change("format of an item", "AS607", "app", "labels: list[str]", "labels: list[UUID]"),
    Change(
        "number format",
        "AS607",
        "contract",
        "count: { type: integer }",
        "count: { type: integer, format: int64 }",
        benign=True,
    ),
    Change("maxLength", "AS608", "contract", "maxLength: 12", "maxLength: 13"),
    Change(
        "maxLength dropped",
        "AS608",
        "app",
        "Note = Annotated[str, Meta(max_length=200)]",
        "Note = str",
    ),
    Change("minLength", "AS608", "app", "min_length=3", "min_length=2"),
    Change(
        "minLength 0",
        "AS608",
        "contract",
        "number: { type: string,",
        "number: { type: string, minLength: 0,",
        benign=True,
    ),
    Change(
        "minimum",
        "AS609",
        "contract",
        "count: { type: integer, minimum: 1,",
        "count: { type: integer, minimum: 2,",
    ),
    Change(
        "minimum against exclusive", "AS609", "contract", "          exclusiveMinimum: true\n", ""
    ),
    Change(
        "bounds of a member",
        "AS609",
        "app",
        "amount: Annotated[float, Meta(ge=0)]",
        "amount: float",
    ),
    Change(
        "100 against 100.0",
        "AS609",
        "contract",
        "minimum: 1, maximum: 99,",
        "minimum: 1.0, maximum: 99.0,",
        benign=True,
    ),
    Change("maxItems", "AS610", "contract", "maxItems: 50", "maxItems: 60"),
    Change(
        "minItems dropped",
        "AS610",
        "app",
        "Meta(min_length=1, max_length=50)",
        "Meta(max_length=50)",
    ),
    Change(
        "uniqueItems false",
        "AS610",
        "contract",
        "maxItems: 50",
        "maxItems: 50\n          uniqueItems: false",
        benign=True,
    ),
    Change("enum", "AS611", "contract", "enum: [open, paid]\n", "enum: [open, closed]\n"),
    Change(
        "enum of a response",
        "AS611",
        "app",
        "    state: State\n",
        '    state: Literal["open", "paid"]\n',
    ),
    Change(
        "enum in another order",
        "AS611",
        "contract",
        "enum: [open, paid]\n",
        "enum: [paid, open]\n",
        benign=True,
    ),
    Change("pattern", "AS612", "contract", "^[A-Z]+$", "^[A-Z]*$"),
    Change("pattern dropped", "AS612", "app", ', pattern="^[A-Z]+$"', ""),
    Change("pattern with Python's end", "AS612", "app", "[A-Z]+$", r"[A-Z]+\\Z", benign=True),
    Change("pattern in other quotes", "AS612", "contract", '"^[A-Z]+$"', "'^[A-Z]+$'", benign=True),
    Change(
        "additionalProperties",
        "AS613",
        "contract",
        "    NewLine:\n      type: object\n      additionalProperties: false\n",
        "    NewLine:\n      type: object\n",
    ),
    Change(
        "unknown fields ignored",
        "AS613",
        "app",
        "class OrderChange(Struct, forbid_unknown_fields=True)",
        "class OrderChange(Struct)",
    ),
    Change(
        "map to object",
        "AS613",
        "contract",
        "          additionalProperties: { type: integer }\n",
        "",
    ),
    Change(
        "additionalProperties true",
        "AS613",
        "contract",
        "    Card:\n      type: object\n",
        "    Card:\n      type: object\n      additionalProperties: true\n",
        benign=True,
    ),
    Change(
        "closed response",
        "AS613",
        "contract",
        "    Line:\n      type: object\n",
        "    Line:\n      type: object\n      additionalProperties: false\n",
        benign=True,
    ),
    Change("tag value", "AS614", "app", 'tag="cash"', 'tag="coin"'),
    Change(
        "tag property",
        "AS614",
        "app",
        'tag_field="kind", tag="card"',
        'tag_field="type", tag="card"',
        (('tag_field="kind", tag="cash"', 'tag_field="type", tag="cash"'),),
    ),
    Change("tag in the mapping", "AS614", "contract", '          cash: "#', '          coin: "#'),
    Change(
        "tag undocumented",
        "AS614",
        "contract",
        "        kind: { type: string, enum: [card] }\n",
        "",
        (("required: [kind, number]", "required: [number]"),),
    ),
    Change("enum against mapping", "AS614", "contract", "enum: [card]", "enum: [coin]"),
    Change("tag optional", "AS604", "contract", "required: [kind, number]", "required: [number]"),
    Change(
        "values of the tag in the mapping alone",
        "AS614",
        "contract",
        "kind: { type: string, enum: [card] }",
        "kind: { type: string }",
        benign=True,
    ),
    Change(
        "anyOf against oneOf",
        "AS614",
        "contract",
        '      oneOf:\n        - $ref: "#/components/schemas/Card"',
        '      anyOf:\n        - $ref: "#/components/schemas/Card"',
        benign=True,
    ),
    Change(
        "no discriminator",
        "AS614",
        "contract",
        f"      discriminator:\n        propertyName: kind\n{MAPPING}",
        "",
        benign=True,
    ),
    Change(
        "no mapping",
        "AS614",
        "contract",
        MAPPING,
        "",
        benign=True,
    ),
    Change(
        "body undocumented",
        "AS615",
        "contract",
        "      requestBody:\n        required: true\n        content:\n"
        "          application/json:\n"
        '            schema: { $ref: "#/components/schemas/Payment" }\n',
        "",
    ),
    Change(
        "body without a struct",
        "AS615",
        "app",
        "data: JSONBody[Card | Cash]",
        "request: Request[Any, Any, Any]",
    ),
    Change(
        "response without a struct", "AS615", "app", '        "response_struct": Imported,\n', ""
    ),
    Change(
        "bytes that are JSON",
        "AS615",
        "app",
        "-> Health:",
        "-> bytes:",
        (
            (
                'opt={"exclude_from_auth": True}',
                'media_type="application/json",'
                ' opt={"exclude_from_auth": True, "response_struct": Health}',
            ),
        ),
        benign=True,
    ),
    Change(
        "descriptions and examples",
        "AS603",
        "contract",
        "count: { type: integer }",
        "count: { type: integer, description: How many., example: 3, title: Count }",
        benign=True,
    ),
)
COVERED = covered(CHANGES)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_code(change: Change) -> None:
    found = api_findings(change.contract(), change.routes())
    assert {finding.code for finding in found} == (set() if change.benign else {change.code})


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int = 0


class Hints(TypedDict, total=False):
    size: Required[int]
    note: str


@dataclass
class Box:
    width: int
    label: str = ""


class Node(Struct):
    value: int
    next: "Node | None" = None


class Sent(Struct, array_like=True):
    id: int
    name: str = ""


class Kept(Struct, rename="camel"):
    raw_body: Raw = Raw(b"{}")
    made_at: datetime = field(default_factory=datetime.now)


SPELLED = {
    "enum": (Colour, {"type": "string", "enum": ["blue", "red"]}),
    "literal": (Literal[1, 2, None], {"type": ["integer", "null"], "enum": [2, 1, None]}),
    "tuple": (
        tuple[int, str],
        {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
        },
    ),
    "named tuple": (
        Point,
        {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "prefixItems": [{"type": "integer"}, {"type": "integer"}],
        },
    ),
    "typed dict": (
        Hints,
        {
            "required": ["size"],
            "properties": {"size": {"type": "integer"}, "note": {"type": "string"}},
        },
    ),
    "dataclass": (
        Box,
        {
            "required": ["width"],
            "properties": {
                "width": {"type": "integer"},
                "label": {"type": "string", "default": ""},
            },
        },
    ),
    "struct in a list": (
        Sent,
        {
            "type": "array",
            "minItems": 1,
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
        },
    ),
    "set": (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
    "set read from a list": (set[str], {"type": "array", "items": {"type": "string"}}),
    "bytes": (
        Annotated[bytes, Meta(max_length=4)],
        {"type": "string", "contentEncoding": "base64", "maxLength": 8},
    ),
    "map": (
        Annotated[dict[str, Any], Meta(max_length=3)],
        {"type": "object", "maxProperties": 3},
    ),
    "anything": (Any, {}),
    "several types": (int | str | None, {"type": ["string", "integer", "null"]}),
    "duration": (timedelta, {"type": "string", "format": "duration"}),
    "format that only annotates": (str, {"type": "string", "format": "email"}),
    "format that the struct states": (
        Annotated[str, Meta(extra_json_schema={"format": "email"})],
        {"type": "string", "format": "email"},
    ),
    "camel case": (
        Kept,
        {"properties": {"rawBody": {}, "madeAt": {"type": "string", "format": "x"}}},
    ),
}


@pytest.mark.parametrize("name", SPELLED)
def test_python_types_have_the_shape_of_their_json(name: str) -> None:
    annotation, schema = SPELLED[name]
    code = StructShapes("request").shape(annotation, "it")
    found = list(compare(canonical(schema, "it"), code, "request"))
    if name == "camel case":
        # A naive datetime is no date-time, and nothing here calls its factory.
        assert [(d.fact, d.path) for d in found] == [("format", "madeAt")]
    else:
        assert found == []


def test_a_struct_may_contain_itself() -> None:
    shapes = StructShapes("request")
    node = shapes.shape(Node, "it")
    (found,) = compare(node, shapes.shape(Node | None, "it"), "request")
    assert found.fact == "null"
    assert list(compare(node, node, "request")) == []


def test_a_response_is_held_to_no_constraint_that_msgspec_does_not_check() -> None:
    schema = canonical({"type": "string", "maxLength": 9, "pattern": "^a"}, "it")
    assert [
        d.fact for d in compare(schema, StructShapes("request").shape(str, "it"), "request")
    ] == [
        "pattern",
        "length",
    ]
    assert not list(compare(schema, StructShapes("response").shape(str, "it"), "response"))
    stated = StructShapes("response").shape(Annotated[str, Meta(max_length=8)], "it")
    assert [d.fact for d in compare(schema, stated, "response")] == ["length"]


class Opaque:
    """A type that msgspec knows nothing of."""


def test_a_type_that_msgspec_cannot_describe_is_said_to_be_one() -> None:
    (found,) = compare(
        canonical({"type": "string"}, "it"), StructShapes("request").shape(Opaque, "it"), "request"
    )
    assert (found.fact, found.actual) == ("type", "Opaque, which msgspec cannot describe")
    described = Annotated[Opaque, Meta(extra_json_schema={"type": "string"})]
    assert not list(
        compare(
            canonical({"type": "string"}, "it"),
            StructShapes("request").shape(described, "it"),
            "request",
        )
    )


def test_a_finding_names_the_line_of_the_field() -> None:
    # The shop runs from text that Python cannot look up, so this one is imported.
    from tests.contract.api_fixtures import orders_app

    change = Change("", "AS603", "contract", "count: { type: integer }", "count: { type: string }")
    (found,) = api_findings(change.contract(), routes_of(orders_app.app, ROOT))
    assert found.subject == "Imported.count"
    assert found.message == (
        "importOrders response 200 at count: type differs: document string, struct integer"
        " (tests/contract/api_fixtures/orders_app.py:92)"
    )


def test_a_struct_that_operations_share_is_reported_once() -> None:
    change = Change("", "AS606", "app", "    note: str | None\n", "    note: str\n")
    assert [f.subject for f in api_findings(change.contract(), change.routes())] == ["Order.note"]


def test_a_union_that_msgspec_refuses_is_a_finding_and_no_crash() -> None:
    code = StructShapes("request").shape(Kept | Node, "it")
    (found,) = compare(canonical({"type": "object"}, "it"), code, "request")
    assert (found.fact, found.expected) == ("type", "object")
    assert "which msgspec refuses: " in found.actual
