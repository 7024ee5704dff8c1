"""Inviting, answering, and everything that makes an invitation void."""

import asyncio
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import Caller, Callers, Tenant, add_member, new_tenant

LOOKUP, RESPOND = "/api/v1/invitations/lookup", "/api/v1/invitations/respond"
MINE = "/api/v1/me/invitations"


class Invited(NamedTuple):
    """An invitation and the user with its address."""

    id: str
    token: str
    user: Caller
    path: str


async def issue(by: Caller, tenant: Tenant, *emails: str, **fields: Any) -> list[dict[str, Any]]:
    """Invite addresses, or make a link."""
    body = {"role": "viewer", **({"emails": emails} if emails else {}), **fields}
    response = await by.client.post(f"{tenant.path}/invitations", json=body)
    assert response.status_code == 201, response.text
    issued: list[dict[str, Any]] = response.json()["data"]
    return issued


async def invite(callers: Callers, tenant: Tenant, **fields: Any) -> Invited:
    """Make a user and invite them by their address."""
    user = await callers.user()
    [made] = await issue(tenant.owner, tenant, str(user.email), **fields)
    path = f"{tenant.path}/invitations/{made['invitation_id']}"
    return Invited(made["invitation_id"], made["token"], user, path)


async def link(tenant: Tenant, **fields: Any) -> str:
    """Make a link and return its token."""
    [made] = await issue(tenant.owner, tenant, **fields)
    return str(made["token"])


async def accept(user: Caller, token: str) -> httpx.Response:
    """Accept by token."""
    return await user.client.post(RESPOND, json={"token": token, "accept": True})


async def listed(tenant: Tenant) -> dict[str, dict[str, Any]]:
    """Return the workspace's invitations by their ids."""
    response = await tenant.owner.client.get(f"{tenant.path}/invitations")
    return {i["id"]: i for i in response.json()["data"]}


async def roles(tenant: Tenant) -> dict[str, str]:
    """Return the members' roles by their ids."""
    response = await tenant.owner.client.get(f"{tenant.path}/members", params={"limit": 100})
    return {m["user_id"]: m["role"] for m in response.json()["data"]}


async def execute(callers: Callers, sql: str, *values: Any) -> None:
    """Change what only Supabase, or an operation that is not ours to test, could change."""
    async with callers.server.database.admin() as admin:
        await admin.execute(sql, *values)


def code(response: httpx.Response) -> tuple[int, str]:
    """Return what went wrong."""
    return response.status_code, response.json()["code"]


async def test_an_address_is_invited_looks_and_accepts(callers: Callers, tenant: Tenant) -> None:
    invited = await invite(callers, tenant, role="admin")
    offer = (await invited.user.client.post(LOOKUP, json={"token": invited.token})).json()
    assert (offer["workspace_id"], offer["role"], offer["is_link"]) == (tenant.id, "admin", False)
    response = await accept(invited.user, invited.token)
    assert response.json() == {
        "outcome": "joined",
        "workspace_id": tenant.id,
        "workspace_slug": tenant.slug,
        "role": "admin",
    }
    assert (await roles(tenant))[str(invited.user.user_id)] == "admin"
    after = (await listed(tenant))[invited.id]
    assert (after["status"], after["uses"]) == ("accepted", 1)
    assert after["user_id"] == str(invited.user.user_id)


