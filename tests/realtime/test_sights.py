"""What a user's streams see is looked up once for all of them, and only where it changed."""

import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from app.database.statements import run
from app.filters import EVERYTHING
from app.realtime.cursors import Cursors
from app.realtime.feeds import Feed, SharedSight, Sight
from app.realtime.hub import Hub
from app.realtime.replay import grants_alone
from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, running
from tests.realtime.reader import Reader, add_member, calling, follow, new_tenant, until
from tests.realtime.test_hub import personal, publish, row
from tests.realtime.test_personal import PATH, tell

STREAMS, WORKSPACES = 6, 5
HELD = "select * from annex.held()"
READS = frozenset({"events:read"})
ONE, TWO, SEVEN = UUID(int=1), UUID(int=2), UUID(int=7)
ROLE = {"name": "Desk", "permissions": ["workspace:read", "events:read"], "grantable": []}


class Looks(list[list[UUID | None]]):
    """The workspaces of each look-up at what a user holds; None stands for all."""

    def __init__(self) -> None:
        self.rows = 0
        """Workspaces that were answered."""


class Place(NamedTuple):
    """A user with a role of each workspace's own, and as many streams as they opened."""

    server: Running
    tenants: list[Tenant]
    user: Caller
    looks: Looks

    @property
    def shared(self) -> SharedSight:
        """What all streams of the user see."""
        [found] = self.server.app.runtime.hub.sights.values()
        return found

    async def change(self, *statements: str) -> None:
        """Change members as somebody who works on the database itself, in one transaction.

        `$W<n>` is a workspace, `$U` the user.
        """
        async with self.server.database.connect("postgres") as admin, admin.transaction():
            for statement in statements:
                for n, tenant in enumerate(self.tenants):
                    statement = statement.replace(f"$W{n}", f"'{tenant.id}'")
                await admin.execute(statement.replace("$U", f"'{self.user.user_id}'"))

    async def held(self) -> Mapping[UUID, frozenset[str]]:
        """Ask the database what the user holds now."""
        async with self.server.database.connect("annex_api", self.user.claims) as session:
            rows = await session.fetch(HELD)
        return {r["workspace_id"]: frozenset(r["permissions"]) for r in rows}


