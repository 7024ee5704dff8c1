from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.permissions import Permission
from app.schemas.pages import Page
from app.schemas.texts import NO_NUL, NO_NUL_OR_EMPTY

# \Z and not $, which in Python lets a line feed follow.
Type = Annotated[str, Meta(max_length=200, pattern=r"^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*\Z")]
Source = Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
Key = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Subject = Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
Topic = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^,\x00]+\Z")]
Topics = Annotated[list[Topic], Meta(max_length=20)]
TOPIC_LIST = r"^([^,\x00]{1,200}(,[^,\x00]{1,200}){0,19},?)?\Z"
Actor = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
GroupKey = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
# HTTPS without user or password, or a path: what a browser may be sent to. Visible ASCII without a
# backslash (RFC 3986, section 2).
SAFE_URL = r'^(https://[!-"$-.0->A-\[\]-~]+([/?#][!-\[\]-~]*)?' r"|/([!-.0-\[\]-~][!-\[\]-~]*)?)\Z"
Url = Annotated[str, Meta(max_length=2048, pattern=SAFE_URL)]
Recipients = Annotated[list[UUID], Meta(max_length=1000)]
UUID_TEXT = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
RECIPIENT_LIST = rf"^({UUID_TEXT}(,{UUID_TEXT})*,?)?\Z"
MAX_RECIPIENT_LIST = 37_000
"""A thousand of 36 characters, and a comma after each."""

JsonMediaType = Annotated[
    str, Meta(max_length=200, pattern=r"^[^;]*([/+][Jj][Ss][Oo][Nn]) *(;.*)?\Z")
]


class Event(msgspec.Struct, frozen=True):
    """What happened; `data` and `context` are `msgspec.Raw` when they come from the database."""

    id: UUID
    workspace_id: UUID
    type: str
    source: str
    key: str | None
    subject: str | None
    topics: list[str]
    actor: str
    principal: str
    permission: Permission | None
    data: Any
    context: dict[str, Any]
    occurred_at: datetime
    recorded_at: datetime


class EventPage(msgspec.Struct, frozen=True):
    """A page of events, and where to open the stream so that nothing after it is missed."""

    data: list[Event]
    page: Page
    stream_cursor: str


class EventCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event to publish."""

    type: Type
    data: Raw | UnsetType = UNSET
    source: Source | UnsetType = UNSET
    key: Key | None = None
    subject: Subject | None = None
    topics: Topics | UnsetType = UNSET
    actor: Actor | None = None
    permission: Permission | None = None
    recipients: Recipients | UnsetType = UNSET
    group_key: GroupKey | None = None
    url: Url | None = None
    context: dict[str, Raw] | UnsetType = UNSET
    occurred_at: Annotated[datetime, Meta(tz=True)] | None = None


class CloudEvent(msgspec.Struct, frozen=True):
    """The attributes of a CloudEvent 1.0 that Annex knows (JSON format 1.0.2).

    The others are extensions.
    """

    specversion: Literal["1.0"]
    id: Key
    source: Source
    type: Type
    subject: Subject | None = None
    time: Annotated[datetime, Meta(tz=True)] | None = None
    datacontenttype: JsonMediaType | None = None
    dataschema: Annotated[str, Meta(max_length=2048, pattern=NO_NUL_OR_EMPTY)] | None = None
    data: Raw | UnsetType = UNSET
    topics: Annotated[str, Meta(max_length=4020, pattern=TOPIC_LIST)] | None = None
    actor: Actor | None = None
    recipients: (
        Annotated[str, Meta(max_length=MAX_RECIPIENT_LIST, pattern=RECIPIENT_LIST)] | None
    ) = None


class PublishedEvent(msgspec.Struct, frozen=True):
    """The id of an event that was sent, and whether it had been published before."""

    id: UUID
    is_duplicate: bool


class PublishedEvents(msgspec.Struct, frozen=True):
    """One for each event sent, in that order."""

    data: list[PublishedEvent]
