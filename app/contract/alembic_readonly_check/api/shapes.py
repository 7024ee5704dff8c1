"""Bring Python types to canonical shapes, as msgspec reads and writes them."""

import re
from dataclasses import replace
from pathlib import PurePath
from typing import Any, get_args, get_origin

import msgspec
import msgspec.inspect as mi

from alembic_readonly_check.openapi.contract import Direction
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.schemas import canonical
from alembic_readonly_check.openapi.shapes import (
    MISSING,
    Child,
    Shape,
    always,
    intersect,
    rounded,
    unite,
)


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
            refused = f"{name_of(annotation)}, which msgspec refuses: {error}"
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
                additional=isinstance(value, mi.AnyType | mi.RawType)
                or self._later(value, f"{where}.*"),
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
                items=(
                    None
                    if isinstance(item, mi.AnyType | mi.RawType)
                    else self._later(item, f"{where}[]")
                ),
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


def _as_ecma(pattern: str | None) -> str | None:
    """Write a Python pattern's end as ECMA-262 has it, which OpenAPI follows.

    There `$` is the very end; in Python it also stands before a last line feed, `\\Z` does not.
    """
    return pattern and re.sub(r"(?<!\\)((?:\\\\)*)\\Z$", r"\1$", pattern)


def name_of(annotation: Any) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
