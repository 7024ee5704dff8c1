from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response
from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, column, false, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, DateTime, Integer, Text, Uuid

from app.database.reads import Of
from app.database.statements import checked
from app.http.responses import StructResponse
from app.schemas import events as s


@checked
def published(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.publish; its parameters are `publication` of an event without a key."""
    event_id = func.annex.publish(
        workspace_id,
        bindparam("event_type", type_=Text),
        bindparam("event_data", type_=JSONB),
        bindparam("event_topics", type_=ARRAY(Text)),
        bindparam("event_subject", type_=Text),
        bindparam("event_source", type_=Text),
        literal_column("null::text"),
        bindparam("event_permission", type_=Text),
        bindparam("event_occurred_at", type_=DateTime(timezone=True)),
        bindparam("event_actor", type_=Text),
        bindparam("event_context", type_=JSONB),
        bindparam("event_recipients", type_=ARRAY(Uuid)),
        bindparam("event_group_key", type_=Text),
        bindparam("event_url", type_=Text),
    )
    return select(event_id.label("event_id"), false().label("is_duplicate"))


@checked
def published_together(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.publish_events; its parameters are `publication` of all other events."""
    rows = func.annex.publish_events(
        workspace_id, bindparam("batch", type_=JSONB), bindparam("is_list", type_=Boolean)
    ).table_valued(
        column("ordinal", Integer),
        column("event_id", Uuid),
        column("is_duplicate", Boolean),
        name="e",
    )
    return select(rows.c.event_id, rows.c.is_duplicate).order_by(rows.c.ordinal)


def publication(events: list[s.EventCreate], *, is_list: bool) -> tuple[Of, dict[str, Any]]:
    """Say what to call to publish events, and with what; one without a key needs no JSON between.

    A user that names an actor raises `Forbidden` when it is called. `is_list`: they were sent as a
    list, so that a refusal says which one it means.
    """
    if not is_list and events[0].key is None:
        values = {
            f"event_{name}": None if value is UNSET else value
            for name, value in msgspec.structs.asdict(events[0]).items()
        }
        return published, values
    return published_together, {"batch": events, "is_list": is_list}


def answer_one(rows: Sequence[Any]) -> Response[s.PublishedEvent]:
    """Answer with the event's id; 200 if it had been published before."""
    [row] = rows
    event = s.PublishedEvent(*row)
    return StructResponse(event, status_code=200 if event.is_duplicate else 201)


def answer(rows: Sequence[Any]) -> Response[s.PublishedEvents]:
    """Answer with the events' ids; 200 if all of them had been published before."""
    data = [s.PublishedEvent(*row) for row in rows]
    status = 200 if all(e.is_duplicate for e in data) else 201
    return StructResponse(s.PublishedEvents(data), status_code=status)
