import pytest

from tests.conftest import Callers, Tenant
from tests.realtime.reader import new_tenant


@pytest.fixture
async def tenant(callers: Callers) -> Tenant:
    """A fresh workspace whose own events are in the log, so that no stream begins in them."""
    return await new_tenant(callers)
