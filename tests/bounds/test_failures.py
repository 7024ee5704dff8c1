"""What is not known to be the caller's fault is ours: logged, and a 500 without a detail."""

from uuid import UUID

import asyncpg
import pytest

from app.errors import InternalError, InvalidRequest
from app.problems import from_msgspec, read
from tests.bounds.test_protocol import ask
from tests.conftest import Callers, Tenant, TestDatabase, running

OURS = [
    "create table pg_temp.t (n integer constraint nobody_knows check (n > 0));"
    " insert into pg_temp.t values (0)",
    "select * from annex.api_keys",
    "select annex.sequence()",
    "insert into annex.profiles (user_id) values (gen_random_uuid())",
    "select no_such_column from annex.members",
]


@pytest.mark.parametrize("statement", OURS)
async def test_an_error_of_the_database_that_nobody_planned_is_ours(
    statement: str, database: TestDatabase
) -> None:
    async with database.connect("annex_api") as connection:
        with pytest.raises(asyncpg.PostgresError) as raised:
            await connection.execute(statement)
    assert isinstance(read(raised.value), InternalError)


TIMEOUTS = {
    "lock_timeout": "select from annex.limits for update",
    "statement_timeout": "select pg_sleep(5)",
}


@pytest.mark.parametrize("setting", TIMEOUTS)
async def test_a_time_limit_of_the_database_is_a_503_that_says_when_to_come_back(
    setting: str, database: TestDatabase
) -> None:
    async with database.connect("postgres") as holder, database.connect("postgres") as waiting:
        async with holder.transaction():
            await holder.execute("lock table annex.limits")
            await waiting.execute(f"set {setting} = 50")
            with pytest.raises(asyncpg.PostgresError) as raised:
                await waiting.execute(TIMEOUTS[setting])
    problem = read(raised.value)
    assert (problem.status, problem.code) == (503, "unavailable")
    assert int(problem.headers["Retry-After"]) > 0


def test_every_time_limit_that_postgres_has_is_unavailable() -> None:
    kinds = [k for n, k in vars(asyncpg).items() if "Timeout" in n or n.startswith("LockNot")]
    assert len(kinds) >= 4
    assert {read(kind("late")).code for kind in [*kinds, asyncpg.QueryCanceledError]} == {
        "unavailable"
    }


async def test_a_row_that_another_holds_is_a_503_and_free_again_a_200(
    tenant: Tenant, database: TestDatabase
) -> None:
    client = tenant.owner.client
    async with database.connect("postgres") as holder:
        await holder.execute("begin")
        await holder.execute(
            "select from annex.workspaces where id = $1 for update", UUID(tenant.id)
        )
        answer = await client.patch(tenant.path, json={"name": "New"})
        await holder.execute("rollback")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await client.patch(tenant.path, json={"name": "New"})).status_code == 200


def test_a_recursion_of_ours_is_ours_and_one_of_a_body_the_callers() -> None:
    assert isinstance(read(RecursionError()), InternalError)
    assert isinstance(from_msgspec(RecursionError()), InvalidRequest)


async def test_a_failure_of_ours_is_logged_and_says_nothing(
    callers: Callers,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RecursionError("a secret")

    monkeypatch.setattr("app.database.reads.Read.page", fail)
    answer = await tenant.owner.client.get(f"{tenant.path}/events")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    written = capsys.readouterr()
    assert "RecursionError" in written.err + written.out
    assert "a secret" not in answer.text + written.err + written.out


NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/workspaces", b'{"name": ' + NESTED),
        ("events", b'{"type": "x", "data": ' + NESTED),
        ("events/batch", NESTED),
    ],
)
async def test_a_body_that_is_nested_too_deeply_is_refused(
    path: str, body: bytes, tenant: Tenant
) -> None:
    url = path if path.startswith("/") else f"{tenant.path}/{path}"
    headers = {"Content-Type": "application/json"}
    answer = await tenant.owner.client.post(url, content=body, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/workspaces"),
        ("PATCH", "/api/v1/workspaces/acme"),
        ("PATCH", "/api/v1/me"),
        ("POST", "/api/v1/stream/tickets"),
        ("POST", "/api/v1/workspaces/acme/events"),
        ("POST", "/api/v1/workspaces/acme/events/batch"),
        ("POST", "/api/v1/workspaces/acme/events/cloudevents"),
    ],
)
async def test_a_strangers_body_is_not_waited_for(
    method: str, path: str, database: TestDatabase
) -> None:
    kind = "cloudevents+json" if "cloudevents" in path else "json"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/{kind}\r\n"
        "Content-Length: 1000000\r\nIdempotency-Key: x\r\n"
    )
    async with running(database, body_seconds=5) as live:
        for credential in ("", "Authorization: Bearer annex_sk_wrong\r\n"):
            # 200 KB of 1 MB: whoever waits for the rest answers 408.
            sent = f"{head}{credential}\r\n".encode() + b" " * 200_000
            status, problem = await ask(live, sent)
            assert status == 401, problem


async def test_options_names_every_method_of_the_path(callers: Callers, tenant: Tenant) -> None:
    for path, methods in (
        ("/api/v1/workspaces", {"GET", "HEAD", "OPTIONS", "POST"}),
        (tenant.path, {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}),
        (f"{tenant.path}/events", {"GET", "HEAD", "OPTIONS", "POST"}),
    ):
        answer = await callers.client().options(path)
        assert answer.status_code == 204
        assert {m.strip() for m in answer.headers["allow"].split(",")} == methods


async def test_time_zones_are_known_where_the_system_has_none(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoneinfo

    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        user = await callers.user()
        answer = await user.client.patch("/api/v1/me", json={"time_zone": "Asia/Kathmandu"})
        assert answer.status_code == 200
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


LISTS = ['"0", "{v}"', 'W/"9" , "{v}"', ', "a,b", "{v}",', '"{v}"']


@pytest.mark.parametrize("tags", LISTS)
@pytest.mark.parametrize("is_split", [False, True])
async def test_if_match_takes_lists_also_over_several_lines(
    tags: str, is_split: bool, tenant: Tenant
) -> None:
    client = tenant.owner.client
    version = (await client.get(tenant.path)).json()["version"]
    value = tags.replace("{v}", str(version))
    lines = [value] if not is_split else ['"0"', value]
    headers = [("If-Match", line) for line in lines]
    answer = await client.patch(tenant.path, json={"name": "New"}, headers=headers)
    if value.startswith(","):
        assert answer.status_code in (200, 400)  # the contract's pattern has no empty members
    else:
        assert answer.status_code == 200
