"""What a channel keeps for its readers is bounded in memory, whatever they ask for."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from app.filters import EVERYTHING, Document, Filter
from app.realtime import tail
from app.realtime.channels import JOINED_BYTES, MAX_CHUNK, RING, RING_BYTES, Channel
from app.realtime.cursors import Cursors
from app.realtime.feeds import Sight
from app.realtime.frames import DECODED_BYTES, REMEMBERED, Frame, as_event
from app.realtime.hub import Hub
from app.realtime.streams import Stream
from tests.realtime.test_hub import FEED, INVOICES, READER, WORKSPACE, join, publish, row

KIB, MIB = 2**10, 2**20
DECIMALS = [0.25] * 6000
"""As text, a tenth of what they take when all of them are decoded."""

WIDE = "x" * 190 + "\N{GRINNING FACE}"
"""One character more than ASCII, and each takes four bytes."""


@pytest.fixture
def hub() -> Hub:
    return Hub(Cursors(bytes(32)))


@pytest.fixture
def held() -> Iterator[Callable[[], int]]:
    """Measure what was allocated since and is still held."""
    gc.collect()
    tracemalloc.start()

    def measured() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    yield measured
    tracemalloc.stop()


def follow(hub: Hub, wanted: Filter, after: int) -> Stream:
    """Open a stream that comes back with the cursor of a position."""
    nothing: Any = None
    return Stream(
        hub, nothing, FEED, wanted, principal="user:7", turn="user:7", sight=READER,
        last_event_id=hub.cursors.write(WORKSPACE, hub.epoch, after), ends_at=None,
        authorized_at=hub.head, authorize=nothing, replay=nothing, describe=nothing,
    )  # fmt: skip


async def read(stream: Stream) -> list[bytes]:
    """Read all that there is, until the stream waits."""
    found = list[bytes]()
    while True:
        reading = asyncio.ensure_future(anext(stream))
        while not reading.done() and stream not in stream.group.parked:
            await asyncio.sleep(0)
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return found[1:]
        found.append(reading.result())


def fill(hub: Hub, rows: Sequence[Mapping[str, Any]]) -> Channel:
    """Publish in batches, as the tail does."""
    for n in range(0, len(rows), 100):
        publish(hub, rows[n : n + 100])
    return hub.channels[WORKSPACE]


@pytest.mark.parametrize(
    "others",
    [
        {"data": {}},
        {"data": {"text": "x" * 60_000}},
        {"data": DECIMALS},
        {"type": "a." * 90 + "b", "topics": [f"{n}{WIDE}" for n in range(20)]},
        {"source": WIDE * 2, "subject": WIDE},
    ],
    ids=["small", "large", "decimals", "topics", "texts"],
)
def test_a_ring_takes_no_more_than_is_counted(
    others: dict[str, Any], hub: Hub, held: Callable[[], int]
) -> None:
    join(hub)
    before = held()
    count = RING + 100 if others == {"data": {}} else 300
    for n in range(1, count):
        publish(hub, [row(n, **{**others, "topics": [*others.get("topics", [])]})])
    channel = hub.channels[WORKSPACE]
    assert held() - before <= channel.size + 64 * KIB
    assert RING_BYTES / 3 < channel.size <= RING_BYTES


async def test_filters_one_after_the_other_leave_nothing(hub: Hub, held: Callable[[], int]) -> None:
    join(hub)
    fill(hub, [row(n) for n in range(1, RING + 1)])
    before = held()
    for n in range(50):
        stream = follow(hub, Filter(types=(f"a.b{n}",)), 0)
        assert await read(stream) == []
        stream.close()
    assert held() - before <= 64 * KIB
    # Those that are open take a byte for a frame.
    streams = [follow(hub, Filter(types=(f"a.b{n}",)), 0) for n in range(100)]
    for stream in streams:
        await read(stream)
    await hub.tick()
    assert held() - before <= 100 * (REMEMBERED + 4 * KIB)
    for stream in streams:
        stream.close()


async def test_what_a_filter_decodes_is_not_kept(hub: Hub, held: Callable[[], int]) -> None:
    for n in range(3):
        join(hub, Filter.read(None, None, [f"data.{n}:1"]), takes_at_once=True)
    before = held()
    channel = fill(hub, [row(n, data=DECIMALS) for n in range(1, 61)])
    for n in range(3):
        stream = follow(hub, Filter.read(None, None, [f"data.{n}:0.5"]), channel.since)
        await read(stream)
        stream.close()
    # For a second, so that the next ones need not decode it again; of all channels together.
    assert 0 < hub.documents.size <= DECODED_BYTES
    assert held() - before <= RING_BYTES + 20 * DECODED_BYTES
    await hub.tick()
    assert held() - before <= RING_BYTES + 256 * KIB


async def test_what_is_joined_is_bounded_for_all_groups_together(
    hub: Hub, held: Callable[[], int]
) -> None:
    join(hub)
    channel = fill(hub, [row(n, data={"text": "x" * 1000}) for n in range(1, RING + 1)])
    before, first = held(), channel.since
    streams = [follow(hub, Filter(types=(f"invoice.{n}", "*")), first) for n in range(20)]
    for stream in streams:
        assert b"".join(await read(stream)).count(b"data: ") == len(channel.frames)
    assert held() - before <= JOINED_BYTES + 256 * KIB
    await hub.tick()
    assert held() - before <= 256 * KIB
    for stream in streams:
        stream.close()


async def test_streams_from_one_position_share_what_is_joined(hub: Hub) -> None:
    join(hub)
    fill(hub, [row(n, data={"text": "x" * 1000}) for n in range(1, RING + 1)])
    first = hub.channels[WORKSPACE].since
    streams = [follow(hub, EVERYTHING, first) for _ in range(3)]
    got = [await read(stream) for stream in streams]
    assert len(got[0]) > 10
    assert len({tuple(map(id, messages)) for messages in got}) == 1


async def test_a_look_through_a_ring_is_taken_in_pieces(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(hub)
    fill(hub, [row(n, data={"text": "x" * 1000}) for n in range(1, RING + 1)])
    stream = follow(hub, Filter(types=("none",)), hub.channels[WORKSPACE].since)
    looks, join_again = list[int](), stream.group.join

    def counted(frames: Any, after: int) -> Any:
        looked = list(frames)
        message = join_again(looked, after)
        looks.append(sum(len(f.bytes) for f in looked if f.pos <= message.until))
        return message

    monkeypatch.setattr("app.realtime.channels.Group.join", lambda _, *a: counted(*a))
    assert await read(stream) == []
    assert stream.pos == RING
    assert len(looks) > 10
    assert max(looks) <= MAX_CHUNK + 2 * KIB


async def test_what_a_stream_passes_over_in_its_past_is_not_encoded(hub: Hub) -> None:
    hub.head, encoded = 100, list[int]()

    async def replay(after: int, until: int, _: Filter) -> tuple[Sight, list[Frame]]:
        def cursor(pos: int) -> str:
            encoded.append(pos)
            return "cursor"

        def past(pos: int) -> Frame:
            kind = "invoice.paid" if pos == 50 else "order.paid"
            event = as_event(row(pos, kind, data={"text": "x" * 5000}))
            return Frame(pos, partial(cursor, pos), event)

        return READER, [past(pos) for pos in range(after + 1, until + 1)]

    stream = follow(hub, INVOICES, 0)
    stream.replay = replay
    [got] = await read(stream)
    assert got.count(b"data: ") == 1
    assert (encoded, stream.pos) == ([50], 100)


async def test_data_is_decoded_once_for_all_filters_of_a_batch(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [join(hub, Filter.read(None, None, [f"data.n:{n}"])) for n in range(5)]
    opened, times = Document.opened, 0

    def counted(self: Document) -> Any:
        nonlocal times
        times += 1
        return opened(self)

    monkeypatch.setattr(Document, "opened", counted)
    publish(hub, [row(n, data={"n": n}) for n in range(1, 9)])
    assert times == 8
    assert [len(reader.got) for reader in readers] == [0, 1, 1, 1, 1]


def test_verdicts_are_those_of_the_frames_that_are_there(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.channels.RING", 7)
    monkeypatch.setattr("app.realtime.frames.REMEMBERED", 16)
    wanted = [Filter.read(None, None, ["data.n:1"]), Filter(types=("a.*",))]
    readers = [join(hub, each, takes_at_once=True) for each in wanted]
    pos = 0
    for count in (1, 2, 3, 5, 7, 4, 6, 1, 7) * 5:
        made = [
            row(pos + n, "a.b" if (pos + n) % 3 else "c", data={"n": (pos + n) % 2})
            for n in range(1, count + 1)
        ]
        pos += count
        publish(hub, made)
        for group in hub.channels[WORKSPACE].groups.values():
            for frame in hub.channels[WORKSPACE].frames:
                assert group.passes(frame) is frame.passes(group.wanted, READER)
    assert sum(chunk.count(b"data: ") for chunk in readers[0].pushed) == (pos + 1) // 2


def test_a_ring_and_a_batch_are_remembered_together() -> None:
    assert RING + tail.BATCH <= REMEMBERED


def test_an_events_data_is_found_in_its_message(hub: Hub) -> None:
    values: list[Any] = [{}, [], 1, "x", WIDE, None, {"data": {"data": []}}, [[]], ""]
    for data in values:
        join(hub)
        frame = fill(hub, [row(hub.head + 1, data=data, topics=["[]"])]).frames[-1]
        assert isinstance(frame, Frame)
        encoded = row(1, data=data)["data"]
        assert bytes(frame.data.raw) == bytes(encoded)
