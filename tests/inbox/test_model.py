"""What a client streams is what it would list, and counts are the lengths of lists."""

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.conftest import Callers, Tenant, TestDatabase, add_member, new_tenant, running
from tests.faults.seed import SCALE, SEED
from tests.inbox.bell import MOST_SHOWN, Bell, Page, State, is_active, load
from tests.inbox.conftest import LIST, follow_topic, projected, publish, settled

T = TypeVar("T")
USERS, WORKSPACES, TOPICS = 3, 2, ("a:1", "b/2")
PEOPLE, PLACES = st.integers(0, USERS - 1), st.integers(0, WORKSPACES - 1)
COUNTS = ("active", "unseen", "unread", "snoozed", "archived")
PREFERENCES = "/api/v1/me/preferences"
# What the catalogue says of each type: its category, and if it is critical.
KINDS = {"test.one": ("general", False), "test.two": ("news", False), "test.alarm": ("news", True)}
CATEGORIES = st.sampled_from(["general", "news", "*"])
CLAUSE = "data.n:1"
# Events that every member sees, that take a permission that they hold, and one that they lack.
PERMISSIONS = st.sampled_from([None, None, "members:read", "events:audit"])
# What each role may, of what an event's reader or publisher needs; "blind" is a role of one's own.
SEEN = {"events:read", "members:read"}
ROLES = {
    "blind": set[str](),
    "viewer": SEEN,
    "member": {*SEEN, "events:publish"},
    "admin": {*SEEN, "events:publish", "events:audit"},
}
KILL = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = 'annex_worker' and datname = current_database()
"""


class World:
    """A server, its projector, workspaces, and users with an open bell each."""

    def __init__(
        self, database: TestDatabase, callers: Callers, tenants: list[Tenant], folder: Path
    ) -> None:
        self.database, self.callers, self.tenants, self.folder = database, callers, tenants, folder
        self.users: list[Any] = []
        self.bells: list[Bell] = []
        self.pages: list[Page] = []
        # Who has had more than a page shows.
        self.overflown: set[int] = set()
        self.stack = contextlib.AsyncExitStack()
        self.projector = contextlib.AsyncExitStack()
        self.is_projecting = False
        # By user and workspace: status, role, topics followed, and how many events were due.
        self.members: dict[tuple[int, int], str] = {}
        self.roles: dict[tuple[int, int], str] = {}
        self.followed: dict[tuple[int, int, str], dict[str, Any]] = {}
        # By user and workspace, or None for all; None is the workspace's default.
        # Then by category and channel.
        self.preferred: dict[tuple[int | None, int | None], dict[tuple[str, str], bool]] = {}
        self.due: dict[tuple[int, int], int] = {}
        self.published: dict[str, dict[str, Any]] = {}
        self.waiting: list[dict[str, Any]] = []
        self.failures: list[Exception] = []

    async def begin(self) -> None:
        """Make the users, members of both workspaces, and open their bells."""
        for n in range(USERS):
            user = await add_member(self.callers, self.tenants[0], "member")
            self.users.append(user)
            for w in range(WORKSPACES):
                self.members[n, w], self.roles[n, w] = "active", "member"
                self.due[n, w] = 0
            await self.sql(
                "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'member')",
                UUID(self.tenants[1].id),
                user.user_id,
            )
        for tenant in self.tenants:
            await self.sql(
                "insert into annex.roles (workspace_id, key, name, permissions)"
                " values ($1, 'blind', 'Blind', '{workspace:read}')",
                UUID(tenant.id),
            )
        for kind, (category, is_critical) in KINDS.items():
            if kind != "test.one":  # which is not in the catalogue
                answer = await self.callers.operator().client.put(
                    f"/api/v1/event-types/{kind}",
                    json={"category": category, "is_critical": is_critical},
                )
                assert answer.status_code == 201, answer.text
        await self.start()
        for n, user in enumerate(self.users):
            bell, page = Bell(user.client), Page(user.client, self.folder / str(n))
            await bell.begin()
            await page.open()
            self.bells.append(bell)
            self.pages.append(page)

    async def end(self) -> None:
        """Close all."""
        for bell in self.bells:
            await bell.cut()
        for page in self.pages:
            await page.close()
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
        category, is_critical = KINDS[event["type"]]
        if not self.may(n, w, event["permission"] or "events:read") or event["by"] == n:
            return False
        following = self.following(n, event)
        is_named = n in event["recipients"]
        if not is_named and not following:
            return False
        if is_critical:
            return True
        if not is_named and any(f["is_muted"] for f in following):
            return False
        return self.wants(n, w, category, "in_app")

    def may(self, n: int, w: int, permission: str) -> bool:
        """Say if a user is an active member who may see events, and those of a permission."""
        held = ROLES[self.roles[n, w]] if self.members.get((n, w)) == "active" else set[str]()
        return {"events:read", permission} <= held

    def following(self, n: int, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a user's subscriptions that an event passes."""
        found = [f for t in event["topics"] if (f := self.followed.get((n, event["w"], t)))]
        found = [f for f in found if not f["types"] or event["type"] in f["types"]]
        return [f for f in found if not f["where"] or event["n"] == 1]

    def wants(self, n: int, w: int, category: str, channel: str) -> bool:
        """Say if a user wants a category in a channel: the nearest word counts."""
        for whose in ((n, w), (n, None), (None, w)):
            said = self.preferred.get(whose, {})
            for name in (category, "*"):
                if (name, channel) in said:
                    return said[name, channel]
        return True

    def refusal(self, n: int, w: int, item: Any) -> str | None:
        """Say why an item would not be mailed now, independently of the code."""
        for state, column in (
            ("read", "read_at"),
            ("archived", "archived_at"),
            ("snoozed", "snoozed_until"),
        ):
            if item[column] is not None:
                return state
        if (n, w) not in self.members:
            return "not_a_member"
        if self.members[n, w] != "active":
            return "suspended"
        if not self.may(n, w, item["permission"]):
            return "not_permitted"
        event = self.published[str(item["event_id"])]
        category, is_critical = KINDS[event["type"]]
        if is_critical:
            return None
        is_muted = any(f["is_muted"] for f in self.following(n, event))
        if is_muted and n not in event["recipients"]:
            return "muted"
        return None if self.wants(n, w, category, "email") else "preference"

    async def items(self, n: int, **which: str) -> list[Any]:
        """List a user's items, active ones if nothing else is said."""
        found: list[Any] = (await self.users[n].client.get(LIST, params=which)).json()["data"]
        return found

    async def tidy(self, most: int | None) -> None:
        """Delete what inboxes hold over a number, or all that is not snoozed; the model follows."""
        await self.check_due()
        if most is None:
            await self.sql("select * from annex.expire_notifications(null, 0)")
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
        await self.check_mails()

    async def check_mails(self) -> None:
        """Hold what keeps a mail back to what is known, item by item."""
        users = {user.user_id: n for n, user in enumerate(self.users)}
        places = {tenant.id: w for w, tenant in enumerate(self.tenants)}
        for item in await self.sql("select n.*, annex.mail_refusal(n) from annex.notifications n"):
            n, w = users[item["user_id"]], places[str(item["workspace_id"])]
            assert item["mail_refusal"] == self.refusal(n, w, item), dict(item)

    async def agree(self, n: int, bell: Bell) -> None:
        """Wait until a client's state is what it would list."""
        listed = State()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    listed, _ = await load(self.users[n].client)
                    if listed == bell.state and self.shows(n, listed):
                        break
                    await asyncio.sleep(0.1)
        assert bell.state.items == listed.items
        assert bell.state.inboxes == listed.inboxes
        assert self.shows(n, listed), (self.pages[n].items, self.pages[n].unread)
        page = (await self.users[n].client.get(LIST)).json()
        items = list(listed.items.values())
        active = [i for i in items if is_active(i)]
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

    def shows(self, n: int, listed: State) -> bool:
        """Say whether bell.js shows what the lists have: the newest active items, in order."""
        page = self.pages[n]
        active = sorted(
            filter(is_active, listed.items.values()),
            key=lambda i: (i["arrived_at"], i["id"]),
            reverse=True,
        )
        if len(active) > MOST_SHOWN:
            self.overflown.add(n)
        if n in self.overflown:  # it need not know of older ones again
            active = [i for i in active if i in page.items]
        unread = sum(i["unread"] for i in listed.inboxes.values())
        return (page.items, page.unread) == (active, unread)


