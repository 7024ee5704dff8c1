"""AC7xx: compare the persisted properties of the contract with the columns of datamodel.md.

In: a `Contract`, the `Schema` that datamodel.md was read into, the `ApiRules`. Out: findings; the
two documents are at the head of the order of truth, so most are headed `MISMATCH` or `BLOCKED`.

A property says where it is stored: `x-db-column: table.column`, or `schema.table.column`; null says
that it is not stored. What may differ depends on the direction: a request must fit into the column,
the column must fit into a response. A parameter only finds rows, so it is held to the type alone.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from alembic_readonly_check import expressions
from alembic_readonly_check.codes import finding
from alembic_readonly_check.facts import Check, Column, Schema, Table
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.openapi import (
    MISSING,
    ApiRules,
    Body,
    Bound,
    Contract,
    Json,
    Operation,
    Shape,
)

Use = Literal["request", "response", "lookup"]

_NAME: Final = re.compile(r"(?:(\w+)\.)?(\w+)\.(\w+)")

# What each type of Postgres may be as JSON: (type, format); format None is any that only annotates.
_STRICT: Final = frozenset({"uuid", "date-time", "date", "time", "partial-time", "duration"})
_INTEGER_FORMATS: Final = frozenset({"int32", "int64"})
_STRING_FORMATS: Final = _STRICT | {"decimal", "byte", "binary", "int64"}
_FITS: Final[dict[str, tuple[tuple[str, str | None], ...]]] = {
    "boolean": (("boolean", None),),
    "smallint": (("integer", None), ("integer", "int32")),
    "integer": (("integer", None), ("integer", "int32")),
    "bigint": (("integer", None), ("integer", "int64"), ("string", "int64")),
    "oid": (("integer", None), ("integer", "int64")),
    "real": (("number", None),),
    "double precision": (("number", None),),
    "numeric": (("number", None), ("string", "decimal")),
    "money": (("number", None), ("string", "decimal"), ("string", None)),
    "uuid": (("string", "uuid"),),
    "timestamp with time zone": (("string", "date-time"),),
    "timestamp without time zone": (("string", "date-time"),),
    "date": (("string", "date"),),
    "time with time zone": (("string", "time"),),
    "time without time zone": (("string", "time"), ("string", "partial-time")),
    "interval": (("string", "duration"),),
    "bytea": (("string", "byte"), ("string", "binary")),
    "hstore": (("object", None),),
}
_TEXTS: Final = frozenset(
    {
        *"text citext name inet cidr macaddr macaddr8 xml ltree tsvector tsquery bit".split(),
        "character varying",
        "character",
        "bit varying",
    }
)
_LENGTHS: Final = frozenset({"char_length", "character_length", "length", "octet_length"})
_COUNTS: Final = frozenset({"cardinality", "array_length"})


@dataclass(slots=True)
class _Property:
    """One property in one direction, with the operations that carry it, in their order.

    `patched` tells that one of them is a PATCH, where null clears (RFC 7396).
    """

    shape: Shape
    label: str
    use: Use
    required: bool
    patched: bool = False
    operations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a column admits by its type, its domain and the CHECKs on it alone."""

    length: int | None = None
    least: int | None = None
    count: int | None = None
    lower: tuple[Decimal, bool] | None = None
    upper: tuple[Decimal, bool] | None = None
    values: frozenset[str] | None = None
    elements: frozenset[str] | None = None


def check_columns(
    contract: Contract,
    schema: Schema,
    rules: ApiRules,
    default_schema: str = "public",
    managed_schemas: Collection[str] = (),
) -> list[Finding]:
    """Compare every property that has `x-db-column` with its column: AC701 to AC711.

    A column of a managed schema (`auth.users.email`) is not ours to document, so it is believed.
    """
    return list(_Comparison(contract, schema, rules, default_schema, managed_schemas).run())


