"""Notifications by mail: to whom, when, and what they say."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from app.database.pools import Database
from app.settings import Settings
from app.worker import mails, notification_mails
from app.worker.letters import ItemFacts, Letters, write
from app.worker.notification_mails import Templates, page_of
from app.worker.runner import Runner
from tests.conftest import (
    Caller,
    Callers,
    TestDatabase,
    new_tenant,
    running,
    tomorrow,
)
from tests.worker.mailbox import mailbox, settings_of
from tests.worker.post import API, Post, post
from tests.worker.test_mails import HOSTILE, Tree, until

__all__ = ["post"]

MINE = "/api/v1/me/preferences"


async def test_what_was_not_read_is_mailed_once(post: Post) -> None:
    user, reader = await post.member(), await post.member()
    await post.type(title="Paid: {{data.n}}", body="By {{data.who}}", link="/i/{{data.n}}")
    event = await post.notify(user, reader, data={"n": 7, "who": "Ann"})
    items = (await reader.client.get("/api/v1/me/notifications")).json()["data"]
    await reader.client.patch(f"/api/v1/me/notifications/{items[0]['id']}", json={"is_read": True})
    await post.send()
    await post.send()
    [mail] = post.mailbox.received
    assert mail.recipients == [user.email]
    assert mail.message["Subject"] == "Paid: 7"
    assert mail.message["From"] == "Acme Mail <no-reply@acme.example>"
    for kind in ("plain", "html"):
        part = mail.message.get_body((kind,))
        assert part is not None
        text = part.get_content()
        assert "By Ann" in text
        assert text.count("https://app.example.com/i/7") == 1
    found = (await post.trace(event))["data"]
    assert {t["user_id"]: (t["outcome"], t["mail"]) for t in found} == {
        str(user.user_id): ("delivered", "sent"),
        str(reader.user_id): ("delivered", "none"),
    }


async def test_what_was_there_before_the_first_run_is_not_mailed(
    own_database: TestDatabase,
) -> None:
    async with mailbox() as box:
        others = settings_of(box, public_url=API, notification_mail_seconds=0)
        async with running(own_database, **others) as live, Database(live.settings) as pools:
            callers = Callers(live)
            early = Post(callers, await new_tenant(callers), box, live.settings, pools)
            await early.notify(await early.member())
            await early.send()
            assert await early.outbox() == []
            await callers.close()


async def test_an_item_is_mailed_after_a_while(post: Post) -> None:
    await post.notify(await post.member())
    waiting = Settings(
        **{
            **{f: getattr(post.settings, f) for f in Settings.__struct_fields__},
            "notification_mail_seconds": 600,
        }
    )
    await post.send(waiting)
    assert await post.outbox() == []
    await post.send()
    assert len(post.mailbox.received) == 1


async def test_events_of_one_group_are_one_mail(post: Post) -> None:
    user = await post.member()
    first = await post.notify(user, group_key="g")
    await post.notify(user, group_key="g")
    await post.send()
    last = await post.notify(user, group_key="g")
    await post.send()
    assert len(post.mailbox.received) == 1
    [old] = (await post.trace(first))["data"]
    [new] = (await post.trace(last))["data"]
    assert (old["outcome"], old["reason"]) == ("delivered", "collapsed")
    assert (new["outcome"], new["reason"], new["mail"]) == ("delivered", "recipient", "sent")


async def remove(post: Post, user: Caller) -> None:
    await post.tenant.owner.client.delete(f"{post.tenant.path}/members/{user.user_id}")


async def suspend(post: Post, user: Caller) -> None:
    path = f"{post.tenant.path}/members/{user.user_id}"
    await post.tenant.owner.client.patch(path, json={"status": "suspended"})


async def demote(post: Post, user: Caller) -> None:
    body = {"name": "Blind", "permissions": ["workspace:read"]}
    await post.tenant.owner.client.put(f"{post.tenant.path}/roles/blind", json=body)
    path = f"{post.tenant.path}/members/{user.user_id}"
    answer = await post.tenant.owner.client.patch(path, json={"role": "blind"})
    assert answer.status_code == 200, answer.text


async def mute(post: Post, user: Caller) -> None:
    path = f"/api/v1/me/subscriptions/t:1?workspace={post.tenant.id}"
    answer = await user.client.put(path, json={"is_muted": True})
    assert answer.status_code == 200, answer.text


async def opt_out(_: Post, user: Caller) -> None:
    answer = await user.client.patch(MINE, json={"categories": {"*": {"email": False}}})
    assert answer.status_code == 200


async def opt_out_here(post: Post, user: Caller) -> None:
    path = f"{MINE}?workspace={post.tenant.id}"
    await user.client.patch(path, json={"categories": {"general": {"email": False}}})


async def opt_all_out(post: Post, _: Caller) -> None:
    path = f"{post.tenant.path}/preferences"
    body = {"categories": {"*": {"email": False}}}
    assert (await post.tenant.owner.client.patch(path, json=body)).status_code == 200


def patch_item(**body: Any) -> Callable[[Post, Caller], Awaitable[None]]:
    async def change(_: Post, user: Caller) -> None:
        [item] = (await user.client.get("/api/v1/me/notifications")).json()["data"]
        path = f"/api/v1/me/notifications/{item['id']}"
        answer = await user.client.patch(path, json=body)
        assert answer.status_code == 200, answer.text

    return change


def account(sql: str) -> Callable[[Post, Caller], Awaitable[None]]:
    async def change(post: Post, user: Caller) -> None:
        await post.execute(f"{sql} where id = $1", user.user_id)

    return change


async def delete_workspace(post: Post, _: Caller) -> None:
    assert (await post.tenant.owner.client.delete(post.tenant.path)).status_code == 204


CHANGES: dict[str, tuple[Callable[[Post, Caller], Awaitable[None]], str | None]] = {
    "removed": (remove, "not_a_member"),
    "suspended": (suspend, "suspended"),
    "demoted": (demote, "not_permitted"),
    "muted": (mute, "muted"),
    "opted out": (opt_out, "preference"),
    "opted out here": (opt_out_here, "preference"),
    "opted out by the workspace": (opt_all_out, "preference"),
    "read": (patch_item(is_read=True), "read"),
    "archived": (patch_item(is_archived=True), "archived"),
    "snoozed": (patch_item(snoozed_until=tomorrow()), "snoozed"),
    "another address": (
        account("update auth.users set email = 'other@example.com'"),
        "address_changed",
    ),
    "unconfirmed": (
        account("update auth.users set email_confirmed_at = null"),
        "address_unconfirmed",
    ),
    "erased": (account("delete from auth.users"), None),
    "workspace deleted": (delete_workspace, "not_a_member"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_everything_is_asked_again_when_it_is_sent(post: Post, change: str) -> None:
    user = await post.member()
    answer = await user.client.put(
        f"/api/v1/me/subscriptions/t:1?workspace={post.tenant.id}", json={}
    )
    assert answer.status_code in (200, 201), answer.text
    event = await post.notify(topics=["t:1"])
    await post.queue()
    assert len(await post.outbox()) == 1
    apply, reason = CHANGES[change]
    await apply(post, user)
    await post.send()
    assert post.mailbox.received == []
    assert [m["skip_reason"] for m in await post.outbox()] == ([] if reason is None else [reason])
    if change not in ("erased", "workspace deleted"):
        [trace] = (await post.trace(event))["data"]
        assert (trace["mail"], trace["mail_reason"]) == ("skipped", reason)


@pytest.mark.parametrize("change", ["removed", "suspended", "opted out", "unconfirmed"])
async def test_who_gets_none_anyway_is_not_queued(post: Post, change: str) -> None:
    user = await post.member()
    await post.notify(user)
    await CHANGES[change][0](post, user)
    await post.send()
    assert await post.outbox() == []


async def test_who_comes_back_before_it_is_sent_gets_it(post: Post) -> None:
    user = await post.member()
    await post.notify(user)
    await post.queue()
    await suspend(post, user)
    path = f"{post.tenant.path}/members/{user.user_id}"
    await post.tenant.owner.client.patch(path, json={"status": "active"})
    await post.send()
    assert len(post.mailbox.received) == 1


async def test_quiet_hours_delay_a_mail_unless_it_is_critical(post: Post) -> None:
    user = await post.member()
    quiet = {"quiet_hours": {"from": "00:00", "until": "23:59"}}
    await user.client.patch(MINE, json=quiet)
    await post.type("test.alarm", is_critical=True, title="Alarm")
    await post.notify(user)
    await post.notify(user, type="test.alarm")
    await post.send()
    [mail] = post.mailbox.received
    assert mail.message["Subject"] == "Alarm"
    [waiting] = [m for m in await post.outbox() if m["sent_at"] is None]
    async with post.callers.server.database.admin() as admin:
        ends = await admin.fetchval(
            "select annex.after_quiet_hours($1, $2, now())", user.user_id, UUID(post.tenant.id)
        )
    assert waiting["next_attempt_at"] == ends
    # They are asked about again: those that have begun meanwhile count, and those that are over.
    await post.later()
    await post.send()
    assert len(post.mailbox.received) == 1
    await user.client.patch(MINE, json={"quiet_hours": None})
    await post.later()
    await post.send()
    assert len(post.mailbox.received) == 2


async def test_what_is_critical_is_mailed_to_all_and_has_no_unsubscribe_link(post: Post) -> None:
    user = await post.member()
    await opt_out(post, user)
    await post.type(is_critical=True, title="Alarm")
    await post.notify(user)
    await post.send()
    [mail] = post.mailbox.received
    assert mail.message["List-Unsubscribe"] is None
    assert b"unsubscribe" not in mail.raw.lower()


async def test_a_workspace_that_demands_a_second_factor_mails_no_texts(post: Post) -> None:
    user = await post.member()
    await post.type(title="Secret {{data.name}}", body="Hidden {{data.name}}")
    await post.notify(user, data={"name": "merger"})
    await post.execute("update annex.workspaces set require_aal2 = true")
    await post.send()
    (mail,) = post.mailbox.received
    written = mail.message.as_string()
    assert "test.made" in written or "test made" in written
    assert not any(word in written for word in ("Secret", "Hidden", "merger"))


async def test_a_server_that_is_down_loses_nothing_and_mails_nobody_too_late(post: Post) -> None:
    early, late = await post.member(), await post.member()
    await post.notify(early, late)
    await post.mailbox.stop()
    await post.send()
    assert [m["attempts"] for m in await post.outbox()] == [1, 1]
    await post.mailbox.start()
    [item] = (await late.client.get("/api/v1/me/notifications")).json()["data"]
    await late.client.patch(f"/api/v1/me/notifications/{item['id']}", json={"is_read": True})
    await post.later()
    await post.send()
    assert [r.recipients for r in post.mailbox.received] == [[early.email]]
    assert {m["skip_reason"] for m in await post.outbox()} == {None, "read"}


async def test_a_slow_server_gets_a_mail_once_from_three_workers(post: Post) -> None:
    users = [await post.member() for _ in range(7)]
    await post.notify(*users)
    post.mailbox.pause = 0.3
    await asyncio.gather(*(post.send() for _ in range(3)))
    await post.send()
    assert sorted(r.recipients[0] for r in post.mailbox.received) == sorted(
        str(u.email) for u in users
    )


async def test_a_lease_that_was_lost_sends_nothing(post: Post) -> None:
    await post.notify(await post.member())
    await post.queue()
    [lost] = await notification_mails.lease(post.pools)
    await post.later()
    await post.send()
    prepared = notification_mails.prepare(post.settings, Templates.read(), post.pools, lost)
    await mails.hand_over(post.settings, post.pools, lost, prepared)
    assert len(post.mailbox.received) == 1


async def test_a_mail_that_may_have_arrived_keeps_its_message_id(post: Post) -> None:
    await post.notify(await post.member())
    post.mailbox.drop = True
    await post.send()
    post.mailbox.drop = False
    await post.later()
    await post.send()
    first, second = post.mailbox.received
    assert first.message["Message-ID"] == second.message["Message-ID"]
    # Both links work: a mailbox may keep either mail.
    assert post.links(first) != post.links(second)


async def test_a_workspace_mails_so_many_notifications_and_its_invitations_go_on(
    post: Post,
) -> None:
    users = [await post.member() for _ in range(4)]
    few = Settings(
        **{
            **{f: getattr(post.settings, f) for f in Settings.__struct_fields__},
            "max_notification_mails_per_workspace": 2,
        }
    )
    event = await post.notify(*users)
    await post.send(few)
    assert len(post.mailbox.received) == 2
    found = (await post.trace(event))["data"]
    assert sorted((t["mail"], t["mail_reason"]) for t in found) == [
        ("sent", None),
        ("sent", None),
        ("skipped", "limit"),
        ("skipped", "limit"),
    ]
    body = {"role": "viewer", "emails": ["new@example.org"]}
    answer = await post.tenant.owner.client.post(f"{post.tenant.path}/invitations", json=body)
    assert answer.status_code == 201, answer.text
    await mails.send_due(post.settings, Letters.read(), post.pools)
    assert post.mailbox.to("new@example.org")


async def test_of_what_is_over_the_budget_so_many_keep_a_row_as_the_budget_has(post: Post) -> None:
    users = [await post.member() for _ in range(6)]
    event = await post.notify(*users)
    async with post.callers.server.database.connect("annex_worker") as worker:
        assert (
            await worker.fetchval("select looked from annex.queue_notification_mails(0, 2, 500)")
            == 6
        )
    found = (await post.trace(event))["data"]
    assert sorted((t["mail"], t["mail_reason"] or "") for t in found) == [
        *[("none", "")] * 2,
        *[("queued", "")] * 2,
        *[("skipped", "limit")] * 2,
    ]


async def test_an_item_that_is_being_deleted_is_not_mailed_and_delays_nobody(post: Post) -> None:
    users = [await post.member() for _ in range(3)]
    await post.notify(*users)
    database = post.callers.server.database
    async with database.connect("postgres") as deleting, database.connect("annex_worker") as worker:
        transaction = deleting.transaction()
        await transaction.start()
        await deleting.execute(
            "delete from annex.notifications where user_id = $1", users[0].user_id
        )
        await deleting.execute(
            "select from annex.profiles where user_id = $1 for update", users[1].user_id
        )
        await worker.execute("set lock_timeout = '1s'")
        assert (
            await worker.fetchval("select looked from annex.queue_notification_mails(0, 50, 500)")
            == 3
        )
        await transaction.commit()
    assert [m["user_id"] for m in await post.outbox()] == [users[2].user_id]


async def test_a_workspaces_mails_are_counted_once_and_no_further_than_its_limit(
    post: Post,
) -> None:
    user = await post.member()
    async with post.callers.server.database.connect("postgres") as admin:
        # Of yesterday and today: many that a limit kept back, and some that went; and what is
        # critical, of a budget of its own.
        await admin.execute(
            """
            with made as (
              insert into annex.notifications
                (workspace_id, user_id, event_id, type, actor, category, reason, title, is_critical)
              select $1, $2, gen_random_uuid(), 'a.b', 'system', 'news', 'recipient', 'x', n > 3000
              from generate_series(1, 4000) n returning id, is_critical
            )
            insert into annex.mails
              (workspace_id, notification_id, user_id, recipient, failed_at, skip_reason,
                is_critical)
            select $1, id, $2, $3, now(),
              case when row_number() over (partition by is_critical) > 100 then 'limit' end,
              is_critical
            from made
            """,
            UUID(post.tenant.id),
            user.user_id,
            user.email,
        )
        await admin.execute("update annex.mail_state set after_id = annex.uuid7()")
        for _ in range(20):
            await post.notify(user)
        await admin.execute("analyze annex.mails")
    # By a session of its own, whose numbers are of this call alone.
    async with post.callers.server.database.connect("postgres") as admin:
        async with admin.transaction():
            looked = await admin.fetchval(
                "select looked from annex.queue_notification_mails(0, 50, 500)"
            )
            read = await admin.fetchval(
                "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables"
                " where relname = 'mails'"
            )
    assert looked == 20
    # The two counts end at the limit; one of them may meet the 100 that went first.
    assert read <= 200
    # What is over the budget is noted as often as the budget is large, and no more.
    assert len(await post.outbox()) == 4000


async def test_after_a_long_pause_the_last_day_is_mailed_and_not_the_months_before(
    post: Post,
) -> None:
    old, new = await post.member(), await post.member()
    await post.notify(old)
    await post.execute(
        "update annex.notifications set id = annex.uuid7_floor(now() - interval '25 hours')"
    )
    await post.execute(
        "update annex.mail_state set after_id = annex.uuid7_floor(now() - interval '90 days')"
    )
    await post.notify(new)
    await post.execute(
        "update annex.notifications set id = annex.uuid7_floor(now() - interval '23 hours')"
        " where user_id = $1",
        new.user_id,
    )
    await post.send()
    assert [m.recipients for m in post.mailbox.received] == [[new.email]]


async def test_a_mailbox_gets_so_many_of_a_day_and_invitations_beside(post: Post) -> None:
    user = await post.member()
    for _ in range(post.settings.max_mails_per_address + 2):
        await post.notify(user)
    await post.send()
    assert len(post.mailbox.received) == post.settings.max_mails_per_address
    assert [m["skip_reason"] for m in await post.outbox()].count("limit") == 2
    other = await new_tenant(post.callers)
    body = {"role": "viewer", "emails": [user.email]}
    await other.owner.client.post(f"{other.path}/invitations", json=body)
    await mails.send_due(post.settings, Letters.read(), post.pools)
    assert len(post.mailbox.received) == post.settings.max_mails_per_address + 1


async def test_no_tenant_uses_up_a_mailbox_for_others_or_for_what_is_critical(post: Post) -> None:
    user, other = await post.member(), await new_tenant(post.callers)
    await post.execute(
        "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'viewer')",
        UUID(other.id),
        user.user_id,
    )
    await post.type("test.alarm", is_critical=True)
    most = post.settings.max_mails_per_address
    for kind in ("test.made", "test.alarm"):
        for _ in range(most + 1):
            await post.notify(user, type=kind)
    await post.send()
    # Of each kind as many as there may be, and no more.
    assert len(post.mailbox.received) == 2 * most
    theirs = post._replace(tenant=other)
    for kind in ("test.made", "test.alarm"):
        for _ in range(most):
            await theirs.notify(user, type=kind)
    await post.send()
    # And a third of it for somebody else.
    assert len(post.mailbox.received) == 2 * (most + most // 3)


async def test_a_topic_that_was_muted_ends_mails_of_events_that_have_others_too(
    post: Post,
) -> None:
    both, filtered, named = [await post.member() for _ in range(3)]
    for user, topics in ((both, "ab"), (filtered, "ab"), (named, "b")):
        for topic in topics:
            path = f"/api/v1/me/subscriptions/{topic}?workspace={post.tenant.id}"
            assert (await user.client.put(path, json={})).status_code == 201
    body = {"type": "test.made", "topics": ["a", "b"], "recipients": [str(named.user_id)]}
    answer = await post.tenant.owner.client.post(f"{post.tenant.path}/events", json=body)
    await post.fan_out(answer.json()["id"])
    path = f"/api/v1/me/subscriptions/b?workspace={post.tenant.id}"
    for user, wanted in ((both, {}), (filtered, {"types": ["other.kind"]}), (named, {})):
        muted = await user.client.put(path, json={"is_muted": True, **wanted})
        assert muted.status_code == 200
    await post.send()
    # As a fan-out has it: not who muted a topic of it, but who muted other types, or was named.
    assert {m.recipients[0] for m in post.mailbox.received} == {filtered.email, named.email}


async def test_the_worker_mails_by_itself(post: Post) -> None:
    jobs = notification_mails.notifying(post.settings, seconds=0.05)
    task = asyncio.create_task(Runner(post.pools, jobs=jobs).run())
    try:
        await post.notify(await post.member())
        await until(lambda: len(post.mailbox.received) == 1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_links_lead_to_the_settings_hosts_whatever_a_request_or_an_event_says(
    post: Post,
) -> None:
    user = await post.member()
    names = ("X-Forwarded-Host", "Forwarded", "Referer", "Origin", "X-Forwarded-Proto")
    answer = await post.tenant.owner.client.post(
        f"{post.tenant.path}/events",
        json={
            "type": "test.made",
            "recipients": [str(user.user_id)],
            "url": "https://evil.example/x",
        },
        headers=dict.fromkeys(names, "evil.example"),
    )
    await post.fan_out(answer.json()["id"])
    await post.send()
    [mail] = post.mailbox.received
    assert b"evil" not in mail.raw
    assert b"https://app.example.com/" in mail.raw


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("/i/7?a=b#c", "https://app.example.com/i/7?a=b#c"),
        ("//evil.example", "https://app.example.com/"),
        ("/\\evil.example", "https://app.example.com/"),
        ("https://evil.example", "https://app.example.com/"),
        ("javascript:alert(1)", "https://app.example.com/"),
        (None, "https://app.example.com/"),
    ],
)
def test_a_mail_leads_below_the_application(url: str | None, page: str) -> None:
    settings = Settings(
        database_url="", worker_database_url="", app_url="https://app.example.com/join"
    )
    assert page_of(settings, url) == page


def letter(text: str, locale: str = "en") -> Any:
    """Write a mail whose every text is hostile, and parse what would be sent."""
    token = f"{API}/unsubscribe?token=annex_ut_{'A' * 43}"
    facts = ItemFacts(text, text, text, 1, "https://app.example.com/", token)
    letters = Letters.read(None, "notification").of(locale)
    return write(letters, facts, "Acme <no-reply@acme.example>", "b@example.org", token)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("locale", ["en", "de"])
def test_no_text_becomes_a_link_markup_or_a_header(text: str, locale: str) -> None:
    message, innocent = letter(text, locale), letter("Acme", locale)
    assert sorted(message.keys()) == sorted(innocent.keys())
    assert len(str(message["Subject"])) <= 120
    raw = message.as_bytes()
    lines = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    [unsubscribe] = [line for line in lines if line.lower().startswith(b"list-unsubscribe:")]
    assert unsubscribe == (
        b"List-Unsubscribe: <https://api.example.com/unsubscribe?token=annex_ut_" + b"A" * 43 + b">"
    )
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines
    pages = [m.get_body(("html",)).get_content() for m in (message, innocent)]
    assert Tree(pages[0]).found == Tree(pages[1]).found
    plain = message.get_body(("plain",)).get_content()
    assert plain.count("://") == 2
    assert "evil.example" not in plain
