"""What any exception means to the caller: the one way from an error to a problem (RFC 9457)."""

from typing import Any, cast

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException

from app.errors import (
    KEPT_IN_SQL,
    InternalError,
    InvalidRequest,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    Problem,
    RateLimited,
    RuleTaken,
    SlugTaken,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    causes,
    subclasses,
)
from app.field_errors import as_pointer, field_error, in_json_words
from app.request_state import logged, state_of
from app.schemas.problems import FieldError, ProblemCode
from app.schemas.problems import Problem as ProblemBody

log = structlog.get_logger()

GONE = "client disconnected prematurely"
"""How Litestar says that the client is no more; it has no class for it."""
INVALID = "The request is not valid; `errors` says where."
NOT_UTF_8 = "The body is not UTF-8."
HEADERS = {
    "if_match": "If-Match",
    "if_none_match": "If-None-Match",
    "idempotency_key": "Idempotency-Key",
    "last_event_id": "Last-Event-ID",
}
TRUNCATED = "Input data was truncated"
"""What msgspec says of a body that ends too early, and of half a surrogate pair."""

LARGE_METADATA = InvalidRequest(
    "The metadata is larger than 16 KiB.", errors=[FieldError("/metadata", "over 16 KiB")]
)
# What a violated constraint means to the caller.
CONSTRAINTS: dict[str, Problem] = {
    "workspaces_slug_key": SlugTaken("Another workspace has this slug; choose another one."),
    "workspaces_slug_not_uuid_check": InvalidRequest(
        "A slug cannot look like a UUID.", errors=[FieldError("/slug", "looks like a UUID")]
    ),
    "workspaces_metadata_check": LARGE_METADATA,
    "workspaces_allowed_email_domains_check": InvalidRequest(
        "Domains are written in lower case, such as example.com, and in 10,000 characters.",
        errors=[FieldError("/allowed_email_domains", "not domains")],
    ),
    "members_metadata_check": LARGE_METADATA,
    "api_keys_metadata_check": LARGE_METADATA,
    "api_key_expires_at": InvalidRequest(
        "The key would have expired already; choose a later time.",
        errors=[FieldError("/expires_at", "in the past")],
    ),
    "api_keys_expires_at_check": InvalidRequest(
        "A key ends in UTC's years 1 to 9999.", errors=[FieldError("/expires_at", "out of range")]
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
    **{
        f"event_types_{name}_check": InvalidRequest(
            "A template holds text and `{{data.path}}`, at most 20 times.",
            errors=[FieldError(f"/{name}", "is no template")],
        )
        for name in ("title", "body")
    },
    "event_types_link_check": InvalidRequest(
        "A link is a path or an https:// URL, with `{{data.path}}` below its host.",
        errors=[FieldError("/link", "is no link")],
    ),
    "preferences_categories_check": InvalidRequest(
        "Preferences name at most 100 categories.",
        errors=[FieldError("/categories", "over 100")],
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
    "events_url_check": InvalidRequest(
        "A url is HTTPS without user or password, or a path that begins with one slash.",
        errors=[FieldError("/url", "is neither HTTPS nor a path")],
    ),
    "events_recipients_check": InvalidRequest(
        "An event has at most 1,000 recipients.", errors=[FieldError("/recipients", "over 1,000")]
    ),
    "snoozed_until_passed": InvalidRequest(
        "Snooze until a time within the next year.",
        errors=[FieldError("/snoozed_until", "not within the next year")],
    ),
    "events_topics_check": InvalidRequest(
        "Together, an event's topics are longer than 4,000 characters."
    ),
}

KINDS = {kind.code: kind for kind in subclasses()}
# What Postgres' own time limits raise: lock_timeout, statement_timeout and those of transactions.
TIMED_OUT = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
)

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
    if (kind := KINDS.get(constraint)) is not None:
        # Of a body, also where it is wrong: a pointer in a column's place.
        pointer, wrong = getattr(error, "column_name", None), getattr(error, "detail", None)
        fields = [FieldError(pointer, wrong)] if pointer and wrong else []
        # When it is over, in seconds.
        hint = getattr(error, "hint", None)
        headers = {"Retry-After": hint} if hint and issubclass(kind, RateLimited) else None
        return kind(error.args[0], errors=fields, headers=headers)
    if isinstance(
        error, asyncpg.UntranslatableCharacterError | asyncpg.CharacterNotInRepertoireError
    ):
        return InvalidRequest("A text holds U+0000 (`\\u0000` in JSON), which cannot be stored.")
    # Only the server's own have a severity: asyncpg raises the same for arguments we made wrong.
    if isinstance(error, asyncpg.DataError) and getattr(error, "severity", None):
        # Not Postgres' own words, which quote the value.
        return InvalidRequest("A value is out of range or malformed, so it cannot be stored.")
    if isinstance(error, asyncpg.StatementTooComplexError):
        return InvalidRequest("The request is nested too deeply.")
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError):
        return Unavailable("Another request was in the way; send this one again.")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Unavailable("The database has just been migrated; send this request again.")
    if isinstance(error, TIMED_OUT):
        return Unavailable("The database took too long; try again in a moment.")
    if isinstance(
        error,
        asyncpg.PostgresConnectionError
        | asyncpg.CannotConnectNowError
        | asyncpg.OperatorInterventionError
        | asyncpg.InsufficientResourcesError,
    ):
        return Unavailable("The database cannot be reached; try again in a moment.")
    return None


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
            return InvalidRequest(NOT_UTF_8)
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
            # Litestar names a header as the handler does.
            name = HEADERS.get(key, key) if source == "header" else key
            errors.append(FieldError(name, in_json_words(message)))
    return InvalidRequest(INVALID, errors=errors)


def from_msgspec(error: Exception, within: str = "") -> "InvalidRequest":
    """Say where a body is wrong; `within` is the pointer to the part that was decoded."""
    message, _, path = str(error).partition(" - at `")
    if isinstance(error, RecursionError):
        return InvalidRequest("The request is nested too deeply.")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest(NOT_UTF_8)
    if not isinstance(error, msgspec.ValidationError):
        if message == TRUNCATED:
            message = "it is empty, or ends too early, or has half of a surrogate pair"
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


def is_of_database(error: Exception) -> bool:
    """Say whether an error comes from the database."""
    return any(isinstance(cause, asyncpg.PostgresError) for cause in causes(error))


def to_problem(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemBody]:
    """Answer any exception as `application/problem+json`; the one handler."""
    problem = read(error)
    if isinstance(problem, KEPT_IN_SQL) and is_of_database(error):
        state_of(request.scope).refused = problem.code
    if isinstance(problem, InternalError) and not has_left(error):
        log.error("unexpected", **logged(request.scope), exc_info=error)
    return Response(
        describe(problem, request),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )
