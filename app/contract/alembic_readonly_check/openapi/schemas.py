"""Bring the JSON Schemas of a document to their canonical form."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from alembic_readonly_check.findings import CannotCheck, Location
from alembic_readonly_check.openapi.reading import Json, Node, steps
from alembic_readonly_check.openapi.shapes import (
    MISSING,
    Bound,
    Child,
    Shape,
    constant,
    intersect,
    rounded,
    scalar_key,
    tighter_lower,
    tighter_upper,
    unite,
)


@dataclass(frozen=True, slots=True)
class Schemas:
    """A document whose schemas are wanted as shapes, and the line of every value in it."""

    path: str
    version: str
    document: Json
    lines: Mapping[str, int]
    _shapes: dict[str, Shape] = field(default_factory=dict, repr=False, compare=False)
    _open: set[str] = field(default_factory=set, repr=False, compare=False)
    unread: set[str] = field(default_factory=set, repr=False, compare=False)
    """Keywords that the schemas use and no comparison reads."""

    def location(self, pointer: str) -> Location:
        """Give the line of a pointer, or of its nearest ancestor that has one."""
        while pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return Location(self.path, self.lines[pointer])

    def resolve(self, node: Node) -> Node:
        """Follow local `$ref`s to the value; a ref to another file or to itself is refused."""
        seen: set[str] = set()
        while isinstance(node.value, dict) and isinstance(node.value.get("$ref"), str):
            ref = node.value["$ref"]
            place = self.location(node.pointer)
            if not ref.startswith("#"):
                raise CannotCheck(f"{place}: $ref {ref!r} leaves the file; bundle it first.")
            if ref in seen:
                raise CannotCheck(f"{place}: $ref {ref!r} leads back to itself.")
            seen.add(ref)
            target = Node(self.document, "").child(*steps(unquote(ref[1:])))
            if target.pointer not in self.lines:
                raise CannotCheck(f"{place}: $ref {ref!r} names nothing in the document.")
            node = target
        return node

    def shape(self, node: Node) -> Shape:
        """Bring the schema at a node to its canonical form; the same node is worked on once."""
        known = self._shapes.get(node.pointer)
        if known is None:
            if node.pointer in self._open:
                raise CannotCheck(f"{self.location(node.pointer)}: the schema is its own member.")
            self._open.add(node.pointer)
            try:
                known = self._shapes[node.pointer] = _shape(node, self)
            except (TypeError, ValueError, AttributeError) as error:
                place = self.location(node.pointer)
                raise CannotCheck(f"{place}: the schema is malformed: {error}.") from error
            finally:
                self._open.remove(node.pointer)
        return known


def canonical(schema: Json, where: str) -> Shape:
    """Bring a JSON Schema without `$ref`s to its canonical form."""
    return _shape(Node(schema, where), Schemas(where, "3.1", schema, {"": 1}))


_UNREAD = frozenset(
    "not if dependentRequired dependentSchemas patternProperties propertyNames contains".split()
)


def _shape(node: Node, contract: Schemas) -> Shape:
    value = node.value
    if value is False:
        return Shape(node.pointer, types=frozenset(), nullable=False)
    if not isinstance(value, dict):
        return Shape(node.pointer)
    if "$ref" in value:
        return _referring(node, contract)
    contract.unread.update(_UNREAD.intersection(value))
    shape = _own_facts(node, contract)
    for _, member in node.child("allOf").children():
        shape = intersect(shape, contract.shape(member))
    for keyword in ("oneOf", "anyOf"):
        if keyword in value:
            shape = intersect(shape, _union(node, keyword, contract))
    if contract.version == "3.0" and value.get("nullable") is True:
        # `nullable` beside allOf: by the letter it says nothing, everybody means the whole.
        shape = replace(shape, nullable=True)
    return shape


def _referring(node: Node, contract: Schemas) -> Shape:
    target = contract.shape(contract.resolve(node))
    beside = {key: item for key, item in node.value.items() if key != "$ref"}
    if contract.version == "3.0":
        # OpenAPI 3.0 ignores what stands beside $ref; extensions are ours to read all the same.
        beside = {key: item for key, item in beside.items() if key.startswith("x-")}
    if not beside:
        return target
    return intersect(_shape(Node(beside, node.pointer), contract), target)


def _own_facts(node: Node, contract: Schemas) -> Shape:
    value = node.value
    raw = value.get("type")
    named = [raw] if isinstance(raw, str) else list(raw) if isinstance(raw, list) else []
    values = value.get("enum", [value["const"]] if "const" in value else None)
    nullable = "null" in named or (not named and (values is None or None in values))
    if contract.version == "3.0" and named:
        nullable = value.get("nullable") is True
    types = frozenset(name for name in named if name != "null") if named else None
    enum = None
    if values is not None:
        enum = frozenset(scalar_key(item) for item in values if item is not None)
        nullable = nullable and (None in values or contract.version == "3.0")
        types = (
            types if types is not None else frozenset(_type_of(item) for item in values) - {"null"}
        )
    if types is None:
        types = _implied_types(value)
        nullable = nullable and (types is None or value.get("nullable") is True)
    if types is not None and "number" in types:
        types = types - {"integer"}
    lower, upper = _bounds(value, contract.version)
    encoded = value.get("contentEncoding") == "base64"
    required = value.get("required")
    return rounded(
        Shape(
            where=node.pointer,
            types=types,
            nullable=nullable,
            format="byte" if encoded else value.get("format"),
            enum=enum,
            lower=lower,
            upper=upper,
            multiple_of=value.get("multipleOf"),
            pattern=value.get("pattern"),
            lengths=(value.get("minLength") or None, value.get("maxLength")),
            counts=(value.get("minItems") or None, value.get("maxItems")),
            sizes=(value.get("minProperties") or None, value.get("maxProperties")),
            unique=value.get("uniqueItems") is True,
            default=value.get("default", MISSING),
            properties={
                name: _thunk(child, contract) for name, child in node.child("properties").children()
            },
            required=frozenset(required) if isinstance(required, list) else frozenset(),
            additional=_additional(node, contract),
            items=_thunk(node.child("items"), contract) if value.get("items") else None,
            prefix=tuple(
                _thunk(child, contract) for _, child in node.child("prefixItems").children()
            ),
            extensions={key: item for key, item in value.items() if key.startswith("x-")},
            read_only=value.get("readOnly") is True,
            write_only=value.get("writeOnly") is True,
        )
    )


def _thunk(node: Node, contract: Schemas) -> Child:
    return lambda: contract.shape(node)


def _type_of(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer"
    kind = scalar_key(value)[0]
    return {"dict": "object", "list": "array"}.get(kind, kind)


def _implied_types(value: Mapping[str, Json]) -> frozenset[str] | None:
    if "properties" in value or "additionalProperties" in value:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in value else None


def _bounds(value: Mapping[str, Json], version: str) -> tuple[Bound | None, Bound | None]:
    """Read the bounds: `exclusiveMinimum` is a flag in 3.0 and a number of its own in 3.1."""
    found: list[Bound | None] = []
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        limit, strict = value.get(plain), value.get(exclusive)
        if version == "3.0" or isinstance(strict, bool):
            found.append(None if limit is None else (limit, strict is True))
        else:
            both = [(limit, False)] if limit is not None else []
            both += [(strict, True)] if strict is not None else []
            tighter = tighter_lower if plain == "minimum" else tighter_upper
            found.append(tighter(both[0], both[-1]) if both else None)
    return found[0], found[1]


def _additional(node: Node, contract: Schemas) -> "bool | Child":
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        value = node.value.get(keyword)
        if value is False:
            return False
        if isinstance(value, dict) and value:
            return _thunk(node.child(keyword), contract)
    return True


def _union(node: Node, keyword: str, contract: Schemas) -> Shape:
    members = [contract.shape(member) for _, member in node.child(keyword).children()]
    shape = unite(members, node.pointer)
    tag = node.child("discriminator", "propertyName").value
    if not shape.options or not isinstance(tag, str):
        return shape
    names: dict[str, list[str]] = {}
    for name, entry in node.child("discriminator", "mapping").children():
        target = entry.value if "/" in entry.value else f"#/components/schemas/{entry.value}"
        names.setdefault(unquote(target[1:]), []).append(name)
    options: dict[str, Child] = {}
    for _, member in node.child(keyword).children():
        target = contract.resolve(member).pointer
        given = names.pop(target, [])
        if contract.shape(member).types != frozenset({"object"}):
            continue
        stated = constant(contract.shape(member), tag)
        for name in given or [stated or target.rpartition("/")[2]]:
            # A mapping and an enum that contradict each other can be met by no struct.
            told = f"{name}, in its enum {stated}" if stated not in (None, name) else name
            options[told] = _thunk(member, contract)
    if names:
        place = contract.location(node.child("discriminator").pointer)
        raise CannotCheck(f"{place}: the discriminator maps to {min(names)}, which is no member.")
    return replace(shape, tag=tag, options=options)
