from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from app.schemas.pages import Page

# U+0000, which Postgres cannot store; \Z and not $, which in Python lets a line feed follow.
NO_NUL = r"^[^\x00]*\Z"
Category = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}\Z")]


class EventType(msgspec.Struct, frozen=True):
    """What the operator says of a kind of event."""

    id: UUID
    name: str
    description: str
    category: str
    is_critical: bool
    title: str
    body: str
    link: str | None
    data_schema: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    version: int


class EventTypePage(msgspec.Struct, frozen=True):
    """A page of event types."""

    data: list[EventType]
    page: Page


class EventTypePut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an event type shall be."""

    category: Category
    description: Annotated[str, Meta(max_length=1000, pattern=NO_NUL)] | UnsetType = UNSET
    is_critical: bool | UnsetType = UNSET
    title: Annotated[str, Meta(max_length=200, pattern=NO_NUL)] | UnsetType = UNSET
    body: Annotated[str, Meta(max_length=2000, pattern=NO_NUL)] | UnsetType = UNSET
    link: Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)] | None = None
    data_schema: dict[str, Raw] | None = None
