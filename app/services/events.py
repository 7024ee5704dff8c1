from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response
from msgspec import UNSET, Meta, Raw
from sqlalchemy import ColumnElement, Select, bindparam, column, false, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, DateTime, Integer, Text, Uuid

from app.database.reads import Of
from app.errors import InvalidRequest, TooLarge, as_pointer
from app.schemas import events as s
from app.schemas.problems import FieldError

MAX_BATCH = 500
MAX_DATA_BYTES = 64 * 1024
ONE_CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
MEDIA_TYPES = ("application/json", ONE_CLOUD_EVENT, CLOUD_EVENTS)
BATCH = Meta(min_length=1, max_length=MAX_BATCH)
# The body of each media type, as the contract has it.
BODIES = {
    "application/json": s.EventInput | Annotated[list[s.EventInput], BATCH],
    ONE_CLOUD_EVENT: s.CloudEvent,
    CLOUD_EVENTS: Annotated[list[s.CloudEvent], BATCH],
}
# What CloudEvents' JSON format keeps for itself; every other member is an extension attribute.
ATTRIBUTES = {*s.CloudEvent.__struct_fields__, "data_base64"}


def decode(media_type: str, body: bytes) -> list[s.EventInput]:
    """Read the events of a body by its Content-Type: our own JSON, or CloudEvents.

    Raises `InvalidRequest` with a pointer to what is wrong, `TooLarge` for data over 64 KiB.
    """
    try:
        if media_type == ONE_CLOUD_EVENT:
            events = [from_cloud_event(Raw(body), "")]
        elif media_type == CLOUD_EVENTS:
            items = msgspec.json.decode(body, type=list[Raw])
            events = [from_cloud_event(item, f"/{i}") for i, item in enumerate(items)]
        elif body.lstrip()[:1] == b"[":
            events = msgspec.json.decode(body, type=list[s.EventInput])
        else:
            events = [msgspec.json.decode(body, type=s.EventInput)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(error, "") from None
    if not 1 <= len(events) <= MAX_BATCH:
        raise InvalidRequest(f"A batch has 1 to {MAX_BATCH} events; this one has {len(events)}.")
    for event in events:
        if event.data is not UNSET and len(event.data) > MAX_DATA_BYTES:
            raise TooLarge("An event's data is larger than 64 KiB.")
    return events


def invalid(error: Exception, within: str) -> InvalidRequest:
    """Say where a body is wrong."""
    detail, _, where = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(f"The body is not JSON: {detail}.")
    pointer = within + as_pointer(where.rstrip("`"))
    return InvalidRequest(
        "The request is not valid; `errors` says where.", errors=[FieldError(pointer, detail)]
    )


def from_cloud_event(body: Raw, within: str) -> s.EventInput:
    """Read a CloudEvent (JSON format 1.0.2): `source` and `id` become `source` and `key`.

    Extensions other than `topics` and `actor` go to `context`, as does `dataschema`.
    """
    try:
        event = msgspec.json.decode(body, type=s.CloudEvent)
        members = msgspec.json.decode(body, type=dict[str, Raw])
        extensions = {
            name: msgspec.json.decode(value)
            for name, value in members.items()
            if name not in ATTRIBUTES
        }
    except msgspec.DecodeError as error:
        raise invalid(error, within) from None
    try:
        names = (t.strip() for t in (event.topics or "").split(","))
        topics = msgspec.convert([t for t in names if t], s.Topics)
    except msgspec.ValidationError as error:
        raise invalid(error, f"{within}/topics") from None
    if "data_base64" in members or not is_json(event.datacontenttype):
        raise InvalidRequest(
            "Only JSON data is taken; send it as `data`, with a JSON datacontenttype or none.",
            errors=[FieldError(f"{within}/datacontenttype", "not JSON")],
        )
    context: dict[str, Any] = {k: v for k, v in extensions.items() if v is not None}
    if event.dataschema is not None:
        context["dataschema"] = event.dataschema
    return s.EventInput(
        type=event.type,
        data=event.data,
        source=event.source,
        key=event.id,
        subject=event.subject,
        topics=topics,
        actor=event.actor,
        context=context,
        occurred_at=event.time,
    )


def is_json(content_type: str | None) -> bool:
    """Say whether a media type means JSON; none does, in CloudEvents' JSON format."""
    if content_type is None:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


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
    )
    return select(event_id.label("event_id"), false().label("is_duplicate"))


def published_together(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.publish_events; its parameters are `publication` of all other events."""
    rows = func.annex.publish_events(workspace_id, bindparam("batch", type_=JSONB)).table_valued(
        column("ordinal", Integer),
        column("event_id", Uuid),
        column("is_duplicate", Boolean),
        name="e",
    )
    return select(rows.c.event_id, rows.c.is_duplicate).order_by(rows.c.ordinal)


def publication(events: list[s.EventInput]) -> tuple[Of, dict[str, Any]]:
    """Say what to call to publish events, and with what; one without a key needs no JSON between.

    A user that names an actor raises `Forbidden` when it is called.
    """
    if len(events) == 1 and events[0].key is None:
        values = {
            f"event_{name}": None if value is UNSET else value
            for name, value in msgspec.structs.asdict(events[0]).items()
        }
        return published, values
    return published_together, {"batch": events}


def answer(rows: Sequence[Any]) -> Response[s.PublishedEvents]:
    """Answer with the events' ids; 200 where all of them had been published before."""
    data = [s.PublishedEvent(*row) for row in rows]
    status = 201 if not all(e.is_duplicate for e in data) else 200
    return Response(s.PublishedEvents(data), status_code=status)
