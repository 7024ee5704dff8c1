"""Load openapi.yaml strictly, and bring every schema to one canonical form that can be compared.

In: the text of an OpenAPI 3.0 or 3.1 document, YAML 1.2 or JSON. Out: a `Contract` whose
operations, parameters, bodies and schemas carry the JSON pointer that they were read at, so that
each finding names a line. A document that cannot be read without guessing raises `CannotCheck`.

Two schemas that accept the same JSON have the same `Shape`: `nullable` and a null type, `$ref` and
inline, `allOf` and its merged form, `oneOf` and `anyOf`, 100 and 100.0, an exclusive bound spelled
either way, whatever the components are called, with or without descriptions and examples.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, floor
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

import msgspec
import yaml

from alembic_readonly_check.findings import CannotCheck, Location, relative

Direction = Literal["request", "response"]
Number = int | float
Bound = tuple[Number, bool]
Range = tuple[int | None, int | None]
Json = Any

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

# The C parser reads a thousand lines in a few milliseconds, the one in Python in a few hundred.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE: Final = "tag:yaml.org,2002:"
_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_RADIX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ONLY_IN_1_2: Final = re.compile(r"0o[0-7]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")


class _Missing:
    """Stand for "no default": None is a default of its own."""

    def __repr__(self) -> str:
        return "none"


MISSING: Final = _Missing()


class ApiRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What a project may set about its API, under `[tool.alembic-readonly-check.api]`.

    `permission_extension` of an operation must equal `permission_opt` of its handler. A handler is
    authenticated if it has a guard, an authentication middleware or one of `auth_dependencies`
    among its dependencies, unless `public_opt` is true in its `opt`. `ambient_parameters`
    (`header:If-Match`) are read from the request itself, so no signature names them.
    `undocumented` are globs of paths that are served on purpose without a contract.
    `private_columns` are globs over `schema.table.column` that no response may carry.
    """

    permission_extension: str = "x-permission"
    permission_opt: str = "permission"
    public_opt: str = "exclude_from_auth"
    auth_dependencies: tuple[str, ...] = ()
    ambient_parameters: tuple[str, ...] = ()
    undocumented: tuple[str, ...] = ()
    private_columns: tuple[str, ...] = ("*_hash",)
    column_extension: str = "x-db-column"
    external_extension: str = "x-external-api"


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document and the JSON pointer (RFC 6901) that it stands at."""

    value: Json
    pointer: str

    def child(self, *keys: str) -> "Node":
        """Descend by mapping keys or list positions; a missing step gives the value None."""
        value, pointer = self.value, self.pointer
        for key in keys:
            pointer = f"{pointer}/{_escape(key)}"
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                value = None
        return Node(value, pointer)

    def children(self) -> Iterator[tuple[str, "Node"]]:
        """Walk the entries of a mapping or list, in the order of the document."""
        pairs: Iterable[tuple[str, Json]] = ()
        if isinstance(self.value, dict):
            pairs = self.value.items()
        elif isinstance(self.value, list):
            pairs = ((str(position), item) for position, item in enumerate(self.value))
        for key, value in pairs:
            yield key, Node(value, f"{self.pointer}/{_escape(key)}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A documented parameter."""

    name: str
    place: str
    required: bool
    schema: Node
    node: Node

    @property
    def key(self) -> tuple[str, str]:
        """Identify it by place and name."""
        return parameter_key(self.name, self.place)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body or a response: the schema of each media type, parameters stripped."""

    node: Node
    required: bool
    content: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; `public` is None where the document leaves security optional."""

    path: str
    method: str
    node: Node
    operation_id: str | None
    parameters: tuple[Parameter, ...]
    request: Body | None
    responses: Mapping[str, Body]
    public: bool | None

    @property
    def key(self) -> tuple[str, str]:
        """Identify it by method and path, whatever the path parameters are called."""
        return self.method, template(self.path)

    @property
    def name(self) -> str:
        """Name it in messages: its operationId, else method and path."""
        return self.operation_id or f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Contract:
    """An OpenAPI document, its operations in the order of the file, and the line of every value.

    `credentials` are the keys of the parameters that carry an API key (`type: apiKey`).
    """

    path: str
    version: str
    document: Json
    lines: Mapping[str, int]
    operations: tuple[Operation, ...] = ()
    credentials: frozenset[tuple[str, str]] = frozenset()
    _shapes: dict[str, "Shape"] = field(default_factory=dict, repr=False, compare=False)
    _open: set[str] = field(default_factory=set, repr=False, compare=False)

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
            target = Node(self.document, "").child(*_keys(unquote(ref[1:])))
            if target.pointer not in self.lines:
                raise CannotCheck(f"{place}: $ref {ref!r} names nothing in the document.")
            node = target
        return node

    def shape(self, node: Node) -> "Shape":
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


