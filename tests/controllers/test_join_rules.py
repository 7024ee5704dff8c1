"""Joining without an invitation: who may claim what, whom a rule lets in, and whom it does not."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.conftest import Caller, Callers, Tenant, add_member, new_tenant
from tests.controllers.test_invitations import (
    RESPOND,
    code,
    execute,
    issue,
    link,
    listed,
    remove,
    roles,
)

MINE = "/api/v1/me/join-rules"


def new_domain() -> str:
    """Make up a domain, as a rule has it in all workspaces."""
    return f"d{uuid4().hex[:12]}.example"


async def manager(callers: Callers, tenant: Tenant, domain: str, role: str = "admin") -> Caller:
    """Make a member with an address in a domain."""
    member = await add_member(callers, tenant, role)
    email = f"{uuid4().hex[:8]}@{domain}"
    await execute(callers, "update auth.users set email = $2 where id = $1", member.user_id, email)
    return member


async def claim(by: Caller, tenant: Tenant, value: str, **fields: Any) -> httpx.Response:
    """Make a rule."""
    body = {"kind": "domain", "value": value, "role": "member", **fields}
    return await by.client.post(f"{tenant.path}/join-rules", json=body)


async def rule_of(callers: Callers, tenant: Tenant, **fields: Any) -> tuple[str, str]:
    """Make a domain's rule; returns its id and the domain."""
    domain = new_domain()
    response = await claim(callers.operator(), tenant, domain, **fields)
    assert response.status_code == 201, response.text
    return response.json()["id"], domain


async def someone(callers: Callers, domain: str, **fields: Any) -> Caller:
    """Make a user with an address in a domain."""
    return await callers.user(email=f"{uuid4().hex[:8]}@{domain}", **fields)


async def join(user: Caller, rule: str) -> httpx.Response:
    """Join by a rule."""
    return await user.client.post(RESPOND, json={"join_rule_id": rule, "accept": True})


async def offers(user: Caller) -> list[str]:
    """Return the ids of the rules by which a user may join."""
    return [o["id"] for o in (await user.client.get(MINE)).json()["data"]]


async def test_users_of_a_domain_join_with_the_rules_role(callers: Callers, tenant: Tenant) -> None:
    domain = new_domain()
    admin = await manager(callers, tenant, domain)
    made = await claim(admin, tenant, domain.upper())
    assert (made.status_code, made.json()["value"]) == (201, domain)
    user = await someone(callers, domain)
    [offer] = (await user.client.get(MINE)).json()["data"]
    assert (offer["workspace_id"], offer["role"]) == (tenant.id, "member")
    assert (await join(user, offer["id"])).json()["outcome"] == "joined"
    assert (await roles(tenant))[str(user.user_id)] == "member"
    assert await offers(user) == []
    listing = await tenant.owner.client.get(f"{tenant.path}/join-rules")
    assert [r["id"] for r in listing.json()["data"]] == [offer["id"]]
    query = {"types": "annex.join_rule.*,annex.member.added"}
    events = (await admin.client.get(f"{tenant.path}/events", params=query)).json()["data"]
    assert [(e["type"], e["principal"]) for e in events[:2]] == [
        ("annex.member.added", f"user:{user.user_id}"),
        ("annex.join_rule.created", f"user:{admin.user_id}"),
    ]


async def test_users_of_a_provider_join(callers: Callers, tenant: Tenant) -> None:
    provider = uuid4()
    made = await claim(callers.operator(), tenant, str(provider), kind="sso", role="viewer")
    rule = made.json()["id"]
    user = await callers.user(provider=f"sso:{provider}")
    others = [await callers.user(provider=p) for p in (f"sso:{uuid4()}", str(provider), "email")]
    for other in others:
        assert await offers(other) == []
        assert code(await join(other, rule)) == (404, "not_found")
    assert await offers(user) == [rule]
    assert (await join(user, rule)).json() == {
        "outcome": "joined",
        "workspace_id": tenant.id,
        "workspace_slug": tenant.slug,
        "role": "viewer",
    }


