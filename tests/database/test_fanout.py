"""Who is told of an event, decided when it is told; nothing is lost, doubled or seen by others."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.filters import Document, Filter
from tests.conftest import TestDatabase, encode
from tests.database.conftest import Connection, fan_out, join, new_user, new_workspace, user


@pytest.fixture
async def owner(admin: Connection) -> UUID:
    return await new_user(admin)


@pytest.fixture
async def workspace(admin: Connection, owner: UUID) -> UUID:
    return await new_workspace(admin, owner)


async def first(connection: Connection, statement: str, *values: Any) -> Any:
    """Return a statement's first row."""
    return (await connection.fetch(statement, *values))[0]


async def member(admin: Connection, workspace: UUID, role: str = "viewer") -> UUID:
    """Make a member."""
    made = await new_user(admin)
    await join(admin, workspace, made, role)
    return made


async def subscribe(admin: Connection, workspace: UUID, who: UUID, **columns: Any) -> None:
    """Subscribe a member to a topic."""
    values = {"topic": "t", "reason": "added", **columns}
    places = ", ".join(f"${n}" for n in range(3, len(values) + 3))
    await admin.execute(
        f"insert into annex.subscriptions (workspace_id, user_id, {', '.join(values)})"
        f" values ($1, $2, {places})",
        workspace,
        who,
        *values.values(),
    )


async def publish(admin: Connection, workspace: UUID, **columns: Any) -> UUID:
    """Publish an event, which is not fanned out yet."""
    values = {"type": "test.made", **columns}
    named = ", ".join(f"{name} => ${n}" for n, name in enumerate(values, 2))
    event: UUID = await admin.fetchval(
        f"select annex.publish($1, {named})", workspace, *values.values()
    )
    return event


async def told(admin: Connection, event: UUID) -> set[UUID]:
    """Return who was told of an event."""
    rows = await admin.fetch("select user_id from annex.notifications where event_id = $1", event)
    assert len(rows) == len({*rows})
    return {row[0] for row in rows}


async def withheld(admin: Connection, event: UUID) -> dict[UUID, str]:
    """Return who was not told of an event, and why."""
    rows = await admin.fetch(
        "select user_id, reason from annex.suppressions where event_id = $1", event
    )
    return {row[0]: row[1] for row in rows}


async def test_recipients_and_subscribers_are_told_once_each(
    admin: Connection, workspace: UUID
) -> None:
    one, two, three = [await member(admin, workspace) for _ in range(3)]
    await subscribe(admin, workspace, one)
    await subscribe(admin, workspace, one, topic="other")
    await subscribe(admin, workspace, two)
    await subscribe(admin, workspace, three, topic="elsewhere")
    event = await publish(
        admin, workspace, topics=["t", "other", "t"], recipients=[one, one, three]
    )
    await fan_out(admin, event)
    assert await told(admin, event) == {one, two, three}
    reasons = await admin.fetch(
        "select user_id, reason, topic from annex.notifications where event_id = $1", event
    )
    assert {tuple(r) for r in reasons} == {
        (one, "recipient", None),
        (two, "subscription", "t"),
        (three, "recipient", None),
    }


async def test_why_somebody_is_not_told_is_kept(
    admin: Connection, workspace: UUID, owner: UUID
) -> None:
    gone, muted, suspended, actor = [await member(admin, workspace) for _ in range(4)]
    stranger, nobody = await new_user(admin), uuid4()
    await subscribe(admin, workspace, muted, is_muted=True)
    await subscribe(admin, workspace, muted, topic="other")
    event = await publish(
        admin,
        workspace,
        topics=["t", "other"],
        recipients=[gone, suspended, stranger, nobody, actor, owner],
        actor=f"user:{actor}",
        permission="events:audit",
    )
    # Between publishing and fan-out: what holds now counts.
    await admin.execute("delete from annex.members where user_id = $1", gone)
    await admin.execute(
        "update annex.members set status = 'suspended' where user_id = $1", suspended
    )
    await fan_out(admin, event)
    assert await told(admin, event) == {owner}
    assert await withheld(admin, event) == {
        gone: "not_a_member",
        suspended: "suspended",
        # Who may not see it is told so first, also its actor.
        actor: "not_permitted",
        muted: "not_permitted",
    }
    event = await publish(admin, workspace, topics=["t", "other"])
    await fan_out(admin, event)
    assert await withheld(admin, event) == {muted: "muted"}
    # To be named is more than to follow.
    event = await publish(admin, workspace, topics=["t"], recipients=[muted])
    await fan_out(admin, event)
    assert await told(admin, event) == {muted}


