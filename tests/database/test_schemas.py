"""A schema's check in SQL says what a library of JSON Schema says, at a bounded cost."""

import random
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.conftest import encode
from tests.database.conftest import Connection

MISMATCH = "select annex.find_mismatch($1::text::jsonb, $2::text::jsonb)"
FAULT = "select annex.find_schema_fault($1::text::jsonb)"
TYPES = ["null", "boolean", "object", "array", "number", "integer", "string"]
NAMES = ["a", "b", "c/d", "e~f", ""]

SCALARS = [None, True, False, *range(-3, 4), 0.5, 1.0, -2.0, 1e300, 1.5e-7]
SCALARS += ["", "a", "ab", "abc", "\u00e9", "\U0001f600", "1"]


def a_document(dice: random.Random, depth: int = 3) -> Any:
    """Draw any JSON value."""
    match dice.randrange(5) if depth else 0:
        case 1:
            return [a_document(dice, depth - 1) for _ in range(dice.randrange(4))]
        case 2 | 3:
            names = dice.sample(NAMES, dice.randrange(4))
            return {name: a_document(dice, depth - 1) for name in names}
        case _:
            return dice.choice(SCALARS)


def a_schema(dice: random.Random, depth: int = 3) -> dict[str, Any]:
    """Draw a schema with a few of the keywords."""

    def below() -> dict[str, Any]:
        return a_schema(dice, depth - 1) if depth else {}

    words: dict[str, Callable[[], Any]] = {
        "type": lambda: dice.choice([dice.choice(TYPES), dice.sample(TYPES, 3)]),
        "enum": lambda: dice.sample(SCALARS, 9),
        "const": lambda: dice.choice(SCALARS),
        "required": lambda: dice.sample(NAMES, dice.randrange(3)),
        "properties": lambda: {name: below() for name in dice.sample(NAMES, dice.randrange(4))},
        "additionalProperties": lambda: dice.choice([True, False, below()]),
        "items": below,
        **{
            f"{m}{n}": lambda: dice.randrange(4)
            for m in ("min", "max")
            for n in ("Items", "Length")
        },
        **{
            name: lambda: dice.choice([-1, 0, 0.5, 2, 2.0])
            for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        },
    }
    return {name: words[name]() for name in dice.sample(list(words), dice.randrange(4))}


