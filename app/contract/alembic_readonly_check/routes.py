"""AR5xx: compare what a Litestar app serves with the operations of the contract.

In: a `Contract`, the routes of an imported app (`routes_of`; the app is built, never started) and
the `ApiRules`. Out: findings. Routes are taken from `app.routes`, parameters from Litestar's own
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

import collections.abc
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial, reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from litestar import Litestar
from litestar.enums import HttpMethod, ParamType
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import AbstractAuthenticationMiddleware, DefineMiddleware
from litestar.params import BodyKwarg, ParameterKwarg
from litestar.response import File, Redirect, Response, ServerSentEvent, Stream, Template
from litestar.response.base import ASGIResponse
from litestar.routes import ASGIRoute, HTTPRoute
from litestar.types import Method

from alembic_readonly_check.codes import finding
from alembic_readonly_check.findings import CannotCheck, Finding, Location, relative
from alembic_readonly_check.openapi import (
    MISSING,
    ApiRules,
    Contract,
    Json,
    Operation,
    Parameter,
    Shape,
    intersect,
    is_json,
    media_type,
    parameter_key,
    template,
)
from alembic_readonly_check.structs import RAW, Difference, Fact, StructShapes, compare


@dataclass(frozen=True, slots=True)
class ServedParameter:
    """A parameter that Litestar extracts; each annotation of it is checked in turn."""

    name: str
    place: str
    required: bool
    default: Json
    annotations: tuple[Any, ...]
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path as Litestar serves it.

    `body` and `response` are annotations, `RAW` where the signature does not show a type, or
    NoneType where there is no content. Media types are None where they are unknown.
    """

    path: str
    method: str
    handler: HTTPRouteHandler
    name: str
    operation_id: str | None
    location: Location | None
    parameters: tuple[ServedParameter, ...]
    dependencies: frozenset[str]
    body: Any
    body_required: bool
    request_media: frozenset[str] | None
    response: Any
    response_media: frozenset[str] | None
    statuses: frozenset[int] | None

    @property
    def key(self) -> tuple[str, str]:
        """Identify it by method and path, whatever the path parameters are called."""
        return self.method, template(self.path)

    @property
    def opt(self) -> Mapping[str, Any]:
        """Give the handler's `opt`, merged over its layers by Litestar."""
        return self.handler.opt


def routes_of(app: Litestar, root: Path) -> list[Route]:
    """List the HTTP routes of an app and of Litestar apps mounted in it; none at all is refused."""
    routes = list(_routes(app, root, ""))
    if not routes:
        raise CannotCheck("The app serves no HTTP route; nothing would be checked.")
    return routes


def _routes(app: Litestar, root: Path, prefix: str) -> Iterator[Route]:
    for route in app.routes:
        if isinstance(route, ASGIRoute) and isinstance(route.route_handler.fn, Litestar):
            mounted: Litestar = route.route_handler.fn
            yield from _routes(mounted, root, prefix + route.path_format.rstrip("/"))
        elif isinstance(route, HTTPRoute):
            for method in route.route_handler_map:
                yield _route(route, method, root, prefix)


def _route(route: HTTPRoute, method: Method, root: Path, prefix: str) -> Route:
    handler, kwargs = route.route_handler_map[method]
    models = list(_signature_models(handler))
    body: Any = NoneType
    media: frozenset[str] | None = frozenset()
    required = False
    for model in models:
        if field := model._fields.get("data"):
            body, required = model.__annotations__["data"], not field.is_optional
            if body is Any:
                # A DTO hides the type from the signature's model.
                body = field.annotation
            kind = field.kwarg_definition
            media = frozenset(
                {media_type(str(_plain(kind.media_type)))}
                if isinstance(kind, BodyKwarg)
                else {"application/json"}
            )
        elif "body" in model._fields:
            body, media = RAW, None
    media = _stated_media(handler.opt, "request") or media
    response, streams = _returned(handler.parsed_fn_signature.return_type.annotation)
    return Route(
        path=prefix + route.path_format,
        method=str(method),
        handler=handler,
        name=handler.handler_name,
        operation_id=_stated_id(route, method, handler),
        location=_location(handler, root),
        parameters=tuple(_parameters(route, kwargs, models)),
        dependencies=frozenset(handler.resolve_dependencies())
        & frozenset(name for model in models for name in model._fields),
        body=body,
        body_required=required,
        request_media=media,
        response=response,
        response_media=_response_media(handler, response, streams),
        statuses=_statuses(handler),
    )


