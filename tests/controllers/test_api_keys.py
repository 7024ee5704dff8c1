import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import msgspec
import pytest

from app.auth.keys import Key
from app.http.addresses import Addresses, is_within, read_address
from tests.conftest import SECRETS, Caller, Callers, Tenant, add_member, new_tenant, running

READ = "workspace:read"
VERIFY, TOKEN = "/api/v1/api-keys/verify", "/api/v1/api-keys/token"


def keys_of(tenant: Tenant) -> str:
    return f"{tenant.path}/api-keys"


async def create(caller: Caller, tenant: Tenant, *permissions: str, **more: Any) -> Any:
    """Make a key; returns the answer's body."""
    body = {"name": "CI", "permissions": [READ, *permissions], **more}
    answer = await caller.client.post(keys_of(tenant), json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def refusal(caller: Caller, tenant: Tenant, **body: Any) -> tuple[int, str]:
    answer = await caller.client.post(
        keys_of(tenant), json={"name": "CI", "permissions": [READ], **body}
    )
    return answer.status_code, answer.json().get("code")


def using(callers: Callers, made: Any) -> Caller:
    """Make a client that sends a key that was made."""
    return Caller(callers.client(made["secret"]), None, None, {"sub": made["id"]})


async def works(caller: Caller, tenant: Tenant) -> bool:
    answer = await caller.client.get(tenant.path)
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


async def test_a_key_is_made_shown_once_and_used(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant, "events:publish", metadata={"team": "ci"})
    assert made["created_by"] == f"user:{tenant.owner.user_id}"
    assert made["secret"].startswith(f"annex_sk_{made['prefix']}")
    key = using(callers, made)
    event = {"type": "build.done"}
    assert (await key.client.post(f"{tenant.path}/events", json=event)).status_code == 201
    listed = await tenant.owner.client.get(keys_of(tenant))
    assert made["secret"] not in listed.text
    [shown] = listed.json()["data"]
    assert shown["last_used_at"] is not None
    assert {**shown, "last_used_at": None, "secret": made["secret"]} == made


async def test_a_key_outlives_its_maker(callers: Callers, tenant: Tenant) -> None:
    admin = await add_member(callers, tenant, "admin")
    key = using(callers, await create(admin, tenant))
    await tenant.owner.client.delete(f"{tenant.path}/members/{admin.user_id}")
    async with callers.server.database.admin() as superuser:
        await superuser.execute("delete from auth.users where id = $1", admin.user_id)
    assert await works(key, tenant)


async def test_a_repeated_request_makes_one_key_and_never_tells_its_secret_again(
    callers: Callers, tenant: Tenant
) -> None:
    body = {"name": "CI", "permissions": [READ]}
    headers = {"Idempotency-Key": "k"}
    first, again = [
        await tenant.owner.client.post(keys_of(tenant), json=body, headers=headers)
        for _ in range(2)
    ]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == {**first.json(), "secret": None}
    assert len((await tenant.owner.client.get(keys_of(tenant))).json()["data"]) == 1
    path = f"{keys_of(tenant)}/{first.json()['id']}/rotate"
    first, again = [
        await tenant.owner.client.post(path, json={}, headers=headers) for _ in range(2)
    ]
    assert again.json() == {**first.json(), "secret": None}


async def test_no_issued_secret_is_anywhere_in_the_database(
    callers: Callers, tenant: Tenant
) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"name": "CI", "permissions": [READ]}
    made = (await tenant.owner.client.post(keys_of(tenant), json=body, headers=headers)).json()
    rotated = await tenant.owner.client.post(f"{keys_of(tenant)}/{made['id']}/rotate", json={})
    secrets = [made["secret"], rotated.json()["secret"]]
    client = callers.client(secrets[1])
    token = (await client.post(TOKEN, json={})).json()["access_token"]
    await tenant.owner.client.post(VERIFY, json={"key": secrets[1]})
    async with callers.server.database.admin() as admin:
        tables = await admin.fetch(
            "select c.oid::regclass::text from pg_class c"
            " where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p')"
        )
        dump = ""
        for (table,) in tables:
            rows = await admin.fetch(f"select t::text as row from {table} t")
            dump += "\n".join(row["row"] for row in rows)
            bodies = ["body"] if table == "annex.idempotency_keys" else []
            for column in bodies:
                found = await admin.fetch(f"select {column} from {table}")
                dump += "\n".join(row[0].decode() for row in found)
    assert made["prefix"] in dump
    for secret in (*secrets, token):
        assert secret not in dump
        assert secret[-38:] not in dump
    events = await tenant.owner.client.get(f"{tenant.path}/events", params={"limit": 100})
    hashes = [Key.read(s).hash.hex() for s in secrets]
    assert made["id"] in events.text
    assert not any(text in events.text for text in (*secrets, *hashes, "secret_hash"))
    for stolen in (*hashes, made["prefix"], made["id"]):
        answer = await callers.client(stolen).get(tenant.path)
        assert answer.status_code == 401