async def test_accepting_twice_is_answered_alike_and_done_once(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    first, second = [await accept(invited.user, invited.token) for _ in range(2)]
    assert first.json() == second.json()
    assert (await listed(tenant))[invited.id]["uses"] == 1


async def test_a_user_finds_invitations_to_their_address_and_answers_by_id(
    callers: Callers, tenant: Tenant
) -> None:
    invited, other = await invite(callers, tenant), await new_tenant(callers)
    await issue(other.owner, other, str(invited.user.email))
    first = (await invited.user.client.get(MINE, params={"limit": 1})).json()
    assert [o["workspace_id"] for o in first["data"]] == [other.id]
    query = {"limit": 1, "cursor": first["page"]["next"]}
    second = (await invited.user.client.get(MINE, params=query)).json()
    assert [o["id"] for o in second["data"]] == [invited.id]
    assert second["page"]["next"] is None
    body = {"invitation_id": invited.id, "accept": True}
    assert (await invited.user.client.post(RESPOND, json=body)).json()["outcome"] == "joined"
    left = (await invited.user.client.get(MINE)).json()["data"]
    assert [o["workspace_id"] for o in left] == [other.id]


async def test_declining_ends_an_invitation_and_leaves_a_link(
    callers: Callers, tenant: Tenant
) -> None:
    invited, shared = await invite(callers, tenant), await link(tenant)
    for token in (invited.token, shared):
        response = await invited.user.client.post(RESPOND, json={"token": token, "accept": False})
        assert response.json()["outcome"] == "declined"
    assert (await listed(tenant))[invited.id]["status"] == "declined"
    assert (await accept(invited.user, invited.token)).status_code == 404
    assert (await accept(invited.user, shared)).status_code == 200


async def test_a_batch_says_what_became_of_each_address(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    a, b = (f"{uuid4().hex[:8]}@example.org" for _ in range(2))
    await issue(tenant.owner, tenant, a)
    issued = await issue(tenant.owner, tenant, a.upper(), b, b.title(), str(member.email))
    assert [(i["email"], i["outcome"]) for i in issued] == [
        (a, "already_invited"),
        (b, "created"),
        (b, "already_invited"),
        (member.email, "already_member"),
    ]
    assert [i["token"] is None for i in issued] == [True, False, True, True]
    assert len(await listed(tenant)) == 2


async def test_an_expired_invitation_is_not_in_the_way(callers: Callers, tenant: Tenant) -> None:
    invited = await invite(callers, tenant)
    await execute(
        callers,
        "update annex.invitations set expires_at = now() where id = $1",
        UUID(invited.id),
    )
    assert code(await accept(invited.user, invited.token)) == (410, "invitation_gone")
    [again] = await issue(tenant.owner, tenant, str(invited.user.email))
    assert again["outcome"] == "created"
    assert (await listed(tenant))[invited.id]["status"] == "expired"
    assert (await accept(invited.user, again["token"])).status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("a@example.org", "A@Example.ORG", True),
        ("a@example.org", "a+b@example.org", False),
        ("a.b@example.org", "ab@example.org", False),
        ("a@example.org", "a@sub.example.org", False),
        ("a@xn--bcher-kva.example", "a@XN--BCHER-KVA.example", True),
    ],
)
async def test_addresses_are_the_same_but_for_case(
    tenant: Tenant, first: str, second: str, is_same: bool
) -> None:
    await issue(tenant.owner, tenant, first)
    [issued] = await issue(tenant.owner, tenant, second)
    assert issued["outcome"] == ("already_invited" if is_same else "created")


@pytest.mark.parametrize(
    "email",
    [
        "a", "@b.example", "a@", "a@b", "a@@b.example", "a@b.example@c.example", "a b@c.example",
        '"a@b.example"@evil.example', "=?utf-8?q?a=40b.example?=@evil", "a@b.example,c@d.example",
        "a@b.example\r\nBcc: c@d.example", "a@b.example.", "a@.b.example", "a@-b.example",
        "a@[127.0.0.1]", "a@127.0.0.1", "\u212aim@b.example", "\u0131@b.example",
        "a@b\uff0eexample", "a@b\u00fccher.example", "<a@b.example>", "a@b.example\0",
        "a@" + "b" * 64 + ".example", "a" * 65 + "@b.example",
        "a..b@c.example", ".a@b.example", "a.@b.example", ".@b.example",
    ],
)  # fmt: skip
async def test_what_is_no_plain_address_is_not_invited(tenant: Tenant, email: str) -> None:
    body = {"role": "viewer", "emails": [email]}
    response = await tenant.owner.client.post(f"{tenant.path}/invitations", json=body)
    assert code(response) == (400, "invalid_request")


