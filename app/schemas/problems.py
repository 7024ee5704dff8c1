from typing import Literal

import msgspec

ProblemCode = Literal[
    "invalid_request",
    "invalid_cursor",
    "unauthorized",
    "missing_credentials",
    "invalid_token",
    "token_expired",
    "not_a_token",
    "invalid_key",
    "invalid_ticket",
    "forbidden",
    "user_required",
    "operator_required",
    "second_factor_required",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "conflict",
    "slug_taken",
    "too_many_workspaces",
    "request_in_progress",
    "precondition_failed",
    "too_large",
    "unsupported_media_type",
    "key_reused",
    "rate_limited",
    "too_many_failures",
    "too_many_connections",
    "too_many_streams",
    "too_many_filters",
    "too_many_events",
    "headers_too_large",
    "internal_error",
    "unavailable",
]


class FieldError(msgspec.Struct, frozen=True):
    """Which part of a request is wrong: a JSON pointer (RFC 6901) or a parameter's name."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: ProblemCode
    errors: list[FieldError]
    request_id: str
