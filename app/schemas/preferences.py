from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

Time = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
# A star stands for all other categories; \Z and not $, which in Python lets a line feed follow.
Category = Annotated[str, Meta(pattern=r"^([*]|[a-z][a-z0-9_-]{0,62})\Z")]


class Channels(msgspec.Struct, frozen=True):
    """By which channels a category is wanted; what is absent was not chosen."""

    in_app: bool | UnsetType = UNSET
    email: bool | UnsetType = UNSET


class QuietHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time of each day in which mails wait, in the user's time zone."""

    from_: Time = msgspec.field(name="from")
    until: Time


class Preferences(msgspec.Struct, frozen=True):
    """What was chosen; version 0 if nothing was."""

    workspace_id: UUID | None
    categories: dict[str, Channels]
    quiet_hours: QuietHours | None
    updated_at: datetime | None
    version: int


class ChannelsPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to one category's channels; null takes a choice back."""

    in_app: bool | UnsetType | None = UNSET
    email: bool | UnsetType | None = UNSET


class PreferencesPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change to preferences: categories are merged (RFC 7396), quiet hours replaced."""

    categories: (
        Annotated[dict[Category, ChannelsPatch | None], Meta(max_length=100)] | UnsetType | None
    ) = UNSET
    quiet_hours: QuietHours | UnsetType | None = UNSET
