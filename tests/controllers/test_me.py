import asyncio
from typing import Any
from uuid import UUID

import pytest

from app.dev.demo import mint_token
from tests.conftest import Caller, Callers, Tenant

ME = "/api/v1/me"


async def row_identity(callers: Callers, user_id: UUID | None) -> Any:
    """Say which physical row a profile is; any write makes another."""
    async with callers.server.database.admin() as admin:
        return await admin.fetchval(
            "select ctid::text || xmin::text from annex.profiles where user_id = $1", user_id
        )


@pytest.fixture
async def user(callers: Callers) -> Caller:
    """A user who has visited once."""
    made = await callers.user()
    assert (await made.client.get(ME)).json()["version"] == 1
    return made


async def test_the_first_visit_writes_the_profile_from_the_token(callers: Callers) -> None:
    user = await callers.user()
    profile = (await user.client.get(ME)).json()
    assert (profile["id"], profile["email"], profile["version"]) == (
        str(user.user_id),
        user.email,
        1,
    )


async def test_a_later_visit_writes_nothing(callers: Callers, user: Caller) -> None:
    before = await row_identity(callers, user.user_id)
    assert (await user.client.get(ME)).json()["version"] == 1
    assert await row_identity(callers, user.user_id) == before


async def test_another_email_in_the_token_is_written_once(callers: Callers, user: Caller) -> None:
    token = mint_token(callers.server.settings, str(user.user_id), "new@example.com")
    renamed = callers.client(token)
    profiles = [(await renamed.get(ME)).json() for _ in range(2)]
    assert [(p["email"], p["version"]) for p in profiles] == [("new@example.com", 2)] * 2


async def test_two_tokens_with_other_addresses_write_at_each_turn_and_answer_their_own(
    callers: Callers, user: Caller
) -> None:
    # Only a visit to the profile writes it, so that no other request pays for two such tokens.
    token = mint_token(callers.server.settings, str(user.user_id), "new@example.com")
    renamed = callers.client(token)
    for client, email in ((renamed, "new@example.com"), (user.client, user.email)) * 2:
        assert (await client.get(ME)).json()["email"] == email
    before = await row_identity(callers, user.user_id)
    for client in (renamed, user.client) * 3:
        assert (await client.get("/api/v1/workspaces")).status_code == 200
    assert await row_identity(callers, user.user_id) == before


async def test_a_token_without_an_email_makes_a_profile_without_one(callers: Callers) -> None:
    user = await callers.user()
    client = callers.client(mint_token(callers.server.settings, str(user.user_id)))
    assert (await client.get(ME)).json()["email"] is None


async def test_first_visits_at_the_same_time_make_one_profile(callers: Callers) -> None:
    user = await callers.user()
    answers = await asyncio.gather(*(user.client.get(ME) for _ in range(8)))
    assert {(a.status_code, a.json()["version"]) for a in answers} == {(200, 1)}


async def test_a_user_who_was_deleted_in_supabase_is_unauthorized(callers: Callers) -> None:
    user = await callers.user()
    async with callers.server.database.admin() as admin:
        await admin.execute("delete from auth.users where id = $1", user.user_id)
    response = await user.client.get(ME)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_only_users_have_a_profile(callers: Callers, tenant: Tenant, method: str) -> None:
    for caller in (await callers.key(tenant.id, "workspace:read"), callers.operator()):
        response = await caller.client.request(method, ME, json={} if method == "PATCH" else None)
        assert (response.status_code, response.json()["code"]) == (403, "user_required")


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ('"1"', 304),
        ('W/"1"', 304),
        ('"7", W/"1"', 304),
        ("*", 304),
        ('"2"', 200),
        ("1", 200),
        ("garbage", 200),
    ],
)
async def test_if_none_match_compares_weakly(user: Caller, tag: str, status: int) -> None:
    response = await user.client.get(ME, headers={"If-None-Match": tag})
    assert (response.status_code, response.headers["etag"]) == (status, '"1"')
    assert bool(response.content) is (status == 200)


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ('"1"', 200),
        ("*", 200),
        ('"9", "1"', 200),
        ('"2"', 412),
        ('W/"1"', 412),
        ('"other"', 412),
        ("1", 400),
        ("garbage", 400),
        ('"1', 400),
    ],
)
async def test_if_match_compares_strongly(user: Caller, tag: str, status: int) -> None:
    response = await user.client.patch(ME, json={"display_name": "Ada"}, headers={"If-Match": tag})
    assert response.status_code == status
    assert (await user.client.get(ME)).json()["version"] == (2 if status == 200 else 1)


async def test_of_two_changes_to_the_same_version_the_second_fails(
    callers: Callers, user: Caller
) -> None:
    async with callers.server.database.admin() as admin, admin.transaction():
        await admin.execute(
            "update annex.profiles set display_name = 'First' where user_id = $1", user.user_id
        )
        second = asyncio.create_task(
            user.client.patch(ME, json={"display_name": "Second"}, headers={"If-Match": '"1"'})
        )
        await waits_for_lock(callers)
    assert (await second).status_code == 412


async def waits_for_lock(callers: Callers) -> None:
    """Return once a backend of this database waits for another."""
    async with callers.server.database.admin() as admin, asyncio.timeout(5):
        while not await admin.fetchval(
            "select exists (select from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock')"
        ):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_a_patch_leaves_what_is_absent_and_clears_what_is_null(
    user: Caller, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    given = {"display_name": "Ada", "locale": "en-GB", "time_zone": "Europe/London"}
    await user.client.patch(ME, json=given, headers=headers)
    patched = (await user.client.patch(ME, json={"locale": None}, headers=headers)).json()
    assert [patched[n] for n in ("display_name", "locale", "time_zone", "version")] == [
        "Ada",
        None,
        "Europe/London",
        3,
    ]


async def test_a_patch_that_changes_nothing_keeps_the_version(user: Caller) -> None:
    for body in ({}, {"display_name": ""}):
        assert (await user.client.patch(ME, json=body)).headers["etag"] == '"1"'


async def test_a_profile_can_be_changed_before_the_first_visit(callers: Callers) -> None:
    user = await callers.user()
    response = await user.client.patch(ME, json={"display_name": "Ada"})
    assert (response.status_code, response.json()["display_name"]) == (200, "Ada")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"display_name": None}, "/display_name"),
        ({"display_name": "x" * 201}, "/display_name"),
        ({"display_name": 1}, "/display_name"),
        ({"avatar_url": "javascript:alert(1)"}, "/avatar_url"),
        ({"avatar_url": ""}, "/avatar_url"),
        ({"locale": "e"}, "/locale"),
        ({"locale": "en\n"}, "/locale"),
        ({"time_zone": "Europe/Atlantis"}, "/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "/time_zone"),
        ({"time_zone": ""}, "/time_zone"),
    ],
)
async def test_a_bad_field_is_named(user: Caller, body: dict[str, Any], pointer: str) -> None:
    response = await user.client.patch(ME, json=body)
    assert response.status_code == 400
    assert [e["pointer"] for e in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize("field", ["email", "nonsense"])
async def test_a_field_that_cannot_be_changed_is_refused(user: Caller, field: str) -> None:
    response = await user.client.patch(ME, json={field: "x@example.com"})
    assert response.status_code == 400
    assert field in response.text
