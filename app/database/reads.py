"""A read is one statement: claims, access, and a page or a row, in one round trip."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from types import GenericAlias, MappingProxyType
from typing import Annotated, Any, Protocol, TypeVar, cast, get_args
from uuid import UUID

import msgspec
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Function,
    Select,
    bindparam,
    column,
    false,
    inspect,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute

import db_models as m
from app.database.pools import Pool
from app.database.statements import AnySelect, Scope, run
from app.errors import InvalidCursor, NotFound
from app.schemas.pages import Page

Cursor = Annotated[str | None, QueryParameter(name="cursor", max_length=500)]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=100)]

PageT = TypeVar("PageT", bound=msgspec.Struct)
StructT = TypeVar("StructT", bound=msgspec.Struct)
Attribute = InstrumentedAttribute[Any]
Of = Callable[[ColumnElement[UUID]], AnySelect]
"""A model's `of`: selects what one workspace may see."""

MAX_SCANNED = 2000
"""Rows that a filtered page looks at; what matches further on comes with the next cursor."""
MAX_PAGE_BYTES = 1024 * 1024
"""A page with more items than fit ends early, with a cursor; one item may be larger."""


class Shape(Protocol):
    """Writes conditions on the columns of a list's items, with named parameters."""

    def conditions(self, columns: Any) -> list[ColumnElement[bool]]: ...

    def __hash__(self) -> int: ...


class Condition(Protocol):
    """What a list is narrowed by: its shape is compiled once, its values are parameters."""

    @property
    def shape(self) -> Shape:
        """Make what builds its SQL; equal ones write the same."""

    @property
    def values(self) -> dict[str, Any]:
        """Return its parameters."""


class Read:
    """A handler's way to read: as its caller, in the workspace of its path."""

    def __init__(
        self, pool: Pool, scope: Scope, link: Callable[[str], None] = lambda _: None
    ) -> None:
        self.pool = pool
        self.scope = scope
        self.link = link
        """Told the cursor of the next page."""

    async def page(
        self,
        of: Of,
        page_type: type[PageT],
        cursor: str | None,
        limit: int,
        by: Sequence[Attribute],
        where: Condition | None = None,
        more: Callable[[UUID], dict[str, Any]] | None = None,
    ) -> PageT:
        """Read one page, in descending order of `by`, whose last column is unique.

        Reads limit + 1 rows, so that the last page knows that it is. A page ends at 1 MiB, and with
        `where`, it looks at 2,000 rows at most: it may then hold fewer items than asked for and
        still have a next one. `more` gives the page's other fields, of the workspace. Raises
        `InvalidCursor`, and what `Scope.access` raises.
        """
        item, keys = item_type(page_type), tuple(by)
        values = {"limit_": limit + 1}
        if cursor is not None:
            values |= keyset(cursor, keys)
        if where is not None:
            values |= where.values
        narrowed = None if where is None else where.shape
        shape = page_of(of, item, keys, narrowed, is_first=cursor is None)
        workspace_id, rows = await self.rows(shape, values)
        items, following = self.cut(rows, item, limit, keys, is_filtered=where is not None)
        others = more(workspace_id) if more is not None and workspace_id is not None else {}
        return page_type(data=items, page=following, **others)

    def cut(
        self,
        rows: Sequence[Sequence[Any]],
        item: type[StructT],
        limit: int,
        by: Sequence[Attribute],
        *,
        is_filtered: bool,
    ) -> tuple[list[StructT], Page]:
        """Make a page of the rows of `build_page`: its items, and where the next one begins."""
        if is_filtered:
            items = [item(*row[:-1]) for row in rows if not row[-1]]
        else:
            items = [item(*row) for row in rows]
        # Where a filtered page stopped to look.
        end = item(*rows[-1][:-1]) if len(items) < len(rows) else None
        return self.fit(items, limit, by, end)

    def fit(
        self,
        items: list[StructT],
        limit: int,
        by: Sequence[Attribute],
        end: StructT | None = None,
    ) -> tuple[list[StructT], Page]:
        """Cut a list, of which one more than the limit was asked for, to `limit` and 1 MiB.

        Returns it, and where the next page begins: after its last item, or after `end`. The items
        are written as JSON here, once: to see that they are no more than 1 MiB.
        """
        last = end
        if len(items) > limit:
            items.pop()
            last = items[-1]
        written = msgspec.json.encode(items)
        if len(written) > MAX_PAGE_BYTES and (fitting := count_fitting(items)) < len(items):
            del items[fitting:]
            last, written = items[-1], msgspec.json.encode(items)
        return cast(list[StructT], msgspec.Raw(written)), self.page_after(last, by)

    def page_after(self, last: Any, by: Sequence[Attribute]) -> Page:
        """Say where the page after an item begins, in the answer and its Link; None is the end."""
        if last is None:
            return Page(next=None)
        following = encode_cursor([getattr(last, a.key) for a in by])
        self.link(following)
        return Page(next=following)

    async def one(self, of: Of, struct: type[StructT], **equal: Any) -> StructT:
        """Read the one row whose attributes have these values; raises `NotFound`."""
        shape = one_of(of, struct, tuple(equal))
        values = {f"is_{name}": v for name, v in equal.items()}
        _, rows = await self.rows(shape, values)
        if not rows:
            raise NotFound("There is no such thing here, or it is not yours to see.")
        return struct(*rows[0])

    async def rows(
        self, build: Of, values: dict[str, Any]
    ) -> tuple[UUID | None, list[Sequence[Any]]]:
        """Run a statement; returns the id of the path's workspace, and the rows."""
        return await run(self.pool, self.scope, build, values)