def test_scanners_recognise_a_key_and_nothing_else() -> None:
    pattern = re.compile(r"annex_(sk|op)_[0-9A-Za-z]{50}")
    for _ in range(1000):
        key = str(Key.make("sk"))
        assert pattern.fullmatch(key)
        assert str(Key.read(key)) == key
    assert not pattern.search(str(uuid4()))
    assert not pattern.search(jwt.encode({"a": 1}, "x" * 32))


@pytest.mark.parametrize(
    "body",
    [
        {"permissions": []},
        {"permissions": ["all"]},
        {"name": ""},
        {"allowed_addresses": ["nowhere"]},
        {"allowed_addresses": ["fe80::1%eth0"]},
        {"allowed_addresses": ["fe80::%1/64"]},
        {"allowed_addresses": ["10.0.0.0/33"]},
        {"allowed_addresses": ["10.0.0.1"] * 51},
        {"rate_limit_per_minute": 0},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2099-01-01T00:00:00"},
        {"metadata": {"a": "x" * 16_384}},
        {"grantable": ["nosuch"]},
        {"user_id": str(uuid4())},
        {"created_by": "system"},
        {"workspace_id": str(uuid4())},
        {"secret_hash": "00"},
        {"prefix": "0" * 12},
    ],
)
async def test_a_key_that_is_none_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    status, code = await refusal(tenant.owner, tenant, **body)
    assert (status, code in ("invalid_request", "unknown_role")) == (400, True)