async def test_of_a_stranger_no_row_is_kept_whatever_the_event_says(
    admin: Connection, workspace: UUID, owner: UUID
) -> None:
    stranger = await new_user(admin)
    left = await member(admin, workspace)
    await admin.execute("delete from annex.members where user_id = $1", left)
    # As by their own hand: nobody removed them.
    await admin.execute("delete from annex.removals where user_id = $1", left)
    for actor in (stranger, left, owner):
        event = await publish(
            admin, workspace, recipients=[stranger, left, owner], actor=f"user:{actor}"
        )
        await fan_out(admin, event)
        assert await withheld(admin, event) == ({owner: "actor"} if actor == owner else {})


async def test_a_deleted_workspace_tells_nobody(
    admin: Connection, workspace: UUID, owner: UUID
) -> None:
    event = await publish(admin, workspace, recipients=[owner])
    await admin.execute("update annex.workspaces set deleted_at = now() where id = $1", workspace)
    await fan_out(admin, event)
    assert await withheld(admin, event) == {owner: "not_a_member"}


async def test_equal_topics_of_two_workspaces_are_two(admin: Connection, workspace: UUID) -> None:
    both = await member(admin, workspace)
    other = await new_workspace(admin, await new_user(admin))
    await join(admin, other, both, "viewer")
    await subscribe(admin, other, both)
    event = await publish(admin, workspace, topics=["t"])
    await fan_out(admin, event)
    assert await told(admin, event) == set()


async def test_a_filter_decides_by_the_events_data(admin: Connection, workspace: UUID) -> None:
    who = await member(admin, workspace)
    await subscribe(admin, workspace, who, types=["test.*"], clauses=["data.total:42"])
    events = [
        await publish(admin, workspace, type=kind, topics=["t"], data=encode(data))
        for kind, data in (
            ("test.made", {"total": 42}),
            ("test.made", {"total": "42"}),
            ("test.made", {"total": 41}),
            ("other.made", {"total": 42}),
        )
    ]
    await fan_out(admin, *events)
    assert [await told(admin, e) == {who} for e in events] == [True, True, False, False]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["1", "true", "1.0", "", "x:y"])
)
VALUES = st.one_of(
    st.sampled_from(["1", "1.0", "1e0", "10e-1", "true", "null", "", "x:y", " 1", "0e5000", "-0"]),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5),
)


async def test_a_clause_means_in_sql_what_it_means_in_python(admin: Connection) -> None:
    drawn: list[tuple[str, Any]] = []

    @given(value=VALUES, data=st.dictionaries(st.sampled_from(["a", "b"]), SCALARS))
    def draw(value: str, data: Any) -> None:
        drawn.append((f"data.a:{value}", data))

    draw()
    for clause, data in drawn:
        wanted = Filter.read(None, None, [clause]).where[0]
        found = await admin.fetchval("select annex.matches_clause($1, $2)", clause, encode(data))
        assert found == wanted.matches(Document(encode(data).encode())), (clause, data)


