"""What goes over a stream: Server-Sent Events (WHATWG HTML, section 9.2), framed once."""

import msgspec

from app.schemas.stream import StreamPosition


class Message(msgspec.Struct, frozen=True, gc=False):
    """Bytes framed once, the same object for all who get them."""

    raw: bytes
    """Nothing for a reader that shall look for itself."""
    until: int
    """The last position that was looked at: the reader goes on after it."""
    count: int = 0
    """Events in it."""


def named(
    event: str, data: msgspec.Struct, cursor: str | None = None, retry_ms: int | None = None
) -> bytes:
    """Frame a named message."""
    lines = [f"id: {cursor}"] if cursor else []
    lines += [f"retry: {retry_ms}"] if retry_ms else []
    lines += [f"event: {event}", f"data: {msgspec.json.encode(data).decode()}", "", ""]
    return "\n".join(lines).encode()


def framed(cursor: str, event: bytes) -> bytes:
    """Frame an event that has been encoded."""
    return b"id: %b\ndata: %b\n\n" % (cursor.encode(), event)


def position(event: str, cursor: str, retry_ms: int | None = None) -> bytes:
    """Frame where a reader stands, so that a quiet one, too, resumes from there."""
    return named(event, StreamPosition(cursor), cursor, retry_ms)


def chunk(raw: bytes) -> bytes:
    """Frame what is sent as one chunk of an HTTP/1.1 body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(raw), raw)
