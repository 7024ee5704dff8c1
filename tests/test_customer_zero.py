"""An organization from its first invitation to its founder's leave, with the log of every step."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
import pytest

from app.setting_values import read_signing_key
from tests.conftest import (
    MIGRATING_ROLE,
    ROOT,
    SECRETS,
    Caller,
    Callers,
    Client,
    TestDatabase,
    encode,
    running,
)
from tests.database.conftest import postgrest
from tests.guides.blocks import blocks
from tests.realtime.reader import calling, follow, problem_of

PAGE = list(blocks("docs/teams.md", (ROOT / "docs" / "teams.md").read_text()))
[BUNDLES] = [block.code for block in PAGE if block.language == "sql"]
ACME = "/api/v1/workspaces/acme"
RESPOND, TOKEN = "/api/v1/invitations/respond", "/api/v1/api-keys/token"
OFFICE, RUNNER, ELSEWHERE = "198.51.100.7", "2001:db8::7", "203.0.113.9"
UPLOAD = "insert into public.bundles (workspace_id, version) values ($1, $2)"


class Logged(NamedTuple):
    """What an event says of a step: what happened, to whom, and who did it."""

    type: str
    subject: str | None
    principal: str


async def person(callers: Callers, email: str, **fields: Any) -> Caller:
    """Sign a user up, who comes from the office's address."""
    caller = await callers.user(email=email, **fields)
    caller.client.headers["X-Forwarded-For"] = OFFICE
    return caller


def name_of(caller: Caller) -> str:
    """Return the name of a user in the log."""
    return f"user:{caller.user_id}"