@pytest.mark.parametrize(
    "stored",
    ["\u212aim@example.org", "KIM@EXAMPLE.ORG", "kim@example.org.", "k\u0131m@example.org"],
)
async def test_only_ascii_case_is_folded_when_an_address_is_compared(
    callers: Callers, tenant: Tenant, stored: str
) -> None:
    [made] = await issue(tenant.owner, tenant, "kim@example.org")
    user = await callers.user(email=stored)
    expected = 200 if stored.isascii() and not stored.endswith(".") else 403
    assert (await accept(user, made["token"])).status_code == expected


async def test_an_invitation_to_another_address_is_refused_and_stays(
    callers: Callers, tenant: Tenant
) -> None:
    invited, thief = await invite(callers, tenant), await callers.user()
    for body in (
        {"token": invited.token, "accept": True},
        {"token": invited.token, "accept": False},
    ):
        response = await thief.client.post(RESPOND, json=body)
        assert code(response) == (403, "invitation_for_another")
        assert str(invited.user.email) not in response.text
    assert code(await thief.client.post(LOOKUP, json={"token": invited.token}))[0] == 403
    # An id is no secret: it must not even say that there is such an invitation.
    by_id = [
        await thief.client.post(RESPOND, json={"invitation_id": i, "accept": True})
        for i in (invited.id, str(uuid4()))
    ]
    assert {code(r) for r in by_id} == {(404, "not_found")}
    assert by_id[0].json()["detail"] == by_id[1].json()["detail"]
    assert (await thief.client.get(MINE)).json()["data"] == []
    # Who changes their address has it only once it is confirmed. Supabase lets two have one only
    # if one of them signs in by SSO.
    change = "update auth.users set email = $2, email_confirmed_at = $3, is_sso_user = true"
    await execute(callers, f"{change} where id = $1", thief.user_id, invited.user.email, None)
    assert code(await accept(thief, invited.token)) == (403, "email_unconfirmed")
    assert (await listed(tenant))[invited.id]["status"] == "pending"
    assert (await accept(invited.user, invited.token)).status_code == 200


async def test_a_link_cannot_be_followed_by_its_id(callers: Callers, tenant: Tenant) -> None:
    [made] = await issue(tenant.owner, tenant)
    user = await callers.user()
    body = {"invitation_id": made["invitation_id"], "accept": True}
    assert code(await user.client.post(RESPOND, json=body)) == (404, "not_found")


async def test_without_a_confirmed_address_nothing_is_accepted_shown_or_listed(
    callers: Callers, tenant: Tenant
) -> None:
    email, shared = f"{uuid4().hex[:8]}@example.org", await link(tenant)
    [made] = await issue(tenant.owner, tenant, email)
    unconfirmed = await callers.user(email=email, is_confirmed=False)
    nameless = await callers.user()
    await execute(callers, "update auth.users set email = null where id = $1", nameless.user_id)
    anonymous = await callers.user(email=f"x{email}")
    await execute(
        callers, "update auth.users set is_anonymous = true where id = $1", anonymous.user_id
    )
    for user in (unconfirmed, nameless, anonymous):
        for token in (made["token"], shared):
            refused = (403, "email_unconfirmed")
            assert code(await user.client.post(LOOKUP, json={"token": token})) == refused
            for answer in (True, False):
                body = {"token": token, "accept": answer}
                assert code(await user.client.post(RESPOND, json=body)) == refused
        assert (await user.client.get(MINE)).json()["data"] == []


