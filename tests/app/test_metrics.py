"""What Prometheus is told, by one process and by several that serve together."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.database.pools import NO_CONNECTION, NO_TURN
from app.metrics import FOLDER, NO_STREAM_ANSWER, shared_by_processes
from tests.conftest import ROOT, Callers, Running, TestDatabase, running
from tests.inbox.conftest import projected, settled
from tests.realtime.reader import calling, follow, new_tenant, number

ANNEX = str(Path(sys.executable).parent / "annex")
TABLE = ROOT / "docs" / "operations.md"
BASE = "annex_http_request_duration_seconds"


async def scrape(client: httpx.AsyncClient, url: str = "") -> dict[str, float]:
    """Read what Prometheus would, as `name` or `name{label="value",…}`."""
    response = await client.get(f"{url}/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
async def live(own_database: TestDatabase) -> AsyncIterator[Running]:
    """A server whose numbers nobody else moves."""
    async with running(own_database) as made:
        yield made


async def test_what_streams_do_is_counted(live: Running) -> None:
    async with calling(live) as callers:
        tenant, operator = await new_tenant(callers), callers.operator()
        path = f"{tenant.path}/stream"
        before = await scrape(operator.client)
        async with (
            follow(tenant.owner.client, path) as one,
            follow(tenant.owner.client, path, "garbage") as two,
        ):
            for reader in (one, two):
                await reader.message()
            await number(tenant, "1", "2", "3")
            for reader in (one, two):
                await reader.names(3)
            now = await scrape(operator.client)
        assert now["annex_stream_connections"] == 2
        assert now["annex_stream_deliveries_total"] - before["annex_stream_deliveries_total"] == 6
        assert now["annex_stream_resets_total"] == 1
        assert now["annex_tail_head"] == live.app.runtime.hub.head
        assert 0 <= now["annex_tail_lag_seconds"] < 30
        assert now["annex_log_gap_total"] == 0
        assert now["process_resident_memory_bytes"] > 10_000_000
        assert now["process_cpu_seconds_total"] > before["process_cpu_seconds_total"] > 0


async def test_without_a_worker_the_lag_of_notifications_grows(live: Running) -> None:
    async with calling(live) as callers:
        tenant, operator = await new_tenant(callers), callers.operator()
        await number(tenant, "1")
        await asyncio.sleep(0.2)
        before = (await scrape(operator.client))["annex_fanout_lag_seconds"]
        await asyncio.sleep(0.2)
        assert 0 < before < (await scrape(operator.client))["annex_fanout_lag_seconds"]
        async with projected(live.database):
            await settled(live.database)
            assert (await scrape(operator.client))["annex_fanout_lag_seconds"] == 0
        # And one that stands still, whatever is queued.
        await number(tenant, "2")
        await asyncio.sleep(0.2)
        assert (await scrape(operator.client))["annex_fanout_lag_seconds"] > 0


async def test_requests_are_counted_by_operation_and_status(live: Running) -> None:
    async with calling(live) as callers:
        client, operator = callers.client(), callers.operator()
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/problems/nonsense")).status_code == 404
        assert (await client.get("/nowhere")).status_code == 404
        assert (await client.get("/health")).status_code == 200
        found = await scrape(operator.client)
    counts = {
        (operation, status): found[f'{BASE}_count{{operation="{operation}",status="{status}"}}']
        for operation, status in (("getHealth", 200), ("getProblem", 404), ("none", 404))
    }
    assert list(counts.values()) == [2, 1, 1]
    assert found[f'{BASE}_bucket{{le="+Inf",operation="getHealth",status="200"}}'] == 2
    assert found[f'{BASE}_sum{{operation="getHealth",status="200"}}'] > 0


async def test_no_number_tells_a_tenant_from_another(live: Running) -> None:
    async with calling(live) as callers:
        tenant = await new_tenant(callers)
        await tenant.owner.client.get(f"{tenant.path}/events")
        text = (await callers.operator().client.get("/metrics")).text
    for name in (tenant.id, tenant.slug, str(tenant.owner.user_id)):
        assert name not in text


async def test_the_documentation_names_every_metric(callers: Callers) -> None:
    families = text_string_to_metric_families(
        (await callers.operator().client.get("/metrics")).text
    )
    served = {f.name + "_total" * (f.type == "counter") for f in families}
    assert served == set(re.findall(r"^\| `(\w+)`", TABLE.read_text(), re.MULTILINE))


def test_the_documentation_names_what_was_not_to_be_had() -> None:
    text = TABLE.read_text()
    for code in (NO_TURN, NO_CONNECTION, NO_STREAM_ANSWER):
        assert f"`{code}` (" in text


class Process(NamedTuple):
    """A server in a process of its own."""

    url: str
    child: asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def process(live: Running, folder: Path) -> AsyncIterator[Process]:
    """Serve a live server's database once more, with the same secrets."""
    given = live.settings
    env = {
        "ANNEX_DATABASE_URL": given.database_url,
        "ANNEX_WORKER_DATABASE_URL": given.worker_database_url,
        "ANNEX_ENVIRONMENT": given.environment,
        "ANNEX_SECRET_KEY": given.secret_key,
        "ANNEX_JWT_SECRET": given.jwt_secret or "",
        "ANNEX_JWT_ISSUER": given.jwt_issuer or "",
        "ANNEX_OPERATOR_KEY_HASHES": ",".join(given.operator_key_hashes),
        "ANNEX_LOG_LEVEL": "error",
    }
    child = await asyncio.create_subprocess_exec(
        *(ANNEX, "serve", "--port", "0"),
        env=os.environ | env,
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    try:
        async with asyncio.timeout(40):
            line = await child.stderr.readuntil(b"\n")
        yield Process(line.decode().split()[-1], child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def test_any_of_several_processes_tells_the_numbers_of_all(
    live: Running, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        callers = await stack.enter_async_context(calling(live))
        tenant, operator = await new_tenant(callers), callers.operator().client
        forget = stack.enter_context(shared_by_processes())
        one, two = [await stack.enter_async_context(process(live, tmp_path)) for _ in range(2)]
        for server in (one, two):
            url = f"{server.url}{tenant.path}/stream"
            reader = await stack.enter_async_context(follow(tenant.owner.client, url))
            await reader.message()
            await number(tenant, "1")
            await reader.names(1)

        async def told(connections: int, deliveries: int) -> None:
            """Wait until each process that lives tells as much: of others, at most 1 s old."""
            async with asyncio.timeout(20):
                for url in [s.url for s in (one, two) if s.child.returncode is None]:
                    while True:
                        now = await scrape(operator, url)
                        if (
                            now["annex_stream_connections"] == connections
                            and now["annex_stream_deliveries_total"] == deliveries
                        ):
                            break
                        await asyncio.sleep(0.1)

        # The first reader has got both events.
        await told(2, 3)
        two.child.kill()
        await two.child.wait()
        forget(two.child.pid)
        await told(1, 3)
        folder = os.environ[FOLDER]
    assert not os.path.exists(folder)  # noqa: ASYNC240
    assert FOLDER not in os.environ


async def test_the_dashboard_names_metrics_that_there_are(live: Running) -> None:
    board = json.loads((ROOT / "docs" / "deploy" / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    async with calling(live) as callers:
        await new_tenant(callers)
        text = (await callers.operator().client.get("/metrics")).text
    told = set(re.findall(r"^# TYPE ((?:annex|process)_[a-z_]+)", text, re.MULTILINE))
    wanted = set(re.findall(r"\b(?:annex|process)_[a-z_]+", asked))
    # None that there is not, and none is left out.
    assert {re.sub(r"_(bucket|count)$", "", name) for name in wanted} == told


async def test_a_slow_statement_is_logged_and_counted_without_its_parameters(
    own_database: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database, slow_query_seconds=0.05, log_level="warning") as made:
        async with made.app.runtime.database.api.lend() as driver:
            await driver.fetchval("select 1")
            await driver.fetchval("select pg_sleep($1), $2::text", 0.1, "a parameter")
        async with calling(made) as callers:
            found = await scrape(callers.operator().client)
    said = capsys.readouterr().err
    assert found["annex_slow_queries_total"] >= 1
    assert "select pg_sleep($1), $2::text" in said
    assert "a parameter" not in said


async def test_a_slow_transaction_is_logged_without_its_claims(
    own_database: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database, slow_query_seconds=1e-9, log_level="warning") as made:
        async with calling(made) as callers:
            user = await callers.user(email="ünï@exämple.com")
            body = {"name": "A workspace"}
            answer = await user.client.post(
                "/api/v1/workspaces", json=body, headers={"Idempotency-Key": "k"}
            )
            assert answer.status_code == 201
    said = capsys.readouterr().err
    assert "begin" in said
    assert "commit" in said
    for secret in ("exämple", "ünï", str(user.user_id), "request.jwt.claims', E'"):
        assert secret not in said
