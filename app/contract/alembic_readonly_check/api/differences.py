"""Compare two shapes fact by fact: what a document says, what the code does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from alembic_readonly_check.openapi.contract import Direction
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import MISSING, Child, Shape, scalar_key

Fact = Literal[
    "property", "type", "required", "default", "null", "format", "length", "bounds", "items",
    "enum", "pattern", "additional", "tag",
]  # fmt: skip


# What msgspec itself checks; any other format only annotates, and is compared if the code names it.
_CHECKED_FORMATS: Final = frozenset(
    {"uuid", "date-time", "date", "time", "duration", "byte", "decimal"}
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact on which contract and code differ, at a path below the schema (`data[].name`)."""

    fact: Fact
    path: str
    pointer: str
    struct: str
    expected: str
    actual: str


def compare(contract: Shape, code: Shape, direction: Direction) -> Iterator[Difference]:
    """List the facts on which the code's shape differs from the contract's.

    A request is compared to the letter. In a response msgspec checks no constraint, so bounds,
    lengths, patterns and counts are compared only where the struct states them, a struct counts as
    closed, and a default says nothing.
    """
    yield from _compare(contract, code, direction, "", set())


def _compare(
    contract: Shape,
    code: Shape,
    direction: Direction,
    path: str,
    seen: set[tuple[str, str]],
    tag: str | None = None,
) -> Iterator[Difference]:
    pair = (contract.where, code.where)
    if pair in seen:
        return
    seen.add(pair)

    def differs(fact: Fact, expected: object, actual: object) -> Difference:
        return Difference(
            fact, path, contract.where, code.where, _written(expected), _written(actual)
        )

    if contract.types != code.types:
        yield differs("type", _type_names(contract), _type_names(code))
        return
    if contract.nullable != code.nullable:
        yield differs("null", _nullness(contract), _nullness(code))
    if contract.enum != code.enum:
        yield differs("enum", _values(contract), _values(code))
        return
    yield from _compare_constraints(contract, code, direction, differs)
    if contract.options or code.options:
        yield from _compare_options(contract, code, direction, path, seen, differs)
        return
    yield from _compare_properties(contract, code, direction, path, seen, tag, differs)
    yield from _compare_contents(contract, code, direction, path, seen, differs)


_Differs = Callable[[Fact, object, object], Difference]


def _compare_constraints(
    contract: Shape, code: Shape, direction: Direction, differs: _Differs
) -> Iterator[Difference]:
    binding = direction == "request"
    if "string" in (contract.types or ()) and contract.format != code.format:
        if code.format is not None or contract.format in _CHECKED_FORMATS:
            yield differs("format", contract.format, code.format)
    for fact, word, expected, actual in (
        ("bounds", "minimum", contract.lower, code.lower),
        ("bounds", "maximum", contract.upper, code.upper),
        ("bounds", "multipleOf", contract.multiple_of, code.multiple_of),
        ("pattern", "pattern", contract.pattern, code.pattern),
        ("length", "minLength", contract.lengths[0], code.lengths[0]),
        ("length", "maxLength", contract.lengths[1], code.lengths[1]),
        ("items", "minItems", contract.counts[0], code.counts[0]),
        ("items", "maxItems", contract.counts[1], code.counts[1]),
        ("items", "minProperties", contract.sizes[0], code.sizes[0]),
        ("items", "maxProperties", contract.sizes[1], code.sizes[1]),
        ("items", "uniqueItems", contract.unique or None, code.unique or None),
    ):
        if word == "uniqueItems" and code.unique is None:
            continue
        if expected != actual and (binding or actual is not None):
            yield differs(fact, _stated(word, expected), _stated(word, actual))  # type: ignore[arg-type]


def _compare_options(
    contract: Shape,
    code: Shape,
    direction: Direction,
    path: str,
    seen: set[tuple[str, str]],
    differs: _Differs,
) -> Iterator[Difference]:
    if bool(contract.options) != bool(code.options):
        yield differs("type", _alternatives(contract), _alternatives(code))
    elif contract.tag != code.tag or (
        contract.tag and contract.options.keys() != code.options.keys()
    ):
        yield differs("tag", _alternatives(contract), _alternatives(code))
    elif contract.tag:
        for value, child in contract.options.items():
            below = f"{path}<{value}>"
            yield from _compare(
                child(), code.options[value](), direction, below, seen, contract.tag
            )
    else:
        rest = [child() for child in code.options.values()]
        for child in contract.options.values():
            option = child()
            same = (
                other
                for other in rest
                if not any(_compare(option, other, direction, "", set(seen)))
            )
            match = next(same, None)
            if match is None:
                yield differs("type", _alternatives(contract), _alternatives(code))
                return
            rest.remove(match)
        if rest:
            yield differs("type", _alternatives(contract), _alternatives(code))


