import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import NOBODYS_ID, TestDatabase, encode
from tests.database.conftest import (
    OPERATOR,
    Claims,
    Connection,
    claim,
    join,
    key,
    new_user,
    new_workspace,
    postgrest,
    user,
)

Denied = asyncpg.InsufficientPrivilegeError
PUBLISH = "select annex.publish($1, $2)"
PUBLISH_EVENTS = "select * from annex.publish_events($1, $2)"


class Scene(NamedTuple):
    """A workspace, its owner, and what was published in it."""

    database: TestDatabase
    admin: Connection
    workspace: UUID
    owner: UUID

    async def published(self) -> list[asyncpg.Record]:
        """Return the events that Annex did not draw itself, in the order of publishing."""
        rows: list[asyncpg.Record] = await self.admin.fetch(
            "select e.* from annex.pending p join annex.events e using (event_id)"
            " where e.workspace_id = $1 and e.type not like 'annex.%' order by p.id",
            self.workspace,
        )
        return rows


@pytest.fixture
async def scene(database: TestDatabase, admin: Connection) -> Scene:
    owner = await new_user(admin)
    return Scene(database, admin, await new_workspace(admin, owner), owner)


@pytest.fixture
async def as_key(scene: Scene) -> AsyncIterator[Connection]:
    """A session of the API for a key that may publish."""
    claims = await key(scene.admin, scene.workspace, "events:publish")
    async with scene.database.connect("annex_api", claims) as connection:
        yield connection


@pytest.fixture(scope="module")
async def backend(database: TestDatabase) -> AsyncIterator[str]:
    """A login of the user's own backend: connects directly and may call what service_role may."""
    async with database.connect("postgres") as admin:
        name = f"backend_{uuid4().hex[:8]}"
        await admin.execute(f"create role {name} login in role service_role, authenticated")
        yield name
        await admin.execute(f"drop role {name}")


def event(**fields: Any) -> dict[str, Any]:
    """Describe an event to publish."""
    return {"type": "test.made", "source": "test", **fields}


async def publish(connection: Connection, workspace: UUID, *events: Any) -> list[asyncpg.Record]:
    """Publish a batch."""
    rows: list[asyncpg.Record] = await connection.fetch(PUBLISH_EVENTS, workspace, encode(events))
    return rows


async def test_what_is_rolled_back_was_never_published(scene: Scene) -> None:
    async with scene.database.connect("authenticator") as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("set local role authenticated")
        await claim(connection, encode(user(scene.owner)))
        published = await connection.fetchval(PUBLISH, scene.workspace, "test.made")
        await transaction.rollback()
    for table in ("events", "pending"):
        count = f"select count(*) from annex.{table} where event_id = $1"
        assert await scene.admin.fetchval(count, published) == 0


async def test_nobody_else_sees_an_event_before_the_commit(scene: Scene) -> None:
    async with postgrest(scene.database, user(scene.owner)) as connection:
        await connection.execute(PUBLISH, scene.workspace, "test.made")
        assert await scene.published() == []
    assert len(await scene.published()) == 1


async def test_an_event_names_who_published_it(scene: Scene, as_key: Connection) -> None:
    async with postgrest(scene.database, user(scene.owner)) as connection:
        await connection.execute(PUBLISH, scene.workspace, "test.made")
    await publish(as_key, scene.workspace, event())
    by_user, by_key = [row["actor"] for row in await scene.published()]
    assert by_user == f"user:{scene.owner}"
    assert by_key.startswith("api_key:")


async def test_what_was_not_said_has_its_default(scene: Scene, as_key: Connection) -> None:
    await publish(as_key, scene.workspace, event())
    (row,) = await scene.published()
    fields = ("key", "subject", "topics", "permission", "data", "context", "user_id")
    assert [row[f] for f in fields] == [None, None, [], None, "{}", "{}", None]


@pytest.mark.parametrize("data", ['{"a": [1, null]}', "[]", '"text"', "0", "false", "null"])
async def test_any_json_is_data(data: str, scene: Scene) -> None:
    async with postgrest(scene.database, user(scene.owner)) as connection:
        await connection.execute(f"{PUBLISH[:-1]}, $3)", scene.workspace, "test.made", data)
    (row,) = await scene.published()
    assert row["data"] == data


