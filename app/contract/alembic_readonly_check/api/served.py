"""What a Litestar app serves: its routes, as `routes` compares them."""

import collections.abc
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from litestar import Litestar
from litestar.enums import HttpMethod, ParamType
from litestar.handlers import HTTPRouteHandler
from litestar.params import BodyKwarg, ParameterKwarg
from litestar.response import File, Redirect, Response, ServerSentEvent, Stream, Template
from litestar.response.base import ASGIResponse
from litestar.routes import ASGIRoute, HTTPRoute
from litestar.types import Method

from alembic_readonly_check.findings import CannotCheck, Location, relative
from alembic_readonly_check.openapi.contract import media_type, template
from alembic_readonly_check.openapi.reading import Json
from alembic_readonly_check.openapi.shapes import MISSING


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
    def place(self) -> str:
        """Name the handler and where it stands, for messages."""
        return f"{self.name} ({self.location})" if self.location else self.name

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


class _Raw:
    """Stand for a body whose type the signature does not show."""

    def __repr__(self) -> str:
        return "raw"


RAW: Final = _Raw()
