"""The hub by itself: what it keeps, whom it wakes, and with what."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from app.filters import EVERYTHING, Filter
from app.realtime import channels, feeds
from app.realtime import hub as hubs
from app.realtime.channels import Channel, finish
from app.realtime.cursors import Cursors
from app.realtime.feeds import Feed, Sight
from app.realtime.hub import Hub
from app.realtime.messages import Message
from app.realtime.streams import Stream

WORKSPACE = UUID("0190b000-0000-7000-8000-000000000001")
SEVEN, EIGHT = UUID(int=7), UUID(int=8)
FEED = Feed("workspace", WORKSPACE)
READER = Sight({WORKSPACE: frozenset({"events:read"})})
AUDITOR = Sight({WORKSPACE: frozenset({"events:read", "events:audit"})})
INVOICES = Filter(types=("invoice.*",))


class Waiting:
    """A reader that waits."""

    def __init__(
        self,
        *,
        ends_at: float = float("inf"),
        sent_at: float = float("inf"),
        takes_at_once: bool = False,
    ) -> None:
        self.ends_at, self.sent_at = ends_at, sent_at
        self.takes_at_once = takes_at_once
        self.pushed: list[bytes] = []
        self.got: list[Message] = []

    def push(self, chunk: bytes) -> bool:
        if self.takes_at_once:
            self.pushed.append(chunk)
        return self.takes_at_once

    def wake(self, message: Message) -> None:
        self.got.append(message)


@pytest.fixture
def hub() -> Hub:
    return Hub(Cursors(bytes(32)))


def row(pos: int, type: str = "invoice.paid", **others: Any) -> Mapping[str, Any]:
    """Make an entry of the log and its event in one."""
    now = datetime.now(UTC)
    return {
        "pos": pos,
        "event_id": uuid4(),
        "workspace_id": WORKSPACE,
        "user_id": None,
        "type": type,
        "source": "test",
        "key": None,
        "subject": None,
        "topics": [],
        "actor": "user:1",
        "principal": "user:1",
        "permission": None,
        "rights_of": None,
        "data": msgspec.Raw(msgspec.json.encode(others.pop("data", {}))),
        "context": msgspec.Raw(b"{}"),
        "occurred_at": now,
        "recorded_at": now,
        **others,
    }


def publish(hub: Hub, rows: Sequence[Mapping[str, Any]]) -> None:
    """Do what the tail does with what it read."""
    finish(hub.publishing(rows, {row["event_id"]: row for row in rows}))


def join(
    hub: Hub,
    wanted: Filter = EVERYTHING,
    *,
    feed: Feed = FEED,
    sight: Sight = READER,
    **others: Any,
) -> Waiting:
    """Let a reader wait."""
    group = hub.channel(feed).group(wanted, sight)
    reader = Waiting(**others)
    group.parked.add(reader)
    return reader


def test_all_who_want_the_same_get_the_same_bytes(hub: Hub) -> None:
    readers = [join(hub) for _ in range(3)]
    publish(hub, [row(1), row(2)])
    messages = {id(m.raw) for r in readers for m in r.got}
    assert (len(messages), readers[0].got[0].count, readers[0].got[0].until) == (1, 2, 2)
    assert hub.counts.deliveries == 6


def test_who_can_take_it_at_once_is_sent_it_and_waits_on(hub: Hub) -> None:
    quick, slow = join(hub, takes_at_once=True), join(hub)
    over = join(hub, takes_at_once=True, ends_at=time.time() - 1)
    publish(hub, [row(1)])
    publish(hub, [row(2)])
    assert [len(r.pushed) for r in (quick, slow, over)] == [2, 0, 0]
    # The others are woken once, to go on by themselves.
    assert [len(r.got) for r in (quick, slow, over)] == [0, 1, 1]


def test_of_a_batch_that_is_cut_the_rest_is_fetched_by_who_was_woken(hub: Hub) -> None:
    reader = join(hub, takes_at_once=True)
    publish(hub, [row(n, data={"text": "x" * 30_000}) for n in range(1, 6)])
    assert ([m.until for m in reader.got], reader.pushed) == ([2], [])


def test_a_reader_that_cannot_be_sent_to_ends_and_costs_nobody_anything(hub: Hub) -> None:
    broken, others = join(hub, takes_at_once=True), [join(hub, takes_at_once=True) for _ in "ab"]
    broken.pushed = None  # type: ignore[assignment]
    publish(hub, [row(1)])
    publish(hub, [row(2)])
    assert [len(r.pushed) for r in others] == [2, 2]
    assert (broken.ends_at, len(broken.got)) == (0, 1)


def test_a_filter_that_fails_costs_other_readers_nothing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise ArithmeticError

    unlucky, other = join(hub, INVOICES), join(hub)
    monkeypatch.setattr(Filter, "matches", fail)
    publish(hub, [row(1)])
    assert other.got[0].count == 1
    # It looks for itself, from where it stood.
    assert [(m.raw, m.until) for m in unlucky.got] == [(b"", 0)]


def test_a_reader_whose_filter_lets_nothing_through_sleeps_on(hub: Hub) -> None:
    wants_invoices, wants_orders = join(hub, INVOICES), join(hub, Filter(types=("order.paid",)))
    publish(hub, [row(1)])
    assert len(wants_invoices.got) == 1
    assert not wants_orders.got


def test_a_filter_is_evaluated_once_however_many_readers_have_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Filter]()
    matches = Filter.matches

    def count(self: Filter, event: Any) -> bool:
        asked.append(self)
        return matches(self, event)

    monkeypatch.setattr(Filter, "matches", count)
    for _ in range(5):
        join(hub, Filter(types=("invoice.*",)))
        join(hub, Filter(types=("invoice.*",)), sight=AUDITOR)
    publish(hub, [row(1)])
    assert asked == [INVOICES]


def test_audit_events_go_only_to_those_who_may_see_them(hub: Hub) -> None:
    auditor, other = join(hub, sight=AUDITOR), join(hub)
    publish(hub, [row(1, permission="events:audit"), row(2)])
    assert (auditor.got[0].count, other.got[0].count) == (2, 1)


def test_a_batch_too_large_for_one_write_is_cut_and_continued(hub: Hub) -> None:
    reader = join(hub)
    publish(hub, [row(n, data={"text": "x" * 30_000}) for n in range(1, 6)])
    (message,) = reader.got
    assert (message.count, message.until) == (2, 2)
    assert len(message.raw) <= channels.MAX_CHUNK
    assert [f.pos for f in hub.channels[WORKSPACE].after(message.until)] == [3, 4, 5]


def test_the_ring_is_bounded_in_frames_and_in_bytes(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "RING", 10)
    join(hub)
    publish(hub, [row(n) for n in range(1, 31)])
    channel = hub.channels[WORKSPACE]
    assert (len(channel.frames), channel.since) == (10, 20)
    publish(hub, [row(n, data={"text": "x" * 300_000}) for n in range(31, 41)])
    assert (len(channel.frames), channel.since) == (3, 37)
    assert channel.size == sum(f.size for f in channel.frames) <= channels.RING_BYTES


async def test_who_waits_is_woken_for_heartbeats_and_at_the_end_of_their_time(hub: Hub) -> None:
    now = time.monotonic()
    quiet, recent = join(hub, sent_at=now - 15), join(hub, sent_at=now - 1)
    over = join(hub, ends_at=time.time() - 1)
    hub.head = 7
    await hub.tick()
    assert [m.until for m in quiet.got] == [7]
    assert b"event: cursor" in quiet.got[0].raw
    assert not recent.got
    assert [m.raw for m in over.got] == [b""]


async def test_a_heartbeat_goes_to_who_can_take_it_at_once_without_waking_them(hub: Hub) -> None:
    now = time.monotonic()
    quick = join(hub, sent_at=now - 15, takes_at_once=True)
    broken = join(hub, sent_at=now - 15, takes_at_once=True)
    broken.pushed = None  # type: ignore[assignment]
    await hub.tick()
    await hub.tick()
    assert ([b"event: cursor" in chunk for chunk in quick.pushed], quick.got) == ([True], [])
    assert (broken.ends_at, len(broken.got)) == (0, 1)
    publish(hub, [row(1)])
    assert len(quick.pushed) == 2


def test_a_heartbeat_tells_the_head_of_when_it_is_sent(hub: Hub) -> None:
    now = time.monotonic()
    readers = [join(hub, INVOICES, sent_at=now - 15) for _ in range(3)]
    steps = hub.ticking()
    next(steps)
    # Between two steps the log moves on, and the readers wait for other events than this.
    publish(hub, [row(1, "order.paid")])
    assert list(steps) == [True, True]
    assert sorted(m.until for r in readers for m in r.got) == [0, 1, 1]


async def test_a_channel_outlives_its_last_reader_for_a_while(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(hub)
    channel = hub.channels[WORKSPACE]
    (group,) = channel.groups.values()
    channel.leave(group)
    await hub.tick()
    publish(hub, [row(1)])
    assert [f.pos for f in hub.channel(FEED).frames] == [1]
    monkeypatch.setattr(hubs, "LINGER_SECONDS", 0)
    await hub.tick()
    assert not hub.channels


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        (row(1, rights_of=f"user:{SEVEN}"), {f"user:{SEVEN}"}),
        (row(1, rights_of="api_key:5"), {"api_key:5"}),
        (row(1, rights_of="*"), {f"user:{SEVEN}", f"user:{EIGHT}", "api_key:5"}),
        # The log says whose rights change; no event's name does.
        (row(1, "annex.member.removed", subject="member:7"), set()),
    ],
)
def test_only_those_whose_rights_an_event_may_change_look_them_up(
    hub: Hub, event: Mapping[str, Any], concerned: set[str]
) -> None:
    reader = join(hub)
    publish(hub, [event])
    channel = hub.channels[WORKSPACE]
    principals = {f"user:{SEVEN}", f"user:{EIGHT}", "api_key:5"}
    assert {p for p in principals if channel.authority_over(p) > 0} == concerned
    # Nothing is handed out before they have looked.
    assert [m.raw for m in reader.got] == [b""] if concerned else reader.got[0].count == 1


def test_a_channel_does_not_remember_endlessly_whose_rights_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "KNOWN", 3)
    hub = Hub(Cursors(bytes(32)))
    join(hub)
    publish(
        hub, [row(n, "annex.member.added", rights_of=f"user:{UUID(int=n)}") for n in range(1, 6)]
    )
    channel: Channel = hub.channels[WORKSPACE]
    assert len(channel.authority_of) <= 3
    assert all(channel.authority_over(f"user:{UUID(int=n)}") >= n for n in range(1, 6))


def test_an_event_that_cannot_be_encoded_holds_the_log_up_and_costs_no_reader_the_others(
    hub: Hub,
) -> None:
    reader = join(hub)
    with pytest.raises(TypeError):
        publish(hub, [row(1), row(2, occurred_at=object()), row(3)])
    assert (hub.head, reader.got[0].count) == (1, 1)


def test_where_an_event_was_not_read_its_readers_look_in_the_database(hub: Hub) -> None:
    reader, read = join(hub), row(1)
    # The channel began when the other one had not been asked for.
    finish(hub.publishing([read, row(2)], {read["event_id"]: read}))
    channel = hub.channels[WORKSPACE]
    assert [(m.raw, m.until) for m in reader.got] == [(b"", 0)]
    assert (channel.since, list(channel.frames), hub.head) == (2, [], 2)
    # That may have changed anybody's rights.
    assert channel.authority_over(f"user:{SEVEN}") == 2


def test_nothing_is_read_for_whom_nobody_follows(hub: Hub) -> None:
    mine, personal, others = row(1), row(2, user_id=uuid4()), row(3, workspace_id=uuid4())
    join(hub)
    assert [hub.is_followed(entry) for entry in (mine, personal, others)] == [True, False, False]


async def test_a_full_hub_admits_nobody_until_a_place_is_free() -> None:
    hub = Hub(Cursors(bytes(32)), capacity=1)
    assert (hub.admit(), hub.admit()) == (True, False)
    hub.release()
    assert hub.admit()
    await hub.drain()
    hub.release()
    assert not hub.admit()
    assert hub.counts.refused == 2


def personal(user_id: UUID, pos: int, workspace_id: UUID = WORKSPACE) -> Mapping[str, Any]:
    return row(pos, user_id=user_id, workspace_id=workspace_id)


def test_a_change_in_a_workspace_stops_only_those_who_hold_something_there(hub: Hub) -> None:
    elsewhere = Sight({UUID(int=1): frozenset({"events:read"}), UUID(int=2): frozenset()})
    concerned = join(hub, feed=Feed("user", SEVEN), sight=READER)
    strangers = join(hub, feed=Feed("user", EIGHT), sight=elsewhere)
    publish(hub, [personal(EIGHT, 1, UUID(int=1)), row(2, rights_of="*")])
    assert [m.raw for m in concerned.got] == [b""]
    assert [m.count for m in strangers.got] == [1]
    assert hub.changes.are_newer(READER.grants, 1)
    assert not hub.changes.are_newer(READER.grants, 2)
    assert not hub.changes.are_newer(elsewhere.grants, 0)


def test_an_event_of_a_workspace_that_a_reader_did_not_know_makes_it_look(hub: Hub) -> None:
    reader = join(hub, feed=Feed("user", SEVEN), sight=READER)
    publish(hub, [personal(SEVEN, 1), personal(SEVEN, 2, UUID(int=2))])
    assert [m.raw for m in reader.got] == [b""]
    assert hub.channels[SEVEN].authority_over(f"user:{SEVEN}") == 2


def test_of_more_changes_than_are_remembered_every_workspace_counts_as_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "MAX_CHANGED", 3)
    changes = feeds.Changes()
    for n in range(1, 6):
        changes.note(UUID(int=n), n)
    assert len(changes.found) == 3
    assert changes.are_newer([UUID(int=99)], 1)
    assert not changes.are_newer([UUID(int=99)], 2)
    assert changes.are_newer([UUID(int=5)], 4)


async def test_changes_that_come_faster_than_a_look_up_hold_no_reader(hub: Hub) -> None:
    """A look-up counts for what lay before it, whatever changes meanwhile."""
    nothing: Any = None
    looks, at = 0, 0

    async def authorize() -> tuple[Sight, float | None]:
        nonlocal looks, at
        looks += 1
        at += 1
        publish(hub, [row(at, rights_of="*", user_id=None)])
        return READER, None

    stream = Stream(
        hub, nothing, Feed("user", SEVEN), EVERYTHING,
        principal=f"user:{SEVEN}", turn=f"user:{SEVEN}", sight=READER, last_event_id=None,
        ends_at=None, authorized_at=0, authorize=authorize, replay=nothing, describe=nothing,
    )  # fmt: skip
    assert b"event: cursor" in await anext(stream)
    got = b""
    for n in range(3):
        at += 2
        publish(hub, [row(at - 1, rights_of="*"), row(at, user_id=SEVEN, data={"n": n})])
        async with asyncio.timeout(5):
            got += await anext(stream)
        assert b'"n":%d' % n in got
    assert got.count(b"data: ") == 3
    assert looks >= 3


async def test_what_comes_after_a_change_waits_for_a_look_that_began_after_it(hub: Hub) -> None:
    nothing: Any = None
    blind = Sight({})
    at = 0

    async def authorize() -> tuple[Sight, float | None]:
        nonlocal at
        sight = READER if at < 3 else blind
        if at < 3:
            at = 4
            # While it is looked up, the right ends, and something else comes.
            publish(hub, [row(3, rights_of=f"user:{SEVEN}"), row(4, data={"n": "after"})])
        return sight, None

    stream = Stream(
        hub, nothing, FEED, EVERYTHING,
        principal=f"user:{SEVEN}", turn=f"user:{SEVEN}", sight=READER, last_event_id=None,
        ends_at=None, authorized_at=0, authorize=authorize, replay=nothing, describe=nothing,
    )  # fmt: skip
    await anext(stream)
    at = 2
    publish(hub, [row(1, rights_of="*"), row(2, data={"n": "before"})])
    async with asyncio.timeout(5):
        assert b'"before"' in await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
