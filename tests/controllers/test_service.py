import asyncio
import contextlib
import gzip
import re
import threading
from base64 import b64encode
from hashlib import sha256

import httpx
import msgspec
import pytest
import yaml

from app import __version__
from app.errors import Problem, subclasses
from app.guides import GUIDES
from controllers import pages
from controllers.service import contract
from tests.conftest import CONTRACT, NO_TLS, Callers, Client, TestDatabase, read_contract, running
from tests.realtime.reader import until


async def test_health_needs_no_credential(callers: Callers) -> None:
    response = await callers.client().get("/health")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ok", "version": __version__},
    )


async def test_a_server_that_follows_its_log_is_ready(callers: Callers) -> None:
    # Its tail may be behind for a moment, after whatever ran before.
    async with asyncio.timeout(20):
        while (await callers.client().get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.1)


async def test_a_server_that_is_about_to_stop_is_not_ready(own_database: TestDatabase) -> None:
    async with running(own_database) as live:
        live.app.runtime.hub.close()
        async with Callers(live).client() as client:
            response = await client.get("/health/ready")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


async def test_a_server_that_reads_the_log_late_is_not_ready(own_database: TestDatabase) -> None:
    async with running(own_database) as live, Callers(live).client() as client:
        tail = live.app.runtime.tail
        async with tail.read_finished:  # for which the tail waits, once it has read
            last = tail.ended_at
            await until(lambda: tail.ended_at > last)
            tail.ended_at -= 60
            response = await client.get("/health/ready")
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
            assert "s late" in response.json()["detail"]
        await tail.catch_up()
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_server_that_cannot_ask_the_database_is_not_ready(
    own_database: TestDatabase,
) -> None:
    async with running(own_database, pool_size=1) as live, Callers(live).client() as client:
        async with live.app.runtime.database.api.lend():
            response = await client.get("/health/ready")
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert (await client.get("/health/ready")).status_code == 200


async def test_the_served_contract_is_the_file_itself(callers: Callers) -> None:
    response = await callers.client().get("/openapi.yaml")
    assert response.content == CONTRACT.read_bytes()


async def test_the_contract_in_json_is_the_same_document(callers: Callers) -> None:
    response = await callers.client().get("/openapi.json")
    assert msgspec.json.decode(response.content) == read_contract()


async def test_the_documentation_loads_nothing_from_elsewhere(callers: Callers) -> None:
    client = callers.client()
    page = await client.get("/docs")
    found = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
    assert found
    for url in found:
        assert (await client.get(url)).status_code == 200, url
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_the_documentation_has_no_inline_script_for_its_policy_to_block(
    callers: Callers,
) -> None:
    page = await callers.client().get("/docs")
    assert re.findall(r"<script[^>]*>([^<]+)</script>", page.text) == []


@pytest.mark.parametrize("file", ["index.html", "..%2Fdocs", "scalar.js.gz"])
async def test_only_the_documentations_own_assets_are_served(callers: Callers, file: str) -> None:
    response = await callers.client().get(f"/docs/assets/{file}")
    assert response.status_code == 404


async def test_the_documentations_large_script_is_sent_as_the_client_takes_it(
    callers: Callers,
) -> None:
    client, path = callers.client(), "/docs/assets/scalar.js"
    packed = await client.get(path)
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content


async def test_the_documentations_large_script_is_unpacked_beside_the_loop(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, decompress = list[threading.Thread](), gzip.decompress

    def note(content: bytes) -> bytes:
        threads.append(threading.current_thread())
        return decompress(content)

    monkeypatch.setattr(gzip, "decompress", note)
    pages.asset.cache_clear()
    path, headers = "/docs/assets/scalar.js", {"Accept-Encoding": "identity"}
    for _ in range(2):
        assert (await callers.client().get(path, headers=headers)).status_code == 200
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_the_list_for_agents_leads_to_every_guide(callers: Callers) -> None:
    client = callers.client()
    listed = (await client.get("/llms.txt")).text
    paths = re.findall(r"\]\((/guides/[a-z]+\.md)\): \S", listed)
    assert len(paths) == len(GUIDES)
    for path in paths:
        guide = await client.get(path)
        assert guide.text.startswith("# "), path
        for link in re.findall(r"\]\(([^)#\s]+)", guide.text):
            assert link.startswith(("http", "/")), (path, link)
            if link.startswith("/guides/"):
                assert link in paths


@pytest.mark.parametrize("file", ["nothing.md", "realtime", "..%2Fpyproject.md", "drift.md"])
async def test_only_guides_are_served_as_guides(callers: Callers, file: str) -> None:
    assert (await callers.client().get(f"/guides/{file}")).status_code == 404


async def test_the_live_view_may_run_its_own_script_only(callers: Callers) -> None:
    page = await callers.client().get("/live")
    policy = page.headers["content-security-policy"]
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", page.text, re.DOTALL)
        assert (
            f"{tag}-src 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}';" in policy
        )
    for rule in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert "unsafe" not in policy
    assert re.findall(r"""\s(?:on\w+|style)=|(?:src|href)=["'](?!data:|/docs)""", page.text) == []


@pytest.mark.parametrize("kind", list(subclasses()), ids=lambda kind: kind.code)
async def test_the_type_of_every_problem_leads_to_its_explanation(
    callers: Callers, kind: type[Problem]
) -> None:
    response = await callers.client().get(f"/problems/{kind.code}")
    assert response.status_code == 200
    assert kind.title() in response.text


async def test_an_unknown_code_has_no_explanation(callers: Callers) -> None:
    assert (await callers.client().get("/problems/nonsense")).status_code == 404


async def test_a_server_that_stops_says_so_first_and_serves_meanwhile(
    own_database: TestDatabase,
) -> None:
    stack = contextlib.AsyncExitStack()
    live = await stack.enter_async_context(running(own_database, stop_seconds=2))
    stopping = asyncio.create_task(stack.aclose())

    async def ask(path: str) -> int:
        # On a connection of its own, as a load balancer's probe.
        async with Client(base_url=live.url, verify=NO_TLS) as client:
            return (await client.get(path)).status_code

    while await ask("/health/ready") != 503:
        assert not stopping.done()
    assert await ask("/health") == 200
    await stopping
    with pytest.raises(httpx.ConnectError):
        await ask("/health")


def test_the_contract_is_served_where_yaml_was_built_without_its_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = contract()
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert contract.__wrapped__() == served
