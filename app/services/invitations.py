import hashlib
import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Response
from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Boolean, DateTime, Integer, LargeBinary, Text, Uuid

import db_models as m
from app.database.reads import Of, Read, decode_cursor
from app.errors import InvalidRequest
from app.http.responses import StructResponse
from app.schemas import invitations as s
from app.schemas.problems import FieldError
from app.settings import Settings

SECRETS = ("token", "accept_url")
"""Fields of an answer that are told once."""
PREFIX = "annex_it_"
"""By which scanners and our own logs know a token."""

OFFER = (
    column("id", Uuid),
    column("workspace_id", Uuid),
    column("workspace_slug", Text),
    column("workspace_name", Text),
    column("role", Text),
    column("is_link", Boolean),
    column("invited_by_name", Text),
    column("expires_at", DateTime(timezone=True)),
    column("created_at", DateTime(timezone=True)),
)
ISSUED = (
    column("ordinal", Integer),
    column("address", Text),
    column("outcome", Text),
    column("issued_id", Uuid),
)
JOINING = (
    column("outcome", Text),
    column("workspace_id", Uuid),
    column("workspace_slug", Text),
    column("role", Text),
)


def new_token(prefix: str = PREFIX) -> str:
    """Make a token of 256 random bits."""
    return prefix + secrets.token_urlsafe(32)


def hash_of(token: str) -> bytes:
    """Return what the database knows of a token.

    SHA-256 is enough for 256 random bits, where a slow hash would only slow us.
    """
    return hashlib.sha256(token.encode()).digest()


def accept_url(settings: Settings, token: str | None) -> str | None:
    """Return the page that accepts; the token is in the fragment, which no server is sent."""
    if token is None or settings.app_url is None:
        return None
    return f"{settings.app_url}#token={token}"


