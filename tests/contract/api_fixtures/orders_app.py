"""A small shop over HTTP that agrees with openapi.yaml beside it; tests change its text."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Litestar, Request, Response, Router, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response import ServerSentEvent
from msgspec import UNSET, Meta, Struct, UnsetType

State = Literal["open", "paid", "closed"]
Instant = Annotated[datetime, Meta(tz=True)]
Note = Annotated[str, Meta(max_length=200)]
Quantity = Annotated[int, Meta(ge=1, le=99)]


class Line(Struct):
    """What was bought."""

    sku: str
    price: Decimal


class Order(Struct):
    """An order as it is shown."""

    id: UUID
    state: State
    note: str | None
    quantity: int
    weight: float
    placed_at: datetime
    lines: list[Line]
    labels: list[str]
    parent: "Order | None"


class OrderPage(Struct):
    """One page of orders."""

    data: list[Order]
    next: str | None


class NewLine(Struct, forbid_unknown_fields=True):
    """What is to be bought."""

    sku: Annotated[str, Meta(max_length=40)]
    count: Annotated[int, Meta(ge=1)] = 1


class NewOrder(Struct, forbid_unknown_fields=True):
    """An order to be placed."""

    code: Annotated[str, Meta(min_length=3, max_length=12, pattern="^[A-Z]+$")]
    quantity: Quantity
    lines: Annotated[list[NewLine], Meta(min_length=1, max_length=50)]
    state: Literal["open", "paid"] = "open"
    note: Note | None = None
    weight: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    due_at: Instant | UnsetType = UNSET
    extra: dict[str, int] | UnsetType = UNSET


class OrderChange(Struct, forbid_unknown_fields=True):
    """A change of an order: absent leaves, null clears."""

    note: Note | UnsetType | None = UNSET
    quantity: Quantity | UnsetType = UNSET


class Card(Struct, tag_field="kind", tag="card"):
    """Paid by card."""

    number: Annotated[str, Meta(max_length=19)]


class Cash(Struct, tag_field="kind", tag="cash"):
    """Paid in cash."""

    amount: Annotated[float, Meta(ge=0)]


class Imported(Struct):
    """How many were imported."""

    count: int


class Health(Struct):
    """Whether the shop is up."""

    up: bool


async def trace(
    trace_header: Annotated[str | None, HeaderParameter(name="X-Trace")] = None,
) -> str | None:
    """Take the caller's trace id."""
    return trace_header


async def window(
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=100)] = 50,
    cursor: Annotated[str | None, QueryParameter(name="cursor", max_length=80)] = None,
) -> tuple[int, str | None]:
    """Take the wanted part of a list."""
    return limit, cursor


def needs_credentials(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Refuse a caller without credentials."""


class OrderController(Controller):
    """Orders over HTTP."""

    path = "/orders"

    @get(operation_id="listOrders", opt={"permission": "orders:read"})
    async def list_orders(
        self,
        window: NamedDependency[tuple[int, str | None]],
        trace: NamedDependency[str | None],
        wanted: Annotated[State, QueryParameter(name="state")],
        tags: FromQuery[list[str] | None] = None,
    ) -> OrderPage:
        """List orders."""
        raise NotImplementedError

    @post(operation_id="createOrder", opt={"permission": "orders:write"})
    async def create_order(
        self, data: JSONBody[NewOrder], trace: NamedDependency[str | None]
    ) -> Order:
        """Place an order."""
        raise NotImplementedError

    @get(
        "/{order_id:uuid}",
        operation_id="getOrder",
        opt={"permission": "orders:read", "read_parameters": ["header:If-None-Match"]},
    )
    async def get_order(self, order_id: FromPath[UUID]) -> Order | Response[None]:
        """Show an order."""
        raise NotImplementedError

    @patch("/{order_id:uuid}", operation_id="updateOrder", opt={"permission": "orders:write"})
    async def update_order(self, order_id: FromPath[UUID], data: JSONBody[OrderChange]) -> Order:
        """Change an order."""
        raise NotImplementedError

    @delete("/{order_id:uuid}", opt={"permission": "orders:write"})
    async def delete_order(self, order_id: FromPath[UUID]) -> None:
        """Delete an order."""


@post(
    "/payments",
    operation_id="createPayment",
    opt={"permission": "payments:write"},
    status_code=202,
)
async def create_payment(data: JSONBody[Card | Cash]) -> None:
    """Take a payment."""


@post(
    "/imports",
    operation_id="importOrders",
    opt={
        "permission": "orders:write",
        "request_struct": {
            "application/json": NewOrder,
            "application/x-batch+json": list[NewOrder],
        },
        "response_struct": Imported,
        "statuses": [200],
    },
)
async def import_orders(request: Request[Any, Any, Any]) -> Response[Any]:
    """Import orders from one of two formats."""
    raise NotImplementedError


@get("/stream", operation_id="streamOrders", opt={"permission": "orders:read"})
async def stream_orders() -> ServerSentEvent:
    """Follow the orders."""
    raise NotImplementedError


@get("/health", operation_id="getHealth", opt={"exclude_from_auth": True})
async def get_health() -> Health:
    """Say whether the shop is up."""
    raise NotImplementedError


app = Litestar(
    [
        Router(
            "/v1",
            route_handlers=[OrderController, create_payment, import_orders, stream_orders],
            guards=[needs_credentials],
            dependencies={"window": Provide(window), "trace": Provide(trace)},
        ),
        get_health,
    ],
    path="/api",
    openapi_config=None,
)
