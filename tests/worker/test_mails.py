"""Invitations by mail: they arrive and are accepted, whatever the SMTP server does."""

import asyncio
import email
import email.policy
import html.parser
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, get_args
from uuid import UUID, uuid4

import hypothesis
import pytest
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis.strategies import from_regex
from structlog.testing import capture_logs

from app.database.pools import Database
from app.schemas.invitations import Email
from app.settings import Settings, SettingsError
from app.worker import mails
from app.worker.housekeeping import tidy
from app.worker.letters import Facts, Letters, cleaned, write
from app.worker.runner import Runner
from tests.conftest import Callers, Tenant, TestDatabase, new_tenant, running
from tests.controllers.test_invitations import RESPOND, accept, code, issue, listed
from tests.factories import make_settings
from tests.operations import every
from tests.worker.mailbox import Mailbox, mailbox, settings_of


class Post(NamedTuple):
    """A server that mails, its workspace, its outbox and the SMTP server."""

    callers: Callers
    tenant: Tenant
    mailbox: Mailbox
    settings: Settings
    pools: Database

    async def send(self) -> None:
        """Do what the worker does every two seconds, once."""
        await mails.send_due(self.settings, Letters.read(), self.pools)

    async def execute(self, sql: str, *values: Any) -> None:
        """Change what only time could change."""
        async with self.callers.server.database.admin() as admin:
            await admin.execute(sql, *values)

    async def outbox(self) -> list[Any]:
        """Return the workspace's mails."""
        async with self.callers.server.database.admin() as admin:
            return await admin.fetch(
                "select * from annex.mails where workspace_id = $1 order by created_at, id",
                UUID(self.tenant.id),
            )

    async def later(self) -> None:
        """Let the time come at which a mail is tried again."""
        await self.execute(
            "update annex.mails set next_attempt_at = now(), leased_until = least(leased_until,"
            " now()) where workspace_id = $1",
            UUID(self.tenant.id),
        )

    async def delivery(self, invitation: str) -> str:
        """Return what the list says of an invitation's mail."""
        return str((await listed(self.tenant))[invitation]["delivery"])


@pytest.fixture
async def post(database: TestDatabase) -> AsyncIterator[Post]:
    async with mailbox() as box, running(database, **settings_of(box)) as live:
        callers = Callers(live)
        async with Database(live.settings) as pools:
            made = Post(callers, await new_tenant(callers), box, live.settings, pools)
            await made.execute("delete from annex.mails")  # of tests before
            yield made
        await callers.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another task does."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_an_invitation_arrives_and_is_accepted_by_the_mails_link(post: Post) -> None:
    user = await post.callers.user()
    [made] = await issue(post.tenant.owner, post.tenant, str(user.email))
    assert (made["outcome"], made["token"], made["accept_url"]) == ("created", None, None)
    assert await post.delivery(made["invitation_id"]) == "queued"
    await post.send()
    [mail] = post.mailbox.to(user.email)
    assert mail.sender == "no-reply@acme.example"
    assert mail.message["From"] == "Acme Mail <no-reply@acme.example>"
    assert mail.message["To"] == user.email
    assert await post.delivery(made["invitation_id"]) == "sent"
    assert (await accept(user, mail.token)).json()["outcome"] == "joined"
    await post.send()
    assert len(post.mailbox.received) == 1


async def test_both_parts_have_the_same_link_below_the_operators_page(post: Post) -> None:
    await issue(post.tenant.owner, post.tenant, "a@example.org")
    await post.send()
    [mail] = post.mailbox.received
    url = f"https://app.example.com/join#token={mail.token}"
    for kind in ("plain", "html"):
        part = mail.message.get_body((kind,))
        assert part is not None
        assert part.get_content().count(url) == 1
        assert part.get_content().count("http") == 1


async def test_the_links_host_is_the_settings_whatever_a_request_says(post: Post) -> None:
    names = ("X-Forwarded-Host", "Forwarded", "Referer", "Origin", "X-Forwarded-Proto")
    evil = dict.fromkeys(names, "evil.example")
    body = {"role": "viewer", "emails": ["a@example.org"]}
    await post.tenant.owner.client.post(f"{post.tenant.path}/invitations", json=body, headers=evil)
    answer = await post.tenant.owner.client.post(
        f"{post.tenant.path}/invitations", json={"role": "viewer"}, headers=evil
    )
    [made] = answer.json()["data"]
    assert made["accept_url"] == f"https://app.example.com/join#token={made['token']}"
    await post.send()
    assert b"evil" not in post.mailbox.received[0].raw