@pytest.mark.parametrize("name", ["annex.workspace.created", "annex.", "annex.x"])
async def test_annexs_own_types_are_reserved(name: str, scene: Scene, as_key: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await publish(as_key, scene.workspace, event(), event(type=name))
    assert refusal.value.constraint_name == "events_type_reserved"
    assert await scene.published() == []


async def test_annexs_own_source_is_reserved(scene: Scene, as_key: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await publish(as_key, scene.workspace, event(), event(source="annex"))
    assert refusal.value.constraint_name == "events_source_reserved"
    assert await scene.published() == []


@pytest.mark.parametrize("name", ["annexed", "annex", "annexe.workspace"])
async def test_a_type_may_begin_alike(name: str, scene: Scene, as_key: Connection) -> None:
    await publish(as_key, scene.workspace, event(type=name))
    assert [row["type"] for row in await scene.published()] == [name]


@pytest.mark.parametrize("name", ["", "Annex.x", ".a", "a.", "a..b", "1a", "a b", "a" * 201, "ä"])
async def test_a_malformed_type_is_refused(name: str, scene: Scene, as_key: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refusal:
        await publish(as_key, scene.workspace, event(type=name))
    assert str(refusal.value.constraint_name).endswith("events_type_check")


@pytest.mark.parametrize(
    "topics", [["a"] * 21, [""], [None], ["a,b"], ["x" * 4001]], ids=lambda t: str(t)[:20]
)
async def test_malformed_topics_are_refused(
    topics: list[str | None], scene: Scene, as_key: Connection
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="events_topics_check"):
        await publish(as_key, scene.workspace, event(topics=topics))


async def test_a_user_cannot_name_an_actor(scene: Scene) -> None:
    async with scene.database.connect("annex_api", user(scene.owner)) as connection:
        with pytest.raises(Denied):
            await publish(connection, scene.workspace, event(), event(actor="somebody"))


@pytest.mark.parametrize("who", ["key", "operator"])
async def test_a_key_or_operator_may_name_an_actor(who: str, scene: Scene) -> None:
    claims = (
        OPERATOR if who == "operator" else await key(scene.admin, scene.workspace, "events:publish")
    )
    async with scene.database.connect("annex_api", claims) as connection:
        await publish(connection, scene.workspace, event(actor="robot:7"))
    (row,) = await scene.published()
    assert row["actor"] == "robot:7"
    kind = "operator" if who == "operator" else "api_key"
    assert row["principal"] == f"{kind}:{claims['sub']}"


async def test_publishing_needs_the_permission(scene: Scene) -> None:
    viewer = await new_user(scene.admin)
    await join(scene.admin, scene.workspace, viewer, "viewer")
    reader = await key(scene.admin, scene.workspace, "events:read")
    for claims in (user(viewer), reader, {}, {"role": "service_role"}):
        async with scene.database.connect("annex_api", claims) as connection:
            with pytest.raises(Denied):
                await publish(connection, scene.workspace, event())


@pytest.mark.parametrize(
    "claims",
    [{}, {"sub": NOBODYS_ID}, {"role": None}, {"role": "anon"}, {"role": "annex_operator"}],
    ids=encode,
)
async def test_a_request_without_a_principal_publishes_nothing(
    claims: Claims, scene: Scene
) -> None:
    async with postgrest(scene.database, claims) as connection:
        with pytest.raises(Denied):
            await connection.execute(PUBLISH, scene.workspace, "test.made")


async def test_service_role_publishes_through_postgrest(scene: Scene) -> None:
    claims = {"role": "service_role"}
    async with postgrest(scene.database, claims, "service_role") as connection:
        await connection.execute(PUBLISH, scene.workspace, "test.made")
    assert [row["actor"] for row in await scene.published()] == ["system"]


async def test_a_direct_session_without_claims_publishes(scene: Scene, backend: str) -> None:
    async with scene.database.connect(backend) as connection:
        await connection.execute(PUBLISH, scene.workspace, "test.made")
    assert [row["actor"] for row in await scene.published()] == ["system"]


async def test_a_direct_session_that_says_whom_it_serves_has_their_rights(
    scene: Scene, backend: str
) -> None:
    stranger = await new_user(scene.admin)
    for claims in (user(stranger), {"sub": str(stranger)}):
        async with scene.database.connect(backend, claims) as connection:
            with pytest.raises(Denied):
                await connection.execute(PUBLISH, scene.workspace, "test.made")


@pytest.mark.parametrize(
    "claims",
    [
        "",
        "{}",
        "{ }",
        '{"sub": "%s"}',
        '{"role": "anon"}',
        '{"role": null, "sub": "%s"}',
        '{"role": "service_role"}',
    ],
)
async def test_whom_a_gateway_does_not_name_publishes_nothing(claims: str, scene: Scene) -> None:
    # Only the session's own role makes a request service_role's; a claim does not.
    async with scene.database.connect("authenticator") as connection, connection.transaction():
        await connection.execute("set local role authenticated")
        await claim(connection, claims.replace("%s", str(scene.owner)))
        with pytest.raises(Denied):
            await connection.execute(PUBLISH, scene.workspace, "test.made")
    assert await scene.published() == []


async def test_a_deleted_workspace_takes_no_event(scene: Scene, backend: str) -> None:
    keyed, values = given(key="a")
    async with scene.database.connect(backend) as connection:
        await connection.execute(keyed, scene.workspace, *values)
        await scene.admin.execute(
            "update annex.workspaces set deleted_at = now() where id = $1", scene.workspace
        )
        for workspace in (scene.workspace, uuid4(), None):
            for sql, rest in ((PUBLISH, ["test.made"]), (keyed, values)):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(sql, workspace, *rest)


@pytest.mark.parametrize("size", [0, 501])
async def test_a_batch_has_1_to_500_events(size: int, scene: Scene, as_key: Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await publish(as_key, scene.workspace, *[event()] * size)


async def test_a_full_batch_keeps_its_order(scene: Scene, as_key: Connection) -> None:
    # Some have a key and some have not, and the keys do not sort as the batch does.
    batch = [event(subject=str(n), key=f"{-n % 7}-{n}" if n % 3 else None) for n in range(500)]
    answer = await publish(as_key, scene.workspace, *batch)
    published = await scene.published()
    assert [row["subject"] for row in published] == [e["subject"] for e in batch]
    assert [row["event_id"] for row in answer] == [row["event_id"] for row in published]


async def test_one_bad_event_spoils_the_batch(scene: Scene, as_key: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await publish(as_key, scene.workspace, event(key="a"), event(type="Bad"))
    assert await scene.published() == []
    (again,) = await publish(as_key, scene.workspace, event(key="a"))
    assert not again["is_duplicate"]


async def test_the_same_source_and_key_is_one_event(scene: Scene, as_key: Connection) -> None:
    (first,) = await publish(as_key, scene.workspace, event(key="a"))
    second, third = await publish(
        as_key, scene.workspace, event(key="a", data=2), event(key="a", source="other")
    )
    assert (first["is_duplicate"], second["is_duplicate"], third["is_duplicate"]) == (0, 1, 0)
    assert first["event_id"] == second["event_id"] != third["event_id"]
    assert len(await scene.published()) == 2


async def test_a_key_twice_in_a_batch_is_one_event(scene: Scene, as_key: Connection) -> None:
    rows = await publish(as_key, scene.workspace, event(key="a"), event(), event(key="a"))
    assert [row["is_duplicate"] for row in rows] == [False, False, True]
    assert rows[0]["event_id"] == rows[2]["event_id"]
    assert len(await scene.published()) == 2


async def test_a_key_belongs_to_its_workspace(scene: Scene, as_key: Connection) -> None:
    elsewhere = await new_workspace(scene.admin, scene.owner)
    await publish(as_key, scene.workspace, event(key="a"))
    claims = await key(scene.admin, elsewhere, "events:publish")
    async with scene.database.connect("annex_api", claims) as connection:
        (row,) = await publish(connection, elsewhere, event(key="a"))
    assert not row["is_duplicate"]


async def test_a_key_of_a_rolled_back_event_is_free(scene: Scene, as_key: Connection) -> None:
    transaction = as_key.transaction()
    await transaction.start()
    await publish(as_key, scene.workspace, event(key="a"))
    await transaction.rollback()
    (row,) = await publish(as_key, scene.workspace, event(key="a"))
    assert not row["is_duplicate"]


async def test_ten_sessions_with_one_key_make_one_event(scene: Scene) -> None:
    claims = await key(scene.admin, scene.workspace, "events:publish")

    async def one() -> asyncpg.Record:
        async with scene.database.connect("annex_api", claims) as connection:
            ready.release()
            await go.wait()
            (row,) = await publish(connection, scene.workspace, event(key="a"))
            return row

    ready, go = asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one()) for _ in range(10)]
        for _ in running:
            await ready.acquire()
        go.set()
    rows = [task.result() for task in running]
    assert sorted(row["is_duplicate"] for row in rows) == [False] + [True] * 9
    assert len({row["event_id"] for row in rows}) == 1
    assert len(await scene.published()) == 1


async def test_batches_with_the_same_keys_in_opposite_order_never_deadlock(scene: Scene) -> None:
    claims = await key(scene.admin, scene.workspace, "events:publish")

    async def some(keys: range) -> int:
        fresh = 0
        async with scene.database.connect("annex_api", claims) as connection:
            for n in range(10):
                batch = [event(key=f"{n}-{k}", source=f"s{k % 3}") for k in keys]
                rows = await publish(connection, scene.workspace, *batch)
                fresh += sum(not row["is_duplicate"] for row in rows)
        return fresh

    up, down = range(50), range(49, -1, -1)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(some(keys)) for keys in (up, down, up, down)]
    assert sum(task.result() for task in running) == len(await scene.published()) == 500


@pytest.mark.parametrize("login", ["annex_api", "annex_worker", "authenticator"])
async def test_a_written_event_stays_as_it_is(login: str, scene: Scene) -> None:
    changes = (
        "update annex.events set type = type",
        "delete from annex.events",
        "truncate annex.events",
        "update annex.events_default set type = type",
        "delete from annex.log",
        "delete from annex.pending",
    )
    async with scene.database.connect(login, OPERATOR) as connection:
        for role in ("authenticated", "service_role") if login == "authenticator" else (login,):
            await connection.execute(f"set role {role}")
            for change in changes:
                with pytest.raises(Denied):
                    await connection.execute(change)


def given(**columns: Any) -> tuple[str, list[Any]]:
    """Write a call of annex.publish with named arguments after the workspace."""
    columns = {"type": "test.made", **columns}
    named = ", ".join(f"{name} => ${n}" for n, name in enumerate(columns, 2))
    return f"select annex.publish($1, {named})", list(columns.values())


@pytest.fixture
async def caller(scene: Scene) -> AsyncIterator[Connection]:
    """A session of PostgREST for the owner."""
    async with postgrest(scene.database, user(scene.owner)) as connection:
        yield connection


async def test_one_event_is_what_a_batch_of_one_would_be(scene: Scene, backend: str) -> None:
    fields = {
        "data": '{"a": [1, null]}',
        "topics": ["b", "a"],
        "subject": "invoice:7",
        "source": "billing",
        "permission": "events:audit",
        "actor": "robot:7",
        "context": '{"trace": "1"}',
        "occurred_at": datetime(2024, 2, 29, 12, 0, 0, 123456, UTC),
    }
    sql, values = given(**fields)
    async with scene.database.connect(backend) as connection:
        await connection.execute(sql, scene.workspace, *values)
    moment = "2024-02-29T12:00:00.123456Z"
    context = {"trace": "1"}
    spoken = {**fields, "data": {"a": [1, None]}, "context": context, "occurred_at": moment}
    async with scene.database.connect("annex_api", OPERATOR) as connection:
        await publish(connection, scene.workspace, event(**spoken))
    one, other = await scene.published()
    assert (one["principal"], other["principal"]) == ("system", "operator:oooooooooooo")
    own = {"event_id", "recorded_at", "principal"}
    assert {k: v for k, v in one.items() if k not in own} == {
        k: v for k, v in other.items() if k not in own
    }


@pytest.mark.parametrize(
    "column",
    ["data", "topics", "subject", "key", "permission", "occurred_at", "actor", "context"],
)
async def test_null_means_the_default(column: str, scene: Scene, caller: Connection) -> None:
    sql, values = given(**{column: None})
    plain = await caller.fetchval(PUBLISH, scene.workspace, "test.made")
    null = await caller.fetchval(sql, scene.workspace, *values)
    rows = await caller.fetch(
        f"select {column} from annex.events where event_id = any($1)", [plain, null]
    )
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("fields", "error", "constraint"),
    [
        ({"type": "annex.x"}, asyncpg.CheckViolationError, "events_type_reserved"),
        ({"type": "A"}, asyncpg.CheckViolationError, "events_type_check"),
        ({"type": None}, asyncpg.NotNullViolationError, None),
        ({"source": None}, asyncpg.NotNullViolationError, None),
        ({"source": ""}, asyncpg.CheckViolationError, "events_source_check"),
        ({"key": ""}, asyncpg.CheckViolationError, "events_key_check"),
        ({"subject": ""}, asyncpg.CheckViolationError, "events_subject_check"),
        ({"source": "annex"}, asyncpg.CheckViolationError, "events_source_reserved"),
        ({"permission": "x"}, asyncpg.CheckViolationError, "events_permission_check"),
        ({"topics": ["a,b"]}, asyncpg.CheckViolationError, "events_topics_check"),
        ({"topics": [None]}, asyncpg.CheckViolationError, "events_topics_check"),
        ({"topics": [["a"], ["b"]]}, asyncpg.CheckViolationError, "events_topics_check"),
    ],
    ids=str,
)
async def test_one_malformed_event_is_refused(
    fields: dict[str, Any],
    error: type[asyncpg.IntegrityConstraintViolationError],
    constraint: str | None,
    scene: Scene,
    caller: Connection,
    backend: str,
) -> None:
    sql, values = given(**fields)
    async with scene.database.connect(backend) as own:
        for connection in (own, caller):
            with pytest.raises(error) as refusal:
                await connection.execute(sql, scene.workspace, *values)
            assert str(refusal.value.constraint_name).endswith(constraint or "None")


async def test_one_event_with_a_key_is_published_once(scene: Scene, caller: Connection) -> None:
    sql, values = given(key="a", source="test")
    made = {await caller.fetchval(sql, scene.workspace, *values) for _ in range(3)}
    sql, values = given(key="a", source="other")
    made.add(await caller.fetchval(sql, scene.workspace, *values))
    assert len(made) == 2


async def test_ten_single_publishers_with_one_key_make_one_event(
    scene: Scene, backend: str
) -> None:
    sql, values = given(key="a")

    async def one() -> UUID:
        async with scene.database.connect(backend) as connection:
            made: UUID = await connection.fetchval(sql, scene.workspace, *values)
            return made

    assert len(set(await asyncio.gather(*[one() for _ in range(10)]))) == 1
    assert len(await scene.published()) == 1


@pytest.mark.parametrize("permission", ["events:publish", "workspace:delete", "no:such", None])
async def test_a_single_check_says_what_the_list_of_workspaces_says(
    permission: str | None, scene: Scene
) -> None:
    ask = (
        "select coalesce(annex.has_permission($1, $2), false),"
        " $1 in (select annex.workspace_ids($2))"
    )
    other = await new_workspace(scene.admin, await new_user(scene.admin))
    guest, suspended = await new_user(scene.admin), await new_user(scene.admin)
    await join(scene.admin, scene.workspace, guest, "viewer")
    await join(scene.admin, scene.workspace, suspended, "owner", "suspended")
    await scene.admin.execute(
        "insert into annex.roles (workspace_id, key, name, permissions)"
        " values ($1, 'sender', 'Sender', '{events:publish}')",
        scene.workspace,
    )
    sender = await new_user(scene.admin)
    await join(scene.admin, scene.workspace, sender, "sender")
    gone = await new_workspace(scene.admin, scene.owner)
    await scene.admin.execute("update annex.workspaces set deleted_at = now() where id = $1", gone)
    guarded = await new_workspace(scene.admin, scene.owner, require_aal2=True)
    principals: list[Claims] = [
        *[user(who) for who in (scene.owner, guest, suspended, sender)],
        user(scene.owner, aal="aal2"),
        await key(scene.admin, scene.workspace, "events:publish"),
        await key(scene.admin, scene.workspace),
        await key(scene.admin, gone, "events:publish"),
        {"role": "annex_key"},
        {"role": "anon", "sub": str(scene.owner)},
        {},
    ]
    verdicts = set()
    for claims in principals:
        async with scene.database.connect("annex_api", claims) as connection:
            for workspace in (scene.workspace, other, gone, guarded, uuid4()):
                ((single, listed),) = await connection.fetch(ask, workspace, permission)
                assert single == bool(listed), (claims, workspace)
                verdicts.add(single)
    assert verdicts == (
        {True, False} if permission in ("events:publish", "workspace:delete") else {False}
    )
