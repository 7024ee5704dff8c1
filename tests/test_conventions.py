"""What holds for every operation: problems, ids, CORS, idempotency, rate limits, outages."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from app.auth.keys import Key
from app.dev.migrations import apply
from app.dev.postgres import THROWAWAY, EmbeddedPostgres
from app.http.limits import Limiter
from app.main import create_app
from tests.conftest import (
    MIGRATING_ROLE,
    ROOT,
    Callers,
    Running,
    Tenant,
    TestDatabase,
    execute,
    new_tenant,
    running,
)
from tests.factories import make_settings

WORKSPACES = "/api/v1/workspaces"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/api/v1/nowhere", {}, 404),
        ("GET", "/health/", {}, 404),
        ("GET", f"{WORKSPACES}/", {}, 404),
        ("POST", "/health", {"json": {}}, 405),
        ("DELETE", WORKSPACES, {}, 405),
        ("POST", WORKSPACES, {"content": b"{", "headers": JSON}, 400),
        ("POST", WORKSPACES, {"json": {"nonsense": 1}}, 400),
        ("GET", WORKSPACES, {"params": {"limit": "0"}}, 400),
        ("GET", WORKSPACES, {"params": {"cursor": "garbled"}}, 400),
        ("GET", "/api/v1/me", {"headers": {"If-None-Match": '"' * 201}}, 400),
        ("POST", WORKSPACES, {"content": b"a", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", WORKSPACES, {"content": b"a"}, 415),
        ("POST", WORKSPACES, {"json": {}, "headers": {"Content-Encoding": "gzip"}}, 415),
        ("PATCH", "/api/v1/me", {"data": {"a": "b"}}, 415),
        ("POST", WORKSPACES, {"content": b" " * 1_048_577, "headers": JSON}, 413),
        ("GET", WORKSPACES, {"headers": {"Authorization": ""}}, 401),
        ("GET", WORKSPACES, {"headers": {"Authorization": "Basic eDp5"}}, 401),
    ],
)
async def test_every_failure_is_a_problem(
    callers: Callers, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = await (await callers.user()).client.request(method, path, **options)
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert problem["type"] == f"/problems/{problem['code']}"
    assert problem["instance"] == path
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    assert isinstance(problem["errors"], list)
    assert response.headers["cache-control"] == "no-store"


async def test_a_body_without_a_length_is_limited_too(callers: Callers) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65_536

    client = (await callers.user()).client
    # Not our client: to validate it would read what is sent, too.
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers) as plain:
        response = await plain.post(WORKSPACES, content=chunks(), headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_a_stranger_sends_no_large_body() -> None:
    """What is parsed before anybody is known is small."""
    app = create_app(make_settings())
    handlers = {h for r in app.routes for h in getattr(r, "route_handlers", ())}
    public = {
        h
        for h in handlers
        if h.opt.get("permission") == "public" and h.http_methods & {"POST", "PUT", "PATCH"}
    }
    assert {h.operation_id for h in public} == {"unsubscribe"}
    assert {h.resolve_request_max_body_size() for h in public} == {1024}


@pytest.mark.parametrize(
    ("path", "allowed"), [("/health", {"GET", "HEAD"}), (WORKSPACES, {"GET", "HEAD", "POST"})]
)
async def test_a_405_names_the_methods_of_the_path(
    callers: Callers, path: str, allowed: set[str]
) -> None:
    response = await callers.client().request("DELETE", path)
    assert response.status_code == 405
    assert allowed <= {m.strip() for m in response.headers["allow"].split(",")}


@pytest.mark.parametrize("path", ["/health", "/openapi.yaml", WORKSPACES, "/nowhere"])
async def test_head_answers_as_get_without_a_body(callers: Callers, path: str) -> None:
    client = (await callers.user()).client
    # Not our client: it would miss the body that the contract names.
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers) as plain:
        head, get = await plain.head(path), await plain.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_an_unknown_query_parameter_is_ignored(callers: Callers) -> None:
    user = await callers.user()
    response = await user.client.get(WORKSPACES, params={"utm_source": "mail"})
    assert response.status_code == 200


async def test_a_sane_request_id_is_taken(callers: Callers) -> None:
    response = await callers.client().get("/health", headers={"X-Request-Id": "abc-1.2:3_4"})
    assert response.headers["x-request-id"] == "abc-1.2:3_4"


@pytest.mark.parametrize("given", ["", "x" * 101, "a b", 'a"b', "é", "a\tb"])
async def test_another_request_id_is_made_anew(callers: Callers, given: str) -> None:
    response = await callers.client().get(
        "/health", headers={b"X-Request-Id": given.encode("latin-1")}
    )
    assert len(response.headers["x-request-id"]) == 32


ORIGIN = "https://app.example.com"


@pytest.fixture
async def with_cors(database: TestDatabase) -> AsyncIterator[Callers]:
    """A server that one origin may call."""
    async with running(database, cors_origins=[ORIGIN]) as live:
        callers = Callers(live)
        yield callers
        await callers.close()


async def test_a_listed_origin_may_call_and_read_our_headers(with_cors: Callers) -> None:
    user = await with_cors.user()
    for client, path in ((user.client, WORKSPACES), (with_cors.client(), WORKSPACES)):
        response = await client.get(path, headers={"Origin": ORIGIN})
        assert response.headers["access-control-allow-origin"] == ORIGIN
        exposed = {
            h.strip().lower() for h in response.headers["access-control-expose-headers"].split(",")
        }
        assert {"etag", "link", "ratelimit", "ratelimit-policy", "x-request-id"} <= exposed
        assert "access-control-allow-credentials" not in response.headers


async def test_a_preflight_names_the_method_and_the_authorization_header(
    with_cors: Callers,
) -> None:
    # By name: to browsers, `*` does not stand for Authorization (Fetch, section 4.8).
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,if-match,content-type",
    }
    response = await with_cors.client().options(f"{WORKSPACES}/acme", headers=asked)
    assert response.status_code in (200, 204)
    assert "PATCH" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"].lower()


async def test_another_origin_may_not_call(with_cors: Callers) -> None:
    response = await with_cors.client().get("/health", headers={"Origin": "https://evil.example"})
    assert response.headers.get("access-control-allow-origin") in (None, ORIGIN)


BODY = {"name": "Once"}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_a_repeated_request_is_answered_and_not_done_again(callers: Callers) -> None:
    user = await callers.user()
    first, second = [
        await user.client.post(WORKSPACES, json=BODY, headers=keyed("k")) for _ in range(2)
    ]
    assert (second.status_code, second.json()) == (201, first.json())
    assert [second.headers[h] for h in ("etag", "location")] == [
        first.headers[h] for h in ("etag", "location")
    ]
    assert [r.headers.get("idempotent-replayed") for r in (first, second)] == [None, "true"]
    assert len((await user.client.get(WORKSPACES)).json()["data"]) == 1


async def test_a_quoted_key_is_the_same_as_a_raw_one(callers: Callers) -> None:
    user = await callers.user()
    for key, replayed in (('a"b', None), ('"a\\"b"', "true")):
        response = await user.client.post(WORKSPACES, json=BODY, headers=keyed(key))
        assert response.headers.get("idempotent-replayed") == replayed


async def test_the_key_of_another_body_is_refused(callers: Callers) -> None:
    user = await callers.user()
    await user.client.post(WORKSPACES, json=BODY, headers=keyed("k"))
    response = await user.client.post(WORKSPACES, json={"name": "Other"}, headers=keyed("k"))
    assert (response.status_code, response.json()["code"]) == (422, "key_reused")


@pytest.mark.parametrize("key", ['""', "x" * 256])
async def test_a_key_that_is_none_is_refused(callers: Callers, key: str) -> None:
    user = await callers.user()
    response = await user.client.post(WORKSPACES, json=BODY, headers=keyed(key))
    assert response.status_code == 400


async def test_a_failed_request_may_be_sent_again_with_its_key(
    callers: Callers, tenant: Tenant
) -> None:
    user = await callers.user()
    body = {"name": "x", "slug": tenant.slug}
    assert (await user.client.post(WORKSPACES, json=body, headers=keyed("k"))).status_code == 409
    await tenant.owner.client.delete(tenant.path)
    assert (await user.client.post(WORKSPACES, json=body, headers=keyed("k"))).status_code == 201


async def test_keys_are_per_caller_and_route(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    events = [
        (tenant.owner, f"{tenant.path}/events"),
        (await callers.key(tenant.id, "events:publish"), f"{tenant.path}/events"),
        (other.owner, f"{other.path}/events"),
    ]
    for caller, path in events:
        response = await caller.client.post(path, json={"type": "x"}, headers=keyed("k"))
        assert (response.status_code, "idempotent-replayed" in response.headers) == (201, False)


async def test_a_workspace_by_its_slug_is_the_same_route(tenant: Tenant) -> None:
    answers = [
        await tenant.owner.client.post(
            f"/api/v1/workspaces/{name}/events", json={"type": "x"}, headers=keyed("k")
        )
        for name in (tenant.slug, tenant.id, tenant.id.upper())
    ]
    assert ["idempotent-replayed" in a.headers for a in answers] == [False, True, True]
    assert len({a.json()["id"] for a in answers}) == 1


@pytest.mark.parametrize("slug", ["api", "v1", "workspaces"])
async def test_a_slug_that_is_a_part_of_every_path_is_the_same_route(
    callers: Callers, slug: str
) -> None:
    tenant = await new_tenant(callers, slug=slug)
    answers = [
        await tenant.owner.client.post(
            f"/api/v1/workspaces/{name}/events", json={"type": "x"}, headers=keyed("k")
        )
        for name in (tenant.slug, tenant.id)
    ]
    assert len({a.json()["id"] for a in answers}) == 1
    await tenant.owner.client.delete(tenant.path)


async def test_a_key_can_be_used_again_when_its_day_is_over(callers: Callers) -> None:
    user = await callers.user()
    first = await user.client.post(WORKSPACES, json=BODY, headers=keyed("k"))
    async with callers.server.database.connect("postgres") as admin:
        await admin.execute(
            "update annex.idempotency_keys set expires_at = now() where principal = $1",
            f"user:{user.user_id}",
        )
    second = await user.client.post(WORKSPACES, json={"name": "Other"}, headers=keyed("k"))
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]


async def test_while_the_first_still_runs_the_second_is_a_conflict(callers: Callers) -> None:
    user = await callers.user()
    slug = f"held-{uuid4().hex[:8]}"
    body = {"name": "x", "slug": slug}
    async with callers.server.database.connect("postgres") as admin:
        held = admin.transaction()
        await held.start()
        # An uncommitted row with the same slug makes the first request wait.
        await admin.execute("insert into annex.workspaces (name, slug) values ('x', $1)", slug)
        first = asyncio.create_task(user.client.post(WORKSPACES, json=body, headers=keyed("k")))
        async with callers.server.database.connect("postgres") as watcher, asyncio.timeout(5):
            while not await watcher.fetchval(
                "select exists (select from pg_stat_activity where wait_event_type = 'Lock'"
                " and datname = current_database())"
            ):
                await asyncio.sleep(0.01)
        second = await user.client.post(WORKSPACES, json=body, headers=keyed("k"))
        await held.rollback()
    assert (second.status_code, second.json()["code"]) == (409, "request_in_progress")
    assert (await first).status_code == 201


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def limited(server: Running, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Two requests a caller in ten seconds, by a clock of the test's own."""
    clock = Clock()
    few = make_settings(rate_limit_requests=2, rate_limit_window_seconds=10)
    limiter = Limiter(few, clock)
    runtime = msgspec.structs.replace(server.app.runtime, limiter=limiter)
    monkeypatch.setattr(server.app, "runtime", runtime)
    return clock