def _stated_id(route: HTTPRoute, method: Method, handler: HTTPRouteHandler) -> str | None:
    stated = handler.operation_id
    return (
        stated(handler, HttpMethod(method), route.path_components) if callable(stated) else stated
    )


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _signature_models(handler: HTTPRouteHandler) -> Iterator[Any]:
    """Walk the models of a handler and of the dependencies that it needs, each once."""
    dependencies = handler.resolve_dependencies()
    seen: set[str] = set()
    waiting = [handler.signature_model]
    while waiting:
        model = waiting.pop(0)
        yield model
        for name in model._fields:
            if name in dependencies and name not in seen:
                seen.add(name)
                waiting.append(dependencies[name].signature_model)


def _parameters(route: HTTPRoute, kwargs: Any, models: Sequence[Any]) -> Iterator[ServedParameter]:
    definitions = (
        *kwargs.expected_path_params,
        *kwargs.expected_query_params,
        *kwargs.expected_header_params,
        *kwargs.expected_cookie_params,
    )
    named: set[str] = set()
    for definition in sorted(definitions, key=lambda d: (d.param_type.value, d.field_alias)):
        if definition.param_type is ParamType.DEPENDENCY:
            continue
        fields = [model for model in models if definition.field_name in model._fields]
        kinds = [model._fields[definition.field_name].kwarg_definition for model in fields]
        named.add(definition.field_alias)
        yield ServedParameter(
            name=definition.field_alias,
            place=definition.param_type.value,
            required=definition.is_required or definition.param_type is ParamType.PATH,
            default=_default(definition.default),
            annotations=tuple(model.__annotations__[definition.field_name] for model in fields),
            hidden=any(isinstance(k, ParameterKwarg) and not k.include_in_schema for k in kinds),
        )
    for name, part in route.path_parameters.items():
        if name not in named:
            yield ServedParameter(name, "path", True, MISSING, (part.type,))


def _default(value: Any) -> Json:
    if value is None:
        return MISSING
    try:
        return msgspec.to_builtins(value, str_keys=True)
    except TypeError:
        return MISSING


def _location(handler: HTTPRouteHandler, root: Path) -> Location | None:
    fn: Any = handler.fn
    # A partial, and what Litestar makes of a function that runs in a thread, keep it as `func`.
    while hasattr(fn, "func"):
        fn = fn.func
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return Location(relative(Path(code.co_filename), root), code.co_firstlineno) if code else None


