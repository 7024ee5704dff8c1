from typing import Any
from uuid import UUID

import pytest

from app.auth.keys import Key
from app.errors import InvalidKey
from tests.conftest import Callers, Tenant, new_tenant


def test_a_key_reads_back_as_it_was_written() -> None:
    key = Key.make("sk")
    assert Key.read(str(key)) == key


def test_a_key_shows_no_secret_of_itself() -> None:
    key = Key.make("op")
    assert key.secret not in repr(key)


@pytest.mark.parametrize("at", [3, 8, 12, 30, -1])
def test_a_mistyped_key_is_told_by_its_checksum(at: int) -> None:
    text = list(str(Key("sk", "a" * 12, "b" * 32)))
    text[at] = "Z"
    with pytest.raises(InvalidKey, match="mistyped"):
        Key.read("".join(text))


@pytest.mark.parametrize("text", ["annex_", "annex_sk_", "annex_xx_" + "a" * 50, "annex_sk_é"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        Key.read(text)


async def status(callers: Callers, key: Key, path: str) -> tuple[int, Any]:
    """Ask as a key; returns the status and the problem's code."""
    response = await callers.client(str(key)).get(path)
    return response.status_code, response.json().get("code")


REFUSED = (401, "invalid_key")


async def test_the_right_prefix_with_a_wrong_secret_is_refused(
    callers: Callers, tenant: Tenant
) -> None:
    held = await callers.key(tenant.id, "workspace:read")
    prefix = held.client.headers["authorization"].removeprefix("Bearer annex_sk_")[:12]
    assert await status(callers, Key("sk", prefix, "x" * 32), tenant.path) == REFUSED
    assert (await held.client.get(tenant.path)).status_code == 200


async def test_an_unknown_key_is_refused(callers: Callers, tenant: Tenant) -> None:
    for kind in ("sk", "op"):
        assert await status(callers, Key.make(kind), tenant.path) == REFUSED


@pytest.mark.parametrize("column", ["expires_at", "revoked_at"])
async def test_an_expired_or_revoked_key_is_refused_at_once(
    callers: Callers, tenant: Tenant, column: str
) -> None:
    held = await callers.key(tenant.id, "workspace:read")
    assert (await held.client.get(tenant.path)).status_code == 200
    async with callers.server.database.admin() as admin:
        await admin.execute(
            f"update annex.api_keys set {column} = now() where id = $1", UUID(held.claims["sub"])
        )
    response = await held.client.get(tenant.path)
    assert (response.status_code, response.json()["code"]) == REFUSED


async def test_a_key_sees_no_other_workspace(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    held = await callers.key(tenant.id, "workspace:read")
    assert (await held.client.get(other.path)).status_code == 404


async def test_an_operators_key_is_known_by_the_hash_in_the_settings(
    callers: Callers, tenant: Tenant
) -> None:
    assert (await callers.operator().client.get(tenant.path)).status_code == 200
