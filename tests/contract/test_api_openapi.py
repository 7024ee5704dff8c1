"""The contract is read to the letter, and two spellings of one schema are one shape."""

from dataclasses import dataclass
from typing import Any

import pytest
from alembic_readonly_check.api.differences import compare
from alembic_readonly_check.findings import CannotCheck, Location
from alembic_readonly_check.openapi.contract import Contract, load_contract, parse_contract
from alembic_readonly_check.openapi.reading import Node
from alembic_readonly_check.openapi.shapes import Shape
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.api_fixtures.shop import CONTRACT, HERE, ROOT

HEAD = "openapi: 3.0.3\ninfo: { title: T, version: '1' }\n"


def document(text: str, version: str = "3.0.3") -> Contract:
    return parse_contract(HEAD.replace("3.0.3", version) + text, "openapi.yaml")


def schema(text: Any, version: str = "3.0.3", components: Any = None) -> Shape:
    contract = document("", version)
    contract.document["components"] = {"schemas": {"It": text, **(components or {})}}
    contract = parse_contract_of(contract.document)
    return contract.shape(Node(contract.document, "").child("components", "schemas", "It"))


def parse_contract_of(value: Any) -> Contract:
    import json

    return parse_contract(json.dumps(value), "openapi.json")


def test_what_yaml_1_1_misreads_stays_text() -> None:
    contract = document("x: { a: no, b: on, c: 2026-01-01, d: 1:30, e: '1', no: 1, 200: 2 }\n")
    assert contract.document["x"] == {
        "a": "no",
        "b": "on",
        "c": "2026-01-01",
        "d": "1:30",
        "e": "1",
        "no": 1,
        "200": 2,
    }


def test_numbers_booleans_and_null_are_those_of_yaml_1_2() -> None:
    contract = document("x: [1, -2, 0o17, 0x1F, 1.5, 1e3, .5, true, False, null, ~, '', 1_000]\n")
    assert contract.document["x"] == [
        1, -2, 15, 31, 1.5, 1000.0, 0.5, True, False, None, None, "", "1_000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x: 1\nx: 2\n", "openapi.yaml:4: the key 'x' stands twice in one mapping."),
        ("x: { a: 1, 'a': 2 }\n", "openapi.yaml:3: the key 'a' stands twice in one mapping."),
        ("x: !secret y\n", "openapi.yaml:3: the tag '!secret' is not plain YAML."),
        ("x: &a { y: 1 }\nz: { <<: *a }\n", "openapi.yaml:4: the merge key `<<` is not YAML 1.2."),
        ("? [1]\n: 2\n", "openapi.yaml:3: a key is not a scalar."),
        ("x: &a [*a]\n", "openapi.yaml:3: an alias contains itself."),
        ("x: [1\n", "openapi.yaml:4: not YAML: did not find expected ',' or ']'."),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str, why: str) -> None:
    with pytest.raises(CannotCheck) as refused:
        document(text)
    assert str(refused.value) == why


@pytest.mark.parametrize("text", ["", "[]", "swagger: '2.0'\n", "openapi: 3\n", "openapi: 4.0.0\n"])
def test_only_openapi_3_0_and_3_1_is_read(text: str) -> None:
    with pytest.raises(CannotCheck):
        parse_contract(text, "openapi.yaml")


@pytest.mark.parametrize(
    "ref", ["other.yaml#/It", "#/components/schemas/Nowhere", "#/components/schemas/It"]
)
def test_a_reference_leads_to_a_schema_of_the_document(ref: str) -> None:
    with pytest.raises(CannotCheck, match=r"openapi\.json:1: \$ref "):
        schema({"$ref": ref})


def test_a_contract_without_operations_checks_nothing(tmp_path: Any) -> None:
    (tmp_path / "openapi.yaml").write_text(HEAD + "paths: {}\n")
    with pytest.raises(CannotCheck, match="names no operation"):
        load_contract(tmp_path / "openapi.yaml", tmp_path)