async def test_a_link_is_never_mailed(post: Post) -> None:
    [made] = await issue(post.tenant.owner, post.tenant)
    assert made["token"]
    assert await post.outbox() == []


async def test_a_server_that_is_down_loses_nothing(post: Post) -> None:
    users = [await post.callers.user() for _ in range(7)]
    await issue(post.tenant.owner, post.tenant, *(str(u.email) for u in users))
    await post.mailbox.stop()
    await post.send()
    assert {m["attempts"] for m in await post.outbox()} == {1}
    await post.send()  # not before its time
    assert {m["attempts"] for m in await post.outbox()} == {1}
    await post.mailbox.start()
    await post.later()
    await post.send()
    for user in users:
        [mail] = post.mailbox.to(user.email)
        assert (await accept(user, mail.token)).status_code == 200


async def test_one_refused_recipient_is_nobody_elses_matter(post: Post) -> None:
    users = [await post.callers.user() for _ in range(3)]
    emails = [str(u.email) for u in users]
    made = await issue(post.tenant.owner, post.tenant, *emails)
    post.mailbox.refuse = {emails[1]: "550 no such user", emails[2]: "451 greylisted"}
    await post.send()
    found = [await post.delivery(m["invitation_id"]) for m in made]
    assert found == ["sent", "failed", "queued"]
    errors = {m["recipient"]: m["error"] for m in await post.outbox()}
    assert errors == {
        emails[0]: None,
        emails[1]: "550 no such user",
        emails[2]: "451 greylisted",
    }
    # The invitation is still there: sent again once the mailbox is, or accepted by its id.
    post.mailbox.refuse = {}
    await post.later()
    path = f"{post.tenant.path}/invitations/{made[1]['invitation_id']}"
    assert (await post.tenant.owner.client.post(f"{path}/resend")).status_code == 200
    await post.send()
    for user in users:
        [mail] = post.mailbox.to(user.email)
        assert (await accept(user, mail.token)).status_code == 200


