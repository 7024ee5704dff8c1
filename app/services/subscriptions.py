from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Boolean, Integer, Text, Uuid

import db_models as m
from app.database.reads import returned
from app.errors import InvalidRequest
from app.schemas import subscriptions as s
from app.schemas.problems import FieldError

TEXTS = ARRAY(Text)
MAX_USERS = 1000


def followed(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.follow_topic; its parameters are `following`."""
    made = func.annex.follow_topic(
        workspace_id,
        bindparam("topic", type_=Text),
        bindparam("types", type_=TEXTS),
        bindparam("clauses", type_=TEXTS),
        bindparam("is_muted", type_=Boolean),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(returned(made, s.Subscription, m.Subscription))


def following(topic: str, wanted: s.SubscriptionPut, versions: list[int] | None) -> dict[str, Any]:
    """Return the parameters of `followed`."""
    return {
        "topic": topic,
        "types": [] if wanted.types is UNSET else wanted.types,
        "clauses": clauses(wanted),
        "is_muted": wanted.is_muted is True,
        "versions": versions,
    }


def clauses(wanted: s.SubscriptionPut) -> list[str]:
    """Return a filter's clauses; raises `InvalidRequest` for one with U+0000."""
    found = [] if wanted.where is UNSET else wanted.where
    for n, clause in enumerate(found):
        if "\0" in clause:
            raise InvalidRequest(
                "A clause holds U+0000, which Postgres cannot store.",
                errors=[FieldError(f"/where/{n}", "holds U+0000")],
            )
    return found


def answer(rows: Sequence[Any]) -> s.Subscription:
    """Read the subscription that was written."""
    [row] = rows
    return s.Subscription(*row)


def unfollowed(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.unfollow_topic; `versions` are those that If-Match accepts."""
    call = func.annex.unfollow_topic(
        workspace_id, bindparam("topic", type_=Text), bindparam("versions", type_=ARRAY(Integer))
    )
    return select(call.label("unfollowed"))


def subscribed(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.set_subscribers; its parameters are `subscribers`."""
    changed = func.annex.set_subscribers(
        workspace_id,
        bindparam("topic", type_=Text),
        bindparam("add", type_=ARRAY(Uuid)),
        bindparam("remove", type_=ARRAY(Uuid)),
    ).table_valued(column("added", Integer), column("removed", Integer), name="changed")
    return select(*changed.c)


def subscribers(topic: str, users: s.SubscribersPut) -> dict[str, Any]:
    """Return the parameters of `subscribed`; raises `InvalidRequest` for over 1,000 users."""
    add = [] if users.add is UNSET else users.add
    remove = [] if users.remove is UNSET else users.remove
    if len(add) + len(remove) > MAX_USERS:
        raise InvalidRequest(f"A call takes at most {MAX_USERS:,} users; send several calls.")
    return {"topic": topic, "add": add, "remove": remove}
