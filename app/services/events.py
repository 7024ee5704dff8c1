from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw
from sqlalchemy import cast, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import Boolean, Integer, Text, Uuid

from app.errors import Forbidden, InvalidRequest, TooLarge, as_pointer
from app.principals import Principal
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


async def publish(
    session: AsyncSession, principal: Principal, workspace_id: UUID, events: list[s.EventInput]
) -> s.PublishedEvents:
    """Publish events in the request's transaction; all or none.

    Raises `Forbidden` when a user names an `actor`, since the audit trail must say who it really
    was.
    """
    if principal.kind == "user" and any(e.actor is not None for e in events):
        raise Forbidden(
            "A user publishes as themselves; only keys and operators may name an actor."
        )
    batch = cast(literal(msgspec.json.encode(events).decode(), Text), JSONB)
    published = func.annex.publish_events(workspace_id, batch).table_valued(
        column("ordinal", Integer),
        column("event_id", Uuid),
        column("is_duplicate", Boolean),
        name="p",
    )
    rows = await session.execute(
        select(published.c.event_id, published.c.is_duplicate).order_by(published.c.ordinal)
    )
    return s.PublishedEvents(data=[s.PublishedEvent(*row) for row in rows])
