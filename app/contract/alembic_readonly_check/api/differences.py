"""Compare two shapes fact by fact: what a document says, what the code does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from alembic_readonly_check.openapi.contract import Direction
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import (
    MISSING,
    Child,
    Shape,
    scalar_key,
    stated,
    type_names,
)

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
    yield from _Walk(direction).compare(contract, code)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A shape of the contract and one of the code, at one path."""

    contract: Shape
    code: Shape
    path: str

    def differs(self, fact: Fact, expected: object, actual: object) -> Difference:
        pointer, struct = self.contract.where, self.code.where
        return Difference(fact, self.path, pointer, struct, _written(expected), _written(actual))


@dataclass(frozen=True, slots=True)
class _Walk:
    """One walk over two shapes; `seen` ends it where a schema contains itself."""

    direction: Direction
    seen: set[tuple[str, str]] = field(default_factory=set)

    def compare(
        self, contract: Shape, code: Shape, path: str = "", tag: str | None = None
    ) -> Iterator[Difference]:
        pair = _Pair(contract, code, path)
        if (contract.where, code.where) in self.seen:
            return
        self.seen.add((contract.where, code.where))
        if contract.types != code.types:
            yield pair.differs("type", type_names(contract), type_names(code))
            return
        if contract.nullable != code.nullable:
            yield pair.differs("null", _nullness(contract), _nullness(code))
        if contract.enum != code.enum:
            yield pair.differs("enum", _values(contract), _values(code))
            return
        yield from self.constraints(pair)
        if contract.options or code.options:
            yield from self.options(pair)
            return
        yield from self.properties(pair, tag)
        yield from self.contents(pair)

    def constraints(self, pair: _Pair) -> Iterator[Difference]:
        contract, code = pair.contract, pair.code
        if "string" in (contract.types or ()) and contract.format != code.format:
            if code.format is not None or contract.format in _CHECKED_FORMATS:
                yield pair.differs("format", contract.format, code.format)
        constraints: tuple[tuple[Fact, str, object, object], ...] = (
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
        )
        for fact, word, expected, actual in constraints:
            if word == "uniqueItems" and code.unique is None:
                continue
            if expected != actual and (self.direction == "request" or actual is not None):
                yield pair.differs(fact, stated(word, expected), stated(word, actual))

    def options(self, pair: _Pair) -> Iterator[Difference]:
        contract, code = pair.contract, pair.code
        told = _alternatives(contract), _alternatives(code)
        if bool(contract.options) != bool(code.options):
            yield pair.differs("type", *told)
        elif contract.tag != code.tag or (
            contract.tag and contract.options.keys() != code.options.keys()
        ):
            yield pair.differs("tag", *told)
        elif contract.tag:
            for value, child in contract.options.items():
                below = f"{pair.path}<{value}>"
                yield from self.compare(child(), code.options[value](), below, contract.tag)
        else:
            rest = [child() for child in code.options.values()]
            for child in contract.options.values():
                option = child()
                match = next((other for other in rest if self.agrees(option, other)), None)
                if match is None:
                    yield pair.differs("type", *told)
                    return
                rest.remove(match)
            if rest:
                yield pair.differs("type", *told)

    def agrees(self, option: Shape, other: Shape) -> bool:
        return not any(_Walk(self.direction, set(self.seen)).compare(option, other))

    def properties(self, pair: _Pair, tag: str | None) -> Iterator[Difference]:
        contract, code, path = pair.contract, pair.code, pair.path
        for name in dict.fromkeys((*contract.properties, *code.properties)):
            below = f"{path}.{name}" if path else name
            documented, written = contract.properties.get(name), code.properties.get(name)
            there = f"{code.where}.{name}"
            if documented is None:
                fact: Fact = "tag" if name == code.tag else "property"
                yield Difference(fact, below, contract.where, there, "absent", "present")
                continue
            left = documented()
            if written is None:
                if not (left.read_only if self.direction == "request" else left.write_only):
                    yield Difference("property", below, left.where, there, "present", "absent")
                continue
            right = written()
            # A mapping may name the values of the tag in the place of an enum.
            named = name == tag and left.enum is None and left.types == right.types
            if (
                code.tag == name
                and not named
                and (left.enum, left.types) != (right.enum, right.types)
            ):
                yield _Pair(left, right, below).differs("tag", _values(left), _values(right))
                continue
            words = [
                "required" if name in side.required else "optional" for side in (contract, code)
            ]
            if words[0] != words[1]:
                yield Difference("required", below, left.where, there, *words)
            elif self.direction == "request" and not _same_default(left.default, right.default):
                defaults = [stated("default", side.default) for side in (left, right)]
                yield Difference("default", below, left.where, there, *defaults)
            if not named:
                yield from self.compare(left, right, below)
        closed, open_ = contract.additional, code.additional
        if callable(closed) and callable(open_):
            yield from self.compare(closed(), open_(), f"{path}.*" if path else "*")
        elif closed is not open_ and not (
            self.direction == "response" and open_ is False and code.properties
        ):
            yield pair.differs("additional", _openness(closed), _openness(open_))

    def contents(self, pair: _Pair) -> Iterator[Difference]:
        contract, code = pair.contract, pair.code
        if len(contract.prefix) != len(code.prefix):
            counts = (f"{len(side.prefix)} positions" for side in (contract, code))
            yield pair.differs("items", *counts)
        for position, (left, right) in enumerate(zip(contract.prefix, code.prefix, strict=False)):
            yield from self.compare(left(), right(), f"{pair.path}[{position}]")
        if contract.items or code.items:
            one = contract.items() if contract.items else Shape(f"{contract.where}/items")
            other = code.items() if code.items else Shape(f"{code.where}[]")
            yield from self.compare(one, other, f"{pair.path}[]")


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
    return " | ".join(sorted(type_names(child()) for child in shape.options.values()))


def _openness(additional: "bool | Child") -> str:
    if callable(additional):
        return f"other properties of type {type_names(additional())}"
    return "other properties ignored" if additional else "other properties refused"