Reading = NamedDependency[Read]


@cache
def page_of(
    of: Of,
    item: type[msgspec.Struct],
    by: tuple[Attribute, ...],
    where: Shape | None,
    *,
    is_first: bool,
) -> Of:
    """Make what builds a page's statement, the same object for the same shape."""
    return partial(build_page, of, item, by, where, is_first)


def build_page(
    of: Of,
    item: type[msgspec.Struct],
    by: tuple[Attribute, ...],
    where: Shape | None,
    is_first: bool,
    workspace_id: ColumnElement[UUID],
) -> Select[Any]:
    """Order by the keyset, after the cursor's; a filtered page's last column ends the scan."""
    ordered = selected(item, of(workspace_id)).order_by(*(a.desc() for a in by))
    if not is_first:
        places = [bindparam(f"after_{a.key}", type_=a.type) for a in by]
        ordered = ordered.where(tuple_(*by) < tuple_(*places))
    limit = bindparam("limit_", type_=BigInteger)
    if where is None:
        return ordered.limit(limit)
    scanned = ordered.limit(MAX_SCANNED).subquery("scanned")
    page = select(*scanned.c, false().label("is_end")).where(*where.conditions(scanned.c))
    end = ordered.add_columns(true().label("is_end")).offset(MAX_SCANNED - 1).limit(1)
    # Appended, so that the end is looked for only where the page is short.
    both = union_all(page.limit(limit), end).subquery("both")
    return select(*both.c).limit(limit)


@cache
def one_of(of: Of, struct: type[msgspec.Struct], names: tuple[str, ...]) -> Of:
    """Make what builds a row's statement, the same object for the same shape."""
    return partial(build_one, of, struct, names)


def build_one(
    of: Of,
    struct: type[msgspec.Struct],
    names: tuple[str, ...],
    workspace_id: ColumnElement[UUID],
) -> Select[Any]:
    """Select by equality."""
    statement = of(workspace_id)
    entity = statement.column_descriptions[0]["entity"]
    attributes = [getattr(entity, name) for name in names]
    places = [bindparam(f"is_{a.key}", type_=a.type) for a in attributes]
    return selected(struct, statement).where(
        *(a == place for a, place in zip(attributes, places, strict=True))
    )


def count_fitting(items: Sequence[msgspec.Struct]) -> int:
    """Count the first items that are 1 MiB of JSON together; at least one, if there are any."""
    size = 0
    for n, item in enumerate(items):
        size += len(msgspec.json.encode(item)) + 1
        if n and size > MAX_PAGE_BYTES:
            return n
    return len(items)


def keyset(cursor: str, by: tuple[Attribute, ...]) -> dict[str, Any]:
    """Read a cursor into a page's parameters; raises `InvalidCursor`."""
    values = decode_cursor(cursor, by)
    return {f"after_{a.key}": value for a, value in zip(by, values, strict=True)}


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


def columns(
    struct: type[msgspec.Struct],
    *entities: type[m.Base],
    others: Mapping[str, ColumnElement[Any]] = MappingProxyType({}),
) -> list[ColumnElement[Any]]:
    """Find the column for each of a struct's fields, in the first of the entities that has it.

    What no entity has is one of `others`.
    """
    attributes = [inspect(e).column_attrs for e in entities]
    found: list[ColumnElement[Any]] = []
    for field in msgspec.structs.fields(struct):
        # `metadata` is taken by SQLAlchemy, so the attribute is `metadata_`.
        names = (field.name, f"{field.name}_")
        mapped = (a[n].columns[0] for a in attributes for n in names if n in a)
        column = next(mapped, None)
        found.append(others[field.name] if column is None else column)
    return found


def returned(call: Function[Any], struct: type[msgspec.Struct], *entities: type[m.Base]) -> Any:
    """Read the row that a function returns as the columns of a struct, in its fields' order."""
    fields = (column(c.name, c.type) for c in columns(struct, *entities))
    return call.table_valued(*fields, name="returned")


def selected(struct: type[msgspec.Struct], statement: AnySelect) -> Select[Any]:
    """Narrow a select of entities to the columns of a struct, in the order of its fields."""
    entities = [d["expr"] for d in statement.column_descriptions if d["expr"] is d["entity"]]
    others = {d["name"]: d["expr"] for d in statement.column_descriptions}
    found = columns(struct, *entities, others=others)
    return statement.with_only_columns(*found, maintain_column_froms=True)