def _compare_properties(
    contract: Shape,
    code: Shape,
    direction: Direction,
    path: str,
    seen: set[tuple[str, str]],
    tag: str | None,
    differs: _Differs,
) -> Iterator[Difference]:
    for name in dict.fromkeys((*contract.properties, *code.properties)):
        below = f"{path}.{name}" if path else name
        documented, written = contract.properties.get(name), code.properties.get(name)
        if documented is None:
            assert written is not None
            fact: Fact = "tag" if name == code.tag else "property"
            yield Difference(
                fact, below, contract.where, f"{code.where}.{name}", "absent", "present"
            )
            continue
        left = documented()
        if (left.read_only and direction == "request") or (
            left.write_only and direction == "response"
        ):
            if written is None:
                continue
        if written is None:
            yield Difference(
                "property", below, left.where, f"{code.where}.{name}", "present", "absent"
            )
            continue
        right = written()
        # A mapping may name the values of the tag in the place of an enum.
        named = name == tag and left.enum is None and left.types == right.types
        if code.tag == name and not named and (left.enum, left.types) != (right.enum, right.types):
            yield Difference("tag", below, left.where, right.where, _values(left), _values(right))
            continue
        needed, given = name in contract.required, name in code.required
        if needed != given:
            yield Difference(
                "required",
                below,
                left.where,
                f"{code.where}.{name}",
                "required" if needed else "optional",
                "required" if given else "optional",
            )
        elif direction == "request" and not _same_default(left.default, right.default):
            yield Difference(
                "default",
                below,
                left.where,
                f"{code.where}.{name}",
                _stated("default", left.default),
                _stated("default", right.default),
            )
        if not named:
            yield from _compare(left, right, direction, below, seen)
    closed, open_ = contract.additional, code.additional
    if callable(closed) and callable(open_):
        yield from _compare(closed(), open_(), direction, f"{path}.*" if path else "*", seen)
    elif closed is not open_ and not (
        direction == "response" and open_ is False and code.properties
    ):
        yield differs("additional", _openness(closed), _openness(open_))


def _compare_contents(
    contract: Shape,
    code: Shape,
    direction: Direction,
    path: str,
    seen: set[tuple[str, str]],
    differs: _Differs,
) -> Iterator[Difference]:
    if len(contract.prefix) != len(code.prefix):
        yield differs("items", f"{len(contract.prefix)} positions", f"{len(code.prefix)} positions")
    for position, (left, right) in enumerate(zip(contract.prefix, code.prefix, strict=False)):
        yield from _compare(left(), right(), direction, f"{path}[{position}]", seen)
    one = contract.items() if contract.items else Shape(f"{contract.where}/items")
    other = code.items() if code.items else Shape(f"{code.where}[]")
    if contract.items or code.items:
        yield from _compare(one, other, direction, f"{path}[]", seen)


def _same_default(contract: Json, code: Json) -> bool:
    """Let a struct's None stand for a silent contract: to the handler it is "not given"."""
    if contract is MISSING:
        return code is MISSING or code is None
    return code is not MISSING and _comparable(contract) == _comparable(code)


def _comparable(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    return scalar_key(value)


def _written(value: object) -> str:
    return "none" if value is None else str(value)


def _stated(word: str, value: object) -> str:
    if (value is None and word != "default") or value is MISSING:
        return f"no {word}"
    if isinstance(value, tuple):
        limit, strict = value
        return f"exclusive{word.capitalize()} {limit}" if strict else f"{word} {limit}"
    return f"{word} {value!r}"


def _type_names(shape: Shape) -> str:
    return "any" if shape.types is None else " or ".join(sorted(shape.types)) or "nothing"


def _nullness(shape: Shape) -> str:
    return "nullable" if shape.nullable else "never null"


def _values(shape: Shape) -> str:
    if shape.enum is None:
        return "any value"
    return ", ".join(sorted(repr(value) for _, value in shape.enum))


def _alternatives(shape: Shape) -> str:
    if not shape.options:
        return "no alternatives"
    if shape.tag:
        return f"{shape.tag}: {', '.join(sorted(shape.options))}"
    return " | ".join(sorted(_type_names(child()) for child in shape.options.values()))


def _openness(additional: "bool | Child") -> str:
    if callable(additional):
        return f"other properties of type {_type_names(additional())}"
    return "other properties ignored" if additional else "other properties refused"
