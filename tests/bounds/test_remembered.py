"""What requests hold is forgotten with them: a stranger may send 64 KiB of it, and as often."""

import encodings
import functools
import gc
import uuid
from collections.abc import Callable

import httpx

from tests.conftest import TestDatabase, running

LONG = "x" * 20_000
CLIENTS = "urllib.parse.urlsplit"
"""By which the client of this test keeps cookies."""
REQUESTS: dict[str, Callable[[str], httpx.Request]] = {
    "query": lambda n: httpx.Request("GET", f"http://x/unsubscribe?token=no&{n}={LONG}"),
    "query of a stream": lambda n: httpx.Request(
        "GET", f"http://x/api/v1/workspaces/a/stream?{n}={LONG}"
    ),
    "many parameters": lambda n: httpx.Request("GET", f"http://x/unsubscribe?{n}{'&a=' * 9000}"),
    "cookie": lambda n: httpx.Request(
        "GET", "http://x/api/v1/stream/notifications", headers={"Cookie": f"a={n}{LONG}"}
    ),
    "path": lambda n: httpx.Request("GET", f"http://x/problems/{n}{LONG}"),
    "path of a workspace": lambda n: httpx.Request(
        "GET", f"http://x/api/v1/workspaces/{n}{LONG}/members"
    ),
    "form": lambda n: httpx.Request(
        "POST",
        f"http://x/unsubscribe?token=annex_ut_{'a' * 43}",
        data={"List-Unsubscribe": n + LONG[:500]},
    ),
    "charset of a part": lambda n: httpx.Request(
        "POST",
        f"http://x/unsubscribe?token=annex_ut_{'a' * 43}",
        files={"List-Unsubscribe": (None, b"One-Click", f"text/plain; charset={n}")},
    ),
    "charset of a body": lambda n: httpx.Request(
        "POST",
        "http://x/api/v1/workspaces",
        content=b"{}",
        headers={"Content-Type": f"application/json; charset={n}{LONG}"},
    ),
    "host": lambda n: httpx.Request("GET", "http://x/health", headers={"Host": f"{n}{LONG}"}),
    "origin": lambda n: httpx.Request(
        "OPTIONS",
        "http://x/api/v1/workspaces",
        headers={"Origin": f"http://{n}{LONG}", "Access-Control-Request-Method": "GET"},
    ),
}


def kept() -> dict[str, int]:
    """Count what every cache of this process holds, and the charsets that Python was asked for."""
    found = {"charsets": len(encodings._cache)}
    for each in gc.get_objects():
        if isinstance(each, functools._lru_cache_wrapper):
            name = f"{each.__module__}.{each.__qualname__}"
            found[name] = found.get(name, 0) + each.cache_info().currsize
    return found


async def test_nothing_long_of_a_request_is_remembered(database: TestDatabase) -> None:
    async with running(database) as server, httpx.AsyncClient(base_url=server.url) as client:
        found = {}
        for name, make in REQUESTS.items():

            async def send(make: Callable[[str], httpx.Request] = make) -> None:
                request = make(uuid.uuid4().hex)
                request.url = request.url.copy_with(port=client.base_url.port, host="127.0.0.1")
                assert (await client.send(request)).status_code < 500

            await send()
            before = kept()
            for _ in range(5):
                await send()
            grown = {cache for cache, now in kept().items() if now - before.get(cache, 0) >= 5}
            if grown - {CLIENTS}:
                found[name] = grown
        assert found == {}
