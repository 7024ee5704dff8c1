"""Every way to fail that has a name, with secrets in all that is sent: what `test_canary` reads."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias
from uuid import uuid4

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.bounds.test_protocol import GET, ask
from tests.conftest import Callers, new_tenant

JSON_OF_100 = "Content-Type: application/json\r\nContent-Length: 100"

Told: TypeAlias = list[tuple[int, str]]
"""Refusals: their statuses and bodies."""


class Planted:
    """Makes secrets, each a text of its own, and looks for them."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.secrets = list[str]()

    def __call__(self) -> str:
        """Make a secret that looks like nothing in particular."""
        made = f"Kanarie{next(self.numbers)}q{uuid4().hex}"
        self.secrets.append(made)
        return made

    def found(self, text: str) -> list[str]:
        """Return what of the secrets is in a text, or so much of one that it would do."""
        return [secret for secret in self.secrets if secret[:24] in text]


class Answers:
    """What was refused."""

    def __init__(self) -> None:
        self.told: Told = []

    async def send(
        self, client: httpx.AsyncClient, method: str, url: str, **options: Any
    ) -> httpx.Response | None:
        """Send a request, and keep what refused it; None if it had no answer."""
        with contextlib.suppress(httpx.TransportError):
            answer = await client.request(method, url, **options)
            if answer.is_error:
                self.told.append((answer.status_code, answer.text))
            return answer
        return None


async def everything_fails(callers: Callers, admin: Any, planted: Planted) -> Told:
    """Send secrets everywhere while all goes wrong; returns what was refused and how."""
    tenant = await new_tenant(callers)
    owner, path = tenant.owner.client, tenant.path
    planted.secrets.append(owner.headers["authorization"].split(".")[2])
    address = f"{planted().lower()}@example.com"
    planted.secrets[-1] = address.partition("@")[0]
    key = await callers.key(tenant.id, "events:publish", "events:read")
    planted.secrets.append(key.client.headers["authorization"].removeprefix("Bearer "))
    invitation = {"role": "viewer", "emails": [address]}
    assert (await owner.post(f"{path}/invitations", json=invitation)).status_code == 201
    async with asyncio.timeout(90):  # until the worker has met its mail server
        while not await admin.fetchval("select max(attempts) from annex.mails"):
            await asyncio.sleep(0.2)
    assert (await owner.patch(path, json={"metadata": {"pin": planted()}})).status_code == 200
    named = await callers.user(email=f"{planted().lower()}@example.com")
    planted.secrets[-1] = planted.secrets[-1].lower()
    answers = Answers()
    send = answers.send

    async def send_all() -> None:
        event = {"type": "x", "data": {"card": planted()}, "context": {"token": planted()}}
        json = {"Content-Type": "application/json"}
        tickets = {"ticket": planted(), "last_event_id": planted(), "access_token": planted()}
        strangers = [f"annex_sk_{planted()}", f"eyJ{planted()}.{planted()}.{planted()}", planted()]
        headers = {"Cookie": f"annex_ticket={planted()}", "X-Api-Key": planted()}
        for client in (owner, key.client):
            await send(client, "POST", f"{path}/events", json=event, headers=headers)
            await send(client, "POST", f"{path}/events", json={**event, "typ": planted()})
            cut = f'{{"type": "{planted()}", "data": '
            await send(client, "POST", f"{path}/events", content=cut, headers=json)
            await send(client, "POST", f"{path}/events/batch", json=[event, {"type": 7}])
            once = {"Idempotency-Key": planted()}
            await send(client, "POST", f"{path}/events", json=event, headers=once)
            await send(client, "GET", f"{path}/events", params={"cursor": planted()})
            await send(client, "GET", f"{path}/members", params={"q": planted()})
            await send(client, "PATCH", path, json={"metadata": {"pin": planted()}})
            await send(client, "DELETE", f"{path}/members/{tenant.owner.user_id}")
            await send(client, "POST", "/api/v1/api-keys/verify", json={"key": planted()})
            respond = {"token": planted(), "accept": True}
            await send(client, "POST", "/api/v1/invitations/respond", json=respond)
            await send(client, "GET", f"/api/v1/workspaces/{uuid4()}/events", params=tickets)
        # In the claims of every transaction of theirs, and in the body of one.
        made = {"name": "x", "slug": tenant.slug}
        once = {"Idempotency-Key": planted()}
        await send(named.client, "POST", "/api/v1/workspaces", json=made, headers=once)
        await send(callers.operator().client, "POST", f"{path}/events", json=event)
        for credential in strangers:
            await send(callers.client(credential), "GET", f"{path}/events", params=tickets)

    await send_all()
    # The database refuses, is slow to answer, and lets go of its connections.
    await admin.execute("alter function annex.publish_events rename to publish_events_")
    await admin.execute("revoke select on annex.members from annex_api")
    await send_all()
    await admin.execute("alter function annex.publish_events_ rename to publish_events")
    await admin.execute("grant select on annex.members to annex_api")

    async def cut() -> None:
        for _ in range(20):
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename in ('annex_api', 'annex_worker') and datname = current_database()"
            )
            await asyncio.sleep(0.1)

    await asyncio.gather(send_all(), cut())
    await admin.execute("alter role annex_api nologin")
    await admin.execute("alter role annex_worker nologin")
    try:
        await cut()
        await send_all()
    finally:
        await admin.execute("alter role annex_api login")
        await admin.execute("alter role annex_worker login")
    return answers.told