def created(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.create_invitations; its parameters are `Issue.creation`."""
    rows = func.annex.create_invitations(
        workspace_id,
        bindparam("emails", type_=ARRAY(Text)),
        bindparam("hashes", type_=ARRAY(LargeBinary)),
        bindparam("role", type_=Text),
        bindparam("max_uses", type_=Integer),
        bindparam("lifetime_hours", type_=Integer),
        bindparam("is_mailed", type_=Boolean),
        bindparam("mail_limit", type_=Integer),
    ).table_valued(*ISSUED, name="i")
    return select(*rows.c).order_by(rows.c.ordinal)


def resent(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.resend_invitation; its parameters are `Issue.resending`."""
    rows = func.annex.resend_invitation(
        workspace_id,
        bindparam("invitation_id", type_=Uuid),
        bindparam("hash", type_=LargeBinary),
        bindparam("is_mailed", type_=Boolean),
        bindparam("mail_limit", type_=Integer),
    ).table_valued(*ISSUED, name="i")
    return select(*rows.c)


def revoked(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.revoke_invitation; `versions` are those that If-Match accepts."""
    call = func.annex.revoke_invitation(
        workspace_id,
        bindparam("invitation_id", type_=Uuid),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(call.label("revoked"))


def approved(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.approve_invitation."""
    call = func.annex.approve_invitation(workspace_id, bindparam("invitation_id", type_=Uuid))
    return select(call.label("approved"))


def looked_up(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.look_up_invitation."""
    found = func.annex.look_up_invitation(bindparam("hash", type_=LargeBinary))
    return select(*found.table_valued(*OFFER, name="o").c)


def mine(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.my_invitations."""
    found = func.annex.my_invitations(
        bindparam("after_id", type_=Uuid), bindparam("limit_", type_=Integer)
    )
    return select(*found.table_valued(*OFFER, name="o").c)


def answered(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.respond_to_invitation."""
    made = func.annex.respond_to_invitation(
        bindparam("hash", type_=LargeBinary),
        bindparam("invitation_id", type_=Uuid),
        bindparam("accept", type_=Boolean),
    )
    return select(*made.table_valued(*JOINING, name="j").c)


def joined(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.join_by_rule."""
    made = func.annex.join_by_rule(bindparam("join_rule_id", type_=Uuid))
    return select(*made.table_valued(*JOINING, name="j").c)


class Issue(msgspec.Struct, frozen=True):
    """The tokens of one request's invitations: hashes go to the database, the rest out, once.

    Where the server sends mail, invitations to addresses have none: the worker makes them.
    """

    settings: Settings
    tokens: list[str]

    @classmethod
    def of(cls, settings: Settings, count: int) -> "Issue":
        """Make tokens."""
        return cls(settings, [new_token() for _ in range(count)])

    @property
    def mailing(self) -> dict[str, Any]:
        """The parameters that say whether, and how many, mails are queued."""
        return {
            "is_mailed": self.settings.smtp_url is not None,
            "mail_limit": self.settings.max_mails_per_workspace,
        }

    def creation(self, new: s.InvitationCreate) -> dict[str, Any]:
        """Return the parameters of `created`."""
        return {
            "emails": new.emails or None,
            "hashes": [hash_of(t) for t in self.tokens],
            "role": new.role,
            "max_uses": new.max_uses or None,
            "lifetime_hours": new.lifetime_hours or None,
            **self.mailing,
        }

    def resending(self, invitation_id: UUID) -> dict[str, Any]:
        """Return the parameters of `resent`."""
        return {
            "invitation_id": invitation_id,
            "hash": hash_of(self.tokens[0]),
            **self.mailing,
        }

    def told(self, rows: Sequence[Any]) -> list[s.IssuedInvitation]:
        """Tell what became of each."""
        issued = []
        for (_, email, outcome, invitation_id), token in zip(rows, self.tokens, strict=True):
            is_mailed = email is not None and self.settings.smtp_url is not None
            is_made = outcome in ("created", "resent")
            shown = token if is_made and not is_mailed else None
            url = accept_url(self.settings, shown)
            issued.append(s.IssuedInvitation(email, outcome, invitation_id, shown, url))
        return issued

    def several(self, rows: Sequence[Any]) -> Response[s.IssuedInvitations]:
        """Answer with all of them."""
        return StructResponse(s.IssuedInvitations(self.told(rows)), status_code=201)

    def one(self, rows: Sequence[Any]) -> Response[s.IssuedInvitation]:
        """Answer with the only one."""
        return StructResponse(self.told(rows)[0], status_code=200)


async def look_up(read: Read, token: str) -> s.InvitationOffer:
    """Read what a token offers."""
    _, [row] = await read.rows(looked_up, {"hash": hash_of(token)})
    return s.InvitationOffer(*row)


async def list_mine(read: Read, cursor: str | None, limit: int) -> s.InvitationOfferPage:
    """Read one page of the open invitations to the caller, newest first.

    Raises `InvalidCursor`.
    """
    order = [m.Invitation.id]
    after_id = None if cursor is None else decode_cursor(cursor, order)[0]
    _, rows = await read.rows(mine, {"after_id": after_id, "limit_": limit + 1})
    return s.InvitationOfferPage(*read.fit([s.InvitationOffer(*row) for row in rows], limit, order))


def response(given: s.InvitationResponse) -> tuple[Of, dict[str, Any]]:
    """Say what to call for an answer, and with what; raises `InvalidRequest` unless it names one.

    A rule cannot be declined.
    """
    named = [
        n for n in ("token", "invitation_id", "join_rule_id") if getattr(given, n) is not UNSET
    ]
    if len(named) != 1:
        raise InvalidRequest("Name one of `token`, `invitation_id` and `join_rule_id`.")
    if given.join_rule_id is not UNSET:
        if not given.accept:
            raise InvalidRequest(
                "A joining rule can only be accepted.", errors=[FieldError("/accept", "is false")]
            )
        return joined, {"join_rule_id": given.join_rule_id}
    return answered, {
        "hash": None if given.token is UNSET else hash_of(given.token),
        "invitation_id": None if given.invitation_id is UNSET else given.invitation_id,
        "accept": given.accept,
    }


def joining(rows: Sequence[Any]) -> Response[s.Joining]:
    """Answer with what came of it."""
    [row] = rows
    return StructResponse(s.Joining(*row), status_code=200)