async def test_too_many_requests_are_refused_until_the_bucket_refills(
    callers: Callers, limited: Clock
) -> None:
    user, other = await callers.user(), await callers.user()
    answers = [await user.client.get(WORKSPACES) for _ in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert [a.headers["ratelimit"] for a in answers] == [
        '"default";r=1;t=5',
        '"default";r=0;t=10',
        '"default";r=0;t=10',
    ]
    assert {a.headers["ratelimit-policy"] for a in answers} == {'"default";q=2;w=10'}
    assert answers[2].headers["retry-after"] == "5"
    assert (await other.client.get(WORKSPACES)).status_code == 200
    limited.now += 5
    answers = [await user.client.get(WORKSPACES) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 429]


async def test_an_unexpected_failure_is_logged_and_not_told(
    own_database: TestDatabase, log: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database) as live:
        live.app.runtime = msgspec.structs.replace(live.app.runtime, tokens=None)
        callers = Callers(live)
        user = await callers.user()
        response = await user.client.get(WORKSPACES, headers={"X-Request-Id": "find-me"})
        await callers.close()
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "NoneType" not in response.text
    written = log.readouterr().err
    assert "AttributeError" in written
    assert "find-me" in written


async def test_no_secret_is_logged(
    own_database: TestDatabase, log: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database, log_level="debug") as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        key = Key.make("sk")
        forged, ticket = callers.client(str(key)), "a-ticket-that-nobody-should-read"
        await forged.get(tenant.path)
        await callers.client().get(f"{tenant.path}/stream", params={"ticket": ticket})
        await callers.close()
        token = tenant.owner.client.headers["authorization"].split()[1]
    written = log.readouterr().err
    assert f"{tenant.path}/stream" in written
    for secret in (key.secret, ticket, token, token.split(".")[2]):
        assert secret not in written


async def test_a_violation_at_the_commit_is_an_error_and_no_201(
    own_database: TestDatabase,
) -> None:
    async with own_database.connect("postgres") as admin:
        await admin.execute("""
            create function annex.refuse() returns trigger language plpgsql as $$ begin
              raise exception 'late' using errcode = 'unique_violation',
                constraint = 'workspaces_slug_key';
            end $$;
            create constraint trigger late after insert on annex.workspaces
              deferrable initially deferred for each row execute function annex.refuse();
            """)
    async with running(own_database) as live:
        callers = Callers(live)
        user = await callers.user()
        response = await user.client.post(WORKSPACES, json=BODY)
        listed = await user.client.get(WORKSPACES)
        await callers.close()
    assert (response.status_code, response.json()["code"]) == (409, "slug_taken")
    assert listed.json()["data"] == []


async def test_an_outage_is_503_and_the_end_of_it_needs_no_restart(worker_id: str) -> None:
    folder: Path = ROOT / ".data" / f"outage-{worker_id}-{uuid4().hex[:6]}"
    server = EmbeddedPostgres(folder, settings=THROWAWAY)
    server.start()
    try:
        await execute(server.admin_url, (ROOT / "supabase/local/platform.sql").read_text())
        await apply(server.admin_url, ROOT / "supabase" / "migrations", MIGRATING_ROLE)
        database = TestDatabase(server, "postgres")
        async with running(database) as live:
            callers = Callers(live)
            user = await callers.user()
            assert (await user.client.get(WORKSPACES)).status_code == 200
            server.stop()
            down = [await user.client.get(p) for p in (WORKSPACES, "/health/ready")]
            assert [(d.status_code, d.json()["code"]) for d in down] == [(503, "unavailable")] * 2
            assert (await user.client.get("/health")).status_code == 200
            server.start()
            assert (await user.client.get(WORKSPACES)).status_code == 200
            async with asyncio.timeout(10):
                while (await user.client.get("/health/ready")).is_error:
                    await asyncio.sleep(0.05)
            await callers.close()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_query_that_is_no_utf_8_is_no_failure(callers: Callers) -> None:
    user = await callers.user()
    answer = await user.client.get(f"{WORKSPACES}?a=%F1%8E&%C3%95=b&limit=2")
    assert answer.status_code == 200
    answer = await user.client.get(f"{WORKSPACES}?%F1=1&limit=2&limit=3")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
