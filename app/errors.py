"""Everything that can go wrong for a caller, as problem details (RFC 9457).

Problem
 ├ InvalidRequest 400 ─ InvalidCursor, UnknownRole, UnknownEventType, InvalidData, InvalidSchema
 ├ Unauthorized 401 ─ MissingCredentials, InvalidToken, TokenExpired, NotAToken, InvalidKey,
 │                    InvalidTicket
 ├ Forbidden 403 ─ UserRequired, OperatorRequired, SecondFactorRequired, NotGrantable,
 │                 KeyRequired, AddressNotAllowed, EmailUnconfirmed, InvitationForAnother,
 │                 DomainNotClaimable
 ├ NotFound 404, MethodNotAllowed 405, RequestTimeout 408
 ├ Conflict 409 ─ SlugTaken, TooManyWorkspaces, LastOwner, RoleInUse, AlreadyMember,
 │                LimitReached, DomainNotAllowed, RuleTaken, InvitationClosed, RequestInProgress
 ├ InvitationGone 410
 ├ PreconditionFailed 412, TooLarge 413, UnsupportedMediaType 415, KeyReused 422
 ├ RateLimited 429 ─ TooManyMails, TooManyFailures, TooManyConnections, TooManyStreams,
 │                   TooManyFilters, TooManyEvents, TooManyChanges
 └ HeadersTooLarge 431, InternalError 500, NotConfigured 501, Unavailable 503
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from app.schemas.problems import FieldError


class Problem(Exception):
    """Something is wrong with the request."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "problem"
    always: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Headers that every one of the kind carries, if it says no others."""

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = {**self.always, **(headers or {})}

    @classmethod
    def title(cls) -> str:
        """The stable title: the class's docstring."""
        return (cls.__doc__ or "").strip()


class InvalidRequest(Problem):
    """The body, a parameter or a header is malformed or invalid."""

    status, code = 400, "invalid_request"


class InvalidCursor(InvalidRequest):
    """The cursor is not one of this list's."""

    code = "invalid_cursor"


class UnknownRole(InvalidRequest):
    """The workspace has no such role."""

    code = "unknown_role"


class UnknownEventType(InvalidRequest):
    """The workspace takes only event types of the catalogue."""

    code = "unknown_event_type"


class InvalidData(InvalidRequest):
    """The data do not fit the schema of their event type."""

    code = "invalid_data"


class InvalidSchema(InvalidRequest):
    """The schema is none that Annex can check."""

    code = "invalid_schema"


class Unauthorized(Problem):
    """The credential is not accepted."""

    status, code = 401, "unauthorized"

    always: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"WWW-Authenticate": 'Bearer realm="annex"'}
    )


class MissingCredentials(Unauthorized):
    """No credential was sent."""

    code = "missing_credentials"


class InvalidToken(Unauthorized):
    """The token is not a valid access token of this project."""

    code = "invalid_token"


class TokenExpired(Unauthorized):
    """The token has expired."""

    code = "token_expired"


class NotAToken(Unauthorized):
    """A Supabase API key was sent in place of a user's access token."""

    code = "not_a_token"


class InvalidKey(Unauthorized):
    """The key is mistyped, unknown, expired or revoked."""

    code = "invalid_key"


class InvalidTicket(Unauthorized):
    """The stream ticket is not valid here or no longer."""

    code = "invalid_ticket"


class Forbidden(Problem):
    """The caller may see this, but not do it."""

    status, code = 403, "forbidden"


class UserRequired(Forbidden):
    """Only a signed-in user can do this."""

    code = "user_required"


class OperatorRequired(Forbidden):
    """Only an operator can do this."""

    code = "operator_required"


class SecondFactorRequired(Forbidden):
    """The workspace demands a second factor."""

    code = "second_factor_required"


class NotGrantable(Forbidden):
    """The caller may not give or take this much."""

    code = "not_grantable"


class KeyRequired(Forbidden):
    """Only an API key itself can do this."""

    code = "key_required"


class AddressNotAllowed(Forbidden):
    """The key is not taken from this address."""

    code = "address_not_allowed"


class EmailUnconfirmed(Forbidden):
    """The user's address is not confirmed."""

    code = "email_unconfirmed"