async def test_events_of_a_group_are_one_unread_item(admin: Connection, workspace: UUID) -> None:
    who = await member(admin, workspace)
    group = {"recipients": [who], "group_key": "thread:1"}
    events = [await publish(admin, workspace, **group) for _ in range(3)]
    await fan_out(admin, *events)
    items = await admin.fetch("select * from annex.notifications where user_id = $1", who)
    assert [(i["event_id"], i["group_count"]) for i in items] == [(events[-1], 3)]
    await admin.execute(
        "update annex.notifications set read_at = now(), seen_at = now() where user_id = $1", who
    )
    await admin.execute("update annex.inboxes set unread = 0, unseen = 0 where user_id = $1", who)
    await fan_out(admin, await publish(admin, workspace, **group))
    counts = await admin.fetch(
        "select group_count from annex.notifications where user_id = $1 order by arrived_at", who
    )
    assert [c[0] for c in counts] == [3, 1]
    inbox = await first(admin, "select * from annex.inboxes where user_id = $1", who)
    assert (inbox["active"], inbox["unread"], inbox["unseen"]) == (2, 1, 1)


@pytest.mark.parametrize("group", [None, "thread:1"])
async def test_what_is_critical_is_an_item_of_its_own(
    admin: Connection, workspace: UUID, group: str | None
) -> None:
    who = await member(admin, workspace)
    kind = f"test.alarm_{uuid4().hex[:8]}"
    await admin.execute(
        "insert into annex.event_types (name, category, is_critical, title)"
        " values ($1, 'alarm', true, 'Alarm')",
        kind,
    )
    given: dict[str, Any] = {"recipients": [who]} | ({"group_key": group} if group else {})
    await fan_out(admin, await publish(admin, workspace, **given))
    await admin.execute(
        "update annex.notifications set snoozed_until = now() + interval '1 day'"
        " where user_id = $1",
        who,
    )
    await admin.execute(
        "update annex.inboxes set active = 0, unseen = 0, unread = 0, snoozed = 1"
        " where user_id = $1",
        who,
    )
    # Neither hidden in what is snoozed or not critical, nor by what comes after it.
    alarms = [await publish(admin, workspace, type=kind, **given) for _ in range(2)]
    await fan_out(admin, *alarms)
    await fan_out(admin, await publish(admin, workspace, **given))
    items = await admin.fetch(
        "select event_id from annex.notifications where user_id = $1 and is_critical"
        " and title = 'Alarm' and group_count = 1 and snoozed_until is null",
        who,
    )
    assert {i[0] for i in items} == {*alarms}
    inbox = await first(admin, "select * from annex.inboxes where user_id = $1", who)
    others = 0 if group else 1  # with a key, what is snoozed takes it
    assert (inbox["active"], inbox["unread"], inbox["snoozed"]) == (2 + others, 2 + others, 1)