def test_lines_are_those_of_the_file_whatever_its_line_ends() -> None:
    for text in (CONTRACT, CONTRACT.replace("\n", "\r\n")):
        contract = parse_contract(text, "docs/openapi.yaml")
        pointer = "/components/schemas/NewOrder/properties/code"
        assert contract.location(pointer) == Location("docs/openapi.yaml", 188)
        assert contract.location(f"{pointer}/nothing/here") == Location("docs/openapi.yaml", 188)


def test_paths_stand_below_the_server_and_parameters_of_a_path_count_for_its_operations() -> None:
    contract = load_contract(HERE / "openapi.yaml", ROOT)
    (get,) = [op for op in contract.operations if op.operation_id == "getOrder"]
    assert (get.path, get.key) == ("/api/v1/orders/{order_id}", ("GET", "/api/v1/orders/{}"))
    assert [parameter.key for parameter in get.parameters] == [
        ("path", "order_id"),
        ("header", "if-none-match"),
    ]


def test_a_schema_may_contain_itself() -> None:
    tree = {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"$ref": "#/components/schemas/It"}},
        ]
    }
    one, other = schema(tree), schema(tree, "3.1.0")
    assert list(compare(one, other, "request")) == []


@pytest.mark.parametrize(
    "text", [{"type": [[]]}, {"type": "string", "maxLength": {}, "allOf": [{"maxLength": 1}]}]
)
def test_a_malformed_schema_is_named_by_its_line(text: Any) -> None:
    with pytest.raises(CannotCheck, match=r"openapi\.json:1: the schema is malformed"):
        schema(text)


def test_a_schema_that_is_nothing_but_itself_is_refused() -> None:
    with pytest.raises(CannotCheck, match="its own member"):
        schema({"allOf": [{"$ref": "#/components/schemas/It"}]})


