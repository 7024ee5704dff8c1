"""Cursors that cannot be kept: said with a `reset` at the new head, after which all goes on."""

from functools import partial
from uuid import UUID, uuid4

import pytest

from tests.conftest import Running, TestDatabase, running
from tests.faults.health import healthy
from tests.faults.load import load_and_readers
from tests.realtime.reader import calling, follow, new_tenant, number


def cursors(server: Running, feed: UUID) -> dict[str, str]:
    """Write cursors of every kind that a server cannot continue from."""
    hub = server.app.runtime.hub
    written, epoch, head = partial(hub.cursors.write, feed), hub.epoch, hub.head
    good = written(epoch, head)
    return {
        "future": written(epoch, head + 1),
        "far future": written(epoch, 2**40),
        "beyond what is given": written(epoch, 2**48 - 1),
        "expired": written(epoch, hub.retained_from - 2),
        "old epoch": written(epoch - 1, head),
        "new epoch": written(epoch + 1, head),
        "other key": type(hub.cursors)(bytes(32)).write(feed, epoch, head),
        "other feed": hub.cursors.write(uuid4(), epoch, head),
        "flipped": good[:5] + ("A" if good[5] != "A" else "B") + good[6:],
        "cut": good[:-1],
        "doubled": good * 2,
        "letters": "A" * 22,
        "number": "42",
        "odd": "%00\\'\"--",
        "long": "x" * 200,
    }


KINDS = 15


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_cursor_that_cannot_be_kept_is_answered_with_a_reset(
    own_database: TestDatabase, by: str
) -> None:
    async with running(own_database) as first, calling(first) as callers:
        tenant = await new_tenant(callers)
        await number(tenant, *(str(n) for n in range(10)))
        await first.app.runtime.tail.catch_up()
        head = first.app.runtime.hub.head
    async with own_database.connect("postgres") as admin:
        await admin.execute("delete from annex.log where pos < $1", head - 3)
        await admin.execute("update annex.log_state set retained_from = $1", head - 3)
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        hub, path = server.app.runtime.hub, f"{tenant.path}/stream"
        client = callers.client(
            tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        )
        feed = UUID(tenant.id)
        found = cursors(server, feed)
        assert len(found) == KINDS
        for kind, cursor in found.items():
            options = {"cursor": cursor} if by == "header" else {"last_event_id": cursor}
            async with follow(client, path, **options, types="test.*") as reader:
                reset = await reader.message()
                assert (kind, reset.event, reset.json()) == (kind, "reset", {"cursor": reset.id})
                assert hub.cursors.read(feed, reset.id) == (hub.epoch, hub.head)
                await number(tenant._replace(owner=tenant.owner._replace(client=client)), kind)
                assert await reader.names(1) == [kind]
            # The cursor that came with the reset is a good one.
            async with follow(client, path, reset.id, types="test.*") as reader:
                assert await reader.names(1) == [kind]
        # The oldest that is kept: it has missed nothing.
        oldest = hub.cursors.write(feed, hub.epoch, hub.retained_from - 1)
        async with follow(client, path, oldest, types="test.*") as reader:
            assert await reader.names(4) == ["6", "7", "8", "9"]


async def test_a_reset_in_mid_load_is_followed_by_all_that_comes_after(
    own_database: TestDatabase,
) -> None:
    async with running(own_database) as server, healthy(server), calling(server) as callers:
        tenant = await new_tenant(callers)
        async with load_and_readers(own_database, [server], 1) as (load, _):
            await load.more(100)
            for _ in range(20):
                cursor = server.app.runtime.hub.cursors.write(
                    UUID(tenant.id), server.app.runtime.hub.epoch, 2**47
                )
                path = f"{tenant.path}/stream"
                async with follow(tenant.owner.client, path, cursor, types="test.*") as reader:
                    assert (await reader.message()).event == "reset"
                    await number(tenant, "after")
                    assert await reader.names(1) == ["after"]
