"""What a client streams is what it would list, and counts are the lengths of lists."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.conftest import Callers, Tenant, TestDatabase, add_member, new_tenant, running
from tests.inbox.bell import Bell, State, load
from tests.inbox.conftest import LIST, follow_topic, projected, publish, settled

T = TypeVar("T")
USERS, WORKSPACES, TOPICS = 3, 2, ("a:1", "b/2")
PEOPLE, PLACES = st.integers(0, USERS - 1), st.integers(0, WORKSPACES - 1)
COUNTS = ("active", "unseen", "unread", "snoozed", "archived")


class World:
    """A server, its projector, workspaces, and users with an open bell each."""

    def __init__(self, database: TestDatabase, callers: Callers, tenants: list[Tenant]) -> None:
        self.database, self.callers, self.tenants = database, callers, tenants
        self.users: list[Any] = []
        self.bells: list[Bell] = []
        self.stack = contextlib.AsyncExitStack()
        self.projector = contextlib.AsyncExitStack()
        self.is_projecting = False
        # By user and workspace: (role, status), topics followed, and how many events were due.
        self.members: dict[tuple[int, int], str] = {}
        self.followed: dict[tuple[int, int, str], dict[str, Any]] = {}
        self.due: dict[tuple[int, int], int] = {}
        self.waiting: list[dict[str, Any]] = []

    async def begin(self) -> None:
        """Make the users, members of both workspaces, and open their bells."""
        for n in range(USERS):
            user = await add_member(self.callers, self.tenants[0], "member")
            self.users.append(user)
            for w in range(WORKSPACES):
                self.members[n, w] = "active"
                self.due[n, w] = 0
            await self.sql(
                "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'member')",
                UUID(self.tenants[1].id),
                user.user_id,
            )
        await self.start()
        for user in self.users:
            bell = Bell(user.client)
            await bell.begin()
            self.bells.append(bell)

    async def end(self) -> None:
        """Close all."""
        for bell in self.bells:
            await bell.cut()
        await self.projector.aclose()

    async def sql(self, statement: str, *values: Any) -> Any:
        """Run a statement as somebody who works on the database itself."""
        async with self.database.connect("postgres") as admin:
            return await admin.fetch(statement, *values)

    async def start(self) -> None:
        """Start the projector."""
        await self.projector.enter_async_context(projected(self.database))
        self.is_projecting = True

    async def stop(self) -> None:
        """Stop the projector in the middle of whatever it does."""
        await self.projector.aclose()
        self.is_projecting = False

    async def catch_up(self) -> None:
        """Let everything be fanned out, by what holds now, and count what was due."""
        if not self.is_projecting:
            await self.start()
        await settled(self.database)
        for event in self.waiting:
            for n in range(USERS):
                self.due[n, event["w"]] += self.is_due(n, event)
        self.waiting.clear()

    def is_due(self, n: int, event: dict[str, Any]) -> bool:
        """Say who is told of an event, independently of the code."""
        w = event["w"]
        if self.members.get((n, w)) != "active" or event["by"] == n:
            return False
        if n in event["recipients"]:
            return True
        following = [f for t in event["topics"] if (f := self.followed.get((n, w, t)))]
        following = [f for f in following if not f["types"] or event["type"] in f["types"]]
        return bool(following) and not any(f["is_muted"] for f in following)

    async def items(self, n: int) -> list[Any]:
        """List a user's active items."""
        found: list[Any] = (await self.users[n].client.get(LIST)).json()["data"]
        return found

    async def tidy(self, most: int | None) -> None:
        """Delete what inboxes hold over a number, or all that is not snoozed; the model follows."""
        await self.check_due()
        if most is None:
            await self.sql("select annex.expire_notifications(null, 0)")
        else:
            limit = "update annex.limits set value = $1 where name = 'notifications_per_inbox'"
            await self.sql(limit, most)
            for inbox in await self.sql("select * from annex.full_inboxes()"):
                await self.sql("select annex.trim_inbox($1, $2, $3)", *inbox)
            await self.sql(limit, 10_000)
        counted = await self.counted()
        for n, w in self.due:
            self.due[n, w] = counted.get((self.users[n].user_id, self.tenants[w].id), 0)

    async def counted(self) -> dict[tuple[UUID, str], int]:
        """Count the events that there are items of, by user and workspace."""
        rows = await self.sql(
            "select user_id, workspace_id, sum(group_count) as count from annex.notifications"
            " group by 1, 2"
        )
        return {(r["user_id"], str(r["workspace_id"])): r["count"] for r in rows}

    async def check_due(self) -> None:
        """Hold items to what was due."""
        await self.catch_up()
        counted = await self.counted()
        for (n, w), count in self.due.items():
            assert counted.get((self.users[n].user_id, self.tenants[w].id), 0) == count

    async def check(self) -> None:
        """Hold every client to the lists, and counts to lengths and to what was due."""
        await self.catch_up()
        for n, bell in enumerate(self.bells):
            await self.agree(n, bell)
        await self.check_due()

    async def agree(self, n: int, bell: Bell) -> None:
        """Wait until a client's state is what it would list."""
        listed = State()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    listed, _ = await load(self.users[n].client)
                    if listed == bell.state:
                        break
                    await asyncio.sleep(0.1)
        assert bell.state.items == listed.items
        assert bell.state.inboxes == listed.inboxes
        page = (await self.users[n].client.get(LIST)).json()
        items = list(listed.items.values())
        active = [i for i in items if not (i["archived_at"] or i["snoozed_until"])]
        assert page["counts"] == {
            "active": len(active),
            "unseen": sum(i["seen_at"] is None for i in active),
            "unread": sum(i["read_at"] is None for i in active),
            "snoozed": sum(i["snoozed_until"] is not None for i in items),
            "archived": sum(i["archived_at"] is not None for i in items),
        }
        assert page["counts"] == {
            name: sum(i[name] for i in bell.state.inboxes.values()) for name in COUNTS
        }