async def test_a_provider_may_not_speak_for_a_domain(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    impostor = await someone(callers, domain, provider=f"sso:{uuid4()}")
    assert await offers(impostor) == []
    assert code(await join(impostor, rule)) == (404, "not_found")
    # Nor claim one: whoever runs an identity provider would own every domain.
    other = await new_tenant(callers)
    wanted = new_domain()
    admin = await manager(callers, other, wanted)
    await execute(
        callers,
        "update auth.users set raw_app_meta_data = jsonb_build_object('provider', $2::text)"
        " where id = $1",
        admin.user_id,
        f"sso:{uuid4()}",
    )
    assert code(await claim(admin, other, wanted)) == (403, "domain_not_claimable")


async def test_what_a_user_says_of_themselves_counts_for_nothing(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant)
    unconfirmed = await someone(callers, domain, is_confirmed=False)
    assert await offers(unconfirmed) == []
    assert code(await join(unconfirmed, rule)) == (403, "email_unconfirmed")
    # A profile's address is the token's; what counts is the one that Supabase has confirmed.
    liar = await callers.user()
    await liar.client.get("/api/v1/me")
    await execute(
        callers,
        "update annex.profiles set email = $2 where user_id = $1",
        liar.user_id,
        f"a@{domain}",
    )
    assert code(await join(liar, rule)) == (404, "not_found")


@pytest.mark.parametrize(
    "email",
    [
        "a@evil-{0}", "a@{0}.evil", "a@sub.{0}", '"a@{0}"@evil.example', "a@{0}@evil.example",
        "=?utf-8?q?a=40{0}?=@evil.example", "a@{0}.", "a@{0},b@evil.example",
        "a@evil.example,b@{0}", "a b@{0}", "a@{0} ", "a@x{0}", "\u00e9@{0}",
    ],
)  # fmt: skip
async def test_a_domain_is_matched_exactly(callers: Callers, tenant: Tenant, email: str) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await callers.user(email=email.format(domain))
    assert await offers(user) == []
    assert code(await join(user, rule)) == (404, "not_found")
    assert (await join(await someone(callers, domain.upper()), rule)).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "localhost", "127.0.0.1", "a.example,b.example", "*.example", "example.", ".example",
        "a..example", "-a.example", "b\u00fccher.example", "a.example\0", "a" * 64 + ".example",
        "evil.example/a", "a@b.example", "1.2.3.4", "[::1]",
    ],
)  # fmt: skip
async def test_what_is_no_domain_is_not_claimed(
    callers: Callers, tenant: Tenant, value: str
) -> None:
    response = await claim(callers.operator(), tenant, value)
    assert code(response) == (400, "invalid_request")


@pytest.mark.parametrize("value", ["gmail.com", "GMail.com", "mail.gmail.com", "web.de", "qq.com"])
async def test_a_public_mail_domain_is_not_claimed(
    callers: Callers, tenant: Tenant, value: str
) -> None:
    admin = await manager(callers, tenant, value)
    for by in (admin, callers.operator()):
        assert code(await claim(by, tenant, value)) == (403, "domain_not_claimable")


async def test_only_who_has_an_address_in_a_domain_claims_it(
    callers: Callers, tenant: Tenant
) -> None:
    domain = new_domain()
    outside = await manager(callers, tenant, new_domain())
    below = await manager(callers, tenant, f"sub.{domain}")
    unconfirmed = await manager(callers, tenant, domain)
    await execute(
        callers,
        "update auth.users set email_confirmed_at = null where id = $1",
        unconfirmed.user_id,
    )
    member = await manager(callers, tenant, domain, "member")
    key = await callers.key(
        tenant.id, "invitations:manage", "workspace:read", "members:read", "roles:read",
        "events:read", "events:publish",
    )  # fmt: skip
    for by, why in (
        (outside, "domain_not_claimable"),
        (below, "domain_not_claimable"),
        (unconfirmed, "email_unconfirmed"),
        (member, "forbidden"),
        (key, "user_required"),
    ):
        assert code(await claim(by, tenant, domain)) == (403, why)
    own = await claim(outside, tenant, str(uuid4()), kind="sso")
    assert code(own) == (403, "domain_not_claimable")
    above = await claim(await manager(callers, tenant, domain), tenant, domain, role="owner")
    assert code(above) == (403, "not_grantable")


