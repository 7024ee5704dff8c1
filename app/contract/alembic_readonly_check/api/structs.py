"""AS6xx: compare the msgspec structs of every operation with the contract's schemas.

Nothing is called, nothing is decoded. Types are read through `msgspec.inspect`, not
`msgspec.json.schema_components`: that one fails on a `Raw` default, and does not tell a naive
datetime from text, nor a field that is always sent from one that `omit_defaults` may leave out.

A handler whose signature does not show its types (raw body, raw `Response`, bytes, a stream) states
them in its `opt`:

- `request_struct`: a type, or a mapping from media type to type;
- `response_struct`: a type, or a mapping from media type or status code to type;
  either may be a text `module:NAME` that says where that stands.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args

from alembic_readonly_check.api.differences import Difference, Fact, compare
from alembic_readonly_check.api.served import RAW, Route
from alembic_readonly_check.api.shapes import StructShapes, name_of
from alembic_readonly_check.codes import finding
from alembic_readonly_check.findings import Finding, relative
from alembic_readonly_check.openapi.contract import Body, Contract, Direction, Operation, is_json
from alembic_readonly_check.openapi.shapes import Shape
from alembic_readonly_check.sources.loading import load

CODES: Final[Mapping[str, str]] = {
    fact: f"AS{number}"
    for number, fact in enumerate(
        (
            *("property", "type", "required", "default", "null", "format", "length", "bounds"),
            *("items", "enum", "pattern", "additional", "tag"),
        ),
        602,
    )
}
_UNCHECKABLE: Final = "AS615"
_FACT_WORDS: Final[Mapping[str, str]] = {
    "items": "item count",
    "enum": "values",
    "additional": "other properties",
}
_CONSTRAINTS: Final[frozenset[Fact]] = frozenset({"length", "bounds", "items", "pattern"})


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


def _types(stated: Any, shown: Any, status: str = "") -> Mapping[str, Any]:
    """Give the types by media type, `*` for all: the `opt` goes before the signature.

    A text is where they stand, `module:NAME`, as Litestar copies an `opt` and some types refuse it.
    """
    if isinstance(stated, str):
        stated = load(stated)
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
        shown = ", ".join(sorted({name_of(annotation) for annotation in side.types.values()}))
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


def _finding(
    contract: Contract, difference: Difference, shapes: StructShapes, label: str, root: Path
) -> Finding:
    path = f" at {difference.path}" if difference.path else ""
    where = _location(shapes.classes, difference.struct, root)
    word = _FACT_WORDS.get(difference.fact, difference.fact)
    return finding(
        CODES[difference.fact],
        difference.struct,
        f"{label}{path}: {word} differs: document {difference.expected},"
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