async def limits_refuse(callers: Callers, planted: Planted) -> Told:
    """Meet limits, and break streams off."""
    tenant, answers = await new_tenant(callers), Answers()
    owner, path, send = tenant.owner.client, tenant.path, answers.send
    token = owner.headers["authorization"]
    planted.secrets.append(token.split(".")[2])
    json = {"Content-Type": "application/json"}
    # 413 by its data, and by all of it.
    for size in (70_000, 1_100_000):
        body = {"type": "x", "data": {planted(): planted() + "a" * size}}
        await send(owner, "POST", f"{path}/events", json=body)
    # 422: one key, two bodies.
    once = {"Idempotency-Key": planted()}
    for _ in range(4):  # the first may meet a connection that was cut before
        body = {"type": "x", "data": {"card": planted()}}
        await send(owner, "POST", f"{path}/events", json=body, headers=once)
    # 429, and streams by a ticket in the URL and in a cookie that the client breaks off.
    made = (await owner.post("/api/v1/stream/tickets", json={"path": f"{path}/stream"})).json()
    planted.secrets.append(made["ticket"])
    browser = callers.client()
    for options in (
        {"params": {"ticket": made["ticket"]}},
        {"headers": {"Cookie": f"annex_ticket={made['ticket']}"}},
    ):
        async with browser.stream("GET", f"{path}/stream", **options) as stream:
            assert stream.status_code == 200
            secret = {"X-Secret": planted(), "Last-Event-ID": planted()}
            await send(owner, "GET", f"{path}/stream", headers=secret)
            await send(browser, "GET", f"{path}/stream", params={"ticket": made["ticket"]})
        await asyncio.sleep(0.2)
    # 408 and 431 of the protocol's own.
    head = f"POST {path}/events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
    for sent in (
        GET + f"X-Secret: {planted()}\r\n".encode(),
        GET + f"X-Secret: {planted()}{'a' * 70_000}\r\n\r\n".encode(),
        f"{head}{JSON_OF_100}\r\n\r\n{{{planted()}".encode(),
        f"{head}X-Secret: {planted()}\r\nContent-Length: {planted()}\r\n\r\n".encode(),
    ):
        status, problem = await ask(callers.server, sent)
        answers.told.append((status, str(problem)))
    # An invitation's token that was good, and is then used up.
    link = {"role": "viewer", "max_uses": 1}
    issued = (await owner.post(f"{path}/invitations", json=link)).json()["data"][0]
    planted.secrets.append(issued["token"])
    for _ in range(2):
        guest = await callers.user()
        respond = {"token": issued["token"], "accept": True}
        await send(guest.client, "POST", "/api/v1/invitations/respond", json=respond)
        # And in the wrong place.
        await send(guest.client, "POST", "/api/v1/invitations/respond", json=[respond])
        await send(guest.client, "POST", "/api/v1/workspaces", json={"name": 7, **respond})
    # The key set's host is not there.
    key = ec.generate_private_key(ec.SECP256R1())
    forged = jwt.encode({"sub": planted()}, key, "ES256", {"kid": planted()})
    planted.secrets.append(forged.split(".")[2])
    for _ in range(2):
        await send(callers.client(forged), "GET", f"{path}/events", headers=json)
    return answers.told


async def paths_hold(callers: Callers, planted: Planted) -> Told:
    """Send what looks like a credential in paths, which are logged."""
    answers, user = Answers(), await callers.user()
    for secret in (
        f"annex_sk_{planted()}",
        f"annex_it_{planted()}",
        f"eyJ{planted()}.{planted()}.{planted()}",
        f"{planted()}@example.com",
        f"x?token={planted()}",
    ):
        for url in (f"/api/v1/workspaces/{secret}/events", f"/{secret}", f"/api/v1/{secret}"):
            await answers.send(user.client, "GET", url)
            await answers.send(callers.client(), "POST", url, json={})
    return answers.told


async def the_database_raises(
    callers: Callers, admin: Any, planted: Planted, log: Callable[[], str]
) -> Told:
    """Let functions raise messages that hold a secret: one of the API's, one of the worker's.

    Returns when both have raised, as Postgres' own log says.
    """
    tenant, answers = await new_tenant(callers), Answers()
    broken = {
        "publish_events": "workspace_id uuid, batch jsonb, is_list boolean",
        "due_fanouts": "is_begun boolean, max_events integer",
    }
    returns = {
        "publish_events": "table (ordinal integer, event_id uuid, is_duplicate boolean)",
        "due_fanouts": "uuid[]",
    }
    for name, arguments in broken.items():
        await admin.execute(f"alter function annex.{name} rename to {name}_")
        await admin.execute(
            f"create function annex.{name}({arguments}) returns {returns[name]} language plpgsql"
            f" as $$ begin raise exception '{planted()}' using detail = '{planted()}',"
            f" hint = '{planted()}', column = '{planted()}'; end $$"
        )
    try:
        for headers in ({}, {"Idempotency-Key": uuid4().hex}):
            await answers.send(
                tenant.owner.client,
                "POST",
                f"{tenant.path}/events/batch",
                json=[{"type": "x"}],
                headers=headers,
            )
        # The worker may be waiting before it asks again, because it was cut off from the database.
        messages = {planted.secrets[0], planted.secrets[len(planted.secrets) // 2]}
        async with asyncio.timeout(60):
            while not messages <= {*planted.found(log())}:
                await asyncio.sleep(0.2)
    finally:
        for name in broken:
            await admin.execute(f"drop function annex.{name}")
            await admin.execute(f"alter function annex.{name}_ rename to {name}")
    assert {status for status, _ in answers.told} == {500}
    return answers.told
