"""Everything that can go wrong for a caller, as problem details (RFC 9457).

Problem
 ├ InvalidRequest 400 ─ InvalidCursor, UnknownRole
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
 │                   TooManyFilters, TooManyEvents
 ├ HeadersTooLarge 431
 └ InternalError 500, NotConfigured 501, Unavailable 503
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException

from app.field_errors import as_pointer, field_error, in_json_words
from app.request_state import state_of
from app.schemas.problems import FieldError, ProblemCode
from app.schemas.problems import Problem as ProblemBody

log = structlog.get_logger()

GONE = "client disconnected prematurely"
"""How Litestar says that the client is no more; it has no class for it."""
INVALID = "The request is not valid; `errors` says where."


class Problem(Exception):
    """Something is wrong with the request."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "problem"

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
        self.headers = dict(headers or {})

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


class Unauthorized(Problem):
    """The credential is not accepted."""

    status, code = 401, "unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="annex"'})


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
    """The workspace published more events or bytes than a minute allows."""

    code = "too_many_events"


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


def subclasses(of: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Yield every kind of problem, in the order of the tree above."""
    for kind in of.__subclasses__():
        yield kind
        yield from subclasses(kind)


# What a violated constraint means to the caller.
CONSTRAINTS: dict[str, Problem] = {
    "workspaces_slug_key": SlugTaken("Another workspace has this slug; choose another one."),
    "workspaces_slug_not_uuid_check": InvalidRequest(
        "A slug cannot look like a UUID.", errors=[FieldError("/slug", "looks like a UUID")]
    ),
    "workspaces_metadata_check": InvalidRequest(
        "The metadata is larger than 16 KiB.", errors=[FieldError("/metadata", "over 16 KiB")]
    ),
    "workspaces_allowed_email_domains_check": InvalidRequest(
        "Domains are written in lower case, such as example.com, and in 10,000 characters.",
        errors=[FieldError("/allowed_email_domains", "not domains")],
    ),
    "members_metadata_check": InvalidRequest(
        "The metadata is larger than 16 KiB.", errors=[FieldError("/metadata", "over 16 KiB")]
    ),
    "api_keys_metadata_check": InvalidRequest(
        "The metadata is larger than 16 KiB.", errors=[FieldError("/metadata", "over 16 KiB")]
    ),
    "api_key_expires_at": InvalidRequest(
        "The key would have expired already; choose a later time.",
        errors=[FieldError("/expires_at", "in the past")],
    ),
    "role_without_sight": InvalidRequest(
        "Every role holds workspace:read.",
        errors=[FieldError("/permissions", "without workspace:read")],
    ),
    "profiles_user_id_fkey": InvalidToken(
        "The user of this token no longer exists; sign in again."
    ),
    "join_rules_kind_value_key": RuleTaken(
        "Another rule has this domain or provider; ask the operator if it is yours."
    ),
    "join_rules_value_check": InvalidRequest(
        "This is no domain name of two labels or more, or no UUID of a provider.",
        errors=[FieldError("/value", "is not one of its kind")],
    ),
    "events_type_reserved": InvalidRequest(
        "Types that begin with `annex.` are drawn by Annex itself; choose another name.",
        errors=[FieldError("/type", "begins with annex.")],
    ),
    "events_source_reserved": InvalidRequest(
        "The source `annex` is Annex itself; choose another name.",
        errors=[FieldError("/source", "is reserved")],
    ),
    "number_out_of_range": InvalidRequest(
        "A number is outside the range of a double (RFC 7493, section 2.2)."
    ),
    "events_data_check": TooLarge("An event's data is larger than 64 KiB."),
    "events_context_check": InvalidRequest(
        "An event's context is larger than 16 KiB.", errors=[FieldError("/context", "over 16 KiB")]
    ),
    "events_occurred_at_check": InvalidRequest(
        "An event occurred in UTC's years 1 to 9999.",
        errors=[FieldError("/occurred_at", "out of range")],
    ),
    "events_topics_check": InvalidRequest(
        "Together, an event's topics are longer than 4,000 characters."
    ),
}

HTTP_PROBLEMS: dict[int, type[Problem]] = {
    400: InvalidRequest,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    415: UnsupportedMediaType,
}


def from_database(error: asyncpg.PostgresError) -> Problem | None:
    """Say what an error of the database means to the caller; None for one that is ours."""
    constraint = getattr(error, "constraint_name", None) or ""
    if known := CONSTRAINTS.get(constraint):
        return known
    # Our own functions raise with a problem's code in a constraint's place.
    for kind in subclasses():
        if kind.code == constraint:
            return kind(error.args[0])
    # Only the server's own have a severity: asyncpg raises the same for arguments we made wrong.
    if isinstance(error, asyncpg.DataError) and getattr(error, "severity", None):
        return InvalidRequest(f"A value cannot be stored: {error.args[0]}.")
    if isinstance(error, asyncpg.StatementTooComplexError):
        return InvalidRequest("The request is nested too deeply.")
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError):
        return Unavailable("Another request was in the way; send this one again.")
    if isinstance(
        error,
        asyncpg.PostgresConnectionError
        | asyncpg.CannotConnectNowError
        | asyncpg.OperatorInterventionError
        | asyncpg.InsufficientResourcesError,
    ):
        return Unavailable("The database cannot be reached; try again in a moment.")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps: a group's members, what a library raised it from."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from causes(member)
    elif error.__cause__ is not None:
        yield from causes(error.__cause__)


def read(error: Exception) -> Problem:
    """Say what any exception means to the caller; an unknown one is an `InternalError`."""
    for cause in causes(error):
        if isinstance(cause, Problem):
            return cause
        if isinstance(cause, asyncpg.PostgresError) and (problem := from_database(cause)):
            return problem
        if isinstance(cause, ValidationException):
            return from_validation(cause)
        if isinstance(cause, HTTPException) and cause.status_code in HTTP_PROBLEMS:
            kind = HTTP_PROBLEMS[cause.status_code]
            detail = {
                404: "There is nothing at this path.",
                405: "This path does not take this method; see the Allow header.",
                413: "The body is larger than 1 MiB.",
            }.get(cause.status_code, cause.detail)
            return kind(detail, headers=cause.headers)
        # Only what a caller sends is decoded from bytes, or followed to any depth.
        if isinstance(cause, UnicodeDecodeError):
            return InvalidRequest("The body is not UTF-8.")
    return InternalError("Something failed here; tell support the request_id.")


def from_validation(error: ValidationException) -> Problem:
    """Turn Litestar's list of failures into pointers and parameter names."""
    errors = []
    extra: Any = error.extra if isinstance(error.extra, list) else []
    for item in extra:
        key, source = item.get("key", ""), item.get("source")
        # A body's errors come as `data`, the handler's parameter, and the path below it.
        is_body = source is None or source == "body"
        message = item.get("message", "invalid")
        if is_body:
            errors.append(field_error(message, as_pointer(key.removeprefix("data"))))
        else:
            errors.append(FieldError(key, in_json_words(message)))
    return InvalidRequest(INVALID, errors=errors)


def from_msgspec(error: Exception, within: str = "") -> "InvalidRequest":
    """Say where a body is wrong; `within` is the pointer to the part that was decoded."""
    message, _, path = str(error).partition(" - at `")
    if isinstance(error, RecursionError):
        return InvalidRequest("The request is nested too deeply.")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequest(f"The body is not JSON: {message}.")
    wrong = field_error(message, within + as_pointer(path.rstrip("`")))
    return InvalidRequest(INVALID, errors=[wrong])


def describe(problem: Problem, request: Request[Any, Any, Any]) -> ProblemBody:
    """Write a problem as the answer to a request."""
    # As it was sent: a URI reference, and with the slash at its end that Litestar takes off.
    instance = request.scope["raw_path"].decode("latin-1")
    return describe_at(problem, instance, state_of(request.scope).request_id)


def describe_at(problem: Problem, instance: str, request_id: str) -> ProblemBody:
    """Write a problem as the answer to what was asked at a path."""
    return ProblemBody(
        type=f"/problems/{problem.code}",
        title=problem.title(),
        status=problem.status,
        detail=problem.detail,
        instance=instance,
        code=cast(ProblemCode, problem.code),
        errors=problem.errors,
        request_id=request_id,
    )


def has_left(error: Exception) -> bool:
    """Say whether an error only means that the client left before its body was read."""
    return any(isinstance(c, InternalServerException) and c.detail == GONE for c in causes(error))


def to_problem(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemBody]:
    """Answer any exception as `application/problem+json`; the one handler."""
    problem = read(error)
    if isinstance(problem, InternalError) and not has_left(error):
        request_id = state_of(request.scope).request_id
        log.error("unexpected", path=request.scope["path"], request_id=request_id, exc_info=error)
    return Response(
        describe(problem, request),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )
