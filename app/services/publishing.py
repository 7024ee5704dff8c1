"""What a publisher sends, read into events: our own JSON, or CloudEvents; pure functions."""

from datetime import UTC
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw

from app.errors import InvalidRequest, TooLarge, from_msgspec
from app.schemas import events as s
from app.schemas.problems import FieldError

T = TypeVar("T")
MAX_BATCH = 500
MAX_DATA_BYTES = 64 * 1024
BATCH = Meta(min_length=1, max_length=MAX_BATCH)
# The body of each operation that takes a batch, as the contract has it.
EVENTS = Annotated[list[s.EventCreate], BATCH]
CLOUD_EVENT_BATCH = Annotated[list[s.CloudEvent], BATCH]
# What CloudEvents' JSON format keeps for itself; every other member is an extension attribute.
ATTRIBUTES = {*s.CloudEvent.__struct_fields__, "data_base64"}


def one_event(body: bytes) -> list[s.EventCreate]:
    """Read one event of our own JSON."""
    return checked([decoded(body, s.EventCreate)])


def many_events(body: bytes) -> list[s.EventCreate]:
    """Read a batch of our own JSON."""
    return checked([decoded(item, s.EventCreate, f"/{i}") for i, item in enumerate(items(body))])


def one_cloud_event(body: bytes) -> list[s.EventCreate]:
    """Read a CloudEvent in structured mode (JSON format 1.0.2, section 3)."""
    return checked([from_cloud_event(Raw(body), "")])


def many_cloud_events(body: bytes) -> list[s.EventCreate]:
    """Read CloudEvents in batched mode (JSON format 1.0.2, section 4)."""
    return checked([from_cloud_event(item, f"/{i}") for i, item in enumerate(items(body))])


def items(body: bytes) -> list[Raw]:
    """Read a batch's items, undecoded."""
    found = decoded(body, list[Raw])
    if not 1 <= len(found) <= MAX_BATCH:
        raise InvalidRequest(f"A batch has 1 to {MAX_BATCH} events; this one has {len(found)}.")
    return found


def decoded(body: bytes | Raw, kind: type[T], within: str = "") -> T:
    """Decode JSON; raises `InvalidRequest` with a pointer to what is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise explained(from_msgspec(error, within)) from None


def explained(problem: InvalidRequest) -> InvalidRequest:
    """Say more of the one refusal that surprises: CloudEvents' types are often in mixed case."""
    for n, wrong in enumerate(problem.errors):
        if wrong.pointer.endswith("/type") and "matches" in wrong.detail:
            detail = "Types are lower-case names joined by dots, such as com.example.order.paid"
            problem.errors[n] = FieldError(wrong.pointer, detail)
    return problem


def checked(events: list[s.EventCreate]) -> list[s.EventCreate]:
    """Fill in what the contract says of an absent field; raises `TooLarge` for too much data."""
    return [filled_in(event) for event in events]


def filled_in(event: s.EventCreate) -> s.EventCreate:
    """Fill one event in, its time in UTC: RFC 3339 has offsets that Postgres does not take.

    Raises `InvalidRequest` for a time before year 1 or after year 9999 in UTC.
    """
    if event.data is not UNSET and len(event.data) > MAX_DATA_BYTES:
        raise TooLarge("An event's data is larger than 64 KiB.")
    given: dict[str, Any] = {"source": "api"} if event.source is UNSET else {}
    if event.occurred_at is not None:
        try:
            given["occurred_at"] = event.occurred_at.astimezone(UTC)
        except OverflowError:
            raise InvalidRequest("An event's time is outside the years 1 to 9999 in UTC.") from None
    return msgspec.structs.replace(event, **given) if given else event


def from_cloud_event(body: Raw, within: str) -> s.EventCreate:
    """Read a CloudEvent (JSON format 1.0.2): `source` and `id` become `source` and `key`.

    Extensions other than `topics` and `actor` go to `context`, as does `dataschema`.
    """
    event = decoded(body, s.CloudEvent, within)
    members = decoded(body, dict[str, Raw], within)
    # null is the same as absent (JSON format 1.0.2, section 2.2).
    if bytes(members.get("data_base64", Raw(b"null"))).strip() != b"null":
        raise InvalidRequest(
            "Only JSON data is taken; send it as `data`.",
            errors=[FieldError(f"{within}/data_base64", "Not taken")],
        )
    context: dict[str, Any] = {
        name: value
        for name, raw in members.items()
        if name not in ATTRIBUTES and (value := decoded(raw, Any, within)) is not None
    }
    if event.dataschema is not None:
        context["dataschema"] = event.dataschema
    names = [t for t in (t.strip() for t in (event.topics or "").split(",")) if t]
    topics = decoded(msgspec.json.encode(names), s.Topics, f"{within}/topics")
    return s.EventCreate(
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