async def test_of_two_claims_at_once_one_wins(callers: Callers, tenant: Tenant) -> None:
    other = await new_tenant(callers)
    for _ in range(5):
        domain = new_domain()
        claims = [(await manager(callers, t, domain), t) for t in (tenant, other) for _ in range(3)]
        answers = await asyncio.gather(*(claim(by, t, domain) for by, t in claims))
        assert sorted(r.status_code for r in answers) == [201] + [409] * 5
        assert {r.json()["code"] for r in answers if r.status_code == 409} == {"rule_taken"}


async def test_a_deleted_workspace_is_in_nobodys_way_and_takes_nobody_in(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant)
    await tenant.owner.client.delete(tenant.path)
    user = await someone(callers, domain)
    assert await offers(user) == []
    assert code(await join(user, rule)) == (404, "not_found")
    other = await new_tenant(callers)
    assert (await claim(callers.operator(), other, domain)).status_code == 201


async def test_who_was_removed_does_not_join_by_a_rule(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    await join(user, rule)
    await remove(callers, tenant, user)
    assert await offers(user) == []
    assert code(await join(user, rule)) == (404, "not_found")
    [made] = await issue(tenant.owner, tenant, str(user.email))
    body = {"token": made["token"], "accept": True}
    assert (await user.client.post(RESPOND, json=body)).status_code == 200


@pytest.mark.parametrize("way", ["removed", "refused"])
async def test_a_new_account_does_not_end_a_removal(
    way: str, callers: Callers, tenant: Tenant
) -> None:
    """The address is known again by its hash; the account's profile is gone."""
    rule, domain = await rule_of(callers, tenant, needs_approval=way == "refused")
    user = await someone(callers, domain)
    old_link = await link(tenant, max_uses=5)
    await join(user, rule)
    if way == "removed":
        await remove(callers, tenant, user)
    else:
        [request] = [i for i in (await listed(tenant)).values() if i["email"] == user.email]
        await tenant.owner.client.delete(f"{tenant.path}/invitations/{request['id']}")
    await execute(callers, "delete from auth.users where id = $1", user.user_id)
    again = await callers.user(email=str(user.email))
    assert await offers(again) == []
    assert code(await join(again, rule)) == (404, "not_found")
    body = {"token": old_link, "accept": True}
    assert code(await again.client.post(RESPOND, json=body)) == (410, "invitation_gone")
    async with callers.server.database.connect("postgres") as admin:
        kept = await admin.fetch(
            "select r::text from annex.removals r where workspace_id = $1", UUID(tenant.id)
        )
    assert len(kept) == 1
    assert str(user.email) not in str(kept)
    # Others with the domain's addresses join, and elsewhere the address is nobody's.
    if way == "removed":
        assert (await join(await someone(callers, domain), rule)).status_code == 200
    elsewhere = await new_tenant(callers)
    body = {"token": await link(elsewhere), "accept": True}
    assert (await again.client.post(RESPOND, json=body)).status_code == 200
    # A later invitation lets them in, and the removal is forgotten.
    [made] = await issue(tenant.owner, tenant, str(user.email))
    body = {"token": made["token"], "accept": True}
    assert (await again.client.post(RESPOND, json=body)).status_code == 200
    async with callers.server.database.connect("postgres") as admin:
        left = "select count(*) from annex.removals where workspace_id = $1"
        assert await admin.fetchval(left, UUID(tenant.id)) == 0


async def test_who_left_may_come_back(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    await join(user, rule)
    async with callers.server.database.connect("postgres", user.claims) as admin:
        await admin.execute("delete from annex.members where user_id = $1", user.user_id)
    assert (await join(user, rule)).status_code == 200


async def test_a_deleted_rule_lets_nobody_in(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    path = f"{tenant.path}/join-rules/{rule}"
    other = await new_tenant(callers)
    foreign = await other.owner.client.delete(f"{other.path}/join-rules/{rule}")
    assert code(foreign) == (404, "not_found")
    assert (await tenant.owner.client.delete(path)).status_code == 204
    assert code(await tenant.owner.client.delete(path)) == (404, "not_found")
    assert code(await join(user, rule)) == (404, "not_found")


async def test_a_rule_outlives_its_maker(callers: Callers, tenant: Tenant) -> None:
    domain = new_domain()
    maker = await manager(callers, tenant, domain)
    rule = (await claim(maker, tenant, domain)).json()["id"]
    await remove(callers, tenant, maker)
    assert (await join(await someone(callers, domain), rule)).status_code == 200


async def test_a_request_waits_for_the_workspace(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    user = await someone(callers, domain)
    for _ in range(2):  # to ask again changes nothing
        assert (await join(user, rule)).json()["outcome"] == "requested"
    assert str(user.user_id) not in await roles(tenant)
    [request] = (await listed(tenant)).values()
    assert (request["status"], request["user_id"]) == ("requested", str(user.user_id))
    [offer] = (await user.client.get(MINE)).json()["data"]
    assert offer["is_requested"] is True
    # It is the workspace's to answer, not the user's.
    by_id = {"invitation_id": request["id"], "accept": True}
    assert code(await user.client.post(RESPOND, json=by_id)) == (404, "not_found")
    [again] = await issue(tenant.owner, tenant, str(user.email))
    assert again["outcome"] == "already_requested"
    path = f"{tenant.path}/invitations/{request['id']}"
    assert code(await tenant.owner.client.post(f"{path}/resend")) == (409, "invitation_closed")
    assert (await tenant.owner.client.post(f"{path}/approve")).status_code == 204
    assert (await roles(tenant))[str(user.user_id)] == "member"
    assert code(await tenant.owner.client.post(f"{path}/approve")) == (409, "invitation_closed")


async def test_who_was_refused_cannot_ask_again(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    user = await someone(callers, domain)
    await join(user, rule)
    [request] = await listed(tenant)
    await tenant.owner.client.delete(f"{tenant.path}/invitations/{request}")
    assert code(await join(user, rule)) == (404, "not_found")
    [made] = await issue(tenant.owner, tenant, str(user.email))
    body = {"token": made["token"], "accept": True}
    assert (await user.client.post(RESPOND, json=body)).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        "update auth.users set email = 'else@example.com' where id = $1",
        "update auth.users set email_confirmed_at = null where id = $1",
        "delete from auth.users where id = $1",
        "update annex.invitations set expires_at = now() where user_id = $1",
    ],
)
async def test_a_request_is_approved_only_as_it_was_made(
    callers: Callers, tenant: Tenant, change: str
) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    user = await someone(callers, domain)
    await join(user, rule)
    [request] = await listed(tenant)
    await execute(callers, change, user.user_id)
    response = await tenant.owner.client.post(f"{tenant.path}/invitations/{request}/approve")
    assert code(response) == (409, "invitation_closed")


async def test_an_approver_may_give_the_role(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True, role="owner")
    await join(await someone(callers, domain), rule)
    [request] = await listed(tenant)
    admin = await add_member(callers, tenant, "admin")
    response = await admin.client.post(f"{tenant.path}/invitations/{request}/approve")
    assert code(response) == (403, "not_grantable")


async def test_a_rule_gives_only_a_role_that_is_there(callers: Callers, tenant: Tenant) -> None:
    insert = (
        "insert into annex.roles (workspace_id, key, name, permissions)"
        " values ($1, 'guest', 'Guest', '{workspace:read}')"
    )
    await execute(callers, insert, UUID(tenant.id))
    rule, domain = await rule_of(callers, tenant, role="guest")
    await execute(callers, "delete from annex.roles where workspace_id = $1", UUID(tenant.id))
    assert code(await join(await someone(callers, domain), rule)) == (404, "not_found")


async def test_seats_and_allowed_domains_hold_for_rules_too(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant)
    await execute(
        callers, "update annex.workspaces set member_limit = 3 where id = $1", UUID(tenant.id)
    )
    crowd = [await someone(callers, domain) for _ in range(8)]
    answers = await asyncio.gather(*(join(user, rule) for user in crowd))
    assert sorted(r.status_code for r in answers) == [200] * 2 + [409] * 6
    await execute(
        callers,
        "update annex.workspaces set member_limit = null, allowed_email_domains = '{else.example}'"
        " where id = $1",
        UUID(tenant.id),
    )
    assert code(await join(await someone(callers, domain), rule)) == (404, "not_found")


async def test_a_rule_is_accepted_and_never_declined(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    response = await user.client.post(RESPOND, json={"join_rule_id": rule, "accept": False})
    assert code(response) == (400, "invalid_request")


async def test_a_workspace_has_so_many_rules(callers: Callers, tenant: Tenant) -> None:
    await execute(
        callers,
        "insert into annex.join_rules (workspace_id, kind, value, role)"
        " select $1, 'sso', gen_random_uuid()::text, 'viewer' from generate_series(1, 100)",
        UUID(tenant.id),
    )
    response = await claim(callers.operator(), tenant, new_domain())
    assert code(response) == (409, "limit_reached")


async def test_an_approval_asks_for_the_domains_that_are_allowed_now(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    await join(await someone(callers, domain), rule)
    [request] = await listed(tenant)
    approve = f"{tenant.path}/invitations/{request}/approve"
    for allowed, expected in (["else.example"], 409), ([domain], 204):
        narrowed = await tenant.owner.client.patch(
            tenant.path, json={"allowed_email_domains": allowed}
        )
        assert narrowed.status_code == 200
        response = await tenant.owner.client.post(approve)
        assert response.status_code == expected
        if expected == 409:
            assert code(response) == (409, "domain_not_allowed")


async def test_a_new_account_does_not_end_a_suspension(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    await join(user, rule)
    path = f"{tenant.path}/members/{user.user_id}"
    for status in ("suspended", "active", "suspended"):
        changed = await tenant.owner.client.patch(path, json={"status": status})
        assert changed.status_code == 200
    await execute(callers, "delete from auth.users where id = $1", user.user_id)
    again = await callers.user(email=user.email)
    assert await offers(again) == []
    assert code(await join(again, rule)) == (404, "not_found")
    followed = await again.client.post(RESPOND, json={"token": await link(tenant), "accept": True})
    assert code(followed) == (410, "invitation_gone")
    [new] = await issue(tenant.owner, tenant, str(user.email))
    accepted = await again.client.post(RESPOND, json={"token": new["token"], "accept": True})
    assert accepted.status_code == 200


async def test_who_is_active_again_may_leave_and_come_back(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant)
    user = await someone(callers, domain)
    await join(user, rule)
    path = f"{tenant.path}/members/{user.user_id}"
    for status in ("suspended", "active"):
        await tenant.owner.client.patch(path, json={"status": status})
    assert (await user.client.delete(path)).status_code == 204
    assert (await join(user, rule)).status_code == 200


async def test_requests_have_a_bound_of_their_own(callers: Callers, tenant: Tenant) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    await execute(
        callers,
        "insert into annex.invitations (workspace_id, email, role, status, expires_at)"
        " select $1, n || '@example.org', 'viewer', 'requested', now() + interval '1 day'"
        " from generate_series(1, 999) n",
        UUID(tenant.id),
    )
    first, second = await someone(callers, domain), await someone(callers, domain)
    for _ in range(2):
        assert (await join(first, rule)).json()["outcome"] == "requested"
    assert code(await join(second, rule)) == (409, "limit_reached")
    await issue(tenant.owner, tenant, "somebody@example.net")


async def test_who_asks_while_an_invitation_waits_has_accepted_it(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    user = await someone(callers, domain)
    await issue(tenant.owner, tenant, str(user.email))
    assert (await join(user, rule)).json()["outcome"] == "joined"
    assert (await roles(tenant))[str(user.user_id)] == "viewer"


async def test_an_invitation_that_nobody_can_accept_is_not_in_the_way_of_a_request(
    callers: Callers, tenant: Tenant
) -> None:
    rule, domain = await rule_of(callers, tenant, needs_approval=True)
    user, inviter = await someone(callers, domain), await add_member(callers, tenant, "admin")
    await issue(inviter, tenant, str(user.email))
    await inviter.client.delete(f"{tenant.path}/members/{inviter.user_id}")
    assert (await join(user, rule)).json()["outcome"] == "requested"
    assert sorted(i["status"] for i in (await listed(tenant)).values()) == ["expired", "requested"]
