"""The canonical form of a schema: two that accept the same JSON have the same `Shape`.

`nullable` and a null type, `$ref` and inline, `allOf` and its merged form, `oneOf` and `anyOf`, 100
and 100.0, an exclusive bound spelled either way: none of them shows in a shape.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import ceil, floor
from typing import Any, Final, TypeVar

from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.openapi.reading import Json

Number = int | float
Bound = tuple[Number, bool]
Range = tuple[int | None, int | None]
Edge = TypeVar("Edge", Bound, tuple[Decimal, bool])


class _Missing:
    """Stand for "no default": None is a default of its own."""

    def __repr__(self) -> str:
        return "none"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Shape:
    """One schema in canonical form; facts of a type that it does not admit stay empty.

    `types` None admits anything. `enum` holds (type, value) pairs, null left out. `options` are the
    members of a union of objects, by tag value where there is a `tag`. Children are thunks, because
    a schema may contain itself. `where` is a JSON pointer, or the dotted name of a struct's field.
    `unique` None is a Python set: duplicates may come in, none goes out.
    """

    where: str
    types: frozenset[str] | None = None
    nullable: bool = True
    format: str | None = None
    enum: frozenset[tuple[str, Json]] | None = None
    lower: Bound | None = None
    upper: Bound | None = None
    multiple_of: Number | None = None
    pattern: str | None = None
    lengths: Range = (None, None)
    counts: Range = (None, None)
    sizes: Range = (None, None)
    unique: bool | None = False
    default: Json = MISSING
    properties: Mapping[str, "Child"] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    additional: "bool | Child" = True
    items: "Child | None" = None
    prefix: "tuple[Child, ...]" = ()
    tag: str | None = None
    options: Mapping[str, "Child"] = field(default_factory=dict)
    extensions: Mapping[str, Json] = field(default_factory=dict)
    read_only: bool = False
    write_only: bool = False


Child = Callable[[], Shape]


def scalar_key(value: Json) -> tuple[str, Json]:
    """Tell apart what Python calls equal: true and 1 differ in JSON, 1 and 1.0 do not."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "string", value
    return type(value).__name__, repr(value)


def tighter_lower(one: Edge | None, other: Edge | None) -> Edge | None:
    return max(one, other) if one and other else one or other


def tighter_upper(one: Edge | None, other: Edge | None) -> Edge | None:
    return min(one, other, key=lambda b: (b[0], not b[1])) if one and other else one or other


def rounded(shape: Shape) -> Shape:
    """Write the bounds of an integer inclusively: above 0 and from 1 on admit the same."""
    if shape.types != frozenset({"integer"}) or not (shape.lower or shape.upper):
        return shape
    lower, upper = shape.lower, shape.upper
    if lower:
        lower = (floor(lower[0]) + 1 if lower[1] else ceil(lower[0]), False)
    if upper:
        upper = (ceil(upper[0]) - 1 if upper[1] else floor(upper[0]), False)
    return replace(shape, lower=lower, upper=upper)


def unite(members: Iterable[Shape], where: str) -> Shape:
    """Unite alternatives: types that are disjoint merge, several objects become `options`."""
    nullable = False
    scalars: list[Shape] = []
    objects: list[Shape] = []
    for member in members:
        nullable = nullable or member.nullable
        if member.types is None and member.enum is None and not member.options:
            return Shape(where)
        if member.types == frozenset({"object"}):
            objects.append(member)
        elif member.types or member.enum:
            scalars.append(member)
    if len(objects) > 1:
        tag = _common_tag(objects)
        scalars.append(
            Shape(
                where,
                types=frozenset({"object"}),
                nullable=False,
                tag=tag,
                options={
                    (constant(member, tag) if tag else None) or str(position): always(member)
                    for position, member in enumerate(objects)
                },
            )
        )
    else:
        scalars += objects
    if not scalars:
        return Shape(where, types=frozenset(), nullable=nullable)
    merged = scalars[0]
    for member in scalars[1:]:
        joined = _merge(merged, member)
        if joined is None:
            options = {str(position): always(option) for position, option in enumerate(scalars)}
            types = frozenset[str]().union(*(option.types or () for option in scalars))
            return Shape(where, types=types, nullable=nullable, options=options)
        merged = joined
    return replace(merged, where=where if len(scalars) > 1 else merged.where, nullable=nullable)


def always(shape: Shape) -> Child:
    """Wrap a shape that is already known as a child."""
    return lambda: shape