async def ask(client: Client, method: str, path: str, body: Any = None) -> Any:
    """Ask for something that has to work; returns the answer."""
    answer = await client.request(method, path, json=body)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def refusal(client: Client, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Ask for something that has to be refused; returns status and code."""
    answer = await client.request(method, path, json=body)
    assert answer.is_error, answer.text
    return answer.status_code, answer.json()["code"]


class Log:
    """Reads what has been logged since it was last asked, as a member who may see all of it."""

    def __init__(self, reader: Caller) -> None:
        self.reader = reader
        self.seen = list[dict[str, Any]]()

    async def since(self) -> list[dict[str, Any]]:
        """Return the new events, oldest first."""
        page = await ask(self.reader.client, "GET", f"{ACME}/events?limit=100")
        known = {event["id"] for event in self.seen}
        new = [e for e in reversed(page["data"]) if e["id"] not in known]
        self.seen += new
        return new

    async def expect(self, *expected: tuple[str, str | None, str]) -> list[dict[str, Any]]:
        """Hold the new events to what a step should have logged; returns them."""
        new = await self.since()
        assert [Logged(e["type"], e["subject"], e["principal"]) for e in new] == [*expected]
        return new


class CI:
    """Uploads bundles through PostgREST, with the token that a key is exchanged for."""

    def __init__(self, database: TestDatabase, workspace_id: str, client: Client) -> None:
        self.database = database
        self.workspace_id = UUID(workspace_id)
        self.client = client
        self.versions = list[str]()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator["asyncpg.Connection[Any]"]:
        """Exchange the key; then do as PostgREST: verify the token, and act by its claims."""
        assert SECRETS.signing_key is not None
        token = (await ask(self.client, "POST", TOKEN, {}))["access_token"]
        public = read_signing_key(SECRETS.signing_key)
        claims = jwt.decode(token, public, ["ES256"], audience="authenticated")
        assert "permissions" not in encode(claims)
        async with postgrest(self.database, claims, claims["role"]) as connection:
            yield connection

    async def upload(self) -> None:
        """Upload the next version."""
        version = f"1.0.{len(self.versions)}"
        async with self.session() as connection:
            await connection.execute(UPLOAD, self.workspace_id, version)
        self.versions.append(version)


async def test_customer_zero(own_database: TestDatabase) -> None:
    async with own_database.connect(MIGRATING_ROLE) as project:
        await project.execute(BUNDLES)
    async with (
        running(own_database, trusted_proxies=["127.0.0.1"]) as server,
        calling(server) as callers,
    ):
        await story(own_database, callers)


async def story(database: TestDatabase, callers: Callers) -> None:
    # An organization with an owner and two admins.
    olivia = await person(callers, "olivia@acme.example")
    owner, op = name_of(olivia), "operator:oooooooooooo"
    acme = await ask(olivia.client, "POST", "/api/v1/workspaces", {"name": "Acme", "slug": "acme"})
    log = Log(olivia)
    await log.expect(
        ("annex.workspace.created", f"workspace:{acme['id']}", owner),
        ("annex.member.added", f"member:{olivia.user_id}", owner),
    )
    ada, bob = [await person(callers, f"{n}@acme.example") for n in ("ada", "bob")]
    body: dict[str, Any] = {"role": "admin", "emails": [ada.email, bob.email]}
    issued = (await ask(olivia.client, "POST", f"{ACME}/invitations", body))["data"]
    offered = [f"invitation:{i['invitation_id']}" for i in issued]
    await log.expect(*(("annex.invitation.created", subject, owner) for subject in offered))
    wrong = {"token": issued[0]["token"], "accept": True}
    assert await refusal(bob.client, "POST", RESPOND, wrong) == (403, "invitation_for_another")
    for admin, made, subject in zip((ada, bob), issued, offered, strict=True):
        body = {"token": made["token"], "accept": True}
        assert (await ask(admin.client, "POST", RESPOND, body))["role"] == "admin"
        await log.expect(
            ("annex.member.added", f"member:{admin.user_id}", name_of(admin)),
            ("annex.invitation.accepted", subject, name_of(admin)),
        )

    # A contractor, by a link that only lets them look.
    body = {"role": "viewer", "max_uses": 1}
    [link] = (await ask(ada.client, "POST", f"{ACME}/invitations", body))["data"]
    carl = await person(callers, "carl@contractor.example")
    body = {"token": link["token"], "accept": True}
    await ask(carl.client, "POST", RESPOND, body)
    await log.expect(
        ("annex.invitation.created", f"invitation:{link['invitation_id']}", name_of(ada)),
        ("annex.member.added", f"member:{carl.user_id}", name_of(carl)),
        ("annex.invitation.accepted", f"invitation:{link['invitation_id']}", name_of(carl)),
    )
    stranger = await person(callers, "eve@elsewhere.example")
    assert await refusal(stranger.client, "POST", RESPOND, body) == (410, "invitation_gone")
    body = {"name": "Mine", "permissions": ["events:read"]}
    assert await refusal(carl.client, "POST", f"{ACME}/api-keys", body) == (403, "forbidden")

    # Everybody at acme.example, and the users of one provider.
    body = {"kind": "domain", "value": "acme.example", "role": "member"}
    domain = await ask(ada.client, "POST", f"{ACME}/join-rules", body)
    provider = str(uuid4())
    body = {"kind": "sso", "value": provider, "role": "member"}
    assert await refusal(ada.client, "POST", f"{ACME}/join-rules", body) == (
        403,
        "domain_not_claimable",
    )
    sso = await ask(callers.operator().client, "POST", f"{ACME}/join-rules", body)
    await log.expect(
        ("annex.join_rule.created", f"join_rule:{domain['id']}", name_of(ada)),
        ("annex.join_rule.created", f"join_rule:{sso['id']}", op),
    )
    dana = await person(callers, "dana@acme.example")
    sam = await person(callers, "sam@partner.example", provider=f"sso:{provider}")
    for colleague, rule in ((dana, domain), (sam, sso)):
        [offer] = (await ask(colleague.client, "GET", "/api/v1/me/join-rules"))["data"]
        assert (offer["id"], offer["role"]) == (rule["id"], "member")
        await ask(colleague.client, "POST", RESPOND, {"join_rule_id": offer["id"], "accept": True})
        await log.expect(("annex.member.added", f"member:{colleague.user_id}", name_of(colleague)))
    for outsider in (
        stranger,
        await person(callers, "dana@evil-acme.example"),
        await person(callers, "ceo@acme.example", provider=f"sso:{uuid4()}"),
        await person(callers, "new@acme.example", is_confirmed=False),
    ):
        assert (await ask(outsider.client, "GET", "/api/v1/me/join-rules"))["data"] == []
        assert (await refusal(outsider.client, "GET", ACME))[0] == 404

    # The key of CI: one permission, two addresses.
    body = {
        "name": "CI",
        "permissions": ["events:publish"],
        "allowed_addresses": [OFFICE, "2001:db8::/64"],
    }
    made = await ask(ada.client, "POST", f"{ACME}/api-keys", body)
    key = f"api_key:{made['id']}"
    [creation] = await log.expect(("annex.api_key.created", key, name_of(ada)))
    assert creation["data"]["record"]["permissions"] == ["events:publish"]
    assert not {"secret", "secret_hash"} & creation["data"]["record"].keys()
    ci = CI(database, acme["id"], callers.client(made["secret"]))
    ci.client.headers["X-Forwarded-For"] = ELSEWHERE
    assert await refusal(ci.client, "POST", TOKEN, {}) == (403, "address_not_allowed")
    for address in (OFFICE, RUNNER):
        ci.client.headers["X-Forwarded-For"] = f"{ELSEWHERE}, {address}"
        await ci.upload()
        await log.expect(("bundle.uploaded", None, key))
    assert await refusal(ci.client, "GET", f"{ACME}/members") == (403, "forbidden")

    # Its token writes bundles of acme; it reads none, and writes none of another workspace.
    globex = await ask(stranger.client, "POST", "/api/v1/workspaces", {"name": "Globex"})
    async with ci.session() as connection:
        assert await connection.fetchval("select count(*) from public.bundles") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(UPLOAD, UUID(globex["id"]), "1.0.0")
    for caller, sees, may in ((dana, 2, True), (carl, 2, False), (stranger, 0, False)):
        async with postgrest(database, caller.claims) as connection:
            found = await connection.fetch("select version from public.bundles order by id")
            assert [row["version"] for row in found] == ci.versions[:sees]
            if not may:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(UPLOAD, UUID(acme["id"]), "0.0.1")
    await log.expect()

    # The key is rotated while CI runs, with an hour's overlap.
    stop = asyncio.Event()

    async def run() -> None:
        while not stop.is_set():
            await ci.upload()

    async with asyncio.timeout(30), asyncio.TaskGroup() as running_ci:
        running_ci.create_task(run())
        await until(lambda: len(ci.versions) >= 5)
        path = f"{ACME}/api-keys/{made['id']}/rotate"
        new = await ask(ada.client, "POST", path, {"overlap_seconds": 3600})
        before = len(ci.versions)
        await until(lambda: len(ci.versions) >= before + 3)
        renewed = callers.client(new["secret"])
        renewed.headers["X-Forwarded-For"] = RUNNER
        ci.client = renewed
        before = len(ci.versions)
        await until(lambda: len(ci.versions) >= before + 3)
        stop.set()
    new_key = f"api_key:{new['id']}"
    assert (new["permissions"], new["allowed_addresses"]) == (
        made["permissions"],
        made["allowed_addresses"],
    )
    listed = (await ask(ada.client, "GET", f"{ACME}/api-keys"))["data"]
    [old] = [k for k in listed if k["id"] == made["id"]]
    left = datetime.fromisoformat(old["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    rotation = [e for e in await log.since() if e["type"] != "bundle.uploaded"]
    assert [(e["type"], e["subject"], e["principal"]) for e in rotation] == [
        ("annex.api_key.created", new_key, name_of(ada)),
        ("annex.api_key.updated", key, name_of(ada)),
    ]
    assert rotation[1]["data"]["previous"] == {"expires_at": None, "replaced_by": None}
    uploads = [e for e in log.seen if e["type"] == "bundle.uploaded"]
    assert [e["data"]["version"] for e in uploads] == ci.versions
    by = [e["principal"] for e in uploads]
    assert sorted({*by}) == sorted([key, new_key])
    assert by == sorted(by, key=[key, new_key].index), "the old key was not used again"

    # The contractor is removed in mid-stream.
    async with follow(carl.client, f"{ACME}/stream") as reader:
        await reader.message()
        await ci.upload()
        assert (await reader.event())["type"] == "bundle.uploaded"
        await ask(bob.client, "DELETE", f"{ACME}/members/{carl.user_id}")
        await ci.upload()
        last = (await reader.rest())[-1]
        assert problem_of(last) == "not_found"
    [_, removal, _] = await log.expect(
        ("bundle.uploaded", None, new_key),
        ("annex.member.removed", f"member:{carl.user_id}", name_of(bob)),
        ("bundle.uploaded", None, new_key),
    )
    assert removal["data"]["record"]["role"] == "viewer"
    assert await refusal(carl.client, "GET", f"{ACME}/stream") == (404, "not_found")
    async with postgrest(database, carl.claims) as connection:
        assert await connection.fetchval("select count(*) from public.bundles") == 0

    # The owner hands over, and leaves.
    leave = ("DELETE", f"{ACME}/members/{olivia.user_id}")
    assert await refusal(olivia.client, *leave) == (409, "last_owner")
    assert await refusal(
        ada.client, "PATCH", f"{ACME}/members/{ada.user_id}", {"role": "owner"}
    ) == (
        403,
        "not_grantable",
    )
    await ask(olivia.client, "PATCH", f"{ACME}/members/{ada.user_id}", {"role": "owner"})
    await ask(olivia.client, *leave)
    log.reader = ada
    [promotion, _] = await log.expect(
        ("annex.member.updated", f"member:{ada.user_id}", owner),
        ("annex.member.removed", f"member:{olivia.user_id}", owner),
    )
    assert promotion["data"]["previous"] == {"role": "admin"}
    assert promotion["data"]["record"]["role"] == "owner"
    assert (await refusal(olivia.client, "GET", ACME))[0] == 404
    await ci.upload()
    await log.expect(("bundle.uploaded", None, new_key))

    # Read again from the beginning, page by page, the log is what was seen at each step.
    whole = [e async for e in pages(ada.client, f"{ACME}/events")]
    assert [e["id"] for e in whole] == [e["id"] for e in reversed(log.seen)]
    assert {e["principal"] for e in whole} == {
        *(name_of(c) for c in (olivia, ada, bob, carl, dana, sam)), op, key, new_key
    }  # fmt: skip


async def pages(client: Client, path: str) -> AsyncIterator[dict[str, Any]]:
    """Yield a list's items, page by page."""
    following: str | None = None
    while True:
        params = {"limit": 7} | ({"cursor": following} if following else {})
        answer: httpx.Response = await client.get(path, params=params)
        for item in answer.json()["data"]:
            yield item
        following = answer.json()["page"]["next"]
        if following is None:
            return


async def until(is_so: Any) -> None:
    """Wait until something is so."""
    while not is_so():
        await asyncio.sleep(0.01)