def _returned(annotation: Any) -> tuple[Any, bool]:
    """Give the type of the content that a handler returns, and whether it is server-sent events."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        shown = [
            member
            for member in get_args(annotation)
            if not (_is(member, Response) and get_args(member) == (NoneType,))
        ]
        found = [_returned(member) for member in shown]
        streams = bool(found) and all(stream for _, stream in found)
        if not found or any(content is RAW for content, _ in found):
            return RAW if found else NoneType, streams
        return reduce(or_, (content for content, _ in found)), False
    if annotation in (None, NoneType) or _is(annotation, Redirect):
        return NoneType, False
    if _is(annotation, (Stream, File, Template, ASGIResponse)):
        return RAW, _is(annotation, ServerSentEvent)
    if _is(annotation, Response):
        content = get_args(annotation)
        return _returned(content[0]) if content and content[0] is not Any else (RAW, False)
    raw = (str, bytes, collections.abc.AsyncIterable, collections.abc.Iterator)
    return (RAW if annotation is Any or _is(annotation, raw) else annotation), False


def _is(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, kinds)


def _stated_media(opt: Mapping[str, Any], side: str) -> frozenset[str] | None:
    stated: Iterable[Any] = opt.get(f"{side}_media_types") or ()
    struct = opt.get(f"{side}_struct")
    if not stated and isinstance(struct, Mapping):
        stated = [key for key in struct if isinstance(key, str) and "/" in key]
    found = frozenset(media_type(str(_plain(media))) for media in stated)
    return found or None


def _response_media(
    handler: HTTPRouteHandler, response: Any, streams: bool
) -> frozenset[str] | None:
    if stated := _stated_media(handler.opt, "response"):
        return stated
    if streams:
        return frozenset({"text/event-stream"})
    if response is NoneType:
        return frozenset()
    if handler.media_type:
        return frozenset({media_type(str(_plain(handler.media_type)))})
    if response is not RAW or handler.opt.get("response_struct") is not None:
        return frozenset({"application/json"})
    return None


def _statuses(handler: HTTPRouteHandler) -> frozenset[int] | None:
    if stated := handler.opt.get("statuses"):
        return frozenset(int(status) for status in stated)
    annotation = handler.parsed_fn_signature.return_type.annotation
    if _is(annotation, Redirect):
        return None
    return frozenset({int(handler.status_code)})


_PARAMETER_CODES: Final[Mapping[Fact, str]] = {
    "property": "AR502",
    "required": "AR504",
    "default": "AR505",
    "enum": "AR511",
}


# OpenAPI lets a document repeat these headers as parameters, and says to ignore them.
_IGNORED: Final = frozenset({"header:accept", "header:content-type", "header:authorization"})


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
            findings += _operation_id(contract, operation, route)
            parameters += _parameter_drift(contract, operation, route, shapes, rules)
            findings += _body_drift(contract, operation, route)
            findings += _status_drift(contract, operation, route)
            findings += _media_drift(contract, operation, route)
            findings += _security_drift(contract, operation, route, rules, permissions)
            findings += _dto_drift(contract, operation, route)
    return [*findings, *_once(parameters)]


def _at(route: Route) -> str:
    return f"{route.name} ({route.location})" if route.location else route.name


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
                f"app {instead.method}, {_at(instead)}" if instead is not None else "app none"
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
                f"route is not documented: {_at(route)}",
                route.location,
                actual=f"{route.method} {route.path}",
            )


def _operation_id(contract: Contract, operation: Operation, route: Route) -> Iterator[Finding]:
    expected, stated = operation.operation_id, route.operation_id
    if stated is None:
        # Nobody stated one, so the handler's name speaks: list_members serves listMembers.
        same = expected is None or _words(expected) == _words(route.name)
        actual = f"the function's name {route.name}"
    else:
        same, actual = stated == expected, stated
    if not same:
        yield finding(
            "AR507",
            f"{operation.method} {operation.path}",
            f"operationId differs: document {expected or 'none'}, app {actual}, {_at(route)}",
            contract.location(operation.node.child("operationId").pointer),
            expected=expected,
            actual=actual,
        )


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _parameter_drift(
    contract: Contract,
    operation: Operation,
    route: Route,
    shapes: StructShapes,
    rules: ApiRules,
) -> Iterator[Finding]:
    left = {
        _label(parameter.key): (parameter, contract.shape(parameter.schema))
        for parameter in operation.parameters
        if _label(parameter.key) not in _IGNORED
    }
    right = {
        _label(parameter_key(served.name, served.place)): (served, _served_shape(served, shapes))
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
    return {_label(key) for key in named | hidden | contract.credentials}


def _label(key: tuple[str, str]) -> str:
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
        f"{fact} differs: document {difference.expected}, app {difference.actual}, {_at(route)}",
        contract.location(node.pointer),
        expected=difference.expected,
        actual=difference.actual,
    )


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Report a parameter that many operations share once, with the number of the others."""
    groups: dict[tuple[str, str, str | None, str | None], list[Finding]] = defaultdict(list)
    for found in findings:
        groups[found.code, found.subject, found.expected, found.actual].append(found)
    for first, *others in groups.values():
        more = f", and {len(others)} more" if others else ""
        yield replace(first, message=f"{first.message}{more}")