def _common_tag(objects: list[Shape]) -> str | None:
    """Find the property that has another single value in each: it tells the members apart."""
    for name in objects[0].properties:
        values = [constant(member, name) for member in objects]
        if None not in values and len(set(values)) == len(values):
            return name
    return None


def constant(shape: Shape, name: str) -> str | None:
    child = shape.properties.get(name)
    try:
        enum = child().enum if child else None
    except CannotCheck:
        # A member that leads back to the union being read is no constant.
        return None
    return str(next(iter(enum))[1]) if enum and len(enum) == 1 else None


def _merge(one: Shape, other: Shape) -> Shape | None:
    """Merge alternatives of disjoint types, whose facts cannot meet; None where they could."""
    if one.enum is not None and other.enum is not None:
        return replace(
            one,
            enum=one.enum | other.enum,
            types=(one.types or frozenset()) | (other.types or frozenset()),
        )
    numeric = {"integer", "number"}
    left, right = one.types or frozenset(), other.types or frozenset()
    if left & right or (left & numeric and right & numeric) or one.enum or other.enum:
        return None
    either: dict[str, Any] = {
        name: getattr(one, name) or getattr(other, name)
        for name in (
            *("format", "lower", "upper", "multiple_of", "pattern", "unique", "items", "prefix"),
            *("properties", "tag", "options"),
        )
    }
    return replace(
        one,
        types=left | right,
        lengths=one.lengths if "string" in left else other.lengths,
        counts=one.counts if "array" in left else other.counts,
        sizes=one.sizes if "object" in left else other.sizes,
        required=one.required | other.required,
        additional=one.additional if "object" in left else other.additional,
        **either,
    )


def intersect(outer: Shape, inner: Shape) -> Shape:
    """Merge two schemas that both apply (`allOf`); what only annotates is taken from the outer."""
    types = outer.types if inner.types is None else inner.types
    if outer.types is not None and inner.types is not None:
        types = outer.types & inner.types
        if "integer" in outer.types | inner.types and "number" in outer.types | inner.types:
            types = types | {"integer"}
    enum = outer.enum if inner.enum is None else inner.enum
    if outer.enum is not None and inner.enum is not None:
        enum = outer.enum & inner.enum
    patterns = [p for p in dict.fromkeys((outer.pattern, inner.pattern)) if p]
    properties = dict(outer.properties)
    for name, child in inner.properties.items():
        properties[name] = _both(properties[name], child) if name in properties else child
    additional = inner.additional if outer.additional is True else outer.additional
    if inner.additional is False:
        additional = False
    items = outer.items or inner.items
    if outer.items and inner.items:
        items = _both(outer.items, inner.items)
    either: dict[str, Any] = {
        name: getattr(outer, name) or getattr(inner, name)
        for name in (
            *("format", "multiple_of", "unique", "prefix", "tag", "options"),
            *("read_only", "write_only"),
        )
    }
    return rounded(
        Shape(
            where=outer.where,
            types=types,
            nullable=outer.nullable and inner.nullable,
            enum=enum,
            lower=tighter_lower(outer.lower, inner.lower),
            upper=tighter_upper(outer.upper, inner.upper),
            pattern=" and ".join(patterns) or None,
            lengths=narrower(outer.lengths, inner.lengths),
            counts=narrower(outer.counts, inner.counts),
            sizes=narrower(outer.sizes, inner.sizes),
            default=outer.default if outer.default is not MISSING else inner.default,
            properties=properties,
            required=outer.required | inner.required,
            additional=additional,
            items=items,
            extensions={**inner.extensions, **outer.extensions},
            **either,
        )
    )


def _both(one: Child, other: Child) -> Child:
    return lambda: intersect(one(), other())


def narrower(one: Range, other: Range) -> Range:
    lows = [low for low in (one[0], other[0]) if low is not None]
    highs = [high for high in (one[1], other[1]) if high is not None]
    return max(lows, default=None), min(highs, default=None)


def stated(word: str, value: object) -> str:
    """Say a keyword of a schema and its value, as `maximum 3` or `no maximum`."""
    if (value is None and word != "default") or value is MISSING:
        return f"no {word}"
    if isinstance(value, tuple):
        limit, strict = value
        return f"exclusive{word.capitalize()} {limit}" if strict else f"{word} {limit}"
    return f"{word} {value!r}"


def type_names(shape: Shape) -> str:
    return "any" if shape.types is None else " or ".join(sorted(shape.types)) or "nothing"