def load_contract(path: Path, root: Path) -> Contract:
    """Read an OpenAPI document from a file; its findings name it relative to the root."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotCheck(f"{relative(path, root)} cannot be read: {error}.") from error
    contract = parse_contract(text, relative(path, root))
    if not contract.operations:
        raise CannotCheck(f"{contract.path} names no operation; nothing would be checked.")
    return contract


def parse_contract(text: str, name: str) -> Contract:
    """Read an OpenAPI document from its text; `name` is what findings call the file."""
    document, lines = _read(text, name)
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not re.match(r"3\.[01]\.\d", version):
        raise CannotCheck(f"{name}:1: `openapi` is {version!r}; 3.0.x and 3.1.x can be checked.")
    contract = Contract(name, version[:3], document, lines)
    credentials = frozenset(
        parameter_key(str(scheme.child("name").value), str(scheme.child("in").value))
        for _, scheme in Node(document, "").child("components", "securitySchemes").children()
        if scheme.child("type").value == "apiKey"
    )
    return replace(contract, operations=tuple(_operations(contract)), credentials=credentials)


def _read(text: str, name: str) -> tuple[Json, dict[str, int]]:
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise CannotCheck(f"{name}:{line}: not YAML: {problem}.") from error
    if node is None:
        raise CannotCheck(f"{name}:1: the document is empty.")

    def refuse(at: yaml.Node, why: str) -> CannotCheck:
        return CannotCheck(f"{name}:{at.start_mark.line + 1}: {why}.")

    def build(at: yaml.Node, pointer: str, line: int, above: tuple[int, ...]) -> Json:
        lines[pointer] = line
        if not at.tag.startswith(_CORE):
            raise refuse(at, f"the tag {at.tag!r} is not plain YAML")
        if isinstance(at, yaml.ScalarNode):
            return at.value if at.style else _scalar(at.tag, at.value)
        if id(at) in above:
            raise refuse(at, "an alias contains itself")
        above = (*above, id(at))
        if isinstance(at, yaml.SequenceNode):
            return [
                build(item, f"{pointer}/{position}", item.start_mark.line + 1, above)
                for position, item in enumerate(at.value)
            ]
        result: dict[str, Json] = {}
        for key, value in at.value:
            if not isinstance(key, yaml.ScalarNode):
                raise refuse(key, "a key is not a scalar")
            if key.tag == f"{_CORE}merge":
                raise refuse(key, "the merge key `<<` is not YAML 1.2")
            if key.value in result:
                raise refuse(key, f"the key {key.value!r} stands twice in one mapping")
            below = f"{pointer}/{_escape(key.value)}"
            result[key.value] = build(value, below, key.start_mark.line + 1, above)
        return result

    return build(node, "", 1, ()), lines


def _scalar(tag: str, text: str) -> Json:
    """Read a plain scalar by the YAML 1.2 core schema: `no`, `on` and dates stay text."""
    if tag == f"{_CORE}str" and not _ONLY_IN_1_2.fullmatch(text):
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _keys(pointer: str) -> list[str]:
    return [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]


def _operations(contract: Contract) -> Iterator[Operation]:
    root = Node(contract.document, "")
    base = _base_path(root)
    for path, item in root.child("paths").children():
        if not path.startswith("/"):
            continue
        item = contract.resolve(item)
        prefix = (
            _base_path(item) if isinstance(item.value, dict) and "servers" in item.value else base
        )
        shared = {p.key: p for p in _parameters(contract, item)}
        for method in METHODS:
            node = item.child(method)
            if not isinstance(node.value, dict):
                continue
            own = {p.key: p for p in _parameters(contract, node)}
            request = contract.resolve(node.child("requestBody"))
            operation_id = node.value.get("operationId")
            yield Operation(
                path=prefix + path,
                method=method.upper(),
                node=node,
                operation_id=operation_id if isinstance(operation_id, str) else None,
                parameters=tuple((shared | own).values()),
                request=_body(contract, request) if isinstance(request.value, dict) else None,
                responses={
                    status.upper(): _body(contract, contract.resolve(response))
                    for status, response in node.child("responses").children()
                    if not status.startswith("x-")
                },
                public=_is_public(node.value.get("security", root.value.get("security"))),
            )


def _base_path(node: Node) -> str:
    """Take the path of the first server: the paths of the document are relative to it."""
    url = node.child("servers", "0", "url").value
    return re.sub(r"^[^/]*//[^/]*", "", url).rstrip("/") if isinstance(url, str) else ""


def _is_public(security: Json) -> bool | None:
    if not security:
        return True
    return None if {} in security else False


def _parameters(contract: Contract, owner: Node) -> Iterator[Parameter]:
    for _, entry in owner.child("parameters").children():
        node = contract.resolve(entry)
        if not isinstance(node.value, dict):
            continue
        name, place = str(node.value.get("name")), str(node.value.get("in"))
        schema = node.child("schema")
        if schema.value is None:
            schema = next(
                (media.child("schema") for _, media in node.child("content").children()), schema
            )
        required = place == "path" or node.value.get("required") is True
        yield Parameter(name, place, required, schema, node)


def _body(contract: Contract, node: Node) -> Body:
    content: dict[str, Node] = {}
    for media, entry in node.child("content").children():
        content[media_type(media)] = contract.resolve(entry).child("schema")
    required = isinstance(node.value, dict) and node.value.get("required") is True
    return Body(node, required, content)


def parameter_key(name: str, place: str) -> tuple[str, str]:
    """Identify a parameter: a header by name in any case (RFC 9110, 5.1), others to the letter."""
    return place, name.lower() if place == "header" else name


def template(path: str) -> str:
    """Blank the names of path parameters, and a slash at the end."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/") or "/"