async def test_whoever_names_strangers_does_not_wait_for_their_inboxes(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    stranger, who = await new_user(admin), await member(admin, workspace)
    suspended = await member(admin, workspace)
    await admin.execute(
        "update annex.members set status = 'suspended' where user_id = $1", suspended
    )
    event = await publish(admin, workspace, recipients=[stranger, suspended, who])
    async with database.connect("postgres") as other, other.transaction():
        await other.execute(
            "select from annex.profiles where user_id = any ($1) for no key update",
            [stranger, suspended],
        )
        await fan_out(admin, event)  # raises after half a second if it waits
    assert await told(admin, event) == {who}
    assert await withheld(admin, event) == {suspended: "suspended"}


async def test_an_event_whose_inbox_stays_in_use_is_left_and_the_others_go_on(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who, other = [await member(admin, workspace) for _ in range(2)]
    events = [await publish(admin, workspace, recipients=[u]) for u in (other, who, other)]
    await admin.execute("select annex.queue_fanouts($1)", events)
    async with database.connect("postgres") as holder, holder.transaction():
        await holder.execute("select from annex.profiles where user_id = $1 for no key update", who)
        row = await first(admin, "select * from annex.deliver($1)", events)
        assert (row["served"], row["held"]) == (2, [events[1]])
    assert [await told(admin, e) for e in events] == [{other}, set(), {other}]
    row = await first(admin, "select * from annex.deliver($1)", events)
    assert (row["served"], row["held"]) == (1, [])
    assert await told(admin, events[1]) == {who}


async def test_users_are_told_in_the_order_of_the_events_and_of_all_counts_at_once(
    admin: Connection, workspace: UUID
) -> None:
    people = [await member(admin, workspace) for _ in range(3)]
    groups = [None, "a", None, "a", "b", "a", None, "b"]
    events = [
        await publish(admin, workspace, recipients=people, **({"group_key": g} if g else {}))
        for g in groups
    ]
    await admin.execute("select annex.queue_fanouts($1)", events)
    [row] = await admin.fetch("select * from annex.deliver($1)", events)
    assert row["served"] == len(events)
    for who in people:
        rows = await admin.fetch(
            "select e.type, e.data, e.event_id from annex.pending p join annex.events e"
            " using (event_id) where p.user_id = $1 order by p.id",
            who,
        )
        told_of = [(r["type"], json.loads(r["data"])) for r in rows]
        assert [d["notification"]["event_id"] for _, d in told_of] == [str(e) for e in events]
        assert [r["event_id"] for r in rows] == sorted(r["event_id"] for r in rows)
        arrived = [d["notification"]["arrived_at"] for _, d in told_of]
        assert arrived == sorted({*arrived})
        assert [t.rpartition(".")[2] for t, _ in told_of] == [
            *("created", "created", "created", "changed"),
            *("created", "changed", "created", "changed"),
        ]
        # Each tells what was true after the run that it belongs to; the last, what is true now.
        inboxes = [d["inbox"] for _, d in told_of]
        versions = [i["version"] for i in inboxes]
        assert versions == sorted(versions)
        by_version = {i["version"]: i for i in inboxes}
        assert all(by_version[i["version"]] == i for i in inboxes)
        kept = await first(admin, "select * from annex.inboxes where user_id = $1", who)
        shown = {name: inboxes[-1][name] for name in ("active", "unseen", "unread", "version")}
        assert shown == {name: kept[name] for name in shown}
        assert kept["active"] == 5


async def test_an_event_with_as_many_recipients_as_its_share_is_done_in_one_turn(
    admin: Connection, workspace: UUID
) -> None:
    people = [await member(admin, workspace) for _ in range(11)]
    events = [await publish(admin, workspace, recipients=people[:n]) for n in (10, 11)]
    await admin.execute("select annex.queue_fanouts($1)", events)
    await admin.execute("select annex.deliver($1, 20)", events)
    left = await admin.fetch("select event_id, is_begun from annex.fanouts")
    assert [tuple(row) for row in left] == [(events[1], True)]
    assert [len(await told(admin, e)) for e in events] == [10, 10]
    await admin.execute("select annex.deliver($1, 20)", events)
    assert await told(admin, events[1]) == {*people}
    assert not await admin.fetchval("select exists (select from annex.fanouts)")


async def test_a_call_takes_fifty_events_at_most(admin: Connection, workspace: UUID) -> None:
    who = await member(admin, workspace)
    events = [await publish(admin, workspace, recipients=[who]) for _ in range(60)]
    await admin.execute("select annex.queue_fanouts($1)", events)
    assert len(await admin.fetchval("select annex.due_fanouts(false, 1000)")) == 50
    assert await admin.fetchval("select served from annex.deliver($1)", events) <= 50
    await fan_out(admin)
    assert [await told(admin, e) == {who} for e in events] == [True] * 60


async def test_what_failed_waits_longer_each_time_and_is_given_up(
    admin: Connection, workspace: UUID
) -> None:
    who = await member(admin, workspace)
    event = await publish(admin, workspace, recipients=[who])
    assert await admin.fetch("select * from annex.put_fanout_aside($1, 'x')", event) == []
    await admin.execute("select annex.queue_fanouts($1)", [event])
    pauses = []
    for attempt in range(1, 13):
        row = await first(
            admin, "select * from annex.put_fanout_aside($1, 'SomeError 22003')", event
        )
        assert (row["attempts"], row["is_given_up"]) == (attempt, attempt == 12)
        kept = await first(
            admin,
            "select round(extract(epoch from due_at - clock_timestamp()), 1) as pause, error"
            " from annex.fanouts where event_id = $1",
            event,
        )
        pauses.append(float(kept["pause"]))
        assert kept["error"] == "SomeError 22003"
    assert pauses == [0.2, 1, 4, 16, 64, 256, 1024, *[3600] * 5]
    assert not await admin.fetchval("select served from annex.deliver($1)", [event])
    assert (await first(admin, "select * from annex.fanout_health()"))["given_up"] == 1
    # An operator lets it begin again.
    await admin.execute(
        "update annex.fanouts set attempts = 0, failed_at = null, due_at = now()"
        " where event_id = $1",
        event,
    )
    await fan_out(admin)
    assert await told(admin, event) == {who}


async def test_a_large_fan_out_is_paged_and_does_not_hold_up_a_small_one(
    admin: Connection, workspace: UUID
) -> None:
    await admin.execute("""
        with made as (
          insert into auth.users (id) select gen_random_uuid() from generate_series(1, 3000)
          returning id
        ), known as (insert into annex.profiles (user_id) select id from made returning user_id)
        select count(*) from known
        """)
    await admin.execute(
        "insert into annex.members (workspace_id, user_id, role)"
        " select $1, p.user_id, 'viewer' from annex.profiles p on conflict do nothing",
        workspace,
    )
    await admin.execute(
        "insert into annex.subscriptions (workspace_id, topic, user_id, reason)"
        " select $1, 'big', user_id, 'added' from annex.members where workspace_id = $1",
        workspace,
    )
    members = await admin.fetchval(
        "select count(*) from annex.subscriptions where workspace_id = $1", workspace
    )
    who = await member(admin, workspace)
    large = await publish(admin, workspace, topics=["big"])
    small = await publish(admin, workspace, recipients=[who])
    await admin.execute("select annex.queue_fanouts($1)", [large, small])
    # Both have a part of the first page; then the large one is alone in the other lane.
    due = await admin.fetchval("select annex.due_fanouts(false)")
    assert {*due} >= {large, small}
    await admin.execute("select annex.deliver($1, 200)", [large, small])
    assert (len(await told(admin, large)), await told(admin, small)) == (100, {who})
    assert await admin.fetchval("select annex.due_fanouts(true)") == [large]
    pages = 0
    while await admin.fetchval("select served from annex.deliver($1, 200)", [large]):
        pages += 1
    assert pages == -(-(members - 100) // 200)
    assert len(await told(admin, large)) == members
    assert not await admin.fetchval("select exists (select from annex.fanouts)")
    personal = await admin.fetchval(
        "select count(*) from annex.events where user_id is not null and workspace_id = $1"
        " and type = 'annex.notification.created'",
        workspace,
    )
    assert personal == members + 1
    drifted = await admin.fetchval(
        "select count(*) from annex.inboxes i where i.active <> (select count(*)"
        " from annex.notifications n where n.user_id = i.user_id"
        " and n.workspace_id = i.workspace_id"
        " and n.archived_at is null and n.snoozed_until is null)"
    )
    assert drifted == 0


BAD_URLS = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "\x01javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "//host",
    "/\\host",
    "https:/\\host",
    "https://\\host",
    "https://user@host/",
    "https://user:secret@host/",
    "blob:https://host/x",
    "http://host/",
    "path",
    "https://host/a b",
    "",
]


@pytest.mark.parametrize("url", BAD_URLS)
async def test_a_link_that_is_no_https_or_path_is_refused(
    admin: Connection, workspace: UUID, url: str
) -> None:
    with pytest.raises(Exception, match="events_url_check"):
        await publish(admin, workspace, url=url)


@pytest.mark.parametrize("url", ["/", "/a/b?c#d", "https://host", "https://host/a@b", "/a//b"])
async def test_a_link_that_is_https_or_a_path_is_taken(
    admin: Connection, workspace: UUID, owner: UUID, url: str
) -> None:
    event = await publish(admin, workspace, url=url, recipients=[owner])
    await fan_out(admin, event)
    shown = await admin.fetchval("select url from annex.notifications where event_id = $1", event)
    assert shown == url


async def test_nobody_sees_anothers_items_and_counts(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    one, two = [await member(admin, workspace) for _ in range(2)]
    await subscribe(admin, workspace, one)
    await fan_out(admin, await publish(admin, workspace, topics=["t"], recipients=[one]))
    tables = ("notifications", "inboxes", "subscriptions")
    for role in ("annex_api", "authenticator"):
        for who, count in ((one, 1), (two, 0)):
            async with database.connect(role) as session, session.transaction():
                if role == "authenticator":
                    await session.execute("set local role authenticated")
                await session.execute(
                    "select set_config('request.jwt.claims', $1, true)", encode(user(who))
                )
                for table in tables:
                    found = await session.fetch(f"select * from annex.{table}")
                    assert len(found) == count, (role, table)


HIDING = {
    "suspended": "update annex.members set status = 'suspended' where user_id = $1",
    "gone": "delete from annex.members where user_id = $1",
    "deleted": "update annex.workspaces set deleted_at = now() where id = (select workspace_id"
    " from annex.members where user_id = $1)",
}


@pytest.mark.parametrize("how", HIDING)
async def test_who_is_out_sees_no_item_and_no_count(
    admin: Connection, database: TestDatabase, workspace: UUID, how: str
) -> None:
    who = await member(admin, workspace)
    await fan_out(admin, await publish(admin, workspace, recipients=[who]))
    item = await admin.fetchval("select id from annex.notifications where user_id = $1", who)
    await admin.execute(HIDING[how], who)
    async with database.connect("annex_api", user(who)) as session:
        assert await session.fetch("select from annex.notifications") == []
        assert await session.fetch("select from annex.inboxes") == []
        with pytest.raises(Exception, match="no such notification"):
            await session.execute("select annex.change_notification($1, true)", item)
        marked = await first(session, "select * from annex.mark_notifications('read', now())")
        assert marked["changed"] == 0
        with pytest.raises(Exception, match="no such workspace"):
            await session.execute("select annex.mark_notifications('read', now(), $1)", workspace)
        with pytest.raises(Exception, match="no such workspace"):
            await session.execute("select annex.follow_topic($1, 'x')", workspace)


async def test_an_item_needs_the_permission_of_its_event_now(
    admin: Connection, database: TestDatabase, workspace: UUID
) -> None:
    who = await member(admin, workspace, "admin")
    secret = await publish(admin, workspace, recipients=[who], permission="events:audit")
    plain = await publish(admin, workspace, recipients=[who])
    await fan_out(admin, secret, plain)
    async with database.connect("annex_api", user(who)) as session:
        count = "select count(*), (select sum(active) from annex.inboxes) from annex.notifications"
        assert tuple(await first(session, count)) == (2, 2)
        await admin.execute("update annex.members set role = 'viewer' where user_id = $1", who)
        assert tuple(await first(session, count)) == (1, 1)
        # And none of the functions reaches what is out of sight.
        done = await first(session, "select * from annex.mark_notifications('archived', now())")
        assert done["changed"] == 1
    assert await admin.fetchval(
        "select archived_at is null from annex.notifications where event_id = $1", secret
    )


async def test_erasing_a_user_erases_the_inbox(
    admin: Connection, workspace: UUID, owner: UUID
) -> None:
    who = await member(admin, workspace)
    await subscribe(admin, workspace, who)
    events = [
        await publish(admin, workspace, recipients=[who, owner]),
        await publish(admin, workspace, recipients=[who], actor=f"user:{who}"),
    ]
    await fan_out(admin, *events)
    await admin.execute("delete from auth.users where id = $1", who)
    for table in ("notifications", "inboxes", "subscriptions", "suppressions"):
        rows = await admin.fetch(f"select from annex.{table} where user_id = $1", who)
        assert rows == [], table
    assert await told(admin, events[0]) == {owner}


async def test_the_set_of_refusals_is_what_grants_says(admin: Connection, workspace: UUID) -> None:
    await admin.execute(
        "insert into annex.roles (workspace_id, key, name, permissions)"
        " values ($1, 'blind', 'Blind', '{workspace:read}')",
        workspace,
    )
    users = [await member(admin, workspace, r) for r in ("viewer", "admin", "owner", "blind")]
    users.append(await new_user(admin))
    suspended = await member(admin, workspace)
    await admin.execute(
        "update annex.members set status = 'suspended' where user_id = $1", suspended
    )
    for permission in (None, "events:audit", "members:read"):
        rows = await admin.fetch(
            """
            select r.refusal is null as may, exists (
              select from annex.grants($1, r.user_id) g
              where g.permissions @> array['events:read', coalesce($2::text, 'events:read')]
            ) as granted
            from annex.refusals($1, $2, $3) r
            """,
            workspace,
            permission,
            [*users, suspended],
        )
        assert len(rows) == 6
        assert all(r["may"] == r["granted"] for r in rows), permission


@pytest.mark.parametrize("is_queued", [False, True])
async def test_an_event_of_a_workspace_that_is_gone_stops_nobody(
    admin: Connection, workspace: UUID, owner: UUID, is_queued: bool
) -> None:
    gone = await new_workspace(admin, owner)
    poison = await publish(admin, gone, recipients=[owner])
    if is_queued:
        await admin.execute("select annex.queue_fanouts($1)", [poison])
    await admin.execute("delete from annex.workspaces where id = $1", gone)
    someone = await member(admin, workspace)
    event = await publish(admin, workspace, recipients=[someone])
    if is_queued:
        await fan_out(admin, event)
    else:
        await fan_out(admin, poison, event)
    told = await admin.fetch("select user_id from annex.notifications where event_id = $1", event)
    assert [row[0] for row in told] == [someone]
    assert await admin.fetchval("select count(*) from annex.fanouts") == 0


GROWN = """
with made as (
  insert into auth.users (id) select gen_random_uuid() from generate_series(1, 5000) returning id
), known as (
  insert into annex.profiles (user_id) select id from made returning user_id
), joined as (
  insert into annex.members (workspace_id, user_id, role) select $1, user_id, 'viewer' from known
), others as (
  insert into annex.workspaces (slug, name) select 'w-' || user_id, 'x' from known
), here as (
  insert into annex.preferences (workspace_id, user_id)
  select null, user_id from known
), counted as (
  insert into annex.inboxes (workspace_id, user_id, permission, active)
  select $1, user_id, 'events:read', 1 from known
)
insert into annex.notifications
  (workspace_id, user_id, event_id, type, actor, category, reason, title, group_key)
select $1, user_id, gen_random_uuid(), 'a.b', 'system', 'news', 'recipient', 'x', 'g' from known
"""
READ = """
select relname, idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables
where schemaname = 'annex' and relname ~
  '^(notifications|inboxes|preferences|events_|profiles|members|workspaces|suppressions)'
"""


async def test_a_page_costs_the_same_when_the_tables_have_grown_since_it_was_planned(
    own_database: TestDatabase,
) -> None:
    async with (
        own_database.connect("postgres") as admin,
        own_database.connect("annex_worker") as worker,
    ):
        workspace = await new_workspace(admin, await new_user(admin))
        people = [await member(admin, workspace) for _ in range(3)]
        for _ in range(2):
            event = await publish(admin, workspace, recipients=people, group_key="g")
            await fan_out(worker, event)
            # What is planned next is planned for tables that are known to be tiny.
            await admin.execute("analyze")
        for table in ("members", "workspaces"):
            await admin.execute(f"alter table annex.{table} disable trigger user")
        await admin.execute(GROWN, workspace)
        await admin.execute(
            "select annex.publish($1, 'a.b') from generate_series(1, 2000)", workspace
        )
        for group in ("g", "other"):
            event = await publish(admin, workspace, recipients=people, group_key=group)
            await worker.execute("select annex.queue_fanouts($1)", [event])
            async with worker.transaction():
                before = {row[0]: row[1] for row in await worker.fetch(READ)}
                await worker.execute("select annex.deliver($1)", [event])
                after = {row[0]: row[1] for row in await worker.fetch(READ)}
            assert await told(admin, event) == {*people}
            read = {name: count - before.get(name, 0) for name, count in after.items()}
            assert max(read.values()) < 60, read
