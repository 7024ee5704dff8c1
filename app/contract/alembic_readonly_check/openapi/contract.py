"""Load openapi.yaml strictly, and bring every schema to one canonical form that can be compared.

In: the text of an OpenAPI 3.0 or 3.1 document, YAML 1.2 or JSON. Out: a `Contract` whose
operations, parameters, bodies and schemas carry the JSON pointer that they were read at, so that
each finding names a line. A document that cannot be read without guessing raises `CannotCheck`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from alembic_readonly_check.findings import CannotCheck, relative
from alembic_readonly_check.openapi.reading import Json, Node, read_yaml
from alembic_readonly_check.openapi.schemas import Schemas

Direction = Literal["request", "response"]
METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


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
class Contract(Schemas):
    """An OpenAPI document with its operations, in the order of the file.

    `credentials` are the keys of the parameters that carry an API key (`type: apiKey`).
    """

    operations: tuple[Operation, ...] = ()
    credentials: frozenset[tuple[str, str]] = frozenset()


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
    document, lines = read_yaml(text, name)
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
