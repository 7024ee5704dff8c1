"""Frames: events as every reader gets them, and what filters say of them."""

import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from app.filters import EVERYTHING, Document, Filter, Parts
from app.permissions import Permission
from app.realtime.feeds import Sight
from app.realtime.messages import framed
from app.schemas.events import Event

FRAME_BYTES = 512
"""What a frame takes besides its texts: itself, its ids, and its place in a ring."""
DECODED_BYTES = 1024 * 1024
"""Messages whose decoded data is kept, for 1 s at most."""
REMEMBERED = 2048
"""Frames whose verdicts a filter keeps: more than a ring and a batch have."""


class Frame:
    """An event as every reader gets it: encoded at most once, and kept as those bytes alone."""

    __slots__ = (
        "_bytes",
        "_data_at",
        "_source",
        "is_wanted",
        "number",
        "permission",
        "pos",
        "topics",
        "type",
        "workspace_id",
    )

    def __init__(self, pos: int, cursor: Callable[[], str], event: Event) -> None:
        self.pos = pos
        self.number = -1
        """In its channel; negative while it is in none."""
        self.is_wanted: bool | None = None
        """Whether the one reader gets it for which this frame of the past was read."""
        self.type: str = event.type
        self.topics: list[str] = event.topics
        self.workspace_id: UUID = event.workspace_id
        self.permission: Permission | None = event.permission
        self._source: tuple[Callable[[], str], Event] | None = (cursor, event)
        """What it is encoded from; None once it is."""
        self._bytes = b""
        self._data_at = (0, 0)

    @property
    def bytes(self) -> bytes:
        """The message, encoded when somebody gets it."""
        if self._source is not None:
            cursor, event = self._source
            self._bytes = framed(cursor(), msgspec.json.encode(event))
            # The event's data is in there as it is: it is not kept a second time.
            start = self._bytes.index(memoryview(event.data))
            self._data_at = (start, start + len(event.data))
            self._source = None
        return self._bytes

    @property
    def size(self) -> int:
        """Bytes of memory that the frame takes once it is encoded."""
        texts = sys.getsizeof(self.type) + sum(map(sys.getsizeof, self.topics))
        return FRAME_BYTES + len(self.bytes) + texts

    @property
    def data(self) -> Document:
        """The event's data, decoded for as long as somebody has this."""
        if self._source is not None:
            return Document(self._source[1].data)
        start, end = self._data_at
        return Document(memoryview(self._bytes)[start:end])

    def passes(self, wanted: Filter, sight: Sight) -> bool:
        """Say whether a reader gets it; never an event that it may not see."""
        return sight.sees(self) and (wanted is EVERYTHING or wanted.matches(self))


class Documents:
    """Decoded data of frames in rings, for all channels of a process together.

    A new filter looks through a whole ring, and others may come in the same second. Bounded by the
    texts, which take twenty times as much when they are decoded, and cleared at the hub's tick.
    """

    __slots__ = ("found", "size")

    def __init__(self) -> None:
        self.found: dict[Frame, Document] = {}
        self.size = 0

    def of(self, frame: Frame) -> Document:
        """Return a frame's data; all else is forgotten if there is no room for it."""
        found = self.found.get(frame)
        if found is None:
            found = frame.data
            if self.size + len(frame.bytes) > DECODED_BYTES:
                self.clear()
            self.found[frame] = found
            self.size += len(frame.bytes)
        return found

    def clear(self) -> None:
        """Forget all."""
        self.found.clear()
        self.size = 0


class Verdicts:
    """What one filter says of the recent frames of a channel, for all groups that have it.

    A byte a frame, so that what readers ask for takes little, and ends with them.
    """

    __slots__ = ("documents", "known", "wanted")

    def __init__(self, wanted: Filter, documents: Documents) -> None:
        self.wanted = wanted
        self.documents = documents
        self.known = bytearray(REMEMBERED)

    def forget(self, number: int, count: int) -> None:
        """Forget the verdicts of so many frames from a number on, which new frames replace."""
        first = number % REMEMBERED
        if first + count <= REMEMBERED:
            self.known[first : first + count] = bytes(count)
        else:
            self.known[:] = bytes(REMEMBERED)

    def judge(self, frame: Frame, parts: Parts) -> None:
        """Evaluate the filter on a frame that has been taken apart."""
        self.known[frame.number % REMEMBERED] = 1 + self.wanted.matches(parts)

    def of(self, frame: Frame) -> bool:
        """Say whether a frame is wanted."""
        if frame.is_wanted is not None:
            return frame.is_wanted
        if frame.number < 0:
            return self.wanted.matches(frame)
        place = frame.number % REMEMBERED
        if known := self.known[place]:
            return known == 2
        parts: Frame | Parts = frame
        if self.wanted.where:
            parts = Parts(frame.type, frame.topics, self.documents.of(frame))
        verdict = self.wanted.matches(parts)
        self.known[place] = 1 + verdict
        return verdict


def as_event(row: Any) -> Event:
    """Make an event of its row."""
    return Event(
        id=row["event_id"],
        workspace_id=row["workspace_id"],
        type=row["type"],
        source=row["source"],
        key=row["key"],
        subject=row["subject"],
        topics=row["topics"],
        actor=row["actor"],
        principal=row["principal"],
        permission=row["permission"],
        data=row["data"],
        context=row["context"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
    )
