"""Whatever is sent to a running server: an answer, or a problem that says what is wrong; no 500."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings

from app.dev.postgres import EmbeddedPostgres
from tests.bounds.fuzzing import PLACES, Sender
from tests.conftest import Callers, new_database, new_tenant
from tests.faults.processes import Process, serving

EXAMPLES, FEW = 50, 15
STREAMS = {"Last-Event-ID", "a stream's filter", "ticket", "ticket's cookie"}
"""Each of these is a connection of its own: few are enough."""
ONLY_REFUSED = {
    "Authorization",
    "CloudEvent's headers",
    "a change of the inbox",
    "body",
    "path",
    "ticket",
    "ticket's cookie",
    "token of a mail",
}
"""What needs a secret, or what is there, and has no right answer otherwise."""


class Site(NamedTuple):
    """A server in a process of its own, and who sends to it."""

    process: Process
    send: Sender


@pytest.fixture(scope="module")
async def site(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("fuzzing")
    async with (
        new_database(postgres, template) as database,
        serving(database, folder, trusted_proxies=["127.0.0.1"]) as (process, server),
    ):
        callers = Callers(server)
        tenant = await new_tenant(callers)
        token = tenant.owner.client.headers["authorization"].removeprefix("Bearer ")
        send = Sender(server.url, tenant.path, tenant.id, token)
        yield Site(process, send)
        send.close()
        await callers.close()


@pytest.mark.parametrize("place", PLACES)
async def test_whatever_is_sent_is_answered_or_refused_with_a_known_problem(
    place: str, site: Site
) -> None:
    drawn, act = PLACES[place]
    found = Counter[int]()

    @settings(max_examples=FEW if place in STREAMS else EXAMPLES)
    @given(drawn)
    def run(value: Any) -> None:
        found[act(site.send, value).check()] += 1

    # In a thread, because a test's limit of time cannot end what blocks this one's loop.
    await asyncio.to_thread(run)
    # Were all refused at the door, what lies behind it would not be tried.
    assert place in ONLY_REFUSED or min(found) < 400, found
    for word in ("Traceback", "[error", "[critical"):
        assert word not in site.process.said