class _Comparison:
    def __init__(
        self,
        contract: Contract,
        schema: Schema,
        rules: ApiRules,
        default_schema: str,
        managed_schemas: Collection[str],
    ) -> None:
        self.contract = contract
        self.schema = schema
        self.rules = rules
        self.default_schema = default_schema
        self.managed_schemas = frozenset(managed_schemas)
        self.properties: dict[tuple[str, Use], _Property] = {}
        self.unmapped: dict[str, Finding] = {}
        self.missing: dict[str, tuple[_Property, dict[str, None], dict[str, None]]] = {}
        self.limits: dict[tuple[str, str], _Limits] = {}

    def run(self) -> Iterator[Finding]:
        for operation in self.contract.operations:
            for parameter in operation.parameters:
                shape = self.contract.shape(parameter.schema)
                beside = parameter.node.value.get(self.rules.column_extension)
                if beside is not None:
                    extensions = {**shape.extensions, self.rules.column_extension: beside}
                    shape = replace(shape, where=parameter.node.pointer, extensions=extensions)
                label = f"{operation.name}.{parameter.name}"
                self.note(shape, label, "lookup", True, operation)
            bodies: list[tuple[Use, Body]] = [("response", b) for b in operation.responses.values()]
            if operation.request is not None:
                bodies.insert(0, ("request", operation.request))
            for use, body in bodies:
                for schema in body.content.values():
                    path = f"{operation.name}.{use}"
                    self.walk(self.contract.shape(schema), path, use, operation, set())
        for held in self.properties.values():
            yield from self.check(held)
        for table, (first, columns, carriers) in self.missing.items():
            wanted = ", ".join(columns)
            operations = [op.name for op in self.contract.operations if op.name in carriers]
            yield finding(
                "AC701",
                table,
                (
                    f"datamodel.md has no table {table}; {first.label} and others are stored there"
                    if len(columns) > 1
                    else f"datamodel.md has no table {table}; {first.label} is stored there"
                ),
                self.contract.location(first.shape.where),
                expected=f"{table} with {wanted}",
                heading=_blocked(operations, table, wanted),
            )
        yield from self.unmapped.values()

    def walk(self, shape: Shape, path: str, use: Use, operation: Operation, seen: set[str]) -> None:
        """Note every property below a schema; a schema that contains itself is walked once."""
        if shape.where in seen:
            return
        seen.add(shape.where)
        children = {name: child() for name, child in shape.properties.items()}
        owner = _owner(shape.where) or path
        for name, child in children.items():
            if (use == "request" and child.read_only) or (use == "response" and child.write_only):
                continue
            label = f"{owner}.{name}"
            self.note(child, label, use, name in shape.required, operation)
            self.walk(child, label, use, operation, seen)
        self.note_unmapped(children, owner)
        for value, option in shape.options.items():
            self.walk(option(), f"{path}<{value}>", use, operation, seen)
        inner = [shape.items, *shape.prefix]
        if callable(shape.additional):
            inner.append(shape.additional)
        for item in inner:
            if item is not None:
                label = f"{_owner(shape.where) or path}[]"
                self.note(item(), label, use, True, operation)
                self.walk(item(), label, use, operation, seen)

    def note(
        self, shape: Shape, label: str, use: Use, required: bool, operation: Operation
    ) -> None:
        """Keep a mapped property, once for each direction, with all its operations."""
        if shape.extensions.get(self.rules.column_extension) is None:
            return
        held = self.properties.setdefault(
            (shape.where, use), _Property(shape, label, use, required)
        )
        held.required = held.required or required
        held.patched = held.patched or operation.method == "PATCH"
        if operation.name not in held.operations:
            held.operations.append(operation.name)

    def note_unmapped(self, children: dict[str, Shape], owner: str) -> None:
        """Suspect a property whose neighbours are stored in a table with a column of its name."""
        extension = self.rules.column_extension
        tables: dict[str, None] = {}
        for child in children.values():
            named = self.named(child.extensions.get(extension))
            if named is not None:
                tables[named[0]] = None
        for name, child in children.items():
            if extension in child.extensions or child.where in self.unmapped:
                continue
            for table in tables:
                if name in (self.columns(table) or {}):
                    self.unmapped[child.where] = finding(
                        "AC706",
                        f"{owner}.{name}",
                        f"has no {extension}, and {table} has a column {name}",
                        self.contract.location(child.where),
                        actual=f"{table}.{name}",
                    )
                    break

    def named(self, value: Json) -> tuple[str, str] | None:
        """Split `x-db-column` into `schema.table` and column; None if it is neither form."""
        match = _NAME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return None
        return f"{match[1] or self.default_schema}.{match[2]}", match[3]

    def columns(self, table: str) -> dict[str, Column] | None:
        """Give the columns of a table or view by name; None if the document has neither."""
        found = self.schema.table(table)
        if found is not None:
            return {column.name: column for column in found.columns}
        view = (self.schema.views or {}).get(table)
        if view is None:
            return None
        return {
            name: Column(name, type_, nullable=False, location=view.location)
            for name, type_ in view.columns
        }

    def check(self, held: _Property) -> Iterator[Finding]:
        value = held.shape.extensions[self.rules.column_extension]
        place = self.contract.location(held.shape.where)
        named = self.named(value)
        if named is None:
            yield finding(
                "AC707",
                held.label,
                f"{self.rules.column_extension} {value!r} is not table.column",
                place,
                actual=str(value),
            )
            return
        table, name = named
        if table.partition(".")[0] in self.managed_schemas:
            return
        columns = self.columns(table)
        if columns is None:
            _, wanted, operations = self.missing.setdefault(table, (held, {}, {}))
            wanted[name] = None
            operations.update(dict.fromkeys(held.operations))
            return
        column = columns.get(name)
        if column is None:
            yield finding(
                "AC702",
                f"{held.label} {table}.{name}",
                f"datamodel.md has no column {table}.{name}",
                place,
                expected=f"{table}.{name}",
                heading=_blocked(held.operations, table, name),
            )
            return
        if held.use == "response" and any(
            fnmatchcase(f"{table}.{name}", glob) for glob in self.rules.private_columns
        ):
            yield finding(
                "AC710", held.label, f"exposes {table}.{name}", place, actual=f"{table}.{name}"
            )
        yield from self.compare(held, table, column)

    def compare(self, held: _Property, table: str, column: Column) -> Iterator[Finding]:
        """Compare one property with its column; a wrong type makes every other fact moot."""
        shape = held.shape
        type_ = self.base(column.type)
        if not _fits(shape, type_, held.use, self.schema):
            yield self.mismatch("AC703", held, column, _spelled(shape), column.type)
            return
        if held.use == "lookup":
            return
        if held.use == "response" and column.nullable and held.required and not shape.nullable:
            yield self.mismatch("AC704", held, column, "never null", "nullable")
        # Beside a default, or where it may be left out anyway, null can mean "not given".
        stored = held.required or held.patched
        if held.use == "request" and shape.nullable and stored and self.refuses_null(table, column):
            yield self.mismatch("AC704", held, column, "nullable", "not null")
        limits = self.limits_of(table, column)
        if held.use == "request":
            yield from self.compare_default(held, column)
            yield from self.compare_limits(held, column, limits)
        yield from self.compare_values(held, column, limits)

    def refuses_null(self, table: str, column: Column) -> bool:
        known = self.schema.table(table) is not None
        return known and not column.nullable and column.default is None

    def mismatch(
        self, code: str, held: _Property, column: Column, says: str, document: str
    ) -> Finding:
        place = f" ({column.location})" if column.location else ""
        return finding(
            code,
            f"{held.label} {held.use}",
            f"{held.use} says {says}, column {column.name} says {document}{place}",
            self.contract.location(held.shape.where),
            expected=document,
            actual=says,
            heading=f"MISMATCH: [{held.label}] - openapi.yaml says {says},"
            f" datamodel.md says {document}",
        )

    def base(self, type_: str) -> str:
        """Follow domains to the type beneath, its array brackets kept."""
        bare = type_.removesuffix("[]")
        domain = (self.schema.domains or {}).get(bare)
        return self.base(domain.type) + type_[len(bare) :] if domain else type_

    def compare_default(self, held: _Property, column: Column) -> Iterator[Finding]:
        says = held.shape.default
        if says is MISSING or says is None or column.default is None:
            return
        stored = expressions.canonical(column.default, expressions.Scope())
        if not isinstance(stored, tuple) or stored[0] not in ("text", "number", "boolean"):
            return
        if _plain(says) != _stored_value(stored, self.base(column.type)):
            yield self.mismatch("AC705", held, column, f"default {says!r}", column.default)

    def compare_limits(self, held: _Property, column: Column, limits: _Limits) -> Iterator[Finding]:
        shape = held.shape
        free = shape.enum is None and shape.format not in _STRICT
        if "string" in (shape.types or ()) and free:
            least, most = shape.lengths
            if limits.length is not None and (most is None or most > limits.length):
                says = "no maxLength" if most is None else f"maxLength {most}"
                yield self.mismatch("AC708", held, column, says, f"at most {limits.length}")
            if limits.least is not None and (least or 0) < limits.least:
                says = "no minLength" if least is None else f"minLength {least}"
                yield self.mismatch("AC709", held, column, says, f"at least {limits.least}")
        if "array" in (shape.types or ()) and limits.count is not None:
            most = shape.counts[1]
            if most is None or most > limits.count:
                says = "no maxItems" if most is None else f"maxItems {most}"
                yield self.mismatch("AC708", held, column, says, f"at most {limits.count}")
        if shape.enum is None and {"integer", "number"} & (shape.types or frozenset()):
            whole = shape.types == frozenset({"integer"})
            if limits.lower and not _within(shape.lower, limits.lower, whole, -1):
                yield self.mismatch(
                    "AC709", held, column, _bound("minimum", shape.lower), _limit(">", limits.lower)
                )
            if limits.upper and not _within(shape.upper, limits.upper, whole, 1):
                yield self.mismatch(
                    "AC709", held, column, _bound("maximum", shape.upper), _limit("<", limits.upper)
                )

    def compare_values(self, held: _Property, column: Column, limits: _Limits) -> Iterator[Finding]:
        shape, values = held.shape, limits.values
        if limits.elements is not None and shape.items is not None:
            shape, values = shape.items(), limits.elements
        if values is None or shape.types == frozenset({"boolean"}):
            return
        admitted = None if shape.enum is None else frozenset(_plain(v) for _, v in shape.enum)
        if held.use == "request":
            wrong = admitted is None or not admitted <= values
        else:
            wrong = admitted is not None and not values <= admitted
        if wrong:
            says = "any value" if admitted is None else _listed(admitted)
            yield self.mismatch("AC711", held, column, says, _listed(values))

    def limits_of(self, table: str, column: Column) -> _Limits:
        key = (table, column.name)
        if key not in self.limits:
            self.limits[key] = self.read_limits(self.schema.table(table), column)
        return self.limits[key]

    def read_limits(self, table: Table | None, column: Column) -> _Limits:
        limits = _of_type(self.base(column.type), self.schema)
        name = column.type
        while domain := (self.schema.domains or {}).get(name):
            for check in domain.checks:
                limits = _narrowed(limits, check, ("column", "value"), expressions.Scope())
            name = domain.type
        if table is not None:
            types = tuple((other.name, other.type) for other in table.columns)
            scope = expressions.Scope(table.name, types, self.default_schema)
            for check in table.checks:
                limits = _narrowed(limits, check, ("column", column.name), scope)
        return limits


