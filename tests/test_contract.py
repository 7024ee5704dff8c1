"""The contract, held against the live application by generated requests, and against the code."""

import re
import sys
from typing import Any, get_args

import anyio.to_thread
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from litestar.handlers import HTTPRouteHandler
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.errors import Problem, subclasses
from app.remedies import REMEDIES
from app.schemas.problems import ProblemCode
from tests.conftest import ROOT, Callers, Client, Running, Tenant

STREAMS = {"streamEvents"}
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = {
    r.ok().definition.raw["operationId"]: r.ok()
    for r in Client.schema.get_all_operations()
    if isinstance(r, Ok)
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - STREAMS))
async def test_the_live_application_keeps_the_contract(
    callers: Callers, tenant: Tenant, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    operation = OPERATIONS[name]
    headers = dict(tenant.owner.client.headers)
    base_url = callers.server.url
    events = (await tenant.owner.client.get(f"{tenant.path}/events")).json()["data"]
    made = await tenant.owner.client.post(
        f"{tenant.path}/api-keys", json={"name": "k", "permissions": ["workspace:read"]}
    )
    there = {
        "ws": tenant.id,
        "event_id": events[0]["id"],
        "user_id": str(tenant.owner.user_id),
        "key": "auditor",
        "key_id": made.json()["id"],
        "code": "conflict",
        "file": "start.js",
    }

    def check(mode: GenerationMode, count: int) -> int:
        seen = 0

        # The same requests in every run, as a gate must not depend on luck.
        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Case[Any]) -> None:
            nonlocal seen
            seen += 1
            if mode is GenerationMode.POSITIVE:
                # Otherwise every generated workspace would be one that is not there.
                case.path_parameters.update(
                    {k: there[k] for k in case.path_parameters if k in there}
                )
                if name == "deleteWorkspace":
                    made = session.post(f"{base_url}/api/v1/workspaces", json={"name": "x"})
                    case.path_parameters["ws"] = made.json()["id"]
            response = case.call(base_url=base_url, session=session)
            # Unknown query parameters are ignored, and the session adds the credential: of invalid
            # parts, only a body must be refused. tests/controllers/test_events.py has parameters.
            body = case.meta and case.meta.components.get(ParameterLocation.BODY)
            refusal = [negative_data_rejection] if body and body.mode.is_negative else []
            try:
                case.validate_response(response, checks=[*CHECKS, *refusal])
            except BaseExceptionGroup as group:
                # Not an Exception, and anyio's test runner would wait for ever.
                raise AssertionError(str(group)) from None

        with requests.Session() as session:
            session.headers.update({"Authorization": headers["authorization"]})
            run()
        return seen

    valid, invalid = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    parameters = [p.definition["schema"] for p in operation.iter_parameters()]
    if operation.body or any(p != {"type": "string"} for p in parameters):
        modes = [(valid, 30), (invalid, 20)]
    else:  # there is nothing that could be invalid
        modes = [(valid, 50)]
    counts = [await anyio.to_thread.run_sync(check, *mode) for mode in modes]
    with capsys.disabled():
        print(f"\n{name}: {' + '.join(map(str, counts))} requests", end="")  # noqa: T201


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