def machine(world: World, loop: asyncio.AbstractEventLoop) -> type[RuleBasedStateMachine]:
    """Make the machine; its rules run on the test's loop."""

    def run(work: Awaitable[T]) -> T:
        async def all_of_it() -> T:
            async with asyncio.timeout(40):
                return await work

        return asyncio.run_coroutine_threadsafe(all_of_it(), loop).result()

    class Inbox(RuleBasedStateMachine):
        @rule(
            w=PLACES,
            topics=st.lists(st.sampled_from(TOPICS), max_size=2),
            recipients=st.lists(PEOPLE, max_size=3),
            group=st.sampled_from([None, "g"]),
            kind=st.sampled_from(["test.one", "test.two"]),
            by=st.one_of(st.none(), PEOPLE),
        )
        def publish(
            self, w: int, topics: Any, recipients: Any, group: Any, kind: str, by: int | None
        ) -> None:
            if by is not None and world.members.get((by, w)) != "active":
                by = None
            run(
                publish(
                    world.tenants[w],
                    None if by is None else world.users[by],
                    type=kind,
                    topics=topics,
                    recipients=[str(world.users[n].user_id) for n in recipients],
                    group_key=group,
                )
            )
            event = {"w": w, "topics": topics, "recipients": recipients, "type": kind, "by": by}
            world.waiting.append(event)

        @rule(
            n=PEOPLE,
            w=PLACES,
            topic=st.sampled_from(TOPICS),
            types=st.sampled_from([[], ["test.one"]]),
            is_muted=st.booleans(),
        )
        def follow(self, n: int, w: int, topic: str, types: Any, is_muted: bool) -> None:
            if world.members.get((n, w)) != "active":
                return
            wanted = {"types": types, "is_muted": is_muted}
            run(world.catch_up())
            name = topic.replace("/", "%2F")
            run(follow_topic(world.tenants[w], world.users[n], name, **wanted))
            world.followed[n, w, topic] = wanted

        @rule(n=PEOPLE, w=PLACES, how=st.sampled_from(["suspended", "active", "gone"]))
        def change_membership(self, n: int, w: int, how: str) -> None:
            """Between two batches, so that it is known by what holds when it is fanned out."""
            run(world.catch_up())
            run(self.change(n, w, how))

        async def change(self, n: int, w: int, how: str) -> None:
            place = (UUID(world.tenants[w].id), world.users[n].user_id)
            if how == "gone":
                await world.sql(
                    "delete from annex.members where workspace_id = $1 and user_id = $2", *place
                )
                world.members.pop((n, w), None)
                for key in [k for k in world.followed if k[:2] == (n, w)]:
                    del world.followed[key]
                return
            await world.sql(
                "insert into annex.members (workspace_id, user_id, role, status)"
                " values ($1, $2, 'member', $3) on conflict (workspace_id, user_id)"
                " do update set status = excluded.status",
                *place,
                how,
            )
            world.members[n, w] = how

        @rule(
            n=PEOPLE,
            which=st.integers(0, 9),
            change=st.sampled_from(
                [
                    {"is_seen": True},
                    {"is_read": True},
                    {"is_read": False},
                    {"is_seen": False},
                    {"is_archived": True},
                ]
            ),
        )
        def patch(self, n: int, which: int, change: dict[str, Any]) -> None:
            run(self.patch_one(n, which, change))

        async def patch_one(self, n: int, which: int, change: dict[str, Any]) -> None:
            if items := await world.items(n):
                path = f"{LIST}/{items[which % len(items)]['id']}"
                response = await world.users[n].client.patch(path, json=change)
                assert response.status_code == 200, response.text

        @rule(n=PEOPLE, which=st.integers(0, 9), is_due=st.booleans())
        def snooze(self, n: int, which: int, is_due: bool) -> None:
            run(self.snooze_one(n, which, is_due))

        async def snooze_one(self, n: int, which: int, is_due: bool) -> None:
            """Snooze for an hour, or until now."""
            [(until,)] = await world.sql(
                "select to_char(now() at time zone 'UTC' + $1 * interval '1 second',"
                ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')',
                0.3 if is_due else 3600,
            )
            await self.patch_one(n, which, {"snoozed_until": until})
            if is_due:
                async with asyncio.timeout(20):
                    while await self.is_snoozed(n):
                        await asyncio.sleep(0.05)

        async def is_snoozed(self, n: int) -> bool:
            if not world.is_projecting:
                return False
            return bool(
                (
                    await world.sql(
                        "select exists (select from annex.notifications where user_id = $1"
                        " and snoozed_until < now() + interval '1 minute')",
                        world.users[n].user_id,
                    )
                )[0][0]
            )

        @rule(
            n=PEOPLE,
            which=st.integers(0, 9),
            action=st.sampled_from(["seen", "read", "archived"]),
            w=st.one_of(st.none(), PLACES),
        )
        def mark(self, n: int, which: int, action: str, w: int | None) -> None:
            run(self.mark_all(n, which, action, w))

        async def mark_all(self, n: int, which: int, action: str, w: int | None) -> None:
            if w is not None and world.members.get((n, w)) != "active":
                return
            if items := await world.items(n):
                until = items[which % len(items)]["arrived_at"]
                body = {"action": action, "arrived_until": until}
                if w is not None:
                    body["workspace"] = world.tenants[w].slug
                response = await world.users[n].client.post(f"{LIST}/mark", json=body)
                assert response.status_code == 200, response.text

        @rule(n=PEOPLE)
        def reconnect(self, n: int) -> None:
            run(world.bells[n].cut())
            loop.call_soon_threadsafe(world.bells[n].connect)

        @rule()
        def stop_the_projector(self) -> None:
            if world.is_projecting:
                run(world.stop())

        @rule(most=st.sampled_from([0, 1, 2, None]))
        def tidy(self, most: int | None) -> None:
            run(world.tidy(most))

        @rule()
        def check(self) -> None:
            run(world.check())

        def teardown(self) -> None:
            run(world.check())

    return Inbox


@pytest.mark.timeout(300)
async def test_what_is_streamed_is_what_is_listed(own_database: TestDatabase) -> None:
    async with running(own_database) as server:
        callers = Callers(server)
        tenants = [await new_tenant(callers) for _ in range(WORKSPACES)]
        world = World(own_database, callers, tenants)
        await world.begin()
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(
                run_state_machine_as_test,
                machine(world, loop),
                settings=settings(
                    max_examples=4,
                    stateful_step_count=20,
                    deadline=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            await world.end()
            await callers.close()
