"""What goes over a stream: Server-Sent Events (WHATWG HTML, section 9.2), framed once."""

import msgspec
from litestar.response.sse import ServerSentEventMessage

from app.schemas.stream import StreamPosition


class Message(ServerSentEventMessage):
    """Bytes that are framed already, and one object for all who get them.

    Litestar would frame plain bytes once more, for every reader.
    """

    def __init__(self, raw: bytes, until: int = 0, count: int = 0) -> None:
        self.raw = raw
        self.until = until
        """The last position looked at: a reader goes on after it."""
        self.count = count
        """Events in it."""

    def encode(self) -> bytes:
        return self.raw


def named(
    event: str, data: msgspec.Struct, cursor: str | None = None, retry_ms: int | None = None
) -> bytes:
    """Frame a named message."""
    lines = [f"id: {cursor}"] if cursor else []
    lines += [f"retry: {retry_ms}"] if retry_ms else []
    lines += [f"event: {event}", f"data: {msgspec.json.encode(data).decode()}", "", ""]
    return "\n".join(lines).encode()


def position(event: str, cursor: str, retry_ms: int | None = None) -> bytes:
    """Frame where a reader stands, so that a quiet one, too, resumes from there."""
    return named(event, StreamPosition(cursor), cursor, retry_ms)