async def test_a_mail_that_meets_an_unexpected_error_is_finished_and_the_others_arrive(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwritable, unsendable, *others = [f"{uuid4().hex[:8]}@example.org" for _ in range(8)]
    compose, send = mails.compose, mails.send

    def no_letter(settings: Settings, letters: Letters, mail: mails.Mail, token: str) -> Any:
        if mail.recipient == unwritable:
            raise IndexError
        return compose(settings, letters, mail, token)

    async def no_answer(settings: Settings, message: Any, recipient: str) -> None:
        if recipient == unsendable:
            raise ArithmeticError
        await send(settings, message, recipient)

    monkeypatch.setattr(mails, "compose", no_letter)
    monkeypatch.setattr(mails, "send", no_answer)
    await issue(post.tenant.owner, post.tenant, unwritable, unsendable, *others)
    await post.send()
    assert sorted(r.recipients[0] for r in post.mailbox.received) == sorted(others)
    found = {m["recipient"]: m for m in await post.outbox()}
    assert found[unwritable]["failed_at"]  # it will not be written another time
    assert (found[unsendable]["error"], found[unsendable]["failed_at"]) == ("ArithmeticError", None)
    assert {m["lease_id"] for m in found.values()} == {None}


async def test_a_mail_that_cannot_be_finished_keeps_no_other_from_its_turn(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    emails = [f"{uuid4().hex[:8]}@example.org" for _ in range(8)]
    finish = mails.finish

    async def fail(database: Database, mail: mails.Mail, *how: Any) -> None:
        if mail.recipient == emails[0]:
            raise OSError
        await finish(database, mail, *how)

    monkeypatch.setattr(mails, "finish", fail)
    await issue(post.tenant.owner, post.tenant, *emails)
    await post.send()
    assert sorted(r.recipients[0] for r in post.mailbox.received) == sorted(emails)
    assert [m["recipient"] for m in await post.outbox() if m["lease_id"]] == emails[:1]


@hypothesis.given(from_regex(get_args(Email)[1].pattern))
def test_every_address_of_the_contract_can_be_written_to(address: str) -> None:
    facts = Facts("Acme", "A", "viewer", "https://app.example.com", "2026-01-01")
    message = write(Letters.read().of("en"), facts, "A <a@acme.example>", address)
    assert [a.addr_spec for a in message["To"].addresses] == [address]


async def test_a_mail_that_may_have_arrived_is_sent_again_and_the_later_link_works(
    post: Post,
) -> None:
    user = await post.callers.user()
    await issue(post.tenant.owner, post.tenant, str(user.email))
    post.mailbox.drop = True
    await post.send()
    post.mailbox.drop = False
    await post.later()
    await post.send()
    first, second = post.mailbox.to(user.email)
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert first.token != second.token
    assert (await accept(user, first.token)).status_code == 404
    assert (await accept(user, second.token)).status_code == 200


async def test_a_slow_server_gets_a_mail_once_from_two_workers(post: Post) -> None:
    emails = [f"{uuid4().hex[:8]}@example.org" for _ in range(8)]
    await issue(post.tenant.owner, post.tenant, *emails)
    post.mailbox.pause = 0.3
    await asyncio.gather(*(post.send() for _ in range(3)))
    await post.send()
    assert sorted(r.recipients[0] for r in post.mailbox.received) == sorted(emails)


async def test_a_server_that_never_answers_is_given_up_within_the_lease(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mails, "SEND_SECONDS", 0.2)
    [made] = await issue(post.tenant.owner, post.tenant, "a@example.org")
    post.mailbox.pause = 3600
    await post.send()
    [mail] = await post.outbox()
    assert (mail["error"], mail["sent_at"]) == ("TimeoutError", None)
    assert await post.delivery(made["invitation_id"]) == "queued"
    assert mails.SEND_SECONDS < 60 < mails.LEASE_SECONDS


async def test_a_worker_that_died_leaves_a_lease_that_ends(post: Post) -> None:
    user = await post.callers.user()
    await issue(post.tenant.owner, post.tenant, str(user.email))
    [lost] = await mails.lease(post.settings, post.pools)
    await post.send()
    assert post.mailbox.received == []
    await post.later()
    await post.send()
    [mail] = post.mailbox.to(user.email)
    # What the dead one comes back with changes nothing.
    prepared = mails.prepare(post.settings, Letters.read(), post.pools, lost)
    await mails.hand_over(post.settings, post.pools, lost, prepared)
    assert len(post.mailbox.received) == 1
    assert [m["error"] for m in await post.outbox()] == [None]
    assert (await accept(user, mail.token)).status_code == 200


async def test_a_mail_that_fails_for_ever_is_given_up_and_its_invitation_is_not(
    post: Post,
) -> None:
    user = await post.callers.user()
    [made] = await issue(post.tenant.owner, post.tenant, str(user.email))
    post.mailbox.data = lambda: "451 later"
    for _ in range(mails.MAX_ATTEMPTS):
        await post.later()
        await post.send()
    [mail] = await post.outbox()
    assert mail["attempts"] == mails.MAX_ATTEMPTS
    assert mail["failed_at"]
    assert await post.delivery(made["invitation_id"]) == "failed"
    by_id = {"invitation_id": made["invitation_id"], "accept": True}
    assert (await user.client.post(RESPOND, json=by_id)).status_code == 200


async def test_an_invitation_that_is_over_is_not_mailed(post: Post) -> None:
    emails = [f"{uuid4().hex[:8]}@example.org" for _ in range(3)]
    revoked, expired, _ = await issue(post.tenant.owner, post.tenant, *emails)
    path = f"{post.tenant.path}/invitations/{revoked['invitation_id']}"
    await post.tenant.owner.client.delete(path)
    await post.execute(
        "update annex.invitations set expires_at = now() where id = $1",
        UUID(expired["invitation_id"]),
    )
    await post.send()
    assert [r.recipients for r in post.mailbox.received] == [[emails[2]]]
    await issue(post.tenant.owner, post.tenant, "last@example.org")
    await post.tenant.owner.client.delete(post.tenant.path)
    await post.send()
    assert len(post.mailbox.received) == 1


async def test_sent_again_while_it_is_being_sent_the_last_mail_has_the_token(post: Post) -> None:
    user = await post.callers.user()
    [made] = await issue(post.tenant.owner, post.tenant, str(user.email))
    path = f"{post.tenant.path}/invitations/{made['invitation_id']}/resend"
    post.mailbox.pause = 0.5
    # Its token is stored before the mail is given away.
    sending = asyncio.create_task(post.send())
    await until(lambda: post.mailbox.begun == 1)
    assert (await post.tenant.owner.client.post(path)).json()["token"] is None
    await sending
    post.mailbox.pause = 0
    await post.send()
    first, second = post.mailbox.to(user.email)
    assert code(await accept(user, first.token)) == (404, "not_found")
    assert (await accept(user, second.token)).status_code == 200


async def test_sent_again_while_it_waits_it_is_one_mail(post: Post) -> None:
    [made] = await issue(post.tenant.owner, post.tenant, "a@example.org")
    path = f"{post.tenant.path}/invitations/{made['invitation_id']}/resend"
    answers = await asyncio.gather(*(post.tenant.owner.client.post(path) for _ in range(20)))
    assert {r.status_code for r in answers} == {200}
    await post.send()
    assert len(post.mailbox.received) == 1


async def test_a_workspace_queues_so_many_mails_a_day(database: TestDatabase) -> None:
    async with (
        mailbox() as box,
        running(database, **settings_of(box, max_mails_per_workspace=3)) as live,
    ):
        callers = Callers(live)
        tenant = await new_tenant(callers)
        client, path = tenant.owner.client, f"{tenant.path}/invitations"

        def body(*names: str) -> dict[str, Any]:
            return {"role": "viewer", "emails": [f"{name}@example.org" for name in names]}

        too_many = await client.post(path, json=body("a", "b", "c", "d"))
        assert code(too_many) == (429, "too_many_mails")
        assert await listed(tenant) == {}
        made = (await client.post(path, json=body("a", "b", "c"))).json()["data"]
        assert code(await client.post(path, json=body("d"))) == (429, "too_many_mails")
        # Neither to revoke and invite anew, nor in parallel.
        await client.delete(f"{path}/{made[0]['invitation_id']}")
        answers = await asyncio.gather(*(client.post(path, json=body("a")) for _ in range(5)))
        assert {r.status_code for r in answers} == {429}
        await client.post(path, json={"role": "viewer"})  # a link is no mail
        await callers.close()


async def test_every_way_to_a_mail_counts_to_one_limit(database: TestDatabase) -> None:
    async with (
        mailbox() as box,
        running(database, **settings_of(box, max_mails_per_workspace=4)) as live,
        Database(live.settings) as pools,
    ):
        callers = Callers(live)
        tenant = await new_tenant(callers)
        owner, path = tenant.owner.client, f"{tenant.path}/invitations"
        key = (await callers.key(tenant.id, *await every(callers))).client

        def body(*names: str) -> dict[str, Any]:
            return {"role": "viewer", "emails": [f"{name}-{run}@example.org" for name in names]}

        run = uuid4().hex[:8]
        made = (await owner.post(path, json=body("a"))).json()["data"][0]["invitation_id"]
        assert (await key.post(path, json=body("b"))).status_code == 201
        await mails.send_due(live.settings, Letters.read(), pools)
        assert (await owner.post(f"{path}/{made}/resend")).status_code == 200
        await mails.send_due(live.settings, Letters.read(), pools)
        assert (await owner.post(f"{path}/{made}/resend")).status_code == 200
        await mails.send_due(live.settings, Letters.read(), pools)
        refused = [
            await owner.post(path, json=body("c")),
            await key.post(path, json=body("c")),
            await owner.post(path, json=body("c", "d", "e")),
            await owner.post(f"{path}/{made}/resend"),
            *await asyncio.gather(*(c.post(path, json=body("c")) for c in [owner, key] * 3)),
        ]
        assert (await owner.delete(f"{path}/{made}")).status_code == 204
        refused.append(await owner.post(path, json=body("a")))
        assert {code(r) for r in refused} == {(429, "too_many_mails")}
        await mails.send_due(live.settings, Letters.read(), pools)
        # The outbox is one for all tests.
        assert len([m for m in box.received if run in m.recipients[0]]) == 4
        await callers.close()


async def test_a_mailbox_gets_so_many_mails_a_day_from_all_workspaces(
    post: Post, database: TestDatabase
) -> None:
    name = uuid4().hex[:8]
    address, alias = f"{name}@example.org", f"{name}+x@example.org"
    tenants = [post.tenant, *[await new_tenant(post.callers) for _ in range(6)]]
    answers = [await issue(t.owner, t, address, alias) for t in tenants]
    # Nobody is told, as that would say what others do.
    assert {i["outcome"] for issued in answers for i in issued} == {"created"}
    await post.send()
    assert post.settings.max_mails_per_address == 10
    # Ten: creators take turns, and so everybody's first mail is among them.
    assert len([r for r in post.mailbox.received if name in r.recipients[0]]) == 10
    await post.execute("update annex.mails set next_attempt_at = now() where sent_at is null")
    await post.send()
    assert len(post.mailbox.received) == 10
    await post.execute(
        "update annex.mails set leased_until = leased_until - interval '1 day', next_attempt_at"
        " = now()"
    )
    await post.send()
    assert len(post.mailbox.received) == 2 * len(tenants)


async def test_no_tenant_uses_up_what_a_mailbox_gets(post: Post) -> None:
    address = f"{uuid4().hex[:8]}@example.org"
    owner = post.tenant.owner
    second = (await owner.client.post("/api/v1/workspaces", json={"name": "Second"})).json()
    path = f"/api/v1/workspaces/{second['id']}"
    for tenant in (post.tenant, Tenant(second["id"], second["slug"], path, owner)):
        [made] = await issue(owner, tenant, address)
        again = f"{tenant.path}/invitations/{made['invitation_id']}/resend"
        for _ in range(5):
            await post.send()
            await owner.client.post(again)
        # A third of the mailbox's limit, of all workspaces that one user made together.
        assert len(post.mailbox.received) == 3
    # Everybody else's first mail goes out, up to twice the limit.
    others = [await new_tenant(post.callers) for _ in range(20)]
    for tenant in others:
        await issue(tenant.owner, tenant, address)
    await post.send()
    assert len(post.mailbox.received) == 2 * post.settings.max_mails_per_address


async def test_who_fills_a_mailbox_waits_alone_and_all_at_once(post: Post) -> None:
    name = uuid4().hex[:8]
    aliases = [f"{name}+{n}@example.org" for n in range(40)]
    await issue(post.tenant.owner, post.tenant, *aliases)
    other = await new_tenant(post.callers)
    await issue(other.owner, other, f"other-{name}@example.org", f"{name}@example.org")
    lease = "select recipient from annex.lease_mails($1, 60, 10)"
    async with post.callers.server.database.admin() as admin:
        # Creators in turn, each one's oldest first.
        leased = [{r[0] for r in await admin.fetch(lease, 2)} for _ in range(2)]
        assert leased == [
            {aliases[0], f"other-{name}@example.org"},
            {aliases[1], f"{name}@example.org"},
        ]
        # One more: a third of ten is three. That is also when the others are found to wait.
        assert {r[0] for r in await admin.fetch(lease, 50)} == {aliases[2]}
        waiting = await admin.fetch(
            "select next_attempt_at - now() as pause from annex.mails"
            " where lease_id is null and workspace_id = $1",
            UUID(post.tenant.id),
        )
        assert len(waiting) == 37
        assert all(timedelta(hours=23) < row["pause"] for row in waiting)
        assert len({row["pause"] for row in waiting}) == 1


async def test_a_mail_speaks_its_recipients_language(post: Post) -> None:
    users = {tag: await post.callers.user() for tag in ("de-AT", "xx", None)}
    for tag, user in users.items():
        await user.client.patch("/api/v1/me", json={"locale": tag})
        await issue(post.tenant.owner, post.tenant, str(user.email))
    await post.send()
    subjects = {t: post.mailbox.to(u.email)[0].message["Subject"] for t, u in users.items()}
    assert subjects["de-AT"].startswith("Einladung zu ")
    assert subjects["xx"].startswith("Join ")
    assert subjects[None].startswith("Join ")


async def test_the_outbox_holds_no_token_before_or_after(post: Post) -> None:
    user = await post.callers.user()
    await issue(post.tenant.owner, post.tenant, str(user.email))
    post.mailbox.data = lambda: "451 later"
    await post.send()
    post.mailbox.data = lambda: "250 OK"
    await post.later()
    await post.send()
    [mail] = post.mailbox.to(user.email)
    async with post.callers.server.database.admin() as admin:
        tables = await admin.fetch(
            "select c.oid::regclass::text from pg_class c"
            " where relnamespace = 'annex'::regnamespace and relkind in ('r', 'p')"
        )
        for (table,) in tables:
            assert mail.token not in str(await admin.fetch(f"select t::text from {table} t"))


async def test_a_refusal_that_quotes_the_mail_is_told_and_stored_without_its_token(
    post: Post,
) -> None:
    user = await post.callers.user()
    await issue(post.tenant.owner, post.tenant, str(user.email))
    post.mailbox.is_quoting = True
    post.mailbox.data = lambda: "451 spam:"
    with capture_logs() as said:
        await post.send()
    [mail] = await post.outbox()
    assert mail["error"] == "451 spam: https://app.example.com/join#[hidden] or [hidden]"
    assert "a mail was not sent" in str(said)
    assert "annex_it_" not in str(said)


async def test_the_worker_sends_by_itself(post: Post) -> None:
    await issue(post.tenant.owner, post.tenant, "a@example.org")
    runner = Runner(post.pools, jobs=mails.mailing(post.settings, seconds=0.05))
    running_task = asyncio.create_task(runner.run())
    try:
        await until(lambda: len(post.mailbox.received) == 1)
    finally:
        running_task.cancel()
        await asyncio.gather(running_task, return_exceptions=True)


def certificate(folder: Path) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1 that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(secret + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


def over(box: Mailbox, scheme: str, login: str = "") -> Settings:
    """Make settings that reach a server in another way."""
    kept = settings_of(box, smtp_url=f"{scheme}://{login}127.0.0.1:{box.port}")
    return make_settings(**kept)


async def one(settings: Settings) -> None:
    """Send one mail."""
    facts = Facts("Acme", "Ada", "Viewer", "https://app.example.com/join#token=t", "tomorrow")
    message = write(Letters.read().of("en"), facts, str(settings.mail_from), "b@example.org")
    await mails.send(settings, message, "b@example.org")


async def test_mail_goes_over_tls_from_the_start_or_after_starttls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certificate(tmp_path)
    async with mailbox(tls=context) as box:
        # Nobody has signed it, and so nobody is sent anything.
        with pytest.raises(mails.Refusal):
            await one(over(box, "smtps"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
        await one(over(box, "smtps"))
        assert len(box.received) == 1
    async with mailbox(tls_context=context, require_starttls=True) as box:
        await one(over(box, "smtp+starttls"))
        await one(over(box, "smtp"))
        assert len(box.received) == 2


async def test_without_starttls_nothing_is_sent_in_the_clear() -> None:
    async with mailbox() as box:
        with pytest.raises(mails.Refusal) as refused:
            await one(over(box, "smtp+starttls"))
        assert not refused.value.is_final
        assert box.received == []


@pytest.mark.parametrize(("password", "is_taken"), [("p%40ss:word", True), ("wrong", False)])
async def test_a_login_is_that_of_the_url(password: str, is_taken: bool) -> None:
    logins = []

    def check(*given: Any) -> AuthResult:
        logins.append((given[4].login, given[4].password))
        return AuthResult(success=logins[-1] == (b"us/er", b"p@ss:word"), handled=False)

    async with mailbox(authenticator=check, auth_require_tls=False) as box:
        settings = over(box, "smtp", f"us%2Fer:{password}@")
        if is_taken:
            await one(settings)
            assert (len(logins), len(box.received)) == (1, 1)
        else:
            with pytest.raises(mails.Refusal) as refused:
                await one(settings)
            assert not refused.value.is_final
            assert box.received == []


async def test_housekeeping_closes_what_is_over_and_forgets_old_mails(post: Post) -> None:
    first, second = await issue(post.tenant.owner, post.tenant, "a@example.org", "b@example.org")
    await post.send()
    await post.execute(
        "update annex.invitations set expires_at = now() where id = $1",
        UUID(first["invitation_id"]),
    )
    await post.execute(
        "update annex.mails set created_at = now() - interval '31 days' where recipient = $1",
        "a@example.org",
    )
    await tidy(post.pools)
    found = await listed(post.tenant)
    assert found[first["invitation_id"]]["status"] == "expired"
    assert found[second["invitation_id"]]["status"] == "pending"
    assert [m["recipient"] for m in await post.outbox()] == ["b@example.org"]


HOSTILE = [
    "https://evil.example/x",
    "evil.example",
    "www evil",
    "a@evil.example",
    '<a href="https://evil.example">x</a>',
    "<img src=x onerror=alert(1)>",
    "[x](https://evil.example)",
    "![x](//evil.example/i.png)",
    "Acme\u202eelpmaxe.live",
    "A\u200bc\u2060me\ufeff",
    "Acme\r\nBcc: a@evil.example\r\n\r\nHello",
    "Acme\u2028Bcc: x\x85y\x00z",
    "=?utf-8?q?a=0d=0aBcc:_a=40evil.example?=",
    "evil\uff0eexample",
    "evil\u3002example",
    "javascript:alert(1)",
    "$url ${url} $$ %s {0}",
    "&amp;<>\"'",
    "x" * 10_000,
    "🎉" * 80,
    "",
    " ",
]


class Tree(html.parser.HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, attrs))


def letter(name: str, locale: str = "en") -> Any:
    """Write a mail in which everything is called so, and parse what goes over the wire."""
    facts = Facts(name, name, name, "https://app.example.com/join#token=t", "2026-01-01")
    written = write(Letters.read().of(locale), facts, "Acme <a@acme.example>", "b@example.org")
    return email.message_from_bytes(written.as_bytes(), policy=email.policy.default)


@pytest.mark.parametrize("locale", ["en", "de"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_no_header_no_markup_and_no_link(name: str, locale: str) -> None:
    harmless, written = letter("Acme", locale), letter(name, locale)
    assert sorted(written.keys()) == sorted(harmless.keys())
    assert written["From"] == "Acme <a@acme.example>"
    assert [a.addr_spec for a in written["To"].addresses] == ["b@example.org"]
    assert len(written["Subject"]) <= 120
    trees = [Tree(m.get_body(("html",)).get_content()).found for m in (harmless, written)]
    assert trees[0] == trees[1]
    text = written.get_body(("plain",)).get_content()
    assert text.count("://") == 1
    assert "evil.example" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Acme Inc.", "Acme Inc."),
        ("Dr. Who & Sons", "Dr. Who & Sons"),
        ("Bücher", "Bücher"),
        ("日本語", "日本語"),
        ("acme.io", "acme io"),
        ("a@b.example", "a b example"),
        ("A\n  B", "A B"),
        ("x" * 61, "x" * 59 + "…"),
        ("", ""),
    ],
)
def test_a_name_stays_readable(name: str, shown: str) -> None:
    assert cleaned(name) == shown


def test_an_operators_templates_take_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "invitation.en.txt").write_text("Subject: Hi $workspace\n\n$url\n")
    (tmp_path / "invitation.fr.txt").write_text("Subject: Bonjour\n\n$url\n")
    (tmp_path / "invitation.fr.html").write_text('<a href="$url">Oui</a>')
    letters = Letters.read(str(tmp_path))
    assert letters.of("en-GB").subject.template == "Hi $workspace"
    assert letters.of("fr-CA").subject.template == "Bonjour"
    assert letters.of("de").subject.template.startswith("Einladung")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("invitation.fr.txt", "Subject: a\n\nb"),
        ("invitation.en.txt", "no subject"),
        ("invitation.en.txt", "Subject: a\n\n$nonsense"),
        ("invitation.en.html", "<p>100 $</p>"),
    ],
)
def test_a_template_that_cannot_be_used_stops_the_start(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match="ANNEX_MAIL_TEMPLATES"):
        Letters.read(str(tmp_path))