def _owner(pointer: str) -> str | None:
    """Name a schema by its component and the properties below it: `Order`, `Order.lines[]`."""
    match = re.fullmatch(r"/components/schemas/([^/]+)(.*)", pointer)
    if match is None:
        return None
    words = [match[1]]
    steps = iter(match[2].split("/")[1:])
    for step in steps:
        if step == "properties":
            words.append(f".{next(steps, '')}")
        elif step == "items":
            words.append("[]")
        elif step in ("allOf", "oneOf", "anyOf"):
            next(steps, None)
    return "".join(words)


def _blocked(operations: Any, table: str, columns: str) -> str:
    return f"BLOCKED: datamodel incomplete - {', '.join(operations)} needs {table} with {columns}"


def _fits(shape: Shape, type_: str, use: Use, schema: Schema) -> bool:
    """Tell whether JSON of a shape can carry a type of Postgres, in the direction of its use."""
    if type_.endswith("[]"):
        if shape.types is None:
            return True
        if shape.types != frozenset({"array"}):
            return False
        return shape.items is None or _fits(shape.items(), type_[:-2], use, schema)
    base = re.sub(r"\(.*?\)", "", type_)
    if base in ("json", "jsonb") or shape.types is None:
        return True
    fits = _FITS.get(base)
    if fits is not None:
        return all(_fits_one(shape, name, fits, type_, use) for name in shape.types)
    if base in _TEXTS or base in (schema.enums or {}):
        strict = shape.format in _STRICT and use == "response"
        return shape.types == frozenset({"string"}) and not strict
    # A type of an extension or of the project's own: only its writer knows its JSON.
    return True


