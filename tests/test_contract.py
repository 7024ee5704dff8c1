"""The contract, held against the live application by generated requests, and against the code."""

import asyncio
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from litestar.handlers import HTTPRouteHandler
from schemathesis.core.result import Ok

from app.errors import Problem, subclasses
from app.permissions import Permission
from app.remedies import REMEDIES
from app.schemas.problems import ProblemCode
from tests.conftest import CONTRACT, ROOT, Callers, Client, Running, Tenant, read_contract

STREAMS = {"streamEvents", "streamNotifications"}
OPERATIONS = {
    r.ok().definition.raw["operationId"]: r.ok()
    for r in Client.schema.get_all_operations()
    if isinstance(r, Ok)
}


CONFIGURATION = (ROOT / "tests" / "schemathesis.toml").read_text()
# Without the ids that are there before: the contract's own links lead from each answer to what it
# made.
LINKED = "phases.stateful.inference.algorithms = []\n" + re.sub(
    r'^"path.*\n', "", CONFIGURATION, flags=re.MULTILINE
).replace('parameters = { "path.ws" = "${ANNEX_WORKSPACE_TO_DELETE}" }', "request-timeout = 20")
PHASES = {
    "owner": ("examples,coverage,fuzzing,stateful", 5),
    "links": ("stateful", 25),
    "stranger": ("examples,fuzzing", 6),
    "key": ("examples,fuzzing", 6),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("caller", PHASES)
async def test_the_live_application_keeps_the_contract(
    callers: Callers, tenant: Tenant, tmp_path: Path, caller: str
) -> None:
    owner = tenant.owner.client
    made = await owner.post("/api/v1/workspaces", json={"name": "To delete"})
    body = {"name": "k", "permissions": ["workspace:read"]}
    api_key = await owner.post(f"{tenant.path}/api-keys", json=body)
    events = (await owner.get(f"{tenant.path}/events")).json()["data"]
    everything = [permission.value for permission in Permission]
    who = {
        "owner": owner,
        "links": owner,
        "stranger": (await callers.user()).client,
        "key": (await callers.key(tenant.id, *everything)).client,
    }
    headers = {
        n: [{"name": "Authorization", "value": c.headers["authorization"]}] for n, c in who.items()
    }
    known = {"auth": [{"name": n, "fixedHeaders": given} for n, given in headers.items()]}
    (tmp_path / "callers.yaml").write_text(yaml.safe_dump(known))
    there = {
        "ANNEX_CALLERS": str(tmp_path / "callers.yaml"),
        "ANNEX_EVENT": events[0]["id"],
        "ANNEX_KEY_ID": api_key.json()["id"],
        "ANNEX_USER": str(tenant.owner.user_id),
        "ANNEX_WORKSPACE": tenant.id,
        "ANNEX_WORKSPACE_TO_DELETE": made.json()["id"],
    }
    phases, count = PHASES[caller]
    configuration = LINKED if caller == "links" else CONFIGURATION
    (tmp_path / "schemathesis.toml").write_text(configuration)
    options = {
        "--url": callers.server.url,
        "--auth-wfc-user": caller,
        "--phases": phases,
        "--max-examples": str(count),
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "schemathesis",
        f"--config-file={tmp_path / 'schemathesis.toml'}",
        "run",
        CONTRACT,
        *itertools.chain(*options.items()),
        cwd=tmp_path,
        env=os.environ | there | {"NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    if caller == "links":
        covered = re.search(r"API Links: +(\d+) covered", said)
        assert covered, said
        assert int(covered[1]) >= 4, said


def handlers(server: Running) -> dict[str, HTTPRouteHandler]:
    """Find the handler of each operationId."""
    return {
        h.operation_id: h
        for route in server.app.routes
        for h in getattr(route, "route_handlers", ())
        if isinstance(h, HTTPRouteHandler) and isinstance(h.operation_id, str)
    }


async def test_every_operation_has_a_handler_and_every_handler_an_operation(
    server: Running,
) -> None:
    assert handlers(server).keys() == OPERATIONS.keys()


async def test_nothing_is_served_that_the_contract_does_not_name(server: Running) -> None:
    served = {
        (method.lower(), re.sub(r":\w+\}", "}", route.path))
        for route in server.app.routes
        for method in route.methods - {"OPTIONS"}
    }
    assert served == {(o.method, o.path) for o in OPERATIONS.values()}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
async def test_a_handler_says_what_the_contract_says(server: Running, name: str) -> None:
    handler, raw = handlers(server)[name], OPERATIONS[name].definition.raw
    assert (handler.fn.__doc__ or "").strip() == raw["summary"]
    assert handler.opt["permission"] == raw["x-permission"]
    assert handler.fn.__name__ == re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name)


def described(kinds: list[type[Problem]]) -> str:
    """Write docs/errors.md from the classes of app/errors.py."""
    rows = [f"| `{k.code}` | {k.status} | {k.title()} | {REMEDIES[k.code]} |" for k in kinds]
    return "\n".join(
        [
            "# Errors",
            "Every error is `application/problem+json` (RFC 9457). `code` is stable, for programs;",
            "`type` is `/problems/<code>`; `detail` and `errors` say what is wrong here.",
            "",
            "Read a 429 in this order: `code` names the budget, `Retry-After` the seconds to",
            "wait, `detail` the count. The header `RateLimit` describes `rate_limited` alone.",
            "A stream that was opened with a ticket gets status 200 and a `retry` instead.",
            "",
            "Written from the classes of `app/errors.py`:",
            "`python -m tests.test_contract > docs/errors.md`; a test holds it to them.",
            "",
            "| code | status | title | what to do |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def test_every_code_is_documented_with_its_status() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == described(list(subclasses()))


def test_the_contract_names_every_code_and_each_has_a_remedy() -> None:
    codes = [k.code for k in subclasses()]
    assert Client.schema.raw_schema["components"]["schemas"]["ProblemCode"]["enum"] == codes
    assert [*get_args(ProblemCode)] == codes
    assert sorted(REMEDIES) == sorted(codes)


if __name__ == "__main__":
    sys.stdout.write(described(list(subclasses())))


def test_no_two_components_share_a_name() -> None:
    # Some generators make one folder of schemas and parameters.
    components = read_contract()["components"]
    shared = components["schemas"].keys() & components["parameters"].keys()
    assert not shared


def test_null_beside_a_reference_is_a_member_of_its_union() -> None:
    # Beside `allOf`, generators overlook `nullable`, and their clients fail on the null.
    def overlooked(node: Any) -> list[Any]:
        if isinstance(node, list):
            return [found for child in node for found in overlooked(child)]
        if not isinstance(node, dict):
            return []
        mine = [node] if node.get("nullable") and "allOf" in node else []
        return [*mine, *overlooked([*node.values()])]

    assert not overlooked(read_contract()["components"])