def media_type(text: str) -> str:
    """Strip the parameters of a media type and lower its case (RFC 9110, 8.3.1)."""
    return text.partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Tell JSON and every `+json` type (RFC 6839)."""
    return media == "application/json" or media.endswith("+json")


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


def canonical(schema: Json, where: str) -> Shape:
    """Bring a JSON Schema without `$ref`s to its canonical form."""
    return _shape(Node(schema, where), Contract(where, "3.1", schema, {"": 1}))


def _shape(node: Node, contract: Contract) -> Shape:
    value = node.value
    if value is False:
        return Shape(node.pointer, types=frozenset(), nullable=False)
    if not isinstance(value, dict):
        return Shape(node.pointer)
    if "$ref" in value:
        return _referring(node, contract)
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


def _referring(node: Node, contract: Contract) -> Shape:
    target = contract.shape(contract.resolve(node))
    beside = {key: item for key, item in node.value.items() if key != "$ref"}
    if contract.version == "3.0":
        # OpenAPI 3.0 ignores what stands beside $ref; extensions are ours to read all the same.
        beside = {key: item for key, item in beside.items() if key.startswith("x-")}
    if not beside:
        return target
    return intersect(_shape(Node(beside, node.pointer), contract), target)


def _own_facts(node: Node, contract: Contract) -> Shape:
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


def _thunk(node: Node, contract: Contract) -> Child:
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
            tighter = _tighter_lower if plain == "minimum" else _tighter_upper
            found.append(tighter(both[0], both[-1]) if both else None)
    return found[0], found[1]


def _tighter_lower(one: Bound | None, other: Bound | None) -> Bound | None:
    return max(one, other) if one and other else one or other


def _tighter_upper(one: Bound | None, other: Bound | None) -> Bound | None:
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


def _additional(node: Node, contract: Contract) -> "bool | Child":
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        value = node.value.get(keyword)
        if value is False:
            return False
        if isinstance(value, dict) and value:
            return _thunk(node.child(keyword), contract)
    return True


def _union(node: Node, keyword: str, contract: Contract) -> Shape:
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
        stated = _constant(contract.shape(member), tag)
        for name in given or [stated or target.rpartition("/")[2]]:
            # A mapping and an enum that contradict each other can be met by no struct.
            told = f"{name}, in its enum {stated}" if stated not in (None, name) else name
            options[told] = _thunk(member, contract)
    if names:
        place = contract.location(node.child("discriminator").pointer)
        raise CannotCheck(f"{place}: the discriminator maps to {min(names)}, which is no member.")
    return replace(shape, tag=tag, options=options)


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
                    (_constant(member, tag) if tag else None) or str(position): always(member)
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
        values = [_constant(member, name) for member in objects]
        if None not in values and len(set(values)) == len(values):
            return name
    return None


def _constant(shape: Shape, name: str) -> str | None:
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
    return replace(
        one,
        types=left | right,
        format=one.format or other.format,
        lower=one.lower or other.lower,
        upper=one.upper or other.upper,
        multiple_of=one.multiple_of or other.multiple_of,
        pattern=one.pattern or other.pattern,
        lengths=one.lengths if "string" in left else other.lengths,
        counts=one.counts if "array" in left else other.counts,
        sizes=one.sizes if "object" in left else other.sizes,
        unique=one.unique or other.unique,
        items=one.items or other.items,
        prefix=one.prefix or other.prefix,
        properties=one.properties or other.properties,
        required=one.required | other.required,
        additional=one.additional if "object" in left else other.additional,
        tag=one.tag or other.tag,
        options=one.options or other.options,
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
    return rounded(
        Shape(
            where=outer.where,
            types=types,
            nullable=outer.nullable and inner.nullable,
            format=outer.format or inner.format,
            enum=enum,
            lower=_tighter_lower(outer.lower, inner.lower),
            upper=_tighter_upper(outer.upper, inner.upper),
            multiple_of=outer.multiple_of or inner.multiple_of,
            pattern=" and ".join(patterns) or None,
            lengths=_narrower(outer.lengths, inner.lengths),
            counts=_narrower(outer.counts, inner.counts),
            sizes=_narrower(outer.sizes, inner.sizes),
            unique=outer.unique or inner.unique,
            default=outer.default if outer.default is not MISSING else inner.default,
            properties=properties,
            required=outer.required | inner.required,
            additional=additional,
            items=items,
            prefix=outer.prefix or inner.prefix,
            tag=outer.tag or inner.tag,
            options=outer.options or inner.options,
            extensions={**inner.extensions, **outer.extensions},
            read_only=outer.read_only or inner.read_only,
            write_only=outer.write_only or inner.write_only,
        )
    )


def _both(one: Child, other: Child) -> Child:
    return lambda: intersect(one(), other())


def _narrower(one: Range, other: Range) -> Range:
    lows = [low for low in (one[0], other[0]) if low is not None]
    highs = [high for high in (one[1], other[1]) if high is not None]
    return max(lows, default=None), min(highs, default=None)