def _fits_one(
    shape: Shape, name: str, fits: tuple[tuple[str, str | None], ...], type_: str, use: Use
) -> bool:
    if name == "integer" and type_.startswith(("numeric", "real", "double")):
        # Whole numbers go into any column of numbers; only a column of scale 0 gives them back.
        return use != "response" or re.fullmatch(r"numeric\(\d+(,0)?\)", type_) is not None
    if name == "number" and ("integer", None) in fits:
        return use == "response"
    known = _INTEGER_FORMATS if name == "integer" else _STRING_FORMATS
    stated = shape.format if name != "number" and shape.format in known else None
    return (name, stated) in fits


def _of_type(type_: str, schema: Schema) -> _Limits:
    size = re.fullmatch(r"character(?: varying)?\((\d+)\)", type_)
    enum = (schema.enums or {}).get(type_)
    items = (schema.enums or {}).get(type_.removesuffix("[]")) if type_.endswith("[]") else None
    return _Limits(
        length=int(size[1]) if size else None,
        values=frozenset(enum.values) if enum else None,
        elements=frozenset(items.values) if items else None,
    )


_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


def _narrowed(
    limits: _Limits, check: Check, column: tuple[str, ...], scope: expressions.Scope
) -> _Limits:
    """Tighten the limits of a column by the conditions of a CHECK that stand on it alone."""
    condition = expressions.canonical(check.expression, scope)
    if not isinstance(condition, tuple):
        return limits
    for part in condition[1:] if condition[0] == "and" else (condition,):
        if part[0] == "or":
            # NULL passes a CHECK anyway, so `x IS NULL OR …` says no more than the rest.
            rest = [one for one in part[1:] if one != ("NullTest", ("arg", column))]
            if len(rest) != 1:
                continue
            inner = rest[0][1:] if rest[0][0] == "and" else (rest[0],)
        else:
            inner = (part,)
        for one in inner:
            limits = _with(limits, one, column)
    return limits


