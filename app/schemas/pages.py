import msgspec


class Page(msgspec.Struct, frozen=True):
    """Where a list goes on."""

    next: str | None
