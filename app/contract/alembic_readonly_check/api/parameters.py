"""Compare the parameters of an operation with those that Litestar extracts."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import Final

from alembic_readonly_check.api.differences import Difference, Fact, compare
from alembic_readonly_check.api.served import Route, ServedParameter
from alembic_readonly_check.api.shapes import StructShapes
from alembic_readonly_check.codes import finding
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.openapi.contract import Contract, Operation, Parameter, parameter_key
from alembic_readonly_check.openapi.shapes import MISSING, Shape, intersect

_PARAMETER_CODES: Final[Mapping[Fact, str]] = {
    "property": "AR502",
    "required": "AR504",
    "default": "AR505",
    "enum": "AR511",
}


# OpenAPI lets a document repeat these headers as parameters, and says to ignore them.
_IGNORED: Final = frozenset({"header:accept", "header:content-type", "header:authorization"})


def parameter_drift(
    contract: Contract, operation: Operation, route: Route, shapes: StructShapes, rules: ApiRules
) -> Iterator[Finding]:
    left = {
        label(parameter.key): (parameter, contract.shape(parameter.schema))
        for parameter in operation.parameters
        if label(parameter.key) not in _IGNORED
    }
    right = {
        label(parameter_key(served.name, served.place)): (served, _served_shape(served, shapes))
        for served in route.parameters
    }
    for key in _unspoken(contract, route, rules):
        if key not in right or key not in left:
            left.pop(key, None)
            right.pop(key, None)
    for key in sorted(left.keys() & right.keys()):
        parameter, shape = left[key]
        if right[key][1].format == "decimal" and shape.types == frozenset({"number"}):
            # Everything is text in a URL: a Decimal reads what a number writes.
            right[key] = right[key][0], replace(right[key][1], types=shape.types, format=None)
        if shape.types == frozenset({"array"}) and _is_joined(parameter):
            # It travels as one text (`a,b`), so the handler takes text and splits it itself.
            text = Shape(shape.where, frozenset({"string"}), nullable=False, default=shape.default)
            left[key] = parameter, text
            if right[key][1].types == frozenset({"string"}):
                right[key] = right[key][0], replace(text, default=right[key][1].default)
    one = _object(left, operation.node.pointer)
    other = _object(right, route.name)
    for difference in compare(one, other, "request"):
        known = left.get(re.split(r"[.\[]", difference.path, maxsplit=1)[0])
        yield _parameter_finding(contract, operation, route, difference, known and known[0])


def _unspoken(contract: Contract, route: Route, rules: ApiRules) -> set[str]:
    """List the parameters that may stand on one side only: read by hand, hidden, or credentials."""
    by_hand = (*rules.ambient_parameters, *route.opt.get("read_parameters", ()))
    named = {parameter_key(*entry.split(":", 1)[::-1]) for entry in by_hand}
    hidden = {parameter_key(p.name, p.place) for p in route.parameters if p.hidden}
    return {label(key) for key in named | hidden | contract.credentials}


def label(key: tuple[str, str]) -> str:
    return ":".join(key)


def _served_shape(parameter: ServedParameter, shapes: StructShapes) -> Shape:
    found = [shapes.shape(annotation, parameter.name) for annotation in parameter.annotations]
    merged = reduce(intersect, found) if found else Shape(parameter.name)
    return replace(merged, default=parameter.default)


def _is_joined(parameter: Parameter) -> bool:
    """Tell an array that travels as one text, by `style` and `explode` (OpenAPI 3, 4.8.12)."""
    usual = "form" if parameter.place in ("query", "cookie") else "simple"
    style = parameter.node.value.get("style", usual)
    return parameter.node.value.get("explode", style == "form") is False


def _sent(shape: Shape) -> Shape:
    return replace(
        shape, nullable=False, default=MISSING if shape.default is None else shape.default
    )


def _object(
    parameters: Mapping[str, tuple[Parameter | ServedParameter, Shape]], where: str
) -> Shape:
    """Treat parameters as the properties of one object; none of them can be null on the wire."""
    return Shape(
        where,
        types=frozenset({"object"}),
        nullable=False,
        properties={key: partial(_sent, shape) for key, (_, shape) in parameters.items()},
        required=frozenset(key for key, (held, _) in parameters.items() if held.required),
    )


def _parameter_finding(
    contract: Contract,
    operation: Operation,
    route: Route,
    difference: Difference,
    parameter: Parameter | None,
) -> Finding:
    node = parameter.node if parameter else operation.node
    shared = node.pointer.startswith("/components/parameters/")
    owner = node.pointer.rpartition("/")[2] if shared else f"{operation.method} {operation.path}"
    fact = "parameter" if difference.fact == "property" else f"parameter's {difference.fact}"
    return finding(
        _PARAMETER_CODES.get(difference.fact, "AR503"),
        f"{owner} {difference.path}",
        f"{fact} differs: document {difference.expected}, app {difference.actual}, {route.place}",
        contract.location(node.pointer),
        expected=difference.expected,
        actual=difference.actual,
    )


def once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Report a parameter that many operations share once, with the number of the others."""
    groups: dict[tuple[str, str, str | None, str | None], list[Finding]] = defaultdict(list)
    for found in findings:
        groups[found.code, found.subject, found.expected, found.actual].append(found)
    for first, *others in groups.values():
        more = f", and {len(others)} more" if others else ""
        yield replace(first, message=f"{first.message}{more}")