def resolves(document: Any, pointer: str) -> bool:
    """Say whether a pointer (RFC 6901) names a value, or what is missing in an object."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            document = document[int(name)]
        elif name in document:
            document = document[name]
        else:
            return True
    return True


async def test_sql_and_the_library_agree_on_any_schema_and_data(admin: Connection) -> None:
    dice = random.Random(1)
    differing, fitting = [], 0
    for _ in range(3000):
        schema, document = a_schema(dice), a_document(dice)
        assert await admin.fetchval(FAULT, encode(schema)) is None, schema
        fits = jsonschema.Draft202012Validator(schema).is_valid(document)
        found = await admin.fetchval(MISMATCH, encode(schema), encode(document))
        if fits != (found is None):
            differing.append((schema, document, found))
        if found is not None:
            assert resolves(document, found[0])
        fitting += fits
    assert differing == []
    # Neither answer is the rare one.
    assert 600 < fitting < 2700


async def test_what_the_check_takes_is_a_schema_to_the_library_too(admin: Connection) -> None:
    dice = random.Random(1)
    words = ["type", "enum", "required", "properties", "items", "minLength", "maximum"]
    taken = 0
    for _ in range(2000):
        schema = {name: a_document(dice) for name in dice.sample(words, 2)}
        if await admin.fetchval(FAULT, encode(schema)) is None:
            jsonschema.Draft202012Validator.check_schema(schema)
            taken += 1
    assert taken > 5


@pytest.mark.parametrize(
    "data",
    [
        [1] * 32_000,
        {f"k{n}": n for n in range(6000)},
        [[1] * 300] * 100,
        [{"a": {"b": [n]}} for n in range(4000)],
    ],
    ids=["long", "wide", "square", "deep"],
)
async def test_large_data_cost_no_more_than_two_thousand_values(
    admin: Connection, data: Any
) -> None:
    schema: dict[str, Any] = {"items": {}, "additionalProperties": {}}
    for _ in range(8):
        schema = {"items": schema, "additionalProperties": schema, "maxLength": 7}
        if len(encode(schema)) > 8000:
            break
    began = time.monotonic()
    found = await admin.fetchval(MISMATCH, encode(schema), encode(data))
    assert found is not None
    assert found[1] == "is one of more than 2,000 values"
    assert time.monotonic() - began < 5


async def test_names_of_any_length_are_no_lever(admin: Connection) -> None:
    data = {"x" * 60_000: list(range(1900))}
    schema = {"additionalProperties": {"items": {"type": "string"}}}
    found = await admin.fetchval(MISMATCH, encode(schema), encode(data))
    assert len(found[0]) < 200


async def test_a_planted_schema_is_never_followed(admin: Connection) -> None:
    # Past the check, as an owner of the database could: words that are not known say nothing.
    for schema in (
        {"$ref": "http://127.0.0.1:9/"},
        {"$ref": "#"},
        {"pattern": "(a+)+$", "type": "string"},
        {"properties": 7, "items": 7, "required": 7, "enum": 7, "type": 7, "minLength": "x"},
        7,
        None,
    ):
        for document in ("a" * 60_000, {"a": 1}, [1], 7, None):
            try:
                await admin.fetchval(MISMATCH, encode(schema), encode(document))
            except asyncpg.DataError as error:
                raise AssertionError((schema, document)) from error


async def test_a_planted_schema_is_refused_by_the_table(admin: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await admin.execute(
            "insert into annex.event_types (name, category, data_schema)"
            " values ('planted.schema', 'x', $1::text::jsonb)",
            encode({"$ref": "http://127.0.0.1:9/"}),
        )


FILL = "select annex.fill_template($1, $2::text::jsonb, $3)"


@pytest.mark.parametrize(
    ("written", "data", "text"),
    [
        ("Hi {{data.a}}!", {"a": "{{7*7}}"}, "Hi {{7*7}}!"),
        ("{{data.a}}{{data.b}}", {"a": "{{data.b}}", "b": "x"}, "{{data.b}}x"),
        (
            "{{data.a}}",
            {"a": "{% for x in y %}${7*7}#{7}<%= 7 %>"},
            "{% for x in y %}${7*7}#{7}<%= 7 %>",
        ),
        ("{{data.a}}", {"a": "<script>alert(1)</script>"}, "<script>alert(1)</script>"),
        ("{{data.a.b.0}} {{ data.n }}", {"a": {"b": ["x"]}, "n": 1.50}, "x 1.5"),
        ("[{{data.a}}{{data.no}}{{data.n}}{{data.o}}]", {"a": [1], "n": None, "o": {}}, "[]"),
        # Only the first thousand characters are looked at, so that nobody can make it long.
        ("[{{data.a}}]", {"a": "\u200b" * 1000 + "x" * 60_000}, "[ ]"),
        ("{{data.a}}", {"a": "\u200b" * 999 + "x" * 60_000}, " x"),
        ("{{data.a}}", {"a": "x\r\nSubject: y\u202e\u200b\ufeffz"}, "x Subject: y z"),
        ("{{data.a}}", {"a": "x" * 300}, "x" * 200),
        ("{{data.a}}" * 20, {"a": "x" * 300}, "x" * 250),
        ("{{data.password}} {{data.version}}", {}, " "),
        ("{{data.a}}", 7, ""),
        ("{{data.a}}", None, ""),
        ("{{data.t}}", {"t": True}, "true"),
        ("no braces } { }", {}, "no braces } { }"),
    ],
)
async def test_a_template_is_filled_and_its_values_are_never_read_as_one(
    admin: Connection, written: str, data: Any, text: str
) -> None:
    assert await admin.fetchval("select annex.is_template($1)", written)
    assert await admin.fetchval(FILL, written, encode(data), 250) == text


@pytest.mark.parametrize(
    ("written", "value", "link"),
    [
        ("/i/{{data.v}}", "7", "/i/7"),
        ("/i/{{data.v}}", 7, "/i/7"),
        (
            "/i/{{data.v}}?q={{data.v}}#x",
            "a b/../&c=d#é",
            "/i/a%20b%2F..%2F%26c%3Dd%23%C3%A9?q=a%20b%2F..%2F%26c%3Dd%23%C3%A9#x",
        ),
        ("/{{data.v}}", "/evil.example", "/%2Fevil.example"),
        ("/{{data.v}}", "\\evil.example", "/%5Cevil.example"),
        ("https://a.example/{{data.v}}", "javascript:x", "https://a.example/javascript%3Ax"),
        ("/i/{{data.v}}", "..", None),
        ("/i/{{data.v}}/x", ".", None),
        ("/i/{{data.v}}", "", None),
        ("/i/{{data.v}}", None, None),
        ("/i/{{data.v}}", {"a": 1}, None),
        ("/i", "x", "/i"),
    ],
)
async def test_a_value_is_one_part_of_a_link(
    admin: Connection, written: str, value: Any, link: str | None
) -> None:
    fill = "select annex.fill_template($1, $2::text::jsonb, 2000, true)"
    assert await admin.fetchval(fill, written, encode({"v": value})) == link


async def test_an_event_without_a_type_in_the_catalogue_is_described_by_its_name(
    admin: Connection,
) -> None:
    await admin.execute(
        "insert into annex.event_types (name, category, is_critical, title, body, link) values"
        " ('described.one', 'billing', true, 'Paid: {{data.n}}', 'Of {{data.who}}',"
        " '/i/{{data.n}}')"
    )
    describe = "select * from annex.describe($1, $2::text::jsonb)"
    row = await admin.fetchrow(describe, "described.one", encode({"n": 7, "who": "Ann"}))
    assert tuple(row or ()) == ("billing", True, "Paid: 7", "Of Ann", "/i/7")
    row = await admin.fetchrow(describe, "described.two", encode({}))
    assert tuple(row or ()) == ("general", False, "described.two", "", None)
