"""What the log says of requests, and of an error that an operator can mend."""

import json

import asyncpg
import msgspec
import pytest

from app.logs import configure_logging, denied_in
from tests.conftest import SECRETS, TestDatabase, execute, new_tenant, running
from tests.realtime.reader import calling, follow


async def test_a_right_that_is_missing_is_one_line_that_names_the_doctor(
    own_database: TestDatabase, log: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database, log_level="warning") as made, calling(made) as callers:
        user = await callers.user()
        slug = (await user.client.post("/api/v1/workspaces", json={"name": "A"})).json()["slug"]
        log.readouterr()
        revoked = "revoke select on annex.members from annex_api"
        await execute(own_database.url("postgres"), revoked)
        answer = await user.client.get(f"/api/v1/workspaces/{slug}/members")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        said = log.readouterr().err
    (line,) = (line for line in said.splitlines() if "unexpected" in line)
    assert ".py" not in said
    assert "unexpected: a role lacks a right that the migrations give; run `annex doctor`" in line
    assert "table members" in line
    assert answer.json()["request_id"] in line


async def test_a_request_is_logged_with_its_principal_and_workspace(
    own_database: TestDatabase, log: pytest.CaptureFixture[str]
) -> None:
    async with (
        running(own_database, log_level="info") as made,
        calling(made) as callers,
    ):
        tenant, stranger = await new_tenant(callers), await callers.user()
        owner, key = tenant.owner, await callers.key(tenant.id, "events:read", "workspace:read")
        members, stream = f"{tenant.path}/members", f"{tenant.path}/stream"
        configure_logging(msgspec.structs.replace(made.settings, environment="production"))
        asked = await key.client.post("/api/v1/stream/tickets", json={"path": stream})
        ticket, secret = asked.json()["ticket"], key.client.headers["authorization"].split()[1]
        log.readouterr()
        await owner.client.get(members)
        await owner.client.get("/api/v1/me")
        await stranger.client.get(members)
        await owner.client.get("/metrics")
        await callers.client(f"{secret}x").get(members)
        await callers.operator().client.get("/metrics")
        await key.client.get("/api/v1/event-types")
        async with follow(callers.client(), stream, ticket=ticket):
            pass
        made.app.runtime = msgspec.structs.replace(made.app.runtime, database=None)
        assert (await owner.client.get(members)).status_code == 500
        said = log.readouterr().err
    lines = [json.loads(line) for line in said.splitlines() if '"request_id"' in line]
    told = [(li["event"], li["path"], li["principal"], li["workspace"]) for li in lines]
    mine, keys = f"user:{owner.user_id}", f"api_key:{key.claims['sub']}"
    assert told == [
        ("request", members, mine, tenant.id),
        ("request", "/api/v1/me", mine, None),
        ("request", members, f"user:{stranger.user_id}", tenant.id),
        ("request", "/metrics", mine, None),
        ("request", members, None, tenant.id),
        ("request", "/metrics", "operator:oooooooooooo", None),
        ("request", "/api/v1/event-types", keys, tenant.id),
        ("request", stream, keys, tenant.id),
        ("unexpected", members, mine, tenant.id),
        ("request", members, mine, tenant.id),
    ]
    token = owner.client.headers["authorization"].split()[1]
    for hidden in (ticket, secret, token, SECRETS.operator_key, str(owner.email)):
        assert hidden not in said


def test_what_row_level_security_refuses_keeps_its_traceback() -> None:
    refused = 'new row violates row-level security policy for table "events"'
    assert denied_in(asyncpg.InsufficientPrivilegeError(refused)) is None
    denied = asyncpg.InsufficientPrivilegeError("permission denied for function publish")
    assert denied_in(ExceptionGroup("both", [ValueError(), denied])) == "function publish"
