"""A statement is compiled once a process, because that costs more than all else of a request."""

from typing import Any
from uuid import uuid4

import pytest

from app.database.statements import Compiled
from tests.conftest import Caller, Callers, new_tenant
from tests.operations import OPERATIONS, Operation, every, named, path_of, status_of

ASKING = [o for o in OPERATIONS if o.permission != "public"]


async def call(callers: Callers, operation: Operation, is_idempotent: bool) -> int:
    """Call an operation in a workspace of its own, as somebody who may; returns the status."""
    tenant = await new_tenant(callers)
    path = operation.path.replace("{name}", f"test.n{uuid4().hex}")
    if "{" in path:
        path = await path_of(callers, operation, tenant)
    caller: Caller = tenant.owner
    if operation.permission == "key":
        caller = await callers.key(tenant.id, *await every(callers))
    elif operation.permission == "operator":
        caller = callers.operator()
    if is_idempotent:
        caller.client.headers["Idempotency-Key"] = str(uuid4())
    return await status_of(callers, caller, operation, path)


@pytest.mark.parametrize("is_idempotent", [pytest.param(False, marks=pytest.mark.postgres), True])
@pytest.mark.parametrize("operation", ASKING, ids=named)
async def test_a_second_request_compiles_nothing(
    callers: Callers, operation: Operation, is_idempotent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await call(callers, operation, is_idempotent)
    compiled, make = list[str](), Compiled.__init__

    def note(self: Compiled, statement: Any) -> None:
        make(self, statement)
        compiled.append(self.sql)

    monkeypatch.setattr(Compiled, "__init__", note)
    assert await call(callers, operation, is_idempotent) == first
    assert compiled == []