def machine(world: World, loop: asyncio.AbstractEventLoop) -> type[RuleBasedStateMachine]:
    """Make the machine; its rules run on the test's loop."""

    def run(work: Awaitable[T]) -> T:
        async def all_of_it() -> T:
            async with asyncio.timeout(40):
                return await work

        try:
            return asyncio.run_coroutine_threadsafe(all_of_it(), loop).result()
        except Exception as error:
            world.failures.append(error)
            raise

    class Inbox(RuleBasedStateMachine):
        @rule(
            w=PLACES,
            topics=st.lists(st.sampled_from(TOPICS), max_size=2),
            recipients=st.lists(PEOPLE, max_size=3),
            group=st.sampled_from([None, "g"]),
            kind=st.sampled_from(sorted(KINDS)),
            by=st.one_of(st.none(), PEOPLE),
            number=st.integers(1, 2),
            permission=PERMISSIONS,
            is_killed=st.booleans(),
        )
        def publish(
            self,
            w: int,
            topics: Any,
            recipients: Any,
            group: Any,
            kind: str,
            by: int | None,
            number: int,
            permission: str | None,
            is_killed: bool,
        ) -> None:
            if by is not None and (permission or not world.may(by, w, "events:publish")):
                by = None
            event_id = run(
                publish(
                    world.tenants[w],
                    None if by is None else world.users[by],
                    type=kind,
                    topics=topics,
                    recipients=[str(world.users[n].user_id) for n in recipients],
                    group_key=group,
                    permission=permission,
                    data={"n": number},
                )
            )
            event = {"w": w, "topics": topics, "recipients": recipients, "type": kind, "by": by}
            world.published[event_id] = {**event, "n": number, "permission": permission}
            world.waiting.append(world.published[event_id])
            if is_killed:
                # As the end of its process does: whatever is open is rolled back.
                run(world.sql(KILL))

        @rule(
            n=PEOPLE,
            w=PLACES,
            topic=st.sampled_from(TOPICS),
            types=st.sampled_from([[], ["test.one"]]),
            where=st.sampled_from([[], [CLAUSE]]),
            is_muted=st.booleans(),
        )
        def follow(
            self, n: int, w: int, topic: str, types: Any, where: Any, is_muted: bool
        ) -> None:
            if not world.may(n, w, "events:read"):
                return
            wanted = {"types": types, "where": where, "is_muted": is_muted}
            run(world.catch_up())
            name = topic.replace("/", "%2F")
            run(follow_topic(world.tenants[w], world.users[n], name, **wanted))
            world.followed[n, w, topic] = wanted

        @rule(n=PEOPLE, w=PLACES, topic=st.sampled_from(TOPICS))
        def unfollow(self, n: int, w: int, topic: str) -> None:
            if not world.may(n, w, "events:read"):
                return
            run(world.catch_up())
            run(self.delete(n, w, topic))
            world.followed.pop((n, w, topic), None)

        async def delete(self, n: int, w: int, topic: str) -> None:
            path = f"/api/v1/me/subscriptions/{topic.replace('/', '%2F')}"
            response = await world.users[n].client.delete(
                path, params={"workspace": world.tenants[w].id}
            )
            known = (n, w, topic) in world.followed
            assert response.status_code == (204 if known else 404), response.text

        @rule(
            n=st.one_of(st.none(), PEOPLE),
            w=st.one_of(st.none(), PLACES),
            category=CATEGORIES,
            channel=st.sampled_from(["in_app", "email"]),
            is_wanted=st.sampled_from([True, False, False, None]),
        )
        def prefer(
            self,
            n: int | None,
            w: int | None,
            category: str,
            channel: str,
            is_wanted: bool | None,
        ) -> None:
            """Choose for all workspaces, for one, or as one's owner for its members."""
            if n is None and w is None:
                return
            if n is not None and w is not None and world.members.get((n, w)) != "active":
                return
            run(world.catch_up())
            run(self.choose(n, w, {"categories": {category: {channel: is_wanted}}}))
            said = world.preferred.setdefault((n, w), {})
            if is_wanted is None:
                said.pop((category, channel), None)
            else:
                said[category, channel] = is_wanted

        async def choose(self, n: int | None, w: int | None, patch: dict[str, Any]) -> None:
            if n is None:
                assert w is not None
                tenant = world.tenants[w]
                path, client = f"{tenant.path}/preferences", tenant.owner.client
            else:
                path, client = PREFERENCES, world.users[n].client
            params = {"workspace": world.tenants[w].id} if n is not None and w is not None else {}
            response = await client.patch(path, params=params, json=patch)
            assert response.status_code == 200, response.text

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
                world.roles.pop((n, w), None)
                world.preferred.pop((n, w), None)
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
            world.roles.setdefault((n, w), "member")

        @rule(n=PEOPLE, w=PLACES, role=st.sampled_from(sorted(ROLES)))
        def change_role(self, n: int, w: int, role: str) -> None:
            if (n, w) not in world.members:
                return
            run(world.catch_up())
            change = "update annex.members set role = $3 where workspace_id = $1 and user_id = $2"
            run(world.sql(change, UUID(world.tenants[w].id), world.users[n].user_id, role))
            world.roles[n, w] = role

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

        @rule(n=PEOPLE, which=st.integers(0, 9), state=st.sampled_from(["archived", "snoozed"]))
        def bring_back(self, n: int, which: int, state: str) -> None:
            """Take an item out of the archive, or end its snooze."""
            change: dict[str, Any] = {"is_archived": False}
            if state == "snoozed":
                change = {"snoozed_until": None}
            run(self.patch_one(n, which, change, **{state: "true"}))

        async def patch_one(self, n: int, which: int, change: dict[str, Any], **state: str) -> None:
            if items := await world.items(n, **state):
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
            category=st.sampled_from([None, None, "general", "news"]),
        )
        def mark(
            self, n: int, which: int, action: str, w: int | None, category: str | None
        ) -> None:
            run(self.mark_all(n, which, action, w, category))

        async def mark_all(
            self, n: int, which: int, action: str, w: int | None, category: str | None
        ) -> None:
            if w is not None and not world.may(n, w, "events:read"):
                return
            if items := await world.items(n):
                until = items[which % len(items)]["arrived_at"]
                body = {"action": action, "arrived_until": until}
                if w is not None:
                    body["workspace"] = world.tenants[w].slug
                if category is not None:
                    body["category"] = category
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


@pytest.mark.timeout(400 * SCALE)
async def test_what_is_streamed_is_what_is_listed(
    own_database: TestDatabase, tmp_path: Path
) -> None:
    async with running(own_database) as server:
        callers = Callers(server)
        tenants = [await new_tenant(callers) for _ in range(WORKSPACES)]
        world = World(own_database, callers, tenants, tmp_path)
        await world.begin()
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(
                run_state_machine_as_test,
                seed(SEED)(machine(world, loop)),
                settings=settings(
                    max_examples=4 * SCALE,
                    stateful_step_count=25,
                    deadline=None,
                    derandomize=False,
                    phases=[Phase.generate],
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except HypothesisException as flaky:
            # It tries a failure again, in a world that is another by then.
            raise world.failures[0] if world.failures else flaky from flaky
        finally:
            await world.end()
            await callers.close()
