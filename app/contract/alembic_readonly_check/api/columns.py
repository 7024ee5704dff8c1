"""AC7xx: compare the persisted properties of the contract with the columns of datamodel.md.

The two documents are at the head of the order of truth, so most findings are headed `MISMATCH` or
`BLOCKED`.

A property says where it is stored: `x-db-column: table.column`, or `schema.table.column`; null says
that it is not stored. What may differ depends on the direction: a request must fit into the column,
the column must fit into a response. A parameter only finds rows, so it is held to the type alone.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from alembic_readonly_check.api.limits import (
    STRICT,
    Limits,
    Use,
    fits,
    limit_words,
    listed,
    narrowed,
    of_type,
    plain,
    stored_value,
    within,
)
from alembic_readonly_check.codes import finding
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.facts import Column, Schema, Table
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.openapi.contract import Body, Contract, Operation
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import MISSING, Shape, stated, type_names
from alembic_readonly_check.sql.expressions import Scope, canonical

_NAME: Final = re.compile(r"(?:(\w+)\.)?(\w+)\.(\w+)")


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


@dataclass(slots=True)
class _Comparison:
    contract: Contract
    schema: Schema
    rules: ApiRules
    default_schema: str
    managed_schemas: Collection[str]
    properties: dict[tuple[str, Use], _Property] = field(default_factory=dict)
    unmapped: dict[str, Finding] = field(default_factory=dict)
    missing: dict[str, tuple[_Property, dict[str, None], dict[str, None]]] = field(
        default_factory=dict
    )
    limits: dict[tuple[str, str], Limits] = field(default_factory=dict)

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
        found = self.schema.tables.get(table)
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
        if not fits(shape, type_, held.use, self.schema):
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
        known = self.schema.tables.get(table) is not None
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
        stored = canonical(column.default, Scope())
        if not isinstance(stored, tuple) or stored[0] not in ("text", "number", "boolean"):
            return
        if plain(says) != stored_value(stored, self.base(column.type)):
            yield self.mismatch("AC705", held, column, f"default {says!r}", column.default)

    def compare_limits(self, held: _Property, column: Column, limits: Limits) -> Iterator[Finding]:
        shape = held.shape
        free = shape.enum is None and shape.format not in STRICT
        if "string" in (shape.types or ()) and free:
            least, most = shape.lengths
            if limits.length is not None and (most is None or most > limits.length):
                says = stated("maxLength", most)
                yield self.mismatch("AC708", held, column, says, f"at most {limits.length}")
            if limits.least is not None and (least or 0) < limits.least:
                says = stated("minLength", least)
                yield self.mismatch("AC709", held, column, says, f"at least {limits.least}")
        if "array" in (shape.types or ()) and limits.count is not None:
            most = shape.counts[1]
            if most is None or most > limits.count:
                says = stated("maxItems", most)
                yield self.mismatch("AC708", held, column, says, f"at most {limits.count}")
        if shape.enum is None and {"integer", "number"} & (shape.types or frozenset()):
            whole = shape.types == frozenset({"integer"})
            for word, sign, side, bound, limit in (
                ("minimum", ">", -1, shape.lower, limits.lower),
                ("maximum", "<", 1, shape.upper, limits.upper),
            ):
                if limit and not within(bound, limit, whole, side):
                    says = stated(word, bound)
                    yield self.mismatch("AC709", held, column, says, limit_words(sign, limit))

    def compare_values(self, held: _Property, column: Column, limits: Limits) -> Iterator[Finding]:
        shape, values = held.shape, limits.values
        if limits.elements is not None and shape.items is not None:
            shape, values = shape.items(), limits.elements
        if values is None or shape.types == frozenset({"boolean"}):
            return
        admitted = None if shape.enum is None else frozenset(plain(v) for _, v in shape.enum)
        if held.use == "request":
            wrong = admitted is None or not admitted <= values
        else:
            wrong = admitted is not None and not values <= admitted
        if wrong:
            says = "any value" if admitted is None else listed(admitted)
            yield self.mismatch("AC711", held, column, says, listed(values))

    def limits_of(self, table: str, column: Column) -> Limits:
        key = (table, column.name)
        if key not in self.limits:
            self.limits[key] = self.read_limits(self.schema.tables.get(table), column)
        return self.limits[key]

    def read_limits(self, table: Table | None, column: Column) -> Limits:
        limits = of_type(self.base(column.type), self.schema)
        name = column.type
        while domain := (self.schema.domains or {}).get(name):
            for check in domain.checks:
                limits = narrowed(limits, check, ("column", "value"), Scope())
            name = domain.type
        if table is not None:
            types = tuple((other.name, other.type) for other in table.columns)
            scope = Scope(table.name, types, self.default_schema)
            for check in table.checks:
                limits = narrowed(limits, check, ("column", column.name), scope)
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


def _spelled(shape: Shape) -> str:
    names = type_names(shape)
    if shape.items is not None:
        return f"{names} of {_spelled(shape.items())}"
    return f"{names} {shape.format}" if shape.format else names