def _with(limits: _Limits, part: tuple[Any, ...], column: tuple[str, ...]) -> _Limits:
    if part[0] == "any" and part[1] == "=" and part[2] == column and part[3][0] == "array":
        values = frozenset(_constant(item) for item in part[3][1:])
        return replace(limits, values=values if limits.values is None else limits.values & values)
    if part[0] != "op" or len(part) != 4:
        return limits
    operator, left, right = part[1:]
    if operator == "<@" and left == column and right[0] == "array":
        return replace(limits, elements=frozenset(_constant(item) for item in right[1:]))
    if left[0] in ("number", "text") and operator in _FLIPPED:
        operator, left, right = _FLIPPED[operator], right, left
    if left == column and operator == "=" and right[0] in ("number", "text"):
        return replace(limits, values=frozenset({_constant(right)}))
    if right[0] != "number" or operator not in _FLIPPED:
        return limits
    limit: Decimal = right[1]
    if left == column:
        return _bounded(limits, operator, limit)
    if left[0] == "call" and left[2:3] == (column,):
        whole = int(limit)
        most = {"<": whole - 1, "<=": whole, "=": whole}.get(operator)
        least = {">": whole + 1, ">=": whole, "=": whole}.get(operator)
        if left[1] in _LENGTHS:
            limits = replace(limits, length=_least(limits.length, most))
            return replace(limits, least=_most(limits.least, least))
        if left[1] in _COUNTS:
            return replace(limits, count=_least(limits.count, most))
    return limits


def _bounded(limits: _Limits, operator: str, limit: Decimal) -> _Limits:
    bound = (limit, operator in ("<", ">"))
    if operator in (">", ">="):
        return replace(limits, lower=max(limits.lower, bound) if limits.lower else bound)
    if operator in ("<", "<="):
        return replace(
            limits,
            upper=(
                min(limits.upper, bound, key=lambda b: (b[0], not b[1])) if limits.upper else bound
            ),
        )
    return limits


def _least(one: int | None, other: int | None) -> int | None:
    return min((n for n in (one, other) if n is not None), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((n for n in (one, other) if n is not None), default=None)


def _constant(item: tuple[Any, ...]) -> str:
    return _plain(item[1])


def _plain(value: Json) -> str:
    """Spell a constant so that 1, 1.0 and Decimal(1) are one, and true is not 1."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return format(Decimal(str(value)).normalize(), "f")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _stored_value(stored: tuple[Any, ...], type_: str) -> str:
    if stored[0] == "text" and type_ in ("json", "jsonb"):
        try:
            return _plain(json.loads(stored[1]))
        except ValueError:
            return str(stored[1])
    if stored[0] == "text" and type_.endswith("[]") and stored[1] == "{}":
        return "[]"
    return _plain(stored[1])


def _within(
    bound: Bound | None, limit: tuple[Decimal, bool], whole: bool, side: Literal[-1, 1]
) -> bool:
    """Tell whether a property's bound is at least as tight as a column's; `side` 1 is the upper."""
    if bound is None:
        return False
    number, strict = Decimal(str(bound[0])), bound[1]
    end, open_ = limit
    if whole and open_ and end == end.to_integral_value():
        end, open_ = end - side, False
    return number * side < end * side or (number == end and (strict or not open_))


def _bound(word: str, bound: Bound | None) -> str:
    if bound is None:
        return f"no {word}"
    return f"exclusive{word.capitalize()} {bound[0]}" if bound[1] else f"{word} {bound[0]}"


def _limit(sign: str, limit: tuple[Decimal, bool]) -> str:
    return f"{sign}{'' if limit[1] else '='} {_plain(limit[0])}"


def _listed(values: frozenset[str]) -> str:
    return ", ".join(sorted(repr(value) for value in values))


def _spelled(shape: Shape) -> str:
    names = "any" if shape.types is None else " or ".join(sorted(shape.types))
    if shape.items is not None:
        return f"{names} of {_spelled(shape.items())}"
    return f"{names} {shape.format}" if shape.format else names
