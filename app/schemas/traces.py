from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from app.schemas.pages import Page

Refusal = Literal["not_a_member", "suspended", "not_permitted", "muted", "preference"]
Reason = Literal["recipient", "subscription", "collapsed", "actor"] | Refusal
MailReason = (
    Literal["read", "archived", "snoozed", "address_unconfirmed", "address_changed", "limit"]
    | Refusal
)


class Trace(msgspec.Struct, frozen=True):
    """What became of an event for one of its recipients."""

    user_id: UUID
    outcome: Literal["delivered", "suppressed"]
    reason: Reason
    notification_id: UUID | None
    mail: Literal["none", "queued", "sent", "skipped", "failed"]
    mail_reason: MailReason | None
    at: datetime


class TracePage(msgspec.Struct, frozen=True):
    """A page of recipients, and how far the event's fan-out is."""

    data: list[Trace]
    page: Page
    state: Literal["waiting", "delivering", "complete", "given_up"]
