"""What a publisher sends, read into events: our own JSON, or CloudEvents; pure functions."""

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw

from app.documents import check_members, check_numbers
from app.errors import InvalidRequest, TooLarge
from app.problems import from_msgspec
from app.schemas import events as s
from app.schemas.problems import FieldError

T = TypeVar("T")
MAX_BATCH = 500
MAX_DATA_BYTES = 64 * 1024
MAX_CONTEXT_BYTES, MAX_CONTEXT_MEMBERS = 64 * 1024, 3000
"""As it is sent; Postgres refuses what is longer than 16 KiB as it writes it."""
MAX_PRINTED_TOGETHER = 1024 * 1024
"""Digits that the exponents of a batch may stand for: each costs a look of its own."""
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
    events = [decoded(item, s.EventCreate, f"/{i}") for i, item in enumerate(items(body))]
    return checked(events, is_batch=True)


def one_cloud_event(body: bytes) -> list[s.EventCreate]:
    """Read a CloudEvent in structured mode (JSON format 1.0.2, section 3)."""
    return checked([from_cloud_event(Raw(body), "")])


def many_cloud_events(body: bytes) -> list[s.EventCreate]:
    """Read CloudEvents in batched mode (JSON format 1.0.2, section 4)."""
    events = [from_cloud_event(item, f"/{i}") for i, item in enumerate(items(body))]
    return checked(events, is_batch=True)


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explained(from_msgspec(error, within)) from None


def explained(problem: InvalidRequest) -> InvalidRequest:
    """Say more of the one refusal that surprises: CloudEvents' types are often in mixed case."""
    for n, wrong in enumerate(problem.errors):
        if wrong.pointer.endswith("/type") and "matches" in wrong.detail:
            detail = "Types are lower-case names joined by dots, such as com.example.order.paid"
            problem.errors[n] = FieldError(wrong.pointer, detail)
    return problem


def checked(events: list[s.EventCreate], *, is_batch: bool = False) -> list[s.EventCreate]:
    """Check what a schema cannot say, and fill in what the contract says of an absent field.

    Raises `TooLarge` for too much data, `InvalidRequest` for a number or a time out of range.
    """
    printed = 0
    for i, event in enumerate(events):
        within = f"/{i}" if is_batch else ""
        printed += check_documents(event, within)
        if printed > MAX_PRINTED_TOGETHER:
            raise TooLarge("The numbers of the batch, written out, are longer than 1 MiB.")
        events[i] = completed(event, within)
    return events


def check_documents(event: s.EventCreate, within: str) -> int:
    """Check one event's documents as `check_numbers` does; `within` is the pointer to it."""
    printed = 0
    if event.data is not UNSET:
        if len(event.data) > MAX_DATA_BYTES:
            raise TooLarge("An event's data is larger than 64 KiB.")
        printed += check_numbers(event.data, f"{within}/data")
    if event.context is not UNSET:
        check_size(event.context, f"{within}/context")
        printed += check_members(event.context, f"{within}/context")
    return printed


def check_size(context: dict[str, Raw], pointer: str) -> None:
    """Raise `InvalidRequest` for a context that Postgres would refuse for its size, later."""
    if (
        len(context) > MAX_CONTEXT_MEMBERS
        or sum(map(len, context)) + sum(map(len, context.values())) > MAX_CONTEXT_BYTES
    ):
        raise InvalidRequest(
            "An event's context is larger than 16 KiB.", errors=[FieldError(pointer, "over 16 KiB")]
        )


def completed(event: s.EventCreate, within: str) -> s.EventCreate:
    """Fill in what the contract says of an absent field."""
    filled: dict[str, Any] = {"source": "api"} if event.source is UNSET else {}
    if event.occurred_at is not None and event.occurred_at.tzinfo is not UTC:
        filled["occurred_at"] = in_utc(event.occurred_at, f"{within}/occurred_at")
    return msgspec.structs.replace(event, **filled) if filled else event


def in_utc(time: datetime, pointer: str) -> datetime:
    """Write a time in UTC, as Postgres takes no offset of 16 hours or more.

    Raises `InvalidRequest` for one that is in no year from 1 to 9999 there.
    """
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(
            "Times are in UTC's years 1 to 9999.",
            errors=[FieldError(pointer, "out of range")],
        ) from None


def listed(names: str | None) -> bytes:
    """Write what an attribute lists, separated by commas, as JSON: CloudEvents know no lists."""
    return msgspec.json.encode([n for n in (n.strip() for n in (names or "").split(",")) if n])


def from_cloud_event(body: Raw, within: str) -> s.EventCreate:
    """Read a CloudEvent (JSON format 1.0.2): `source` and `id` become `source` and `key`.

    Extensions other than `topics`, `recipients` and `actor` go to `context`, as does `dataschema`.
    """
    event = decoded(body, s.CloudEvent, within)
    members = decoded(body, dict[str, Raw], within)
    # null is the same as absent (JSON format 1.0.2, section 2.2).
    if bytes(members.get("data_base64", Raw(b"null"))).strip() != b"null":
        raise InvalidRequest(
            "Only JSON data is taken; send it as `data`.",
            errors=[FieldError(f"{within}/data_base64", "Not taken")],
        )
    if len(members) > MAX_CONTEXT_MEMBERS:
        check_size(members, within)
    context = {
        name: value
        for name, value in members.items()
        if name not in ATTRIBUTES and bytes(value) != b"null"
    }
    if event.dataschema is not None:
        context["dataschema"] = Raw(msgspec.json.encode(event.dataschema))
    topics = decoded(listed(event.topics), s.Topics, f"{within}/topics")
    recipients = decoded(listed(event.recipients), s.Recipients, f"{within}/recipients")
    return s.EventCreate(
        type=event.type,
        data=event.data,
        source=event.source,
        key=event.id,
        subject=event.subject,
        topics=topics,
        actor=event.actor,
        recipients=recipients or UNSET,
        context=context,
        occurred_at=event.time,
    )