def _body_drift(contract: Contract, operation: Operation, route: Route) -> Iterator[Finding]:
    request = operation.request
    if request is None or route.body in (RAW, NoneType) or request.required == route.body_required:
        return
    expected = "required" if request.required else "optional"
    actual = "required" if route.body_required else "optional"
    yield finding(
        "AR504",
        f"{operation.method} {operation.path} body",
        f"request body differs: document {expected}, app {actual}, {_at(route)}",
        contract.location(request.node.pointer),
        expected=expected,
        actual=actual,
    )


def _status_drift(contract: Contract, operation: Operation, route: Route) -> Iterator[Finding]:
    if route.statuses is None or "2XX" in operation.responses:
        return
    documented = {int(s) for s in operation.responses if re.fullmatch(r"2\d\d", s)}
    if documented != route.statuses and "DEFAULT" not in operation.responses:
        expected, actual = _listed(documented), _listed(route.statuses)
        yield finding(
            "AR510",
            f"{operation.method} {operation.path}",
            f"success status differs: document {expected}, app {actual}, {_at(route)}",
            contract.location(operation.node.child("responses").pointer),
            expected=expected,
            actual=actual,
        )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(str(value) for value in values)) or "none"


def _media_drift(contract: Contract, operation: Operation, route: Route) -> Iterator[Finding]:
    request = operation.request
    if request is not None and route.request_media:
        documented = frozenset(request.content)
        # Litestar reads any body as JSON where the handler takes JSON, whatever its media type.
        lenient = route.request_media == {"application/json"} and all(map(is_json, documented))
        if documented != route.request_media and not lenient:
            yield _media_finding(
                contract, operation, route, "request", documented, route.request_media
            )
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
            side = f"response {status}"
            yield _media_finding(contract, operation, route, side, documented, served)


def _media_finding(
    contract: Contract,
    operation: Operation,
    route: Route,
    side: str,
    documented: frozenset[str],
    served: frozenset[str] | None,
) -> Finding:
    expected = _listed(documented)
    actual = "unknown" if served is None else _listed(served)
    keys = ("requestBody",) if side == "request" else ("responses", side.rpartition(" ")[2])
    pointer = operation.node.child(*keys).pointer
    unknown = "state response_media_types in the handler's opt" if served is None else None
    return finding(
        "AR508",
        f"{operation.method} {operation.path} {side}",
        f"{side} media type differs: document {expected}, app {actual}, {_at(route)}",
        contract.location(pointer),
        expected=expected,
        actual=actual,
        fix=unknown,
    )


def _security_drift(
    contract: Contract, operation: Operation, route: Route, rules: ApiRules, permissions: bool
) -> Iterator[Finding]:
    subject = f"{operation.method} {operation.path}"
    permission = operation.node.value.get(rules.permission_extension)
    held = route.opt.get(rules.permission_opt)
    if permissions and permission != held:
        yield finding(
            "AR509",
            f"{subject} permission",
            f"permission differs: document {permission or 'none'}, app {held or 'none'},"
            f" {_at(route)}",
            contract.location(operation.node.child(rules.permission_extension).pointer),
            expected=permission and str(permission),
            actual=held and str(held),
        )
    elif operation.public is not None and operation.public != _is_public(route, rules):
        expected = "public" if operation.public else "authenticated"
        actual = "authenticated" if operation.public else "public"
        yield finding(
            "AR509",
            subject,
            f"security differs: document {expected}, app {actual}, {_at(route)}",
            contract.location(operation.node.child("security").pointer),
            expected=expected,
            actual=actual,
        )


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


def _dto_drift(contract: Contract, operation: Operation, route: Route) -> Iterator[Finding]:
    for side, dto in (
        ("request", route.body is not NoneType and route.handler.resolve_data_dto()),
        ("response", route.handler.resolve_return_dto()),
    ):
        if dto:
            yield finding(
                "AR512",
                f"{operation.method} {operation.path} {side}",
                f"{side} passes through {dto.__name__}: a DTO drops the constraints below the top"
                f" level, {_at(route)}",
                route.location or contract.location(operation.node.pointer),
                actual=dto.__name__,
            )