async def test_the_role_is_the_invitations_whatever_the_recipient_says(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    for field in ("role", "role_id", "is_admin"):
        body = {"token": invited.token, "accept": True, field: "owner"}
        assert code(await invited.user.client.post(RESPOND, json=body)) == (400, "invalid_request")
    await accept(invited.user, invited.token)
    assert (await roles(tenant))[str(invited.user.user_id)] == "viewer"


@pytest.mark.parametrize("given", [{}, {"token": "x", "invitation_id": str(uuid4())}])
async def test_an_answer_names_one_thing(callers: Callers, given: dict[str, str]) -> None:
    user = await callers.user()
    response = await user.client.post(RESPOND, json={"accept": True, **given})
    assert code(response) == (400, "invalid_request")


ABOVE = [("admin", "owner"), ("admin", "nonsense"), ("admin", "OWNER"), ("member", "viewer")]


@pytest.mark.parametrize(("own", "given"), ABOVE)
async def test_nobody_invites_above_what_they_may_give(
    callers: Callers, tenant: Tenant, own: str, given: str
) -> None:
    inviter = await add_member(callers, tenant, own)
    for emails in ({"emails": ["a@example.org"]}, {}):
        body = {"role": given, **emails}
        response = await inviter.client.post(f"{tenant.path}/invitations", json=body)
        assert response.status_code in (400, 403)
    assert await listed(tenant) == {}


async def test_nobody_sends_an_invitation_again_above_what_they_may_give(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant, role="owner")
    admin = await add_member(callers, tenant, "admin")
    assert code(await admin.client.post(f"{invited.path}/resend")) == (403, "not_grantable")
    assert (await accept(invited.user, invited.token)).status_code == 200


VOID = {
    "inviter removed": "delete from annex.members where workspace_id = $1 and user_id = $2",
    "inviter demoted": "update annex.members set role = 'member'"
    " where workspace_id = $1 and user_id = $2",
    "inviter suspended": "update annex.members set status = 'suspended'"
    " where workspace_id = $1 and user_id = $2",
    "inviter deleted": "delete from auth.users where $1::uuid is not null and id = $2",
    "workspace deleted": "update annex.workspaces set deleted_at = now()"
    " where id = $1 and $2::uuid is not null",
    "domain no longer allowed": "update annex.workspaces"
    " set allowed_email_domains = '{else.example}' where id = $1 and $2::uuid is not null",
    "expired": "update annex.invitations set expires_at = now()"
    " where workspace_id = $1 and $2::uuid is not null",
}


@pytest.mark.parametrize("change", VOID)
async def test_what_made_an_invitation_possible_is_asked_again(
    callers: Callers, tenant: Tenant, change: str
) -> None:
    inviter = await add_member(callers, tenant, "admin")
    user, fellow = await callers.user(), await callers.user()
    [made] = await issue(inviter, tenant, str(user.email), role="admin")
    [shared] = await issue(inviter, tenant, role="admin")
    await execute(callers, VOID[change], UUID(tenant.id), inviter.user_id)
    for token, who in ((made["token"], user), (shared["token"], fellow)):
        assert code(await who.client.post(LOOKUP, json={"token": token})) == (
            410,
            "invitation_gone",
        )
        for answer in (True, False):
            response = await who.client.post(RESPOND, json={"token": token, "accept": answer})
            assert code(response) == (410, "invitation_gone")
    by_id = {"invitation_id": made["invitation_id"], "accept": True}
    assert code(await user.client.post(RESPOND, json=by_id)) == (410, "invitation_gone")
    assert (await user.client.get(MINE)).json()["data"] == []


async def test_a_role_that_gained_a_permission_is_no_longer_the_inviters_to_give(
    callers: Callers, tenant: Tenant
) -> None:
    await execute(
        callers,
        "insert into annex.roles (workspace_id, key, name, permissions, grantable) values"
        " ($1, 'lead', 'Lead', '{workspace:read,invitations:manage}', '{guest}'),"
        " ($1, 'guest', 'Guest', '{workspace:read}', '{}')",
        UUID(tenant.id),
    )
    lead, user = await add_member(callers, tenant, "lead"), await callers.user()
    [made] = await issue(lead, tenant, str(user.email), role="guest")
    change = "update annex.roles set permissions = $2 where workspace_id = $1 and key = 'guest'"
    await execute(callers, change, UUID(tenant.id), ["workspace:read", "keys:manage"])
    assert code(await accept(user, made["token"])) == (410, "invitation_gone")
    await execute(callers, change, UUID(tenant.id), ["workspace:read"])
    assert (await accept(user, made["token"])).status_code == 200


async def remove(callers: Callers, tenant: Tenant, user: Caller) -> None:
    """Remove a member, as somebody else."""
    await execute(
        callers,
        "delete from annex.members where workspace_id = $1 and user_id = $2",
        UUID(tenant.id),
        user.user_id,
    )


async def test_who_was_removed_comes_back_only_by_a_later_invitation(
    callers: Callers, tenant: Tenant
) -> None:
    user = await callers.user()
    before = await link(tenant, max_uses=5)
    assert (await accept(user, before)).status_code == 200
    [old] = await issue(tenant.owner, tenant, f"{uuid4().hex[:8]}@example.org")
    await execute(
        callers,
        "update annex.invitations set email = $2 where id = $1",
        UUID(old["invitation_id"]),
        user.email,
    )
    await remove(callers, tenant, user)
    after = await link(tenant, max_uses=5)
    for token in (before, old["token"], after):
        assert code(await accept(user, token)) == (410, "invitation_gone")
    assert str(user.user_id) not in await roles(tenant)
    await tenant.owner.client.delete(f"{tenant.path}/invitations/{old['invitation_id']}")
    [new] = await issue(tenant.owner, tenant, str(user.email))
    assert (await accept(user, new["token"])).status_code == 200
    assert (await accept(await callers.user(), after)).status_code == 200


async def test_a_deleted_user_leaves_no_trace_of_a_removal(
    callers: Callers, tenant: Tenant
) -> None:
    member = await add_member(callers, tenant, "viewer")
    await execute(callers, "delete from auth.users where id = $1", member.user_id)
    async with callers.server.database.admin() as admin:
        kept = await admin.fetchval(
            "select count(*) from annex.removals where workspace_id = $1", UUID(tenant.id)
        )
    assert kept == 0


async def test_a_suspended_member_stays_suspended(callers: Callers, tenant: Tenant) -> None:
    member = await add_member(callers, tenant, "viewer")
    await execute(
        callers,
        "update annex.members set status = 'suspended' where user_id = $1",
        member.user_id,
    )
    assert code(await accept(member, await link(tenant))) == (409, "already_member")


async def test_revoking_ends_it_at_once_and_can_be_repeated(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    for _ in range(2):
        assert (await tenant.owner.client.delete(invited.path)).status_code == 204
    assert (await accept(invited.user, invited.token)).status_code == 404
    by_id = {"invitation_id": invited.id, "accept": True}
    assert code(await invited.user.client.post(RESPOND, json=by_id)) == (410, "invitation_gone")
    resent = await tenant.owner.client.post(f"{invited.path}/resend")
    assert code(resent) == (409, "invitation_closed")


async def test_an_accepted_invitation_is_neither_revoked_nor_sent_again(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    await accept(invited.user, invited.token)
    client = tenant.owner.client
    assert code(await client.delete(invited.path)) == (409, "invitation_closed")
    assert code(await client.post(f"{invited.path}/resend")) == (409, "invitation_closed")
    assert code(await client.post(f"{invited.path}/approve")) == (409, "invitation_closed")


async def test_revoking_takes_the_version_that_if_match_names(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    client = tenant.owner.client
    stale = await client.delete(invited.path, headers={"If-Match": '"7"'})
    assert code(stale) == (412, "precondition_failed")
    assert (await client.delete(invited.path, headers={"If-Match": '"1"'})).status_code == 204


async def test_sending_again_rotates_the_token(callers: Callers, tenant: Tenant) -> None:
    invited = await invite(callers, tenant)
    again = (await tenant.owner.client.post(f"{invited.path}/resend")).json()
    assert (again["outcome"], again["invitation_id"]) == ("resent", invited.id)
    assert again["token"] != invited.token
    assert (await accept(invited.user, invited.token)).status_code == 404
    assert (await accept(invited.user, again["token"])).status_code == 200


async def test_an_expired_invitation_can_be_sent_again(callers: Callers, tenant: Tenant) -> None:
    invited = await invite(callers, tenant, lifetime_hours=1)
    await execute(
        callers,
        "update annex.invitations set status = 'expired', token_hash = null where id = $1",
        UUID(invited.id),
    )
    again = (await tenant.owner.client.post(f"{invited.path}/resend")).json()
    assert (await accept(invited.user, again["token"])).status_code == 200


async def test_of_twenty_resends_at_once_one_token_is_left(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    answers = await asyncio.gather(
        *(tenant.owner.client.post(f"{invited.path}/resend") for _ in range(20))
    )
    tokens = {r.json()["token"] for r in answers}
    assert len(tokens) == 20
    looked = [await invited.user.client.post(LOOKUP, json={"token": t}) for t in tokens]
    assert sorted(r.status_code for r in looked) == [200] + [404] * 19


async def test_a_secret_is_told_once_even_to_a_repeated_request(
    callers: Callers, tenant: Tenant
) -> None:
    headers, path = {"Idempotency-Key": uuid4().hex}, f"{tenant.path}/invitations"
    body = {"role": "viewer", "emails": ["a@example.org", "b@example.org"]}
    first, second = [
        await tenant.owner.client.post(path, json=body, headers=headers) for _ in range(2)
    ]
    tokens = [i["token"] for i in first.json()["data"]]
    assert all(tokens)
    assert second.headers["idempotent-replayed"] == "true"
    hidden = [i | {"token": None, "accept_url": None} for i in first.json()["data"]]
    assert second.json()["data"] == hidden
    [one, _] = hidden
    resend = f"{path}/{one['invitation_id']}/resend"
    headers = {"Idempotency-Key": uuid4().hex}
    again, replay = [await tenant.owner.client.post(resend, headers=headers) for _ in range(2)]
    assert again.json()["token"]
    assert replay.json()["token"] is None


async def test_no_token_and_no_hash_is_found_anywhere_else(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    shared = await link(tenant)
    await accept(invited.user, invited.token)
    seen = ""
    for path in ("invitations", "events", "members", "join-rules"):
        seen += (await tenant.owner.client.get(f"{tenant.path}/{path}")).text
    async with callers.server.database.admin() as admin:
        tables = [
            row[0]
            for row in await admin.fetch(
                "select c.oid::regclass::text from pg_class c"
                " where relnamespace = 'annex'::regnamespace and relkind in ('r', 'p')"
            )
        ]
        hashes = await admin.fetch("select encode(token_hash, 'hex') from annex.invitations")
        for table in tables:
            seen += str(await admin.fetch(f"select t::text from {table} t"))
    assert invited.id in seen
    for token in (invited.token, shared):
        assert token not in seen
        assert token.encode().hex() not in seen
    for (hashed,) in hashes:
        # In its own row, and in no event.
        assert hashed is None or seen.count(hashed) == 1


async def test_every_change_is_an_event_for_those_who_may_read_invitations(
    callers: Callers, tenant: Tenant
) -> None:
    invited = await invite(callers, tenant)
    await accept(invited.user, invited.token)
    revoked = await invite(callers, tenant)
    await tenant.owner.client.delete(revoked.path)
    query = {"types": "annex.invitation.*"}
    events = (await tenant.owner.client.get(f"{tenant.path}/events", params=query)).json()["data"]
    assert [(e["type"], e["principal"], e["permission"]) for e in reversed(events)] == [
        ("annex.invitation.created", f"user:{tenant.owner.user_id}", "invitations:read"),
        ("annex.invitation.accepted", f"user:{invited.user.user_id}", "invitations:read"),
        ("annex.invitation.created", f"user:{tenant.owner.user_id}", "invitations:read"),
        ("annex.invitation.revoked", f"user:{tenant.owner.user_id}", "invitations:read"),
    ]
    assert events[0]["data"]["previous"] == {"status": "pending"}
    member = await add_member(callers, tenant, "member")
    seen = (await member.client.get(f"{tenant.path}/events", params=query)).json()["data"]
    assert seen == []


@pytest.mark.parametrize(("uses", "users"), [(10, 50), (1, 50)])
async def test_a_link_is_used_as_often_as_it_says_however_many_follow_it_at_once(
    callers: Callers, tenant: Tenant, uses: int, users: int
) -> None:
    token = await link(tenant, max_uses=uses)
    crowd = [await callers.user() for _ in range(users)]
    answers = await asyncio.gather(*(accept(user, token) for user in crowd))
    statuses = sorted(r.status_code for r in answers)
    assert statuses == [200] * uses + [410] * (users - uses)
    assert len(await roles(tenant)) == uses + 1
    [after] = (await listed(tenant)).values()
    assert (after["uses"], after["status"]) == (uses, "accepted")


async def test_one_user_at_once_uses_a_link_once(callers: Callers, tenant: Tenant) -> None:
    token, user = await link(tenant, max_uses=50), await callers.user()
    answers = await asyncio.gather(*(accept(user, token) for _ in range(50)))
    assert sorted(r.status_code for r in answers) == [200] + [409] * 49
    [after] = (await listed(tenant)).values()
    assert after["uses"] == 1


async def test_double_acceptance_makes_one_member(callers: Callers, tenant: Tenant) -> None:
    invited = await invite(callers, tenant)
    answers = await asyncio.gather(*(accept(invited.user, invited.token) for _ in range(20)))
    assert {r.status_code for r in answers} == {200}
    assert (await listed(tenant))[invited.id]["uses"] == 1


async def test_the_last_seat_goes_to_one_and_a_full_workspace_uses_nothing_up(
    callers: Callers, tenant: Tenant
) -> None:
    token = await link(tenant, max_uses=50)
    await execute(
        callers, "update annex.workspaces set member_limit = 4 where id = $1", UUID(tenant.id)
    )
    crowd = [await callers.user() for _ in range(12)]
    answers = await asyncio.gather(*(accept(user, token) for user in crowd))
    assert sorted(r.status_code for r in answers) == [200] * 3 + [409] * 9
    assert {r.json()["code"] for r in answers if r.status_code == 409} == {"limit_reached"}
    assert len(await roles(tenant)) == 4
    [after] = (await listed(tenant)).values()
    assert (after["uses"], after["status"]) == (3, "pending")


async def test_accepting_while_it_is_revoked_ends_one_way(callers: Callers, tenant: Tenant) -> None:
    for _ in range(10):
        invited = await invite(callers, tenant)
        accepted, revoked = await asyncio.gather(
            accept(invited.user, invited.token), tenant.owner.client.delete(invited.path)
        )
        is_member = str(invited.user.user_id) in await roles(tenant)
        status = (await listed(tenant))[invited.id]["status"]
        if is_member:
            assert (accepted.status_code, revoked.status_code, status) == (200, 409, "accepted")
        else:
            assert (revoked.status_code, status) == (204, "revoked")
            assert accepted.status_code in (404, 410)


async def test_only_allowed_domains_are_invited_and_follow_links(
    callers: Callers, tenant: Tenant
) -> None:
    await execute(
        callers,
        "update annex.workspaces set allowed_email_domains = '{acme.example}' where id = $1",
        UUID(tenant.id),
    )
    path = f"{tenant.path}/invitations"
    for email in ("a@evil-acme.example", "a@acme.example.evil.example", "a@sub.acme.example"):
        body = {"role": "viewer", "emails": ["b@acme.example", email]}
        response = await tenant.owner.client.post(path, json=body)
        assert code(response) == (409, "domain_not_allowed")
        assert "acme.example" not in response.json()["detail"]
    assert await listed(tenant) == {}
    token = await link(tenant, max_uses=2)
    outsider = await callers.user()
    insider = await callers.user(email=f"{uuid4().hex[:8]}@ACME.example")
    assert code(await accept(outsider, token)) == (410, "invitation_gone")
    assert (await accept(insider, token)).status_code == 200


@pytest.mark.parametrize("local", ["a..b", ".a", "a.", '"q"', "\u00fc", "a" * 70])
async def test_an_address_that_cannot_be_read_is_in_no_allowed_domain(
    callers: Callers, tenant: Tenant, local: str
) -> None:
    await execute(
        callers,
        "update annex.workspaces set allowed_email_domains = '{acme.example}' where id = $1",
        UUID(tenant.id),
    )
    token = await link(tenant, max_uses=2)
    for domain in ("evil.example", "acme.example", "evil"):
        outsider = await callers.user(email=f"{local}@{domain}")
        assert code(await accept(outsider, token)) == (410, "invitation_gone")


async def test_an_sso_address_is_no_proof_without_the_token_or_a_rule(
    callers: Callers, tenant: Tenant
) -> None:
    provider = f"sso:{uuid4()}"
    user = await callers.user(provider=provider)
    [made] = await issue(tenant.owner, tenant, str(user.email))
    by_id = {"invitation_id": made["invitation_id"], "accept": True}
    assert (await user.client.get(MINE)).json()["data"] == []
    assert code(await user.client.post(RESPOND, json=by_id)) == (404, "not_found")
    rule = {"kind": "sso", "value": provider.removeprefix("sso:"), "role": "viewer"}
    made_rule = await callers.operator().client.post(f"{tenant.path}/join-rules", json=rule)
    assert made_rule.status_code == 201
    assert len((await user.client.get(MINE)).json()["data"]) == 1
    assert (await user.client.post(RESPOND, json=by_id)).status_code == 200


async def test_a_key_invites_what_it_holds_and_its_invitations_end_with_it(
    callers: Callers, tenant: Tenant
) -> None:
    viewer = ["workspace:read", "members:read", "roles:read", "events:read"]
    key = await callers.key(tenant.id, "invitations:manage", *viewer)
    user = await callers.user()
    above = {"role": "member", "emails": [user.email]}
    response = await key.client.post(f"{tenant.path}/invitations", json=above)
    assert code(response) == (403, "not_grantable")
    [made] = await issue(key, tenant, str(user.email))
    revoke = "update annex.api_keys set revoked_at = $2::timestamptz where id = $1"
    async with callers.server.database.admin() as admin:
        now = await admin.fetchval("select now()")
    await execute(callers, revoke, UUID(key.claims["sub"]), now)
    assert code(await accept(user, made["token"])) == (410, "invitation_gone")
    await execute(callers, revoke, UUID(key.claims["sub"]), None)
    assert (await accept(user, made["token"])).status_code == 200


async def takes_one_more(tenant: Tenant) -> None:
    """Hold a workspace to a limit that leaves room for one invitation, and not for two."""
    body = {"role": "viewer", "emails": ["a@example.net", "b@example.net"]}
    response = await tenant.owner.client.post(f"{tenant.path}/invitations", json=body)
    assert code(response) == (409, "limit_reached")
    await issue(tenant.owner, tenant, "a@example.net")


async def test_a_workspace_has_so_many_open_invitations(callers: Callers, tenant: Tenant) -> None:
    await execute(
        callers,
        "insert into annex.invitations (workspace_id, email, role, expires_at)"
        " select $1, n || '@example.org', 'viewer', now() + interval '1 day'"
        " from generate_series(1, 4999) n",
        UUID(tenant.id),
    )
    await takes_one_more(tenant)


async def test_revoking_makes_no_room_for_more_than_a_days_invitations(
    callers: Callers, tenant: Tenant
) -> None:
    async with callers.server.database.admin() as admin:
        await admin.execute("set session_replication_role = replica")  # without their events
        await admin.execute(
            "insert into annex.invitations (workspace_id, email, role, status, expires_at)"
            " select $1, n || '@example.org', 'viewer', 'revoked', now()"
            " from generate_series(1, 9999) n",
            UUID(tenant.id),
        )
    await takes_one_more(tenant)


async def test_who_was_removed_comes_back_when_an_older_invitation_is_sent_again(
    callers: Callers, tenant: Tenant
) -> None:
    user = await callers.user()
    await accept(user, await link(tenant))
    [old] = await issue(tenant.owner, tenant, f"{uuid4().hex[:8]}@example.org")
    await execute(
        callers,
        "update annex.invitations set email = $2 where id = $1",
        UUID(old["invitation_id"]),
        user.email,
    )
    await remove(callers, tenant, user)
    assert code(await accept(user, old["token"])) == (410, "invitation_gone")
    again = await tenant.owner.client.post(
        f"{tenant.path}/invitations/{old['invitation_id']}/resend"
    )
    assert [i["id"] for i in (await user.client.get(MINE)).json()["data"]] == [old["invitation_id"]]
    assert (await accept(user, again.json()["token"])).status_code == 200