def later(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


async def test_a_key_makes_none_above_itself(callers: Callers, tenant: Tenant) -> None:
    maker = await callers.key(
        tenant.id,
        READ,
        "keys:manage",
        grantable=["viewer"],
        expires_at=datetime.now(UTC) + timedelta(hours=1),
        allowed_addresses=["127.0.0.0/8", "::1"],
        rate_limit_per_minute=100_000,
    )
    within: dict[str, Any] = {
        "expires_at": later(minutes=30),
        "allowed_addresses": ["127.0.0.1"],
        "rate_limit_per_minute": 10,
    }
    wider_ones: list[dict[str, Any]] = [
        {"permissions": [READ, "events:publish"]},
        {"grantable": ["owner"]},
        {"grantable": ["*"]},
        {"grantable": ["viewer"]},  # it lacks what a viewer holds
        {"expires_at": later(hours=2)},
        {"expires_at": None},
        {"allowed_addresses": ["0.0.0.0/0"]},
        {"allowed_addresses": []},
        {"rate_limit_per_minute": None},
        {"rate_limit_per_minute": 100_001},
    ]
    for wider in wider_ones:
        answer = await refusal(maker, tenant, **{**within, **wider})
        assert answer == (403, "not_grantable"), wider
    assert (await refusal(maker, tenant, **within))[0] == 201


async def test_a_stronger_key_is_not_rotated(callers: Callers, tenant: Tenant) -> None:
    strong = await create(tenant.owner, tenant, "workspace:delete")
    admin = await add_member(callers, tenant, "admin")
    path = f"{keys_of(tenant)}/{strong['id']}"
    answer = await admin.client.post(f"{path}/rotate", json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_grantable")
    # To end one is never an escalation.
    assert (await admin.client.delete(path)).status_code == 204


async def test_a_rotated_key_lives_on_for_the_overlap(callers: Callers, tenant: Tenant) -> None:
    first = await create(tenant.owner, tenant, metadata={"a": 1}, allowed_addresses=["127.0.0.1"])
    path = f"{keys_of(tenant)}/{first['id']}/rotate"
    second = (await tenant.owner.client.post(path, json={"overlap_seconds": 60})).json()
    kept = ("name", "permissions", "grantable", "metadata", "allowed_addresses")
    assert [first[k] for k in kept] == [second[k] for k in kept]
    assert second["id"] != first["id"]
    assert await works(using(callers, first), tenant)
    assert await works(using(callers, second), tenant)
    old = (await tenant.owner.client.get(keys_of(tenant))).json()["data"][1]
    assert old["replaced_by"] == second["id"]
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    again = await tenant.owner.client.post(path, json={})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.api_keys set expires_at = now() where id = $1", first["id"]
        )
    assert not await works(using(callers, first), tenant)
    assert await works(using(callers, second), tenant)


async def test_at_most_two_keys_of_a_line_live(callers: Callers, tenant: Tenant) -> None:
    line = [await create(tenant.owner, tenant)]
    for _ in range(2):
        path = f"{keys_of(tenant)}/{line[-1]['id']}/rotate"
        line.append((await tenant.owner.client.post(path, json={})).json())
    assert [await works(using(callers, k), tenant) for k in line] == [False, True, True]
    await tenant.owner.client.delete(f"{keys_of(tenant)}/{line[-1]['id']}")
    assert [await works(using(callers, k), tenant) for k in line] == [False, False, False]


async def test_no_overlap_ends_the_old_key_at_once(callers: Callers, tenant: Tenant) -> None:
    first = await create(tenant.owner, tenant)
    path = f"{keys_of(tenant)}/{first['id']}/rotate"
    second = (await tenant.owner.client.post(path, json={"overlap_seconds": 0})).json()
    assert [await works(using(callers, k), tenant) for k in (first, second)] == [False, True]


@pytest.mark.parametrize("overlap", [-1, 604_801, 1e400, "60", 0.5, True])
async def test_an_overlap_that_is_none_is_refused(tenant: Tenant, overlap: Any) -> None:
    made = await create(tenant.owner, tenant)
    content = msgspec.json.encode({"overlap_seconds": overlap})
    if overlap == 1e400:
        content = b'{"overlap_seconds": 1e400}'
    answer = await tenant.owner.client.post(
        f"{keys_of(tenant)}/{made['id']}/rotate",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400


async def test_a_new_key_lives_as_long_as_the_old_was_made_to(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant, expires_at=later(days=30))
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.api_keys set created_at = created_at - interval '29 days',"
            " expires_at = expires_at - interval '29 days' where id = $1",
            made["id"],
        )
    path = f"{keys_of(tenant)}/{made['id']}/rotate"
    new = (await tenant.owner.client.post(path, json={})).json()
    left = datetime.fromisoformat(new["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


async def test_two_rotations_at_once_make_one_key(callers: Callers, tenant: Tenant) -> None:
    for _ in range(5):
        made = await create(tenant.owner, tenant)
        path = f"{keys_of(tenant)}/{made['id']}/rotate"
        answers = await asyncio.gather(*(tenant.owner.client.post(path, json={}) for _ in range(4)))
        assert sorted(a.status_code for a in answers) == [201, 409, 409, 409]


async def test_a_key_in_use_is_rotated_without_a_refusal(callers: Callers, tenant: Tenant) -> None:
    first = await create(tenant.owner, tenant)
    old = using(callers, first)
    is_over = False

    async def keep_asking() -> int:
        asked = 0
        while not is_over:
            assert (await old.client.get(tenant.path)).status_code == 200
            asked += 1
        return asked

    asking = asyncio.gather(*(keep_asking() for _ in range(3)))
    path = f"{keys_of(tenant)}/{first['id']}/rotate"
    second = using(callers, (await tenant.owner.client.post(path, json={})).json())
    assert await works(second, tenant)
    is_over = True
    assert sum(await asking) > 0


@pytest.mark.parametrize("is_exchanged", [False, True])
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("revoked_at = now()", 401),
        ("expires_at = now()", 401),
        ("allowed_addresses = '{203.0.113.7}'", 403),
        ("permissions = '{keys:read}'", 403),
    ],
)
async def test_what_a_key_loses_it_loses_at_once_everywhere(
    callers: Callers, tenant: Tenant, change: str, status: int, is_exchanged: bool
) -> None:
    made = await create(tenant.owner, tenant)
    key = using(callers, made)
    if is_exchanged:
        key = await exchange(callers, key)
    async with running(callers.server.database) as other:
        elsewhere = Callers(other)
        same = elsewhere.client(key.client.headers["authorization"].split()[1])
        for client in (key.client, same):
            assert (await client.get(tenant.path)).status_code == 200
        async with callers.server.database.admin() as admin:
            await admin.execute(f"update annex.api_keys set {change} where id = $1", made["id"])
        for client in (key.client, same):
            assert (await client.get(tenant.path)).status_code == status
        await elsewhere.close()


async def test_a_key_of_a_deleted_workspace_is_refused(callers: Callers, tenant: Tenant) -> None:
    key = using(callers, await create(tenant.owner, tenant))
    token = await exchange(callers, key)
    await tenant.owner.client.delete(tenant.path)
    for caller in (key, token):
        assert (await caller.client.get(tenant.path)).status_code == 401


async def exchange(callers: Callers, key: Caller, **body: Any) -> Caller:
    """Exchange a key for a token."""
    answer = await key.client.post(TOKEN, json=body)
    assert answer.status_code == 201, answer.text
    return key._replace(client=callers.client(answer.json()["access_token"]))


async def test_a_token_names_the_key_and_holds_no_permission(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant, "events:publish")
    answer = await using(callers, made).client.post(TOKEN, json={"ttl_seconds": 60})
    token = answer.json()["access_token"]
    assert SECRETS.signing_key is not None
    public = jwt.PyJWK(msgspec.json.decode(SECRETS.signing_key))
    assert jwt.get_unverified_header(token)["kid"] == public.key_id
    claims = jwt.decode(token, public, ["ES256"], audience="authenticated")
    assert claims["role"] == "authenticated"
    assert claims["sub"] == claims["annex_key"]["id"] == made["id"]
    assert claims["exp"] - claims["iat"] == 60
    assert "events:publish" not in str(claims)


async def test_a_token_never_outlives_its_key(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant, expires_at=later(seconds=90))
    answer = await using(callers, made).client.post(TOKEN, json={"ttl_seconds": 3600})
    ends = datetime.fromisoformat(answer.json()["expires_at"])
    assert ends <= datetime.fromisoformat(made["expires_at"])


async def test_a_token_is_not_exchanged_again(callers: Callers, tenant: Tenant) -> None:
    token = await exchange(callers, using(callers, await create(tenant.owner, tenant)))
    for caller in (token, tenant.owner, callers.operator()):
        answer = await caller.client.post(TOKEN, json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "key_required")


async def test_what_a_token_does_is_the_keys_doing(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant, "events:publish", "events:read")
    token = await exchange(callers, using(callers, made))
    event = (await token.client.post(f"{tenant.path}/events", json={"type": "x"})).json()
    shown = (await token.client.get(f"{tenant.path}/events/{event['id']}")).json()
    assert shown["principal"] == shown["actor"] == f"api_key:{made['id']}"


async def test_without_a_signing_key_nothing_is_signed(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant)
    async with running(callers.server.database, signing_key=None) as live:
        others = Callers(live)
        answer = await others.client(made["secret"]).post(TOKEN, json={})
        await others.close()
    assert (answer.status_code, answer.json()["code"]) == (501, "not_configured")


def forged(server: Any, key: Any, **claims: Any) -> Iterator[str]:
    """Make tokens that look like an exchanged one, and are none."""
    assert SECRETS.signing_key is not None
    ours = msgspec.json.decode(SECRETS.signing_key)
    whole = {
        "role": "authenticated",
        "aud": "authenticated",
        "iss": server.settings.issuer,
        "sub": key["id"],
        "exp": 4_000_000_000,
        "annex_key": {"id": key["id"], "prefix": key["prefix"], "workspace_id": str(uuid4())},
        **claims,
    }
    yield jwt.encode(whole, "another secret of thirty-two characters", "HS256")
    yield jwt.encode(whole, "", "none")
    private = jwt.PyJWK(ours).key
    other = str(uuid4())
    for change in (
        {"annex_key": {**whole["annex_key"], "id": other}},
        {"sub": other},
        {"annex_key": {**whole["annex_key"], "prefix": "0" * 12}},
        {"annex_key": {"id": key["id"]}},
        {"annex_key": key["id"]},
        {"annex_key": None},
        {"role": "service_role"},
        {"role": "anon"},
        {"aud": "other"},
        {"exp": 1},
        {"exp": 10**400},
        {"iss": "https://elsewhere.example"},
        {"sub": other, "annex_key": {**whole["annex_key"], "id": other}},
    ):
        yield jwt.encode({**whole, **change}, private, "ES256", {"kid": ours["kid"]})
    yield jwt.encode(whole, private, "ES256", headers={"kid": "other"})


async def test_a_token_that_is_none_is_refused(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant)
    for n, token in enumerate(forged(callers.server, made)):
        answer = await callers.client(token).get(tenant.path)
        assert answer.status_code == 401, (n, answer.text)


async def test_a_credential_of_one_kind_is_not_taken_for_another(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant, "events:read")
    key = using(callers, made)
    path = f"{tenant.path}/stream"
    body = {"path": path}
    ticket = (await key.client.post("/api/v1/stream/tickets", json=body)).json()["ticket"]
    token = (await key.client.post(TOKEN, json={})).json()["access_token"]
    assert (await callers.client(ticket).get(tenant.path)).status_code == 401
    for other in (token, made["secret"]):
        answer = await callers.client().get(path, params={"ticket": other})
        assert "invalid_ticket" in answer.text


async def verdict(caller: Caller, key: str, **more: Any) -> tuple[bool, str]:
    answer = await caller.client.post(VERIFY, json={"key": key, **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert key not in answer.text
    assert (body["key"] is None) == (body["workspace_id"] is None) == (body["reason"] == "unknown")
    return body["is_valid"], body["reason"]


async def test_a_key_is_verified_for_who_may_read_it(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant, allowed_addresses=["203.0.113.0/24"])
    secret, other = made["secret"], (await new_tenant(callers)).owner
    server = await callers.key(tenant.id, "keys:read")
    blind = await callers.key(tenant.id, READ)
    for caller in (tenant.owner, server, callers.operator()):
        assert await verdict(caller, secret) == (True, "valid")
    for caller in (other, blind, await add_member(callers, tenant, "viewer")):
        assert await verdict(caller, secret) == (False, "unknown")
    for text in ("x", str(Key.make("sk")), secret[:-1] + "0", SECRETS.operator_key):
        assert await verdict(tenant.owner, text) == (False, "unknown")
    right = Key.read(secret)
    assert await verdict(server, str(Key("sk", right.prefix, "0" * 32))) == (False, "unknown")
    for more, expected in (
        ({"permission": READ}, "valid"),
        ({"permission": "events:publish"}, "missing_permission"),
        ({"address": "203.0.113.7"}, "valid"),
        ({"address": "198.51.100.1"}, "address_not_allowed"),
        ({"address": "garbage"}, "address_not_allowed"),
    ):
        assert (await verdict(server, secret, **more))[1] == expected
    await tenant.owner.client.delete(f"{keys_of(tenant)}/{made['id']}")
    assert await verdict(server, secret) == (False, "revoked")


async def test_a_verdict_says_that_a_key_has_expired(callers: Callers, tenant: Tenant) -> None:
    made = await create(tenant.owner, tenant, rate_limit_per_minute=2)
    verdicts = [await verdict(tenant.owner, made["secret"]) for _ in range(3)]
    assert verdicts == [(True, "valid"), (True, "valid"), (False, "rate_limited")]
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.api_keys set expires_at = now() where id = $1", made["id"]
        )
    assert await verdict(tenant.owner, made["secret"]) == (False, "expired")


async def test_a_keys_own_rate_limit_holds_beside_everybodys(
    callers: Callers, tenant: Tenant
) -> None:
    key = using(callers, await create(tenant.owner, tenant, rate_limit_per_minute=3))
    token = await exchange(callers, key)
    answers = [await c.client.get(tenant.path) for c in (key, token, key)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"key";q=3;w=60'
    assert int(answers[2].headers["retry-after"]) <= 20


async def test_a_use_is_noted_once_a_minute_and_is_no_change(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant)
    key = using(callers, made)
    row = "select last_used_at, version from annex.api_keys where id = $1"
    async with callers.server.database.admin() as admin:
        assert await works(key, tenant)
        first = await admin.fetchrow(row, made["id"])
        assert await works(key, tenant)
        assert await admin.fetchrow(row, made["id"]) == first
        await admin.execute(
            "update annex.api_keys set last_used_at = now() - interval '61 seconds' where id = $1",
            made["id"],
        )
        await asyncio.gather(*(works(key, tenant) for _ in range(10)))
        second = await admin.fetchrow(row, made["id"])
    assert first is not None
    assert second is not None
    assert second["last_used_at"] > first["last_used_at"]
    assert second["version"] == 1
    topic = {"topics": f"api_key:{made['id']}"}
    events = (await tenant.owner.client.get(f"{tenant.path}/events", params=topic)).json()["data"]
    assert [e["type"] for e in events] == ["annex.api_key.created"]


async def test_two_authorization_headers_are_one_too_many(callers: Callers, tenant: Tenant) -> None:
    other = (await new_tenant(callers)).owner
    mine = tenant.owner.client.headers["authorization"]
    both = [("Authorization", mine), ("Authorization", other.client.headers["authorization"])]
    request = callers.client().build_request("GET", tenant.path, headers=both)
    answer = await callers.client().send(request)
    assert answer.status_code == 400


async def test_an_address_is_the_clients_and_not_what_it_says(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant, allowed_addresses=["203.0.113.7"])
    key = using(callers, made)
    for headers in (
        {},
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Real-IP": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
    ):
        answer = await key.client.get(tenant.path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "address_not_allowed")
    async with running(callers.server.database, trusted_proxies=["127.0.0.1"]) as live:
        behind = Callers(live)
        client = behind.client(made["secret"])
        for forwarded, status in (
            ("203.0.113.7", 200),
            ("198.51.100.1, 203.0.113.7", 200),
            ("[::ffff:203.0.113.7]:443", 200),
            ("203.0.113.7:1234", 200),
            ("203.0.113.7, 198.51.100.1", 403),
            ("203.0.113.7, unknown", 403),
            ("", 403),
        ):
            answer = await client.get(tenant.path, headers={"X-Forwarded-For": forwarded})
            assert answer.status_code == status, forwarded
        await behind.close()


def test_a_client_without_an_address_is_in_no_block() -> None:
    assert Addresses().client({"client": None}) is None
    assert not is_within(None, ["0.0.0.0/0"])
    assert is_within(None, [])
    assert not is_within(read_address("2001:db8::1"), ["0.0.0.0/0"])
    assert is_within(read_address("::ffff:192.0.2.1"), ["192.0.2.0/24"])


MANY = """
insert into annex.api_keys (workspace_id, name, prefix, secret_hash, permissions, revoked_at)
select $1, 'CI', left(replace(gen_random_uuid()::text, '-', ''), 12),
  decode(repeat('00', 32), 'hex'), '{}', now()
from generate_series(1, $2)
"""


async def test_revoking_makes_no_room_for_more_than_a_days_keys(
    callers: Callers, tenant: Tenant
) -> None:
    async with callers.server.database.admin() as admin:
        await admin.execute(MANY, UUID(tenant.id), 999)
    made = await create(tenant.owner, tenant)
    assert await refusal(tenant.owner, tenant) == (409, "limit_reached")
    rotated = await tenant.owner.client.post(f"{keys_of(tenant)}/{made['id']}/rotate", json={})
    assert (rotated.status_code, rotated.json()["code"]) == (409, "limit_reached")


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00"])
async def test_an_end_beyond_the_calendar_is_refused(
    callers: Callers, tenant: Tenant, end: str
) -> None:
    assert await refusal(tenant.owner, tenant, expires_at=end) == (400, "invalid_request")
    made = await create(tenant.owner, tenant)
    rotated = await tenant.owner.client.post(
        f"{keys_of(tenant)}/{made['id']}/rotate", json={"expires_at": end}
    )
    assert (rotated.status_code, rotated.json()["code"]) == (400, "invalid_request")


async def test_a_key_that_ends_with_the_calendar_is_rotated(
    callers: Callers, tenant: Tenant
) -> None:
    made = await create(tenant.owner, tenant, expires_at="9999-12-31T23:59:59Z")
    rotated = await tenant.owner.client.post(f"{keys_of(tenant)}/{made['id']}/rotate", json={})
    assert (rotated.status_code, rotated.json()["expires_at"]) == (201, "9999-12-31T23:59:59Z")
