import gc
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.conftest import Callers, TestDatabase, new_tenant, running


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keep the garbage collector from closing what nobody closed."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_a_refused_request_gives_its_connection_back(own_database: TestDatabase) -> None:
    async with running(own_database, pool_size=1) as live:
        callers = Callers(live)
        tenant = await new_tenant(callers)
        key = await callers.key(tenant.id, "members:read")
        for path, status in (
            (f"/api/v1/workspaces/{uuid4()}", 404),
            (tenant.path, 403),
            ("/api/v1/workspaces/%00", 400),
        ):
            assert [(await key.client.get(path)).status_code for _ in range(3)] == [status] * 3
        await callers.close()
