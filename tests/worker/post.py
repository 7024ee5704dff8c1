"""A server whose notifications are mailed at once, and the SMTP server that takes them."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from app.database.pools import Database
from app.settings import Settings
from app.worker import notification_mails
from app.worker.notification_mails import Templates
from tests.conftest import Caller, Callers, Tenant, TestDatabase, add_member, new_tenant, running
from tests.database.conftest import fan_out
from tests.worker.mailbox import Mailbox, mailbox, settings_of

API = "https://api.example.com"


class Post(NamedTuple):
    """A server whose notifications are mailed at once, its workspace and the SMTP server."""

    callers: Callers
    tenant: Tenant
    mailbox: Mailbox
    settings: Settings
    pools: Database

    async def notify(self, *users: Caller, **event: Any) -> str:
        """Publish an event to users and fan it out; returns its id."""
        body = {"type": "test.made", "recipients": [str(u.user_id) for u in users], **event}
        answer = await self.tenant.owner.client.post(f"{self.tenant.path}/events", json=body)
        assert answer.status_code == 201, answer.text
        made = str(answer.json()["id"])
        await self.fan_out(made)
        return made

    async def fan_out(self, event: str) -> None:
        """Fan an event out to the end."""
        async with self.callers.server.database.connect("annex_worker") as worker:
            await fan_out(worker, UUID(event))

    async def queue(self) -> None:
        """Look at new items, as the worker does every two seconds."""
        await notification_mails.queue(self.settings, self.pools)

    async def send(self, settings: Settings | None = None) -> None:
        """Queue and send what is due."""
        await notification_mails.send_due(settings or self.settings, Templates.read(), self.pools)

    async def execute(self, sql: str, *values: Any) -> None:
        """Change what only time could change."""
        async with self.callers.server.database.admin() as admin:
            await admin.execute(sql, *values)

    async def outbox(self) -> list[Any]:
        """Return all mails."""
        async with self.callers.server.database.admin() as admin:
            return list(await admin.fetch("select * from annex.mails order by created_at, id"))

    async def later(self) -> None:
        """Let the time come at which a mail is tried again."""
        await self.execute("update annex.mails set next_attempt_at = now(), leased_until = null")

    async def member(self, role: str = "viewer") -> Caller:
        return await add_member(self.callers, self.tenant, role)

    async def type(self, name: str = "test.made", **body: Any) -> None:
        """Put an event type."""
        answer = await self.callers.operator().client.put(
            f"/api/v1/event-types/{name}", json={"category": "news", **body}
        )
        assert answer.status_code in (200, 201), answer.text

    async def trace(self, event: str, **params: Any) -> Any:
        answer = await self.tenant.owner.client.get(
            f"{self.tenant.path}/events/{event}/trace", params=params
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def links(self, mail: Any) -> str:
        """Return the token of a mail's List-Unsubscribe."""
        header = str(mail.message["List-Unsubscribe"])
        assert header.startswith(f"<{API}/unsubscribe?token=annex_ut_")
        return header.partition("token=")[2].rstrip(">")


@pytest.fixture
async def post(own_database: TestDatabase) -> AsyncIterator[Post]:
    async with mailbox() as box:
        others = settings_of(box, public_url=API, notification_mail_seconds=0)
        async with running(own_database, **others) as live, Database(live.settings) as pools:
            callers = Callers(live)
            made = Post(callers, await new_tenant(callers), box, live.settings, pools)
            await made.queue()
            yield made
