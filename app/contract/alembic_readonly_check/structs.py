"""AS6xx: compare the msgspec structs of every operation with the contract's schemas.

In: a `Contract`, the app's routes (`routes.routes_of`). Out: findings; nothing is called, nothing
is decoded. Types are read through `msgspec.inspect`, not `msgspec.json.schema_components`: that one
fails on a `Raw` default, and does not tell a naive datetime from text, nor a field that is always
sent from one that `omit_defaults` may leave out.

A handler whose signature does not show its types (raw body, raw `Response`, bytes, a stream) states
them in its `opt`:

- `request_struct`: a type, or a mapping from media type to type;
- `response_struct`: a type, or a mapping from media type or status code to type;
  either may be a text `module:NAME` that says where that stands.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import msgspec
import msgspec.inspect as mi

from alembic_readonly_check.codes import finding
from alembic_readonly_check.findings import Finding, relative
from alembic_readonly_check.openapi import (
    MISSING,
    Body,
    Child,
    Contract,
    Direction,
    Json,
    Operation,
    Shape,
    always,
    canonical,
    intersect,
    is_json,
    rounded,
    scalar_key,
    unite,
)

if TYPE_CHECKING:
    from alembic_readonly_check.routes import Route


class _Raw:
    """Stand for a body whose type the signature does not show."""

    def __repr__(self) -> str:
        return "raw"


RAW: Final = _Raw()

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


CODES: Final[Mapping[Fact, str]] = {
    "property": "AS602",
    "type": "AS603",
    "required": "AS604",
    "default": "AS605",
    "null": "AS606",
    "format": "AS607",
    "length": "AS608",
    "bounds": "AS609",
    "items": "AS610",
    "enum": "AS611",
    "pattern": "AS612",
    "additional": "AS613",
    "tag": "AS614",
}

_UNCHECKABLE: Final = "AS615"

_FACT_WORDS: Final[Mapping[Fact, str]] = {
    "property": "property",
    "type": "type",
    "required": "required",
    "default": "default",
    "null": "null",
    "format": "format",
    "length": "length",
    "bounds": "bounds",
    "items": "item count",
    "enum": "values",
    "pattern": "pattern",
    "additional": "other properties",
    "tag": "tag",
}

_CONSTRAINTS: Final[frozenset[Fact]] = frozenset({"length", "bounds", "items", "pattern"})


class StructShapes:
    """Bring Python types to canonical shapes, as seen by a request or by a response."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.classes: dict[str, type] = {}
        self._structs: dict[Any, Shape] = {}

    def shape(self, annotation: Any, where: str) -> Shape:
        """Describe a type; `where` names it unless it is a struct, which is named by its class."""
        try:
            known = mi.type_info(annotation)
        except (TypeError, NameError) as error:
            refused = f"{_name(annotation)}, which msgspec refuses: {error}"
            return Shape(where, types=frozenset({refused}), nullable=False)
        return self._shape(known, where)

    def _shape(self, t: mi.Type, where: str) -> Shape:
        if isinstance(t, mi.Metadata):
            extra = t.extra_json_schema or {}
            if isinstance(t.type, mi.CustomType) and extra:
                return canonical(extra, where)
            base = self._shape(t.type, where)
            return replace(intersect(canonical(extra, where), base), where=base.where)
        if isinstance(t, mi.AnyType | mi.RawType):
            return Shape(where)
        if isinstance(t, mi.UnionType):
            return unite([self._shape(member, where) for member in t.types], where)
        if isinstance(t, mi.StructType | mi.DataclassType | mi.TypedDictType | mi.NamedTupleType):
            return self._fields(t)
        if isinstance(t, mi.NoneType):
            return Shape(where, types=frozenset(), nullable=True)
        if isinstance(t, mi.EnumType):
            return canonical({"enum": [member.value for member in t.cls]}, where)
        if isinstance(t, mi.LiteralType):
            return canonical({"enum": list(t.values)}, where)
        if isinstance(t, mi.DictType | mi.FrozenDictType):
            value = t.value_type
            return Shape(
                where,
                types=frozenset({"object"}),
                nullable=False,
                sizes=(t.min_length or None, t.max_length),
                additional=isinstance(value, mi.AnyType) or self._later(value, f"{where}.*"),
            )
        if isinstance(t, mi.TupleType):
            count = len(t.item_types)
            return Shape(
                where,
                types=frozenset({"array"}),
                nullable=False,
                counts=(count, count),
                prefix=tuple(
                    self._later(item, f"{where}[{position}]")
                    for position, item in enumerate(t.item_types)
                ),
            )
        if isinstance(t, mi.CollectionType):
            item = t.item_type
            return Shape(
                where,
                types=frozenset({"array"}),
                nullable=False,
                counts=(t.min_length or None, t.max_length),
                unique=None if isinstance(t, mi.SetType | mi.FrozenSetType) else False,
                items=None if isinstance(item, mi.AnyType) else self._later(item, f"{where}[]"),
            )
        return self._scalar(t, where)

    def _scalar(self, t: mi.Type, where: str) -> Shape:
        text = Shape(where, types=frozenset({"string"}), nullable=False)
        if isinstance(t, mi.StrType):
            lengths = (t.min_length or None, t.max_length)
            return replace(text, lengths=lengths, pattern=_as_ecma(t.pattern))
        if isinstance(t, mi.BoolType):
            return replace(text, types=frozenset({"boolean"}))
        if isinstance(t, mi.IntType | mi.FloatType):
            lower = (t.gt, True) if t.gt is not None else (t.ge, False)
            upper = (t.lt, True) if t.lt is not None else (t.le, False)
            return rounded(
                replace(
                    text,
                    types=frozenset({"integer" if isinstance(t, mi.IntType) else "number"}),
                    lower=None if lower[0] is None else (lower[0], lower[1]),
                    upper=None if upper[0] is None else (upper[0], upper[1]),
                    multiple_of=t.multiple_of,
                )
            )
        if isinstance(t, mi.DateTimeType | mi.TimeType):
            name = "date-time" if isinstance(t, mi.DateTimeType) else "time"
            # A response carries what the database gave, a request is bound by `tz` alone.
            if t.tz is None and self.direction == "request":
                name += " with or without offset"
            return replace(text, format=f"{name} without offset" if t.tz is False else name)
        for kind, name in (
            (mi.DateType, "date"),
            (mi.TimeDeltaType, "duration"),
            (mi.UUIDType, "uuid"),
            (mi.DecimalType, "decimal"),
        ):
            if isinstance(t, kind):
                return replace(text, format=name)
        if isinstance(t, mi.BytesType | mi.ByteArrayType | mi.MemoryViewType):
            # Lengths count the text on the wire: base64 writes three bytes as four characters.
            limits = (t.min_length, t.max_length)
            low, high = (None if n is None else 4 * ((n + 2) // 3) for n in limits)
            return replace(text, format="byte", lengths=(low or None, high))
        cls = getattr(t, "cls", type(t))
        if issubclass(cls, PurePath):
            return text
        unknown = f"{cls.__qualname__}, which msgspec cannot describe"
        return replace(text, types=frozenset({unknown}))

    def _fields(
        self, t: mi.StructType | mi.DataclassType | mi.TypedDictType | mi.NamedTupleType
    ) -> Shape:
        if t.cls in self._structs:
            return self._structs[t.cls]
        cls: Any = get_origin(t.cls) or t.cls
        arguments = ", ".join(getattr(a, "__name__", str(a)) for a in get_args(t.cls))
        name = f"{cls.__qualname__}[{arguments}]" if arguments else cls.__qualname__
        self.classes[name] = cls
        properties: dict[str, Child] = {}
        required: set[str] = set()
        tag = t.tag_field if isinstance(t, mi.StructType) else None
        if isinstance(t, mi.StructType) and tag:
            properties[tag] = always(canonical({"enum": [t.tag]}, f"{name}.{tag}"))
            required.add(tag)
        omits = isinstance(t, mi.StructType) and cls.__struct_config__.omit_defaults
        for field in t.fields:
            default = _default(field)
            properties[field.encode_name] = self._later(
                field.type, f"{name}.{field.encode_name}", default
            )
            sent = self.direction == "response" and not omits and _has_default(field)
            if field.required or sent:
                required.add(field.encode_name)
        closed = isinstance(t, mi.StructType) and t.forbid_unknown_fields
        positional = isinstance(t, mi.NamedTupleType) or (
            isinstance(t, mi.StructType) and t.array_like
        )
        if positional:
            count = len(properties)
            needed = sum(field.required for field in t.fields) + bool(tag)
            exact = closed or isinstance(t, mi.NamedTupleType)
            shape = Shape(
                name,
                types=frozenset({"array"}),
                nullable=False,
                counts=(needed or None, count if exact else None),
                prefix=tuple(properties.values()),
            )
        else:
            shape = Shape(
                name,
                types=frozenset({"object"}),
                nullable=False,
                properties=properties,
                required=frozenset(required),
                additional=not closed and self.direction == "request",
                tag=tag,
            )
        self._structs[t.cls] = shape
        return shape

    def _later(self, t: mi.Type, where: str, default: Json = MISSING) -> Child:
        known: list[Shape] = []

        def child() -> Shape:
            if not known:
                shape = self._shape(t, where)
                known.append(shape if default is MISSING else replace(shape, default=default))
            return known[0]

        return child


def _has_default(field: mi.Field) -> bool:
    return field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT


def _default(field: mi.Field) -> Json:
    """Give the default as JSON; one that only code can make is unknown, and no code is run."""
    if field.default_factory in (list, dict, set, frozenset, tuple, bytearray):
        return msgspec.to_builtins(field.default_factory(), str_keys=True)
    if field.default is msgspec.NODEFAULT:
        return MISSING
    try:
        return msgspec.to_builtins(field.default, str_keys=True)
    except TypeError:
        return MISSING


def check_structs(contract: Contract, routes: Sequence["Route"], root: Path) -> list[Finding]:
    """Compare the request and the success responses of every served operation: AS602 to AS615.

    A struct that many operations share is reported once, under the first of them.
    """
    served = {route.key: route for route in routes}
    sides = {side: StructShapes(side) for side in get_args(Direction)}
    findings: dict[tuple[str, str, str, str], Finding] = {}
    for operation in contract.operations:
        route = served.get(operation.key)
        if route is None:
            continue
        for side in _sides(operation, route):
            for found in _compare_body(contract, side, sides[side.direction], root):
                key = (found.code, found.subject, found.message.partition(": ")[2])
                findings.setdefault((*key, str(found.location)), found)
    return list(findings.values())


@dataclass(frozen=True, slots=True)
class _Side:
    """A documented body and what the handler takes or gives: types by media type, `*` for all."""

    label: str
    direction: Direction
    body: Body
    types: Mapping[str, Any]
    media: frozenset[str] | None

    def serves(self, media: str) -> bool:
        """Tell whether the handler speaks a media type; if not, AR508 says so."""
        if self.direction == "response":
            return self.media is None or media in self.media
        return not self.media or media in self.media or self.media == {"application/json"}


def _sides(operation: Operation, route: "Route") -> Iterator[_Side]:
    types = _types(route.opt.get("request_struct"), route.body)
    if operation.request is not None or types:
        body = operation.request or Body(operation.node, False, {})
        yield _Side(f"{operation.name} request", "request", body, types, route.request_media)
    for status, body in operation.responses.items():
        if status.startswith("2"):
            types = _types(route.opt.get("response_struct"), route.response, status)
            label = f"{operation.name} response {status}"
            yield _Side(label, "response", body, types, route.response_media)


def _as_ecma(pattern: str | None) -> str | None:
    """Write a Python pattern's end as ECMA-262 has it, which OpenAPI follows.

    There `$` is the very end; in Python it also stands before a last line feed, `\\Z` does not.
    """
    return pattern and re.sub(r"(?<!\\)((?:\\\\)*)\\Z$", r"\1$", pattern)


def _types(stated: Any, shown: Any, status: str = "") -> Mapping[str, Any]:
    """Give the types by media type, `*` for all: the `opt` goes before the signature.

    A text is where they stand, `module:NAME`, as Litestar copies an `opt` and some types refuse it.
    """
    if isinstance(stated, str):
        module, _, name = stated.partition(":")
        stated = getattr(importlib.import_module(module), name)
    if stated is None:
        return {} if shown is RAW or shown is NoneType else {"*": shown}
    if not isinstance(stated, Mapping):
        return {"*": stated, "text/event-stream": stated}
    exact = {str(key): value for key, value in stated.items()}
    if status in exact:
        return {"*": exact[status]}
    return {key: value for key, value in exact.items() if "/" in key}


def _compare_body(
    contract: Contract, side: _Side, shapes: StructShapes, root: Path
) -> Iterator[Finding]:
    place = contract.location(side.body.node.pointer)
    if not side.body.content and side.types and side.direction == "request":
        shown = ", ".join(sorted({_name(annotation) for annotation in side.types.values()}))
        yield finding(
            _UNCHECKABLE,
            side.label,
            f"{side.label}: the handler takes a body that the document lacks: {shown}",
            place,
            actual=shown,
        )
    for media, schema in side.body.content.items():
        # Without a struct a stream, a page or a file is fine; JSON would go unchecked.
        if media not in side.types and not is_json(media):
            continue
        annotation = side.types.get(media, side.types.get("*"))
        documented = contract.shape(schema)
        if annotation is None:
            if side.serves(media) and not _is_free(documented):
                yield finding(
                    _UNCHECKABLE,
                    f"{side.label} {media}",
                    f"{side.label}: no struct to compare {media} with; the handler shows no type",
                    place,
                    fix=f"state {side.direction}_struct in the handler's opt",
                )
            continue
        code = shapes.shape(annotation, side.label)
        for difference in compare(documented, code, side.direction):
            yield _finding(contract, difference, shapes, side.label, root)


def _is_free(shape: Shape) -> bool:
    """Tell a schema that promises no more than JSON, an object or an array."""
    return shape.types is None or not (
        shape.types - {"object", "array"}
        or shape.properties
        or shape.options
        or shape.items
        or shape.prefix
        or callable(shape.additional)
    )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)


def _finding(
    contract: Contract, difference: Difference, shapes: StructShapes, label: str, root: Path
) -> Finding:
    path = f" at {difference.path}" if difference.path else ""
    where = _location(shapes.classes, difference.struct, root)
    return finding(
        CODES[difference.fact],
        difference.struct,
        f"{label}{path}: {_FACT_WORDS[difference.fact]} differs: document {difference.expected},"
        f" struct {difference.actual}{f' ({where})' if where else ''}",
        contract.location(difference.pointer),
        expected=difference.expected,
        actual=difference.actual,
        fix=_fix(difference),
    )


def _location(classes: Mapping[str, type], struct: str, root: Path) -> str | None:
    """Find the line of a struct's field, or of the struct where the field is missing."""
    owner = max((name for name in classes if _covers(name, struct)), key=len, default=None)
    if owner is None:
        return None
    try:
        lines, first = inspect.getsourcelines(classes[owner])
        file = relative(Path(inspect.getfile(classes[owner])), root)
    except (OSError, TypeError):
        return None
    attribute = re.match(r"\w+", struct[len(owner) + 1 :])
    pattern = re.compile(rf"\s+{attribute[0]}\s*:" if attribute else r"$^")
    return f"{file}:{first + next((n for n, line in enumerate(lines) if pattern.match(line)), 0)}"


def _covers(name: str, struct: str) -> bool:
    return struct == name or struct.startswith((f"{name}.", f"{name}[", f"{name}<"))


def _fix(difference: Difference) -> str | None:
    """Name the one repair that is not obvious; else the fix of the code stands."""
    if difference.fact == "format" and "date-time" in (difference.expected, difference.actual):
        return "declare the field Annotated[datetime, msgspec.Meta(tz=True)]"
    if difference.fact in _CONSTRAINTS and not difference.path:
        return (
            "Litestar drops a msgspec.Meta on the outermost type of a body; state it in"
            " litestar.params.Body(...)"
        )
    return None
