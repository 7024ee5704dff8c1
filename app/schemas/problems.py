import msgspec


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
    code: str
    errors: list[FieldError]
    request_id: str
