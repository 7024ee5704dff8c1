from typing import Literal

import msgspec

ProblemCode = Literal[
    "invalid_request",
    "invalid_cursor",
    "unknown_role",
    "unknown_event_type",
    "invalid_data",
    "invalid_schema",
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
    "not_grantable",
    "key_required",
    "address_not_allowed",
    "email_unconfirmed",
    "invitation_for_another",
    "domain_not_claimable",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "conflict",
    "slug_taken",
    "too_many_workspaces",
    "last_owner",
    "role_in_use",
    "already_member",
    "limit_reached",
    "domain_not_allowed",
    "rule_taken",
    "invitation_closed",
    "request_in_progress",
    "invitation_gone",
    "precondition_failed",
    "too_large",
    "unsupported_media_type",
    "key_reused",
    "rate_limited",
    "too_many_mails",
    "too_many_failures",
    "too_many_connections",
    "too_many_streams",
    "too_many_filters",
    "too_many_events",
    "too_many_changes",
    "headers_too_large",
    "internal_error",
    "not_configured",
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
