"""What a user wants to be told: theirs, in one workspace, or the workspace's default."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.conftest import Caller, Callers, Tenant, add_member, new_tenant

MINE = "/api/v1/me/preferences"
OFF = {"email": False}


async def change(caller: Caller, path: str, **body: Any) -> Any:
    answer = await caller.client.patch(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def wants(
    callers: Callers, user: Caller, tenant: Tenant, category: str, *, critical: bool = False
) -> tuple[bool, bool]:
    """Ask what decides for deliveries: in_app and email."""
    async with callers.server.database.admin() as admin:
        row = await admin.fetchrow(
            "select annex.wants($1, $2, $3, $4, 'in_app'), annex.wants($1, $2, $3, $4, 'email')",
            user.user_id,
            UUID(tenant.id),
            category,
            critical,
        )
        assert row is not None
        return row[0], row[1]


async def test_nothing_was_chosen_at_first(callers: Callers, tenant: Tenant) -> None:
    user = await callers.user()
    first = await user.client.get(MINE)
    nothing: dict[str, Any] = {
        "categories": {},
        "quiet_hours": None,
        "updated_at": None,
        "version": 0,
    }
    assert first.json() == {"workspace_id": None, **nothing}
    assert first.headers["etag"] == '"0"'
    again = await user.client.get(MINE, headers={"If-None-Match": '"0"'})
    assert again.status_code == 304
    for path in (f"{tenant.path}/preferences", f"{MINE}?workspace={tenant.slug}"):
        answer = await tenant.owner.client.get(path)
        assert answer.json() == {"workspace_id": tenant.id, **nothing}
    assert await wants(callers, tenant.owner, tenant, "billing") == (True, True)


async def test_a_patch_is_merged_and_null_takes_back(callers: Callers) -> None:
    user = await callers.user()
    made = await change(user, MINE, categories={"billing": OFF, "news": {"in_app": False}})
    assert (made["version"], made["quiet_hours"]) == (1, None)
    hours = {"from": "22:00", "until": "07:00"}
    made = await change(
        user, MINE, categories={"billing": {"in_app": True}, "news": None}, quiet_hours=hours
    )
    assert made["categories"] == {"billing": {"in_app": True, "email": False}}
    assert (made["version"], made["quiet_hours"]) == (2, hours)
    made = await change(user, MINE, categories={"billing": {"in_app": None, "email": None}})
    assert (made["categories"], made["quiet_hours"]) == ({}, hours)
    made = await change(user, MINE, quiet_hours=None)
    assert made["quiet_hours"] is None
    assert (await change(user, MINE))["version"] == made["version"]
    await change(user, MINE, categories={"a": OFF, "b": OFF})
    assert (await change(user, MINE, categories=None))["categories"] == {}


async def test_preferences_are_changed_under_their_precondition(
    callers: Callers, tenant: Tenant
) -> None:
    for path in (MINE, f"{MINE}?workspace={tenant.id}", f"{tenant.path}/preferences"):
        patch = tenant.owner.client.patch
        body = {"categories": {"x": OFF}}
        for tag, status in (('"1"', 412), ('"0"', 200), ('"0"', 412), ('"1"', 200), ("*", 200)):
            answer = await patch(path, json=body, headers={"If-Match": tag})
            assert answer.status_code == status, (path, tag)


async def test_the_nearest_word_counts(callers: Callers, tenant: Tenant) -> None:
    user = await add_member(callers, tenant, "viewer")
    here, default = f"{MINE}?workspace={tenant.slug}", f"{tenant.path}/preferences"
    await change(tenant.owner, default, categories={"*": {"in_app": False, "email": False}})
    assert await wants(callers, user, tenant, "billing") == (False, False)
    await change(tenant.owner, default, categories={"billing": {"email": True}})
    assert await wants(callers, user, tenant, "billing") == (False, True)
    await change(user, MINE, categories={"*": {"in_app": True, "email": False}})
    assert await wants(callers, user, tenant, "billing") == (True, False)
    await change(user, MINE, categories={"billing": {"email": True}})
    assert await wants(callers, user, tenant, "billing") == (True, True)
    await change(user, here, categories={"*": {"in_app": False, "email": False}})
    assert await wants(callers, user, tenant, "billing") == (False, False)
    await change(user, here, categories={"billing": {"in_app": True}})
    assert await wants(callers, user, tenant, "billing") == (True, False)
    # Of one workspace only, of one user only; and nobody mutes what is critical.
    other = await new_tenant(callers)
    assert await wants(callers, user, other, "billing") == (True, True)
    assert await wants(callers, tenant.owner, tenant, "billing") == (False, True)
    assert await wants(callers, user, tenant, "billing", critical=True) == (True, True)


async def test_a_page_of_users_is_asked_at_once_as_each_of_them(
    callers: Callers, tenant: Tenant
) -> None:
    users = [await add_member(callers, tenant, "viewer") for _ in range(4)]
    await change(users[0], MINE, categories={"*": {"in_app": False}})
    await change(users[1], f"{MINE}?workspace={tenant.id}", categories={"x": {"in_app": False}})
    async with callers.server.database.admin() as admin:
        found = await admin.fetch(
            "select user_id from annex.wanting($1, $2, 'x', false, 'in_app')",
            [u.user_id for u in users],
            UUID(tenant.id),
        )
    assert {r[0] for r in found} == {u.user_id for u in users[2:]}
    for user in users:
        is_wanted, _ = await wants(callers, user, tenant, "x")
        assert is_wanted == (user in users[2:])


@pytest.mark.parametrize(
    "body",
    [
        {"categories": {"Billing": OFF}},
        {"categories": {"": OFF}},
        {"categories": {"a b": OFF}},
        {"categories": {"a": {"sms": False}}},
        {"categories": {"a": {"email": "no"}}},
        {"categories": {"a": True}},
        {"categories": []},
        {"categories": {f"c{n}": OFF for n in range(101)}},
        {"quiet_hours": {"from": "24:00", "until": "07:00"}},
        {"quiet_hours": {"from": "7:00", "until": "08:00"}},
        {"quiet_hours": {"from": "22:00"}},
        {"quiet_hours": {"from": "22:00", "until": "07:00", "zone": "UTC"}},
        {"quiet_hours": "22:00"},
        {"user_id": str(uuid4())},
        {"workspace_id": str(uuid4())},
        {"version": 7},
    ],
)
async def test_preferences_that_are_none_are_refused(callers: Callers, body: Any) -> None:
    user = await callers.user()
    answer = await user.client.patch(MINE, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert (await user.client.get(MINE)).json()["version"] == 0


async def test_categories_have_an_end_over_several_patches(callers: Callers) -> None:
    user = await callers.user()
    await change(user, MINE, categories={f"c{n}": OFF for n in range(100)})
    answer = await user.client.patch(MINE, json={"categories": {"more": OFF}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/categories")
    await change(user, MINE, categories={"c1": None, "more": OFF})


async def test_nobody_reads_or_writes_anothers(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    await change(member, MINE, categories={"secret": OFF})
    await change(member, f"{MINE}?workspace={tenant.id}", categories={"secret": OFF})
    for path in (MINE, f"{MINE}?workspace={tenant.id}", f"{tenant.path}/preferences"):
        assert "secret" not in (await tenant.owner.client.get(path)).text
    await change(tenant.owner, f"{MINE}?workspace={tenant.id}", categories={"secret": {}})
    found = (await member.client.get(f"{MINE}?workspace={tenant.id}")).json()
    assert found["categories"] == {"secret": OFF}
    # What a member prefers is in no event that somebody else sees.
    events = (await tenant.owner.client.get(f"{tenant.path}/events")).text
    assert "secret" not in events


async def test_a_workspace_out_of_sight_has_no_preferences(
    callers: Callers, tenant: Tenant
) -> None:
    # Who has a workspace of their own, as its permissions must not count here.
    stranger = (await new_tenant(callers)).owner
    for workspace in (tenant.id, tenant.slug, str(uuid4()), "no-such-workspace"):
        path = f"{MINE}?workspace={workspace}"
        answers = [
            await stranger.client.get(path),
            await stranger.client.patch(path, json={"categories": {"a": OFF}}),
        ]
        assert [(a.status_code, a.json()["code"]) for a in answers] == [(404, "not_found")] * 2
    assert (await stranger.client.get(MINE)).json()["version"] == 0


async def test_who_leaves_takes_their_choice_along(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    here = f"{MINE}?workspace={tenant.id}"
    await change(member, MINE, categories={"a": OFF})
    await change(member, here, categories={"a": OFF})
    await tenant.owner.client.delete(f"{tenant.path}/members/{member.user_id}")
    assert (await member.client.get(here)).status_code == 404
    async with callers.server.database.admin() as admin:
        left = await admin.fetch(
            "select workspace_id from annex.preferences where user_id = $1", member.user_id
        )
        assert [r[0] for r in left] == [None]
        await admin.execute("delete from auth.users where id = $1", member.user_id)
        gone = "select count(*) from annex.preferences where user_id = $1"
        assert await admin.fetchval(gone, member.user_id) == 0


async def test_a_changed_default_is_an_event(callers: Callers, tenant: Tenant) -> None:
    path = f"{tenant.path}/preferences"
    await change(tenant.owner, path, categories={"a": OFF})
    await change(tenant.owner, path, categories={"a": None})
    events = (
        await tenant.owner.client.get(f"{tenant.path}/events?types=annex.preferences.*")
    ).json()
    assert [e["type"] for e in events["data"]] == [
        "annex.preferences.updated",
        "annex.preferences.created",
    ]
    assert events["data"][0]["data"]["previous"]["categories"] == {"a": OFF}


@pytest.mark.parametrize(
    ("zone", "hours", "moment", "expected"),
    [
        ("Europe/Berlin", ("22:00", "07:00"), "2026-01-10 20:59+00", "2026-01-10 20:59+00"),
        ("Europe/Berlin", ("22:00", "07:00"), "2026-01-10 21:00+00", "2026-01-11 06:00+00"),
        ("Europe/Berlin", ("22:00", "07:00"), "2026-01-11 05:59+00", "2026-01-11 06:00+00"),
        ("Europe/Berlin", ("22:00", "07:00"), "2026-01-11 06:00+00", "2026-01-11 06:00+00"),
        # The night in which the clocks go forward is an hour shorter.
        ("Europe/Berlin", ("22:00", "07:00"), "2026-03-28 22:00+00", "2026-03-29 05:00+00"),
        ("America/New_York", ("12:00", "13:00"), "2026-01-10 17:30+00", "2026-01-10 18:00+00"),
        ("America/New_York", ("12:00", "13:00"), "2026-01-10 12:30+00", "2026-01-10 12:30+00"),
        (None, ("12:00", "13:00"), "2026-01-10 12:30+00", "2026-01-10 13:00+00"),
        ("No/Where", ("12:00", "13:00"), "2026-01-10 12:30+00", "2026-01-10 13:00+00"),
        (None, ("12:00", "12:00"), "2026-01-10 12:00+00", "2026-01-10 12:00+00"),
    ],
)
async def test_quiet_hours_end_in_the_users_time_zone(
    callers: Callers,
    tenant: Tenant,
    zone: str | None,
    hours: tuple[str, str],
    moment: str,
    expected: str,
) -> None:
    user = await add_member(callers, tenant, "viewer")
    quiet = {"from": hours[0], "until": hours[1]}
    # The nearest word counts here too.
    await change(
        tenant.owner, f"{tenant.path}/preferences", quiet_hours={"from": "00:00", "until": "23:59"}
    )
    await change(user, MINE, quiet_hours=quiet)
    async with callers.server.database.admin() as admin:
        await admin.execute(
            "update annex.profiles set time_zone = $2 where user_id = $1", user.user_id, zone
        )
        assert await admin.fetchval(
            "select annex.after_quiet_hours($1, $2, $3::text::timestamptz) = $4::text::timestamptz",
            user.user_id,
            UUID(tenant.id),
            moment,
            expected,
        )