class InvitationForAnother(Forbidden):
    """The invitation is to another address."""

    code = "invitation_for_another"


class DomainNotClaimable(Forbidden):
    """The caller may not claim this domain or provider."""

    code = "domain_not_claimable"


class NotFound(Problem):
    """There is no such thing in the caller's sight."""

    status, code = 404, "not_found"


class MethodNotAllowed(Problem):
    """The path does not take this method."""

    status, code = 405, "method_not_allowed"


class RequestTimeout(Problem):
    """The request did not arrive in time."""

    status, code = 408, "request_timeout"


class Conflict(Problem):
    """The state does not allow this."""

    status, code = 409, "conflict"


class SlugTaken(Conflict):
    """The slug is taken."""

    code = "slug_taken"


class TooManyWorkspaces(Conflict):
    """The user has created as many workspaces as a user may."""

    code = "too_many_workspaces"


class LastOwner(Conflict):
    """The last owner stays."""

    code = "last_owner"


class RoleInUse(Conflict):
    """A member holds the role."""

    code = "role_in_use"


class AlreadyMember(Conflict):
    """The user is a member already."""

    code = "already_member"


class LimitReached(Conflict):
    """The workspace has as many of these as it may have."""

    code = "limit_reached"


class DomainNotAllowed(Conflict):
    """The workspace does not allow members of this domain."""

    code = "domain_not_allowed"


class RuleTaken(Conflict):
    """Another rule has this domain or provider."""

    code = "rule_taken"


class InvitationClosed(Conflict):
    """The invitation is not open for this."""

    code = "invitation_closed"


class RequestInProgress(Conflict):
    """The first request with this Idempotency-Key is still running."""

    code = "request_in_progress"


class InvitationGone(Problem):
    """The invitation can no longer be accepted."""

    status, code = 410, "invitation_gone"


class PreconditionFailed(Problem):
    """The resource has changed since."""

    status, code = 412, "precondition_failed"


class TooLarge(Problem):
    """The request is too large."""

    status, code = 413, "too_large"


class UnsupportedMediaType(Problem):
    """The operation does not take this Content-Type."""

    status, code = 415, "unsupported_media_type"


class KeyReused(Problem):
    """The Idempotency-Key was used for another request."""

    status, code = 422, "key_reused"


class RateLimited(Problem):
    """Too many requests by this caller."""

    status, code = 429, "rate_limited"


class TooManyMails(RateLimited):
    """The workspace has sent its mails for today."""

    code = "too_many_mails"


class TooManyFailures(RateLimited):
    """Too many credentials from this address were refused."""

    code = "too_many_failures"


class TooManyConnections(RateLimited):
    """Too many connections from this address are open."""

    code = "too_many_connections"


class TooManyStreams(RateLimited):
    """Too many streams of this principal, workspace or address are open."""

    code = "too_many_streams"


class TooManyFilters(RateLimited):
    """Too many different filters are in use in this workspace."""

    code = "too_many_filters"


class TooManyEvents(RateLimited):
    """The workspace published more than a minute allows, or more than can be fanned out now."""

    code = "too_many_events"


class TooManyChanges(RateLimited):
    """The workspace changed more than its audit trail takes in an hour."""

    code = "too_many_changes"


class HeadersTooLarge(Problem):
    """The headers are too large."""

    status, code = 431, "headers_too_large"


class InternalError(Problem):
    """Something failed here."""

    status, code = 500, "internal_error"


class NotConfigured(Problem):
    """The server lacks a setting that this needs."""

    status, code = 501, "not_configured"


class Unavailable(Problem):
    """Something that Annex depends on cannot be reached."""

    status, code = 503, "unavailable"
    always = MappingProxyType({"Retry-After": "1"})


KEPT_IN_SQL = (LimitReached, TooManyWorkspaces, TooManyMails, TooManyEvents, TooManyChanges)
"""Limits that the database keeps, so that no budget counts them; that of events counts its own."""


def subclasses(of: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Yield every kind of problem, in the order of the tree above."""
    for kind in of.__subclasses__():
        yield kind
        yield from subclasses(kind)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps: a group's members, what a library raised it from."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from causes(member)
    elif error.__cause__ is not None:
        yield from causes(error.__cause__)
