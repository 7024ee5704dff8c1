from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta


class StreamPosition(msgspec.Struct, frozen=True):
    """Where a stream stands."""

    cursor: str


class StreamTicketCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stream that a ticket is for."""

    path: Annotated[str, Meta(min_length=1, max_length=500)]


class StreamTicket(msgspec.Struct, frozen=True):
    """Opens one stream for an EventSource."""

    ticket: str
    url: str
    connect_by: datetime
    expires_at: datetime
