"""Keyset pages: of any statement, and of one that is compiled once and run by the driver itself."""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from litestar.params import QueryParameter
from sqlalchemy import ColumnElement, Insert, Select, Update, bindparam, inspect, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

import db_models as m
from app.database.work import Compiled
from app.errors import InvalidCursor
from app.http.links import link_next
from app.schemas.pages import Page

Cursor = Annotated[str | None, QueryParameter(name="cursor", max_length=500)]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=100)]

PageT = TypeVar("PageT", bound=msgspec.Struct)
StructT = TypeVar("StructT", bound=msgspec.Struct)
Attribute = InstrumentedAttribute[Any]


def encode_cursor(values: Sequence[Any]) -> str:
    """Write the keyset of a page's last item as an opaque cursor."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(values)).decode().rstrip("=")


def decode_cursor(cursor: str, by: Sequence[Attribute]) -> list[Any]:
    """Read a cursor; raises `InvalidCursor` for one that is garbled or of another order."""
    kinds: Any = GenericAlias(tuple, tuple(a.type.python_type for a in by))
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = msgspec.msgpack.decode(base64.urlsafe_b64decode(padded), type=kinds)
        # Only our own spelling: msgpack takes more for a time than Postgres does.
        is_ours = encode_cursor(values) == cursor
        is_ours &= not any(isinstance(v, datetime) and v.tzinfo is None for v in values)
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError):
        is_ours = False
    if not is_ours:
        raise InvalidCursor("The cursor is not one of this list's; start without one.")
    return list(values)


@cache
def item_type(page_type: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return what a page struct holds: the `X` of its `data: list[X]`."""
    data = next(f for f in msgspec.structs.fields(page_type) if f.name == "data")
    item: type[msgspec.Struct] = get_args(data.type)[0]
    return item


@cache
def columns(struct: type[msgspec.Struct], *entities: type[m.Base]) -> list[ColumnElement[Any]]:
    """Find the column for each of a struct's fields, in the first of the entities that has it.

    The table's own columns: SQLAlchemy compares mapped ones with each execution, at some cost.
    """
    attributes = [inspect(e).column_attrs for e in entities]
    found: list[ColumnElement[Any]] = []
    for field in msgspec.structs.fields(struct):
        # `metadata` is taken by SQLAlchemy, so the attribute is `metadata_`.
        names = (field.name, f"{field.name}_")
        found.append(next(a[n].columns[0] for a in attributes for n in names if n in a))
    return found


def selected(struct: type[msgspec.Struct], statement: Select[Any]) -> Select[Any]:
    """Narrow a select of entities to the columns of a struct, in the order of its fields."""
    entities = [d["entity"] for d in statement.column_descriptions]
    return statement.with_only_columns(*columns(struct, *entities), maintain_column_froms=True)


async def one(
    session: AsyncSession, statement: Select[Any], struct: type[StructT]
) -> StructT | None:
    """Read the one row of a select of entities into a struct; None if there is none."""
    row = (await session.execute(selected(struct, statement))).one_or_none()
    return None if row is None else struct(*row)


async def written(
    session: AsyncSession, statement: Insert | Update, struct: type[StructT], entity: type[m.Base]
) -> StructT:
    """Run a write of exactly one row and return that row as it is now."""
    rows = await session.execute(statement.returning(*columns(struct, entity)))
    return struct(*rows.one())


async def page(
    session: AsyncSession,
    statement: Select[*tuple[Any, ...]],
    page_type: type[PageT],
    cursor: str | None,
    limit: int,
    by: Sequence[Attribute],
    **fields: Any,
) -> PageT:
    """Read one page, in descending order of `by`, whose last column is unique.

    Reads limit + 1 rows, so that the last page knows that it is. `fields` go to the page struct as
    they are.
    """
    item = item_type(page_type)
    if cursor is not None:
        statement = statement.where(tuple_(*by) < tuple_(*decode_cursor(cursor, by)))
    # Not through the session: plain columns need nothing of what it keeps.
    connection: AsyncConnection = session.info["connection"]
    rows = await connection.execute(
        selected(item, statement).order_by(*(a.desc() for a in by)).limit(limit + 1)
    )
    return finish(session, page_type, [item(*row) for row in rows], limit, by, fields)


def finish(
    session: AsyncSession,
    page_type: type[PageT],
    items: list[Any],
    limit: int,
    by: Sequence[Attribute],
    fields: dict[str, Any],
) -> PageT:
    """Cut the extra row off, and say where the next page begins, in the body and as a Link."""
    following = None
    if len(items) > limit:
        items.pop()
        following = encode_cursor([getattr(items[-1], a.key) for a in by])
        link_next(session.info["scope"], following)
    return page_type(data=items, page=Page(next=following), **fields)


class DriverPage:
    """A page whose statement SQLAlchemy compiles once and asyncpg runs, for the few hottest lists.

    `statement` has bind parameters for what varies. Within a request no SQLAlchemy runs; see
    docs/benchmarks.md for what that is worth.
    """

    def __init__(
        self,
        statement: Select[Any],
        page_type: type[msgspec.Struct],
        by: Sequence[Attribute],
    ) -> None:
        self.page_type, self.by, self.item = page_type, by, item_type(page_type)
        wanted = selected(self.item, statement)
        ordered = wanted.order_by(*(a.desc() for a in by)).limit(bindparam("limit_"))
        keyset = [bindparam(f"after_{a.key}", type_=a.type) for a in by]
        self.first = Compiled(ordered)
        self.following = Compiled(ordered.where(tuple_(*by) < tuple_(*keyset)))

    async def __call__(
        self,
        session: AsyncSession,
        parameters: dict[str, Any],
        cursor: str | None,
        limit: int,
        **fields: Any,
    ) -> Any:
        """Read one page, as `page` does."""
        statement, values = self.first, {**parameters, "limit_": limit + 1}
        if cursor is not None:
            statement, after = self.following, decode_cursor(cursor, self.by)
            values |= {f"after_{a.key}": v for a, v in zip(self.by, after, strict=True)}
        rows = await statement.fetch(session, **values)
        items = [self.item(*row) for row in rows]
        return finish(session, self.page_type, items, limit, self.by, fields)