LINE = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
SAME = {
    "nullable against a null type": (
        ({"type": "string", "nullable": True}, "3.0.3"),
        ({"type": ["null", "string"]}, "3.1.0"),
    ),
    "nullable reference": (
        ({"nullable": True, "allOf": [{"$ref": "#/components/schemas/Line"}]}, "3.0.3"),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Line"}]}, "3.1.0"),
    ),
    "allOf against its merged form": (
        (
            {
                "allOf": [
                    {"$ref": "#/components/schemas/Line"},
                    {"required": ["b"], "properties": {"b": {"type": "string"}}},
                ]
            },
            "3.0.3",
        ),
        (
            {
                "type": "object",
                "required": ["b", "a"],
                "properties": {"b": {"type": "string"}, "a": {"type": "integer"}},
            },
            "3.0.3",
        ),
    ),
    "property tightened in allOf": (
        (
            {
                "allOf": [
                    {"$ref": "#/components/schemas/Line"},
                    {"properties": {"a": {"minimum": 3}}},
                    {"properties": {"a": {"minimum": 2}}},
                ]
            },
            "3.0.3",
        ),
        (
            {
                "type": "object",
                "required": ["a"],
                "properties": {"a": {"type": "integer", "minimum": 3}},
            },
            "3.0.3",
        ),
    ),
    "const against enum": (({"const": "x"}, "3.1.0"), ({"type": "string", "enum": ["x"]}, "3.0.3")),
    "exclusive bounds": (
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, "3.0.3"),
        ({"type": "number", "exclusiveMinimum": 0.0}, "3.1.0"),
    ),
    "the tighter of two bounds": (
        ({"type": "number", "exclusiveMaximum": 3, "maximum": 5}, "3.1.0"),
        ({"type": "number", "maximum": 3, "exclusiveMaximum": True}, "3.0.3"),
    ),
    "several types against anyOf": (
        ({"type": ["string", "integer"], "maxLength": 3, "minimum": 1}, "3.1.0"),
        (
            {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 1}]},
            "3.0.3",
        ),
    ),
    "null in an enum": (
        ({"type": "string", "nullable": True, "enum": ["x", None]}, "3.0.3"),
        ({"enum": [None, "x"]}, "3.1.0"),
    ),
    "what only annotates": (
        ({"type": "string", "title": "T", "description": "D", "example": "e"}, "3.0.3"),
        ({"type": "string", "examples": ["f"], "deprecated": True}, "3.1.0"),
    ),
    "anything": (({}, "3.0.3"), (True, "3.1.0")),
    "base64": (
        ({"type": "string", "format": "byte"}, "3.0.3"),
        ({"type": "string", "contentEncoding": "base64"}, "3.1.0"),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_two_spellings_of_one_schema_are_one(name: str) -> None:
    (one, version), (other, other_version) = SAME[name]
    left = schema(one, version, {"Line": LINE})
    right = schema(other, other_version, {"Line": LINE})
    assert list(compare(left, right, "request")) == []
    assert list(compare(right, left, "request")) == []


@dataclass(frozen=True, slots=True)
class Spelled:
    """One schema as 3.0 writes it and as 3.1 does."""

    old: dict[str, Any]
    new: dict[str, Any]


def _nullable(held: Spelled, null: bool) -> Spelled:
    if not null or held.old.get("nullable"):
        return held
    if "type" in held.old:
        return Spelled(
            {**held.old, "nullable": True}, {**held.new, "type": [held.new["type"], "null"]}
        )
    return Spelled({"nullable": True, "allOf": [held.old]}, {"anyOf": [held.new, {"type": "null"}]})


def _number(kind: str, low: int | None, strict: bool) -> Spelled:
    if low is None:
        return Spelled({"type": kind}, {"type": kind})
    old = {"type": kind, "minimum": low, "exclusiveMinimum": strict}
    return Spelled(old, {"type": kind, "exclusiveMinimum" if strict else "minimum": float(low)})


def _text(longest: int | None, form: str | None) -> Spelled:
    facts = {"maxLength": longest, "format": form}
    told = {"type": "string", **{key: value for key, value in facts.items() if value is not None}}
    return Spelled(told, {**told, "description": "Text."})


def _array(items: Spelled, most: int | None) -> Spelled:
    count = {} if most is None else {"maxItems": most}
    return Spelled(
        {"type": "array", "items": {"allOf": [items.old]}, **count},
        {"type": "array", "items": items.new, "minItems": 0, **count},
    )


def _object(properties: dict[str, Spelled], required: bool, closed: bool) -> Spelled:
    names = sorted(properties)
    shut = {"additionalProperties": False} if closed else {}
    needed = {"required": names} if required and names else {}
    old = {name: held.old for name, held in properties.items()}
    new = {name: properties[name].new for name in reversed(names)}
    return Spelled(
        {"type": "object", "properties": old, **needed, **shut},
        {"type": "object", "properties": new, "required": names[::-1] if required else [], **shut},
    )


LEAVES = st.one_of(
    st.builds(
        _number,
        st.sampled_from(["integer", "number"]),
        st.none() | st.integers(-5, 5),
        st.booleans(),
    ),
    st.builds(_text, st.none() | st.integers(1, 9), st.sampled_from([None, "uuid", "date"])),
    st.just(Spelled({"type": "boolean"}, {"type": "boolean", "title": "Switch"})),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_array, inner, st.none() | st.integers(1, 9)),
        st.builds(
            _object,
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            st.booleans(),
            st.booleans(),
        ),
        st.builds(_nullable, inner, st.booleans()),
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(SCHEMAS)
def test_any_schema_in_3_0_is_the_one_in_3_1(held: Spelled) -> None:
    one, other = schema(held.old), schema(held.new, "3.1.0")
    assert list(compare(one, other, "request")) == []
    assert list(compare(other, one, "request")) == []


@settings(max_examples=150)
@given(SCHEMAS, SCHEMAS)
def test_two_schemas_compare_alike_both_ways(one: Spelled, other: Spelled) -> None:
    left, right = schema(one.old), schema(other.new, "3.1.0")
    there = {(found.fact, found.path) for found in compare(left, right, "request")}
    back = {(found.fact, found.path) for found in compare(right, left, "request")}
    assert there == back


def test_a_discriminator_maps_to_members() -> None:
    union = {
        "oneOf": [{"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B"}],
        "discriminator": {"propertyName": "kind", "mapping": {"a": "A", "c": "C"}},
    }
    member = {"type": "object", "properties": {"kind": {"type": "string"}}}
    with pytest.raises(CannotCheck, match="maps to /components/schemas/C, which is no member"):
        schema(union, "3.0.3", {"A": member, "B": member})
