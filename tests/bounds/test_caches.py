"""What is remembered of a caller is never another's: caches on or off, the answers are the same."""

import hashlib
from collections import OrderedDict
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import Caller, Callers, Running, Tenant, TestDatabase, new_tenant, running


class Forgetful(OrderedDict[Any, Any]):
    """A cache that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def move_to_end(self, key: Any, last: bool = True) -> None:
        pass


class Recorded(OrderedDict[Any, Any]):
    """A cache that notes under which key it was given what."""

    def __init__(self) -> None:
        super().__init__()
        self.given = list[tuple[Any, Any]]()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.given.append((key, value))
        super().__setitem__(key, value)


def use(live: Running, kind: type[OrderedDict[Any, Any]]) -> list[OrderedDict[Any, Any]]:
    """Give a server new caches, of those whose values depend on the caller."""
    runtime, made = live.app.runtime, [kind() for _ in range(3)]
    runtime.publishing.known, runtime.failures.known, runtime.tokens.verdicts = made
    return made


def digest_of(caller: Caller) -> bytes:
    credential = caller.client.headers["authorization"].removeprefix("Bearer ")
    return hashlib.sha256(credential.encode()).digest()


@pytest.mark.parametrize("kind", [Recorded, Forgetful])
async def test_callers_in_turns_get_their_own_with_caches_and_without(
    kind: type[OrderedDict[Any, Any]], database: TestDatabase
) -> None:
    async with running(database) as live:
        callers = Callers(live)
        known, accepted, verdicts = use(live, kind)
        tenants = [await new_tenant(callers) for _ in range(2)]
        mine = dict[str, tuple[Caller, Tenant | None]]()
        for n, tenant in enumerate(tenants):
            key = await callers.key(tenant.id, "events:read", "events:publish")
            mine |= {f"owner {n}": (tenant.owner, tenant), f"key {n}": (key, tenant)}
        mine["stranger"] = (await callers.user(), None)
        for turn in range(3):
            for name, (caller, own) in mine.items():
                for tenant in tenants:
                    for ws in (tenant.id, tenant.slug, tenant.id.upper()):
                        path = f"/api/v1/workspaces/{ws}/events"
                        body = {"type": "x", "data": {"by": name, "turn": turn}}
                        made = await caller.client.post(path, json=body)
                        listed = await caller.client.get(path, params={"types": "x"})
                        is_own = own is tenant
                        expected = (201, 200) if is_own else (404, 404)
                        assert (made.status_code, listed.status_code) == expected, (name, ws)
                        if is_own:
                            by = {event["data"]["by"] for event in listed.json()["data"]}
                            assert by <= {n for n, (_, t) in mine.items() if t is tenant}
        if kind is Recorded:
            assert isinstance(known, Recorded)
            assert isinstance(accepted, Recorded)
            assert isinstance(verdicts, Recorded)
            names = {own_name(caller): own for caller, own in mine.values()}
            for (principal, ws), workspace_id in known.given:
                own = names[principal]
                assert own is not None
                assert ws in (own.id, own.slug)
                assert workspace_id == UUID(own.id)
            by_digest = {digest_of(caller): own_name(caller) for caller, _ in mine.values()}
            for (_, digest), (_, found) in accepted.given:
                assert by_digest[digest] == found.name
            for digest, (_, found) in verdicts.given:
                assert by_digest[digest] == found.name
            assert all(cache.given for cache in (known, accepted, verdicts))
        await callers.close()


def own_name(caller: Caller) -> str:
    """Return the name of a caller's principal."""
    kind = "user" if caller.user_id else "api_key"
    return f"{kind}:{caller.user_id or caller.claims['sub']}"
