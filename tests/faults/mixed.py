"""What people do beside publishing and reading: inboxes, invitations by mail, API keys.

Each thing that was acknowledged is held against the database, and each invitation against the mails
that came, once all is over.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import httpx

from tests.conftest import Caller, Callers, Tenant, TestDatabase, add_member
from tests.worker.mailbox import Mailbox

MEMBERS = 3
PAUSE_SECONDS = 0.25
INBOX = "/api/v1/me/notifications"
AGAIN = (409, 503)
"""The first attempt may still hold its lock, or the server has no database yet."""
WRITTEN = """
select n.event_id::text || ' ' || n.user_id from annex.notifications n where n.type = 'test.told'
"""


class Mixed:
    """Users with inboxes, a mailing owner and keys that come and go, in one workspace.

    `places` are clients of the owner, one a server.
    """

    def __init__(
        self, tenant: Tenant, places: Sequence[httpx.AsyncClient], members: list[list[Caller]]
    ) -> None:
        self.tenant = tenant
        self.places = places
        self.members = members
        """The same members at each server."""
        self.is_over = False
        self.told: list[str] = []
        """Event and user of each notification that must be there."""
        self.marked: list[str] = []
        self.invited: list[str] = []
        self.made: list[str] = []
        self.revoked: list[str] = []

    @classmethod
    async def of(cls, tenant: Tenant, all_callers: Sequence[Callers]) -> "Mixed":
        """Make the members, and clients of each at every server."""
        first = [await add_member(all_callers[0], tenant, "member") for _ in range(MEMBERS)]
        members, places = list[list[Caller]](), list[httpx.AsyncClient]()
        for callers in all_callers:
            known = [await callers.user(user_id=m.user_id, email=m.email) for m in first]
            owner = await callers.user(user_id=tenant.owner.user_id, email=tenant.owner.email)
            members.append(known)
            places.append(owner.client)
        return cls(tenant, places, members)

    async def work(self, seed: int) -> None:
        """Do all of it until it is over."""
        doers = (self.tell, self.mark, self.invite, self.change_keys)
        async with asyncio.TaskGroup() as group:
            for name, do in enumerate(doers):
                group.create_task(self.repeat(do, random.Random(f"{seed} mixed {name}")))

    async def repeat(
        self, do: Callable[[random.Random, int], Awaitable[None]], drawn: random.Random
    ) -> None:
        for n in range(1_000_000):
            if self.is_over:
                return
            await do(drawn, n)
            await asyncio.sleep(drawn.random() * 2 * PAUSE_SECONDS)

    async def tell(self, drawn: random.Random, n: int) -> None:
        """Publish an event to some of the members."""
        chosen = drawn.sample(self.members[0], drawn.randint(1, MEMBERS))
        recipients = [str(member.user_id) for member in chosen]
        body = {"type": "test.told", "data": {}, "key": f"told {n}", "recipients": recipients}
        answer = await insist(
            self.places, "POST", f"{self.tenant.path}/events", body, accepted=(200, 201)
        )
        self.told += [f"{answer.json()['id']} {user}" for user in recipients]

    async def mark(self, drawn: random.Random, _: int) -> None:
        """Read the newest unread notification of somebody."""
        who = drawn.randrange(MEMBERS)
        clients = [members[who].client for members in self.members]
        listed = await insist(clients, "GET", f"{INBOX}?unread=true&limit=1")
        for item in listed.json()["data"]:
            await insist(clients, "PATCH", f"{INBOX}/{item['id']}", {"is_read": True})
            self.marked.append(item["id"])

    async def invite(self, _: random.Random, n: int) -> None:
        """Invite an address that nobody has invited."""
        address = f"invited-{n}@example.org"
        body = {"role": "viewer", "emails": [address]}
        path = f"{self.tenant.path}/invitations"
        await insist(self.places, "POST", path, body, accepted=(201,), key=address)
        self.invited.append(address)

    async def change_keys(self, drawn: random.Random, n: int) -> None:
        """Make a key, and revoke every other one."""
        path, name = f"{self.tenant.path}/api-keys", f"key {n}"
        body = {"name": name, "permissions": ["events:read"]}
        made = await insist(self.places, "POST", path, body, accepted=(201,), key=name)
        self.made.append(name)
        if drawn.random() < 0.5:
            # The second attempt of one that was cut off finds it revoked.
            gone = (200, 204, 404)
            await insist(self.places, "DELETE", f"{path}/{made.json()['id']}", accepted=gone)
            self.revoked.append(name)

    async def check(self, database: TestDatabase, mails: Mailbox) -> None:
        """Hold what was acknowledged against what is there: nothing lost, nothing twice."""
        assert min(map(len, (self.told, self.marked, self.invited, self.made, self.revoked))) > 0
        async with database.connect("postgres") as admin:
            rows = await admin.fetch(WRITTEN)
            assert Counter(row[0] for row in rows) == Counter(self.told)
            unread = await admin.fetch(
                "select id from annex.notifications where id = any ($1) and read_at is null",
                [UUID(each) for each in self.marked],
            )
            assert not unread, f"{len(unread)} acknowledged marks were lost"
            sent = await admin.fetch(
                "select email from annex.invitations where workspace_id = $1", UUID(self.tenant.id)
            )
            assert Counter(row[0] for row in sent) == Counter(self.invited)
            keys = await admin.fetch("select name, revoked_at from annex.api_keys")
            assert Counter(row["name"] for row in keys) == Counter(self.made)
            over = {row["name"] for row in keys if row["revoked_at"] is not None}
            assert over == set(self.revoked)
        arrived = {address for mail in mails.received for address in mail.recipients}
        assert arrived == set(self.invited)


async def insist(
    clients: Sequence[httpx.AsyncClient],
    method: str,
    path: str,
    body: object = None,
    *,
    accepted: tuple[int, ...] = (200,),
    key: str | None = None,
) -> httpx.Response:
    """Send a request until there is an answer, wherever one is given."""
    headers = {"Idempotency-Key": key} if key else {}
    for attempt in range(1000):
        client = clients[attempt % len(clients)]
        with contextlib.suppress(httpx.TransportError):
            response = await client.request(method, path, json=body, headers=headers)
            if response.status_code in accepted:
                return response
            assert response.status_code in AGAIN, response.text
        await asyncio.sleep(0.05)
    raise AssertionError("no answer")
