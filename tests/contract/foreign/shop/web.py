"""The shop's three operations, as plain functions behind a factory."""

from typing import Annotated, Literal

from litestar import Litestar, get, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct


class Customer(Struct):
    number: int
    name: Annotated[str, Meta(max_length=50)]
    nickname: Annotated[str, Meta(max_length=20)] | None


class Order(Struct):
    number: int
    status: Literal["new", "paid", "sent"]
    tags: list[str]


class Payment(Struct):
    number: int
    sum: float


@get("/customers/{number:int}", operation_id="showCustomer")
async def show_customer(number: FromPath[int]) -> Customer:
    raise NotImplementedError


@get("/orders", operation_id="findOrders")
async def find_orders(
    status: FromQuery[Literal["new", "paid", "sent"] | None] = None,
) -> list[Order]:
    raise NotImplementedError


@post("/payments", operation_id="pay", status_code=204)
async def pay(data: JSONBody[Payment]) -> None:
    raise NotImplementedError


def make_app() -> Litestar:
    return Litestar([show_customer, find_orders, pay], openapi_config=None)
