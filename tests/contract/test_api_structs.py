"""Structs against the contract: each change gives exactly its code, each twin nothing."""

import pytest

from tests.contract.api_fixtures.shop import Change, api_findings, covered

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
