"""AR5xx: compare what a Litestar app serves with the operations of the contract.

The app is built, never started. Routes are taken from `app.routes`, parameters from Litestar's own
model of a handler with all its layers and dependencies: that is what the running app enforces. It
is not always what the signature says: Litestar drops a `msgspec.Meta` on the outermost type of a
parameter or body.

A handler states in its `opt` what its signature cannot show:

- `permission` (`ApiRules.permission_opt`): equal to `x-permission` of the operation;
- `exclude_from_auth` (`ApiRules.public_opt`): true on a public handler;
- `authenticates`: true on a handler that checks credentials in its own body, such as a ticket;
- `statuses`: every success status, if not only the handler's `status_code`;
- `request_media_types`, `response_media_types`: what a raw body or raw response carries;
- `request_struct`, `response_struct`: see `structs`; a mapping's media types count as well;
- `read_parameters`: parameters that the code reads from the request (`header:If-None-Match`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import NoneType
from typing import Any

from litestar.middleware import AbstractAuthenticationMiddleware, DefineMiddleware

from alembic_readonly_check.api.parameters import once, parameter_drift
from alembic_readonly_check.api.served import RAW, Route
from alembic_readonly_check.api.shapes import StructShapes
from alembic_readonly_check.codes import finding
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.openapi.contract import Contract, Operation, is_json


def check_routes(contract: Contract, routes: Sequence[Route], rules: ApiRules) -> list[Finding]:
    """Compare every operation with its route: AR501 to AR512."""
    served = {route.key: route for route in routes}
    documented = {operation.key: operation for operation in contract.operations}
    # Litestar drops Meta(tz=True) of a parameter, so a parameter cannot insist on an offset.
    shapes = StructShapes("response")
    # A contract that never names a permission cannot disagree about one.
    permissions = any(rules.permission_extension in op.node.value for op in contract.operations)
    findings = list(_unmatched(contract, documented, served, rules))
    parameters: list[Finding] = []
    for key, operation in documented.items():
        route = served.get(key)
        # What answers HEAD and OPTIONS follows from the resource, not from a handler's signature.
        if route is not None and route.method not in ("HEAD", "OPTIONS"):
            pair = _Served(contract, operation, route)
            findings += _operation_id(pair)
            parameters += parameter_drift(contract, operation, route, shapes, rules)
            findings += _body_drift(pair)
            findings += _status_drift(pair)
            findings += _media_drift(pair)
            findings += _security_drift(pair, rules, permissions)
            findings += _dto_drift(pair)
    return [*findings, *once(parameters)]


def _unmatched(
    contract: Contract,
    documented: Mapping[tuple[str, str], Operation],
    served: Mapping[tuple[str, str], Route],
    rules: ApiRules,
) -> Iterator[Finding]:
    missing: dict[str, list[Operation]] = defaultdict(list)
    surplus: dict[str, list[Route]] = defaultdict(list)
    for key, operation in documented.items():
        if key not in served:
            missing[key[1]].append(operation)
    for key, route in served.items():
        # HEAD and OPTIONS come with every resource (RFC 9110, 9.3); only a promise of them counts.
        if (
            key not in documented
            and route.method not in ("HEAD", "OPTIONS")
            and route.handler.resolve_include_in_schema()
            and not any(fnmatchcase(route.path, glob) for glob in rules.undocumented)
        ):
            surplus[key[1]].append(route)
    for path, operations in missing.items():
        others = surplus[path]
        for operation in operations:
            subject = f"{operation.method} {operation.path}"
            instead = others.pop(0) if others else None
            served_as = (
                f"app {instead.method}, {instead.place}" if instead is not None else "app none"
            )
            yield finding(
                "AR501",
                subject,
                f"operation is not served: document {operation.method}, {served_as}",
                contract.location(operation.node.pointer),
                expected=subject,
                actual=None if instead is None else f"{instead.method} {instead.path}",
            )
    for routes in surplus.values():
        for route in routes:
            yield finding(
                "AR506",
                f"{route.method} {route.path}",
                f"route is not documented: {route.place}",
                route.location,
                actual=f"{route.method} {route.path}",
            )


@dataclass(frozen=True, slots=True)
class _Served:
    """An operation of the contract and the route that serves it."""

    contract: Contract
    operation: Operation
    route: Route

    def differs(
        self,
        code: str,
        what: str,
        expected: str | None,
        actual: str | None,
        *keys: str,
        beside: str = "",
    ) -> Finding:
        """Say a fact on which they differ; `keys` lead to it in the operation."""
        operation, route = self.operation, self.route
        told = f"document {expected or 'none'}, app {actual or 'none'}"
        return finding(
            code,
            f"{operation.method} {operation.path}{beside}",
            f"{what} differs: {told}, {route.place}",
            self.contract.location(operation.node.child(*keys).pointer),
            expected=expected,
            actual=actual,
        )


def _operation_id(pair: _Served) -> Iterator[Finding]:
    operation, route = pair.operation, pair.route
    expected, stated = operation.operation_id, route.operation_id
    if stated is None:
        # Nobody stated one, so the handler's name speaks: list_members serves listMembers.
        same = expected is None or _words(expected) == _words(route.name)
        actual = f"the function's name {route.name}"
    else:
        same, actual = stated == expected, stated
    if not same:
        yield pair.differs("AR507", "operationId", expected, actual, "operationId")


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _body_drift(pair: _Served) -> Iterator[Finding]:
    request, route = pair.operation.request, pair.route
    if request is None or route.body in (RAW, NoneType) or request.required == route.body_required:
        return
    expected = "required" if request.required else "optional"
    actual = "required" if route.body_required else "optional"
    what = "request body"
    yield pair.differs("AR504", what, expected, actual, "requestBody", beside=" body")


def _status_drift(pair: _Served) -> Iterator[Finding]:
    operation, route = pair.operation, pair.route
    if route.statuses is None or "2XX" in operation.responses:
        return
    documented = {int(s) for s in operation.responses if re.fullmatch(r"2\d\d", s)}
    if documented != route.statuses and "DEFAULT" not in operation.responses:
        expected, actual = _listed(documented), _listed(route.statuses)
        yield pair.differs("AR510", "success status", expected, actual, "responses")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(str(value) for value in values)) or "none"


def _media_drift(pair: _Served) -> Iterator[Finding]:
    operation, route = pair.operation, pair.route
    request = operation.request
    if request is not None and route.request_media:
        documented = frozenset(request.content)
        # Litestar reads any body as JSON where the handler takes JSON, whatever its media type.
        lenient = route.request_media == {"application/json"} and all(map(is_json, documented))
        if documented != route.request_media and not lenient:
            yield _media_finding(pair, "request", documented, route.request_media)
    struct = route.opt.get("response_struct")
    typed = {str(key) for key in struct} if isinstance(struct, Mapping) else set()
    for status, body in operation.responses.items():
        by_status = any(key.isdigit() for key in typed) and status not in typed
        if not status.startswith("2") or by_status:
            continue
        documented = frozenset(body.content)
        # A 204 or 205 has no content, whatever the handler sends with its other statuses.
        served = frozenset() if status in ("204", "205") else route.response_media
        # JSON of an unknown type is `structs`' to report: what it needs is the type.
        unknown = served is None and not all(map(is_json, documented))
        if unknown or (served is not None and documented != served):
            yield _media_finding(pair, f"response {status}", documented, served)


def _media_finding(
    pair: _Served, side: str, documented: frozenset[str], served: frozenset[str] | None
) -> Finding:
    expected = _listed(documented)
    actual = "unknown" if served is None else _listed(served)
    keys = ("requestBody",) if side == "request" else ("responses", side.rpartition(" ")[2])
    what = f"{side} media type"
    found = pair.differs("AR508", what, expected, actual, *keys, beside=f" {side}")
    unknown = "state response_media_types in the handler's opt"
    return replace(found, fix=unknown) if served is None else found


def _security_drift(pair: _Served, rules: ApiRules, permissions: bool) -> Iterator[Finding]:
    operation, route = pair.operation, pair.route
    permission = operation.node.value.get(rules.permission_extension)
    held = route.opt.get(rules.permission_opt)
    if permissions and permission != held:
        expected, actual = (str(word) if word else None for word in (permission, held))
        key = rules.permission_extension
        yield pair.differs("AR509", "permission", expected, actual, key, beside=" permission")
    elif operation.public is not None and operation.public != _is_public(route, rules):
        words = ("public", "authenticated")[:: 1 if operation.public else -1]
        yield pair.differs("AR509", "security", *words, "security")


def _is_public(route: Route, rules: ApiRules) -> bool:
    if route.opt.get(rules.public_opt):
        return True
    handler = route.handler
    # A permission in `opt` and Litestar's `security` are words: something has to act on them.
    return not (
        handler.resolve_guards()
        or route.opt.get("authenticates")
        or route.dependencies & set(rules.auth_dependencies)
        or any(_authenticates(middleware, route) for middleware in handler.resolve_middleware())
    )


def _authenticates(middleware: Any, route: Route) -> bool:
    made = middleware.middleware if isinstance(middleware, DefineMiddleware) else middleware
    if not (isinstance(made, type) and issubclass(made, AbstractAuthenticationMiddleware)):
        return False
    options = middleware.kwargs if isinstance(middleware, DefineMiddleware) else {}
    exclude = options.get("exclude") or []
    patterns = [exclude] if isinstance(exclude, str) else exclude
    key = options.get("exclude_from_auth_key", "exclude_from_auth")
    return not route.opt.get(key) and not any(re.search(p, route.path) for p in patterns)


def _dto_drift(pair: _Served) -> Iterator[Finding]:
    operation, route = pair.operation, pair.route
    for side, dto in (
        ("request", route.body is not NoneType and route.handler.resolve_data_dto()),
        ("response", route.handler.resolve_return_dto()),
    ):
        if dto:
            yield finding(
                "AR512",
                f"{operation.method} {operation.path} {side}",
                f"{side} passes through {dto.__name__}: a DTO drops the constraints below the top"
                f" level, {route.place}",
                route.location or pair.contract.location(operation.node.pointer),
                actual=dto.__name__,
            )
