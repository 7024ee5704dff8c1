from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, cast, column, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.types import Boolean, DateTime, Integer, Text, Uuid

import db_models as m
from app.database.reads import Of, Read, Shape, build_page, keyset, returned
from app.filters import EVERYTHING, Filter, FilterShape
from app.schemas import notifications as s
from app.services.publishing import in_utc

NEWEST_FIRST = (m.Notification.arrived_at, m.Notification.id)
TIME = DateTime(timezone=True)
INBOXES = msgspec.json.Decoder(list[s.Inbox])


class Wanted(msgspec.Struct, frozen=True):
    """Which of the user's notifications a list is of; what its statement depends on."""

    is_archived: bool = False
    is_snoozed: bool = False
    is_unread: bool | None = None
    is_seen: bool | None = None
    in_workspace: bool = False

    def statement(self, workspace_id: ColumnElement[UUID]) -> Select[Any]:
        """Select them; each state has an index of its own."""
        n = m.Notification
        found = n.own()
        if self.is_archived:
            found = found.where(n.archived_at.is_not(None))
        if self.is_snoozed:
            found = found.where(n.snoozed_until.is_not(None))
        if not (self.is_archived or self.is_snoozed):
            found = found.where(n.archived_at.is_(None), n.snoozed_until.is_(None))
        if self.is_unread is not None:
            found = found.where(n.read_at.is_(None) if self.is_unread else n.read_at.is_not(None))
        if self.is_seen is not None:
            found = found.where(n.seen_at.is_not(None) if self.is_seen else n.seen_at.is_(None))
        if self.in_workspace:
            found = found.where(n.workspace_id == workspace_id)
        return found

    def inboxes(self, workspace_id: ColumnElement[UUID]) -> Any:
        """Gather the inboxes that the list may be of, as one JSON text."""
        i = m.Inbox
        pairs = [p for name in s.Inbox.__struct_fields__ for p in (name, getattr(i, name))]
        ordered = aggregate_order_by(func.json_build_object(*pairs), i.workspace_id, i.permission)
        found = i.own().with_only_columns(cast(func.json_agg(ordered), Text))
        if self.in_workspace:
            found = found.where(i.workspace_id == workspace_id)
        return found.scalar_subquery().label("inboxes")


class Narrowed(msgspec.Struct, frozen=True):
    """A list narrowed by what no index has."""

    wanted: Filter
    category: str | None

    @property
    def shape(self) -> "NarrowedShape":
        """What its SQL depends on."""
        return NarrowedShape(self.wanted.shape, self.category is not None)

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of its SQL."""
        return {**self.wanted.values, "category": self.category}


class NarrowedShape(msgspec.Struct, frozen=True):
    """Writes the conditions of a narrowed list."""

    wanted: FilterShape
    has_category: bool

    def conditions(self, columns: Any) -> list[ColumnElement[bool]]:
        """Write them on an item's columns; parameters are `Narrowed.values`."""
        found = self.wanted.conditions(columns)
        if self.has_category:
            found.append(columns.category == bindparam("category", type_=Text))
        return found


@cache
def listing(wanted: Wanted, narrowed: Shape | None, *, is_first: bool) -> Of:
    """Make what builds a list's statement, the same object for the same shape."""
    return partial(build_listing, wanted, narrowed, is_first)


def build_listing(
    wanted: Wanted, narrowed: Shape | None, is_first: bool, workspace_id: ColumnElement[UUID]
) -> Select[Any]:
    """Select the inboxes, and a page beside them: one snapshot, and a row if the page is empty."""
    of = wanted.statement
    page = build_page(of, s.Notification, NEWEST_FIRST, narrowed, is_first, workspace_id)
    items = page.subquery("items")
    counted = select(wanted.inboxes(workspace_id)).subquery("counted")
    return select(counted.c.inboxes, *items.c).select_from(counted.outerjoin(items, true()))


async def list_mine(
    read: Read,
    wanted: Wanted,
    narrowed: Narrowed | None,
    cursor: str | None,
    limit: int,
    stream_cursor: Callable[[], str],
) -> s.NotificationPage:
    """Read one page, newest arrival first, with the counts of the same snapshot.

    Raises `InvalidCursor`, and what `Scope.access` raises.
    """
    values: dict[str, Any] = {"limit_": limit + 1}
    if cursor is not None:
        values |= keyset(cursor, NEWEST_FIRST)
    if narrowed is not None:
        values |= narrowed.values
    shape = None if narrowed is None else narrowed.shape
    follow_from = stream_cursor()  # before the read, so that nothing is missed
    _, rows = await read.rows(listing(wanted, shape, is_first=cursor is None), values)
    inboxes = INBOXES.decode(rows[0][0] or b"[]")
    items, page = read.cut(
        [row[1:] for row in rows if row[1] is not None],
        s.Notification,
        limit,
        NEWEST_FIRST,
        is_filtered=narrowed is not None,
    )
    return s.NotificationPage(items, page, s.InboxCounts.of(inboxes), inboxes, follow_from)


def narrowing(wanted: Filter, category: str | None) -> Narrowed | None:
    """Say what a list is narrowed by; None for nothing."""
    return None if wanted is EVERYTHING and category is None else Narrowed(wanted, category)


def changed(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.change_notification; its parameters are `change`."""
    item = func.annex.change_notification(
        bindparam("notification_id", type_=Uuid),
        bindparam("is_seen", type_=Boolean),
        bindparam("is_read", type_=Boolean),
        bindparam("is_archived", type_=Boolean),
        bindparam("snoozed_until", type_=TIME),
        bindparam("is_snooze_given", type_=Boolean),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(returned(item, s.Notification, m.Notification))


def change(
    notification_id: UUID, patch: s.NotificationPatch, versions: list[int] | None
) -> dict[str, Any]:
    """Return the parameters of `changed`; raises `InvalidRequest` for a time out of range."""
    given = {k: None if v is UNSET else v for k, v in msgspec.structs.asdict(patch).items()}
    if given["snoozed_until"] is not None:
        given["snoozed_until"] = in_utc(given["snoozed_until"], "/snoozed_until")
    return {
        **given,
        "notification_id": notification_id,
        "is_snooze_given": patch.snoozed_until is not UNSET,
        "versions": versions,
    }


def answer(rows: Sequence[Any]) -> s.Notification:
    """Read the notification that was written."""
    [row] = rows
    return s.Notification(*row)


def marked(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.mark_notifications; its parameters are `mark`."""
    done = func.annex.mark_notifications(
        bindparam("action", type_=Text),
        bindparam("arrived_until", type_=TIME),
        workspace_id,
        bindparam("category", type_=Text),
    ).table_valued(column("changed", Integer), column("is_complete", Boolean), name="done")
    return select(*done.c)


def mark(given: s.NotificationMark) -> dict[str, Any]:
    """Return the parameters of `marked`; raises `InvalidRequest` for a time out of range."""
    return {
        "action": given.action,
        "arrived_until": in_utc(given.arrived_until, "/arrived_until"),
        "category": given.category,
    }