@pytest.fixture
async def place(
    own_database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    async with running(own_database) as server, calling(server) as callers:
        yield await settle(server, callers, monkeypatch)


async def settle(server: Running, callers: Callers, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Make the workspaces and the user, and count look-ups from then on."""
    tenants = [await new_tenant(callers) for _ in range(WORKSPACES)]
    for tenant in tenants:
        made = await tenant.owner.client.put(f"{tenant.path}/roles/desk", json=ROLE)
        assert made.status_code in (200, 201), made.text
    user = await add_member(callers, tenants[0], "desk")
    looks = Looks()

    async def count(pool: Any, scope: Any, build: Any, values: Any) -> Any:
        found = await run(pool, scope, build, values)
        if build is grants_alone:
            looks.append([*values["workspaces"]])
            looks.rows += len(found[1][0][0] or ())
        return found

    monkeypatch.setattr("app.realtime.replay.run", count)
    made_of = Place(server, tenants, user, looks)
    for n in range(1, WORKSPACES):
        await made_of.change(
            f"insert into annex.members (workspace_id, user_id, role) values ($W{n}, $U, 'desk')"
        )
    await server.app.runtime.tail.catch_up()
    return made_of


@contextlib.asynccontextmanager
async def opened(place: Place, count: int = STREAMS) -> AsyncIterator[list[Reader]]:
    """Open streams of the user's."""
    async with contextlib.AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(follow(place.user.client, PATH)) for _ in range(count)
        ]
        for reader in readers:
            assert (await reader.message()).event == "cursor"
        place.looks.clear()
        place.looks.rows = 0
        yield readers


async def test_a_change_is_looked_up_once_for_all_streams_of_a_user_and_only_where_it_was(
    place: Place,
) -> None:
    tenant = place.tenants[2]
    async with opened(place) as readers:
        role = {**ROLE, "permissions": [*ROLE["permissions"], "events:audit"]}
        changed = await tenant.owner.client.put(f"{tenant.path}/roles/desk", json=role)
        assert changed.status_code == 200, changed.text
        assert [(await r.message()).event for r in readers] == ["reset"] * STREAMS
        await tell(
            place.server.database, tenant, place.user, "for auditors", permission="events:audit"
        )
        assert [await r.names(1) for r in readers] == [["for auditors"]] * STREAMS
    assert (place.looks, place.looks.rows) == ([[UUID(tenant.id)]], 1)


async def test_changes_that_come_fast_are_looked_up_for_all_streams_together(place: Place) -> None:
    tenant, changes = place.tenants[1], 10
    async with opened(place) as readers:
        for n in range(changes):
            more = ["events:audit"] * (n % 2)
            role = {**ROLE, "permissions": [*ROLE["permissions"], *more]}
            await tenant.owner.client.put(f"{tenant.path}/roles/desk", json=role)
        await tell(place.server.database, tenant, place.user, "last")
        for reader in readers:
            while (found := await reader.message()).event != "message":
                pass
            assert found.json()["data"]["n"] == "last"
    assert {*map(tuple, place.looks)} == {(UUID(tenant.id),)}
    # Not more for six streams than for one.
    assert place.looks.rows == len(place.looks) <= changes


async def test_two_workspaces_that_change_at_once_are_both_seen_as_they_are(place: Place) -> None:
    left, raised, kept = place.tenants[:3]
    async with opened(place, 2) as readers:
        await place.change(
            "delete from annex.members where workspace_id = $W0 and user_id = $U",
            "update annex.members set role = 'admin' where workspace_id = $W1 and user_id = $U",
        )
        assert [(await r.message()).event for r in readers] == ["reset", "reset"]
        database = place.server.database
        await tell(database, left, place.user, "hidden")
        await tell(database, raised, place.user, "for admins", permission="events:audit")
        await tell(database, kept, place.user, "hidden, too", permission="events:audit")
        await tell(database, kept, place.user, "open")
        for reader in readers:
            assert await reader.names(2) == ["for admins", "open"]
        assert place.shared.sight.grants == await place.held()
    changed = {UUID(left.id), UUID(raised.id)}
    assert {w for look in place.looks for w in look} == changed


@pytest.mark.parametrize("is_at_once", [True, False])
async def test_a_membership_that_goes_and_returns_is_the_one_that_returned(
    place: Place, is_at_once: bool
) -> None:
    tenant = place.tenants[3]
    await place.change(
        "update annex.members set role = 'admin' where workspace_id = $W3 and user_id = $U"
    )
    await place.server.app.runtime.tail.catch_up()
    steps = [
        "delete from annex.members where workspace_id = $W3 and user_id = $U",
        "insert into annex.members (workspace_id, user_id, role) values ($W3, $U, 'viewer')",
    ]
    async with opened(place, 2) as readers:
        for statements in [steps] if is_at_once else [[step] for step in steps]:
            await place.change(*statements)
        database = place.server.database
        await tell(database, tenant, place.user, "for admins", permission="events:audit")
        await tell(database, tenant, place.user, "open")
        for reader in readers:
            got = [await reader.message()]
            while got[-1].event != "message":
                got.append(await reader.message())
            # Told to load anew, and no event of more than the reader holds now.
            assert "reset" in [m.event for m in got]
            assert got[-1].json()["data"]["n"] == "open"
        assert place.shared.sight.grants == await place.held()


async def test_a_sight_that_was_patched_again_and_again_is_what_the_database_says(
    place: Place,
) -> None:
    drawn = random.Random(11)
    where = "where workspace_id = $W{n} and user_id = $U"
    changes = [
        f"delete from annex.members {where}",
        "insert into annex.members (workspace_id, user_id, role) values ($W{n}, $U, 'viewer')"
        " on conflict do nothing",
        f"update annex.members set role = 'admin' {where}",
        f"update annex.members set role = 'desk' {where}",
        f"update annex.members set status = 'suspended' {where}",
        f"update annex.members set status = 'active' {where}",
        "update annex.workspaces set require_aal2 = not require_aal2 where id = $W{n}",
        "update annex.roles set permissions = array['workspace:read', 'events:read']"
        " where workspace_id = $W{n} and key = 'desk'",
        "update annex.roles set permissions = permissions || array['events:audit']"
        " where workspace_id = $W{n} and key = 'desk' and cardinality(permissions) = 2",
    ]
    hub, tail = place.server.app.runtime.hub, place.server.app.runtime.tail

    def is_current() -> bool:
        groups = hub.channels[place.shared.feed.id].groups.values()
        parked = sum(len(group.parked) for group in groups)
        return hub.changed_since(place.shared) == set() and parked == 2

    async with opened(place, 2):
        for _ in range(60):
            await place.change(
                *(
                    drawn.choice(changes).replace("{n}", str(drawn.randrange(WORKSPACES)))
                    for _ in range(drawn.randint(1, 3))
                )
            )
            if drawn.random() < 0.5:
                await tail.catch_up()
                await until(is_current)
                assert place.shared.sight.grants == await place.held()
        assert len(place.looks) > 20
        assert not [look for look in place.looks if None in look]


async def test_two_sessions_of_a_user_share_no_sight(place: Place, callers: Callers) -> None:
    strong = Callers(place.server)
    again = await strong.user(user_id=place.user.user_id, email=place.user.email, aal="aal2")
    async with follow(place.user.client, PATH) as weak, follow(again.client, PATH) as other:
        for reader in (weak, other):
            assert (await reader.message()).event == "cursor"
        await place.change("update annex.workspaces set require_aal2 = true where id = $W4")
        assert (await weak.message()).event == "reset"
        await tell(place.server.database, place.tenants[4], place.user, "strong alone")
        await tell(place.server.database, place.tenants[0], place.user, "both")
        assert await other.names(2) == ["strong alone", "both"]
        assert await weak.names(1) == ["both"]
    await strong.close()


def shared(hub: Hub, grants: Mapping[UUID, frozenset[str]], pos: int) -> SharedSight:
    """Share a sight that was looked up at a position."""
    hub.channel(Feed("user", SEVEN)).group(EVERYTHING, Sight(grants))
    found = hub.shared_sight(Feed("user", SEVEN), "{}")
    found.keep(Sight(grants), hub.epoch, pos)
    return found


def test_a_sight_is_out_of_date_where_the_log_says_so_and_nowhere_else() -> None:
    hub = Hub(Cursors(bytes(32)))
    sight = shared(hub, {ONE: READS, TWO: READS}, 0)
    assert hub.changed_since(sight) == set()
    publish(hub, [row(1, workspace_id=ONE, rights_of="*"), row(2, rights_of="*")])
    publish(hub, [row(3, workspace_id=TWO, rights_of=f"user:{SEVEN}")])
    publish(hub, [row(4, workspace_id=TWO, rights_of=f"user:{TWO}")])
    assert hub.changed_since(sight) == {ONE, TWO}
    sight.keep(Sight({ONE: READS}), hub.epoch, 1)
    assert hub.changed_since(sight) == {TWO}
    # A workspace of which the user gets an event, and held nothing when it was looked up.
    publish(hub, [personal(SEVEN, 5, UUID(int=3))])
    assert hub.changed_since(sight) == {TWO, UUID(int=3)}
    sight.keep(Sight({}), hub.epoch, 5)
    assert hub.changed_since(sight) == set()
    # What a look-up that began before found is not taken.
    sight.keep(Sight({ONE: READS}), hub.epoch, 4)
    assert sight.sight == Sight({})


@pytest.mark.parametrize("how", ["restart", "restored", "gap", "forget", "leave"])
def test_after_what_the_log_does_not_tell_all_of_a_sight_is_out_of_date(how: str) -> None:
    hub = Hub(Cursors(bytes(32)))
    sight = shared(hub, {ONE: READS}, 0)
    publish(hub, [row(1)])
    if how == "restart":
        hub.restart(hub.epoch + 1, 0, 1)
    elif how == "restored":
        # From a backup of long ago, whose next epoch is a lower one.
        hub.restart(hub.epoch - 1, 0, 1)
    elif how == "gap":
        hub.gap(9)
    elif how == "forget":
        hub.channels[SEVEN].forget(1, 1)
    else:
        del hub.channels[SEVEN]
    assert hub.changed_since(sight) is None
    # And what is found then is taken.
    sight.keep(Sight({}), hub.epoch, hub.head)
    assert sight.sight == Sight({})


async def test_a_stream_stays_with_its_workspace_when_the_slug_comes_to_lead_to_another(
    place: Place,
) -> None:
    first, second = place.tenants[:2]
    client, database = place.user.client, place.server.database
    by_slug = f"/api/v1/workspaces/{first.slug}/stream"
    # Beside one that was opened by id, either might look first, and both would take what it finds.
    async with follow(client, by_slug) as reader:
        assert (await reader.message()).event == "cursor"
        await place.change(
            "update annex.workspaces set slug = slug || '-old' where id = $W0",
            f"update annex.workspaces set slug = '{first.slug}' where id = $W1",
        )
        await place.server.app.runtime.tail.catch_up()
        # Something of its rights, so that it looks again.
        await place.change(
            "update annex.roles set permissions = permissions || array['events:audit']"
            " where workspace_id = $W0 and key = 'desk'"
        )
        async with database.connect("postgres") as admin:
            for tenant, name in ((second, "other"), (first, "own")):
                statement = (
                    "select annex.publish($1, 'test.slug', jsonb_build_object('n', $2::text))"
                )
                await admin.execute(statement, UUID(tenant.id), name)
        while (found := await reader.message()).event != "message" or (
            found.json()["type"] != "test.slug"
        ):
            pass
        assert found.json()["data"]["n"] == "own"
        assert place.shared.sight.grants.keys() == {UUID(first.id)}


def test_more_changes_than_are_remembered_make_all_of_a_sight_out_of_date(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.realtime.channels.KNOWN", 3)
    hub = Hub(Cursors(bytes(32)))
    sight = shared(hub, {ONE: READS}, 0)
    for n in range(1, 6):
        publish(hub, [row(n, workspace_id=UUID(int=n), rights_of=f"user:{SEVEN}")])
        is_known = hub.changed_since(sight) is not None
        assert is_known == (n <= 3)
    assert len(hub.channels[SEVEN].changed) <= 3
