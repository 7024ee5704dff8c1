"""Routes against the contract: each change gives exactly its code, each twin nothing."""

import os
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from alembic_readonly_check.api.served import routes_of
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.openapi.contract import parse_contract
from litestar import Litestar, asgi, get
from litestar.params import FromPath, FromQuery

from tests.contract.api_fixtures.shop import (
    APP,
    CONTRACT,
    ROOT,
    Change,
    api_findings,
    covered,
    routes_of_text,
)

PAYMENT = 'schema: { $ref: "#/components/schemas/Payment" }'
UPDATE = '"/{order_id:uuid}", operation_id="updateOrder"'

CHANGES = (
    Change(
        "route removed",
        "AR501",
        "app",
        "create_payment, import_orders, stream_orders]",
        "create_payment, import_orders]",
    ),
    Change("method", "AR501", "app", f"@patch({UPDATE}", f"@put({UPDATE}", (("patch,", "put,"),)),
    Change(
        "operation added",
        "AR501",
        "contract",
        "  /health:\n",
        "  /ready:\n    get: { security: [], responses: { '200': { description: Up. } } }\n"
        "  /health:\n",
    ),
    Change(
        "base path with a slash", "AR501", "contract", "example/api", "example/api/", benign=True
    ),
    Change(
        "OPTIONS is served and not documented",
        "AR506",
        "app",
        '@get("/stream"',
        '@route("/stream", http_method=["GET", "HEAD"]',
        (("patch, post", "patch, post, route"),),
        benign=True,
    ),
    Change(
        "OPTIONS is documented",
        "AR501",
        "contract",
        "  /health:\n",
        "  /health:\n"
        "    options: { operationId: o, responses: { '204': { description: Allowed. } } }\n",
        benign=True,
    ),
    Change(
        "HEAD is promised",
        "AR501",
        "contract",
        "  /health:\n",
        "  /health:\n    head: { responses: { '200': { description: Up. } } }\n",
    ),
    Change(
        "operation removed",
        "AR506",
        "contract",
        "    delete:\n      operationId: deleteOrder\n      x-permission: orders:write\n"
        '      responses:\n        "204": { description: Gone. }\n',
        "",
    ),
    Change(
        "route added",
        "AR506",
        "app",
        '@get("/stream"',
        '@get(["/stream", "/live"]',
    ),
    Change(
        "hidden route added",
        "AR506",
        "app",
        '@get("/health", operation_id="getHealth", opt={"exclude_from_auth": True})',
        '@get("/ready", include_in_schema=False)\nasync def ready() -> Health:\n'
        '    """Say."""\n    raise NotImplementedError\n\n\n'
        '@get("/health", operation_id="getHealth", opt={"exclude_from_auth": True})',
        (("        get_health,\n", "        get_health,\n        ready,\n"),),
        benign=True,
    ),
    Change("operationId", "AR507", "contract", "listOrders", "searchOrders"),
    Change("operationId dropped", "AR507", "contract", "      operationId: listOrders\n", ""),
    Change(
        "operation_id in the name alone",
        "AR507",
        "app",
        "async def delete_order",
        "async def remove",
    ),
    Change(
        "operation_id stated twice",
        "AR507",
        "app",
        '        operation_id="getOrder",\n',
        "",
        benign=True,
    ),
    Change("parameter renamed", "AR502", "contract", "name: cursor", "name: after"),
    Change("header undocumented", "AR502", "contract", "X-Trace", "X-Request-Id"),
    Change(
        "path parameter renamed",
        "AR502",
        "contract",
        "{order_id}",
        "{id}",
        (("name: order_id", "name: id"),),
    ),
    Change(
        "header read from the request",
        "AR502",
        "app",
        ', "read_parameters": ["header:If-None-Match"]',
        "",
    ),
    Change("header in another case", "AR502", "contract", "X-Trace", "x-trace", benign=True),
    Change(
        "credentials as a parameter",
        "AR502",
        "contract",
        "- { name: limit,",
        "- { name: Authorization, in: header, schema: { type: string } }\n        - { name: limit,",
        benign=True,
    ),
    Change(
        "parameter type",
        "AR503",
        "contract",
        "name: cursor, in: query, schema: { type: string",
        "name: cursor, in: query, schema: { type: integer",
    ),
    Change("parameter bound", "AR503", "app", "ge=1, le=100", "ge=1, le=500"),
    Change("parameter bound exclusive", "AR503", "app", "le=100", "lt=100"),
    Change("parameter length", "AR503", "app", ", max_length=80", ""),
    Change(
        "path parameter format",
        "AR503",
        "contract",
        "schema: { type: string, format: uuid } }\n    get",
        "schema: { type: string } }\n    get",
    ),
    Change(
        "parameter item type",
        "AR503",
        "app",
        "FromQuery[list[str] | None]",
        "FromQuery[list[int] | None]",
    ),
    Change(
        "constraint where Litestar drops it",
        "AR503",
        "app",
        'Annotated[int, QueryParameter(name="limit", ge=1, le=100)]',
        'Annotated[int, Meta(ge=1, le=100), QueryParameter(name="limit")]',
    ),
    Change("100 as 100.0", "AR503", "contract", "maximum: 100,", "maximum: 100.0,", benign=True),
    Change(
        "exclusive bound of an integer", "AR503", "app", "ge=1, le=100", "gt=0, lt=101", benign=True
    ),
    Change(
        "joined array read as text",
        "AR503",
        "contract",
        "{ name: tags, in: query,",
        "{ name: tags, in: query, explode: false,",
    ),
    Change(
        "parameter required",
        "AR504",
        "contract",
        "name: state, in: query, required: true,",
        "name: state, in: query,",
    ),
    Change(
        "parameter optional",
        "AR504",
        "contract",
        "name: cursor, in: query,",
        "name: cursor, in: query, required: true,",
    ),
    Change(
        "body optional",
        "AR504",
        "contract",
        "      requestBody:\n        required: true\n",
        "      requestBody:\n",
    ),
    Change(
        "required said twice",
        "AR504",
        "contract",
        "name: cursor, in: query,",
        "name: cursor, in: query, required: false,",
        benign=True,
    ),
    Change("parameter default", "AR505", "contract", "default: 50", "default: 20"),
    Change("parameter default dropped", "AR505", "contract", ", default: 50", ""),
    Change("default as 50.0", "AR505", "contract", "default: 50", "default: 50.0", benign=True),
    Change("SSE to JSON", "AR508", "contract", "text/event-stream", "application/json"),
    Change("JSON to SSE", "AR508", "app", "-> OrderPage:", "-> ServerSentEvent:"),
    Change(
        "request media type",
        "AR508",
        "contract",
        f"          application/json:\n            {PAYMENT}",
        f"          text/plain:\n            {PAYMENT}",
    ),
    Change(
        "stated media type",
        "AR508",
        "contract",
        "application/x-batch+json",
        "application/x-many+json",
    ),
    Change(
        "raw text",
        "AR508",
        "app",
        '        "response_struct": Imported,\n',
        '        "response_media_types": ["text/csv"],\n',
    ),
    Change(
        "media type parameter",
        "AR508",
        "contract",
        "text/event-stream:",
        "text/event-stream; charset=utf-8:",
        benign=True,
    ),
    Change("guard dropped", "AR509", "app", "        guards=[needs_credentials],\n", ""),
    Change(
        "permission",
        "AR509",
        "contract",
        "x-permission: payments:write",
        "x-permission: payments:read",
    ),
    Change(
        "permission dropped",
        "AR509",
        "app",
        'operation_id="streamOrders", opt={"permission": "orders:read"}',
        'operation_id="streamOrders"',
    ),
    Change(
        "made public",
        "AR509",
        "contract",
        "      operationId: getHealth\n      security: []\n",
        "      operationId: getHealth\n",
    ),
    Change(
        "optional credentials",
        "AR509",
        "contract",
        "security: []",
        "security: [{}, { bearer: [] }]",
        benign=True,
    ),
    Change("status", "AR510", "contract", '"201":', '"200":'),
    Change("status of the app", "AR510", "app", "    status_code=202,\n", ""),
    Change("stated status", "AR510", "app", '"statuses": [200]', '"statuses": [200, 202]'),
    Change("status range", "AR510", "contract", '"202":', '"2XX":', benign=True),
    Change(
        "parameter enum",
        "AR511",
        "app",
        'Annotated[State, QueryParameter(name="state")]',
        'Annotated[Literal["open", "paid"], QueryParameter(name="state")]',
    ),
    Change(
        "parameter enum in another order",
        "AR511",
        "app",
        'Annotated[State, QueryParameter(name="state")]',
        'Annotated[Literal["paid", "closed", "open"], QueryParameter(name="state")]',
        benign=True,
    ),
    Change(
        "request DTO",
        "AR512",
        "app",
        f"{UPDATE}, opt",
        f"{UPDATE}, dto=MsgspecDTO[OrderChange], return_dto=None, opt",
        (
            (
                "import ServerSentEvent\n",
                "import ServerSentEvent\nfrom litestar.dto import MsgspecDTO\n",
            ),
        ),
    ),
    Change(
        "no DTO, said", "AR512", "app", f"{UPDATE}, opt", f"{UPDATE}, dto=None, opt", benign=True
    ),
)
COVERED = covered(CHANGES)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_code(change: Change) -> None:
    found = api_findings(change.contract(), change.routes())
    assert {finding.code for finding in found} == (set() if change.benign else {change.code})


def codes(contract: str, app: str, rules: ApiRules | None = None) -> list[tuple[str, str]]:
    found = api_findings(parse_contract(contract, "docs/openapi.yaml"), routes_of_text(app), rules)
    return [(finding.code, finding.subject) for finding in found]


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_an_app_without_routes_checks_nothing() -> None:
    with pytest.raises(CannotCheck, match="serves no HTTP route"):
        routes_of(Litestar([], openapi_config=None), ROOT)


def test_routes_of_a_mounted_app_stand_below_its_path() -> None:
    inner = Litestar([get_ready], path="/inner", openapi_config=None)
    outer = Litestar([asgi("/outer", is_mount=True, copy_scope=True)(inner)], openapi_config=None)
    assert [route.path for route in routes_of(outer, ROOT) if route.method == "GET"] == [
        "/outer/inner/ready/{name}"
    ]


@get("/ready/{name:str}", sync_to_thread=False)
def get_ready() -> str:
    """Say that it is ready."""
    return "yes"


@get("/slow", sync_to_thread=True)
def get_slow() -> str:
    """Take its time in a thread."""
    return "yes"


def test_a_handler_that_runs_in_a_thread_has_a_line() -> None:
    routes = routes_of(Litestar([get_slow], openapi_config=None), ROOT)
    assert {r.location.path for r in routes if r.method == "GET" and r.location} == {
        "tests/contract/test_api_routes.py"
    }


def test_a_path_parameter_that_nobody_reads_has_the_type_of_its_path() -> None:
    (route,) = (
        r for r in routes_of(Litestar([get_ready], openapi_config=None), ROOT) if r.method == "GET"
    )
    assert [(p.name, p.place, p.annotations) for p in route.parameters] == [
        ("name", "path", (str,))
    ]


def test_a_finding_names_the_line_of_the_contract_and_of_the_handler() -> None:
    change = Change("", "AR505", "contract", "default: 50", "default: 20")
    (found,) = api_findings(change.contract(), change.routes())
    assert str(found.location) == "docs/openapi.yaml:17"
    assert found.message == (
        "parameter's default differs: document default 20, app default 50,"
        " list_orders (tests/contract/api_fixtures/orders_app.py:127)"
    )
    assert (found.expected, found.actual) == ("default 20", "default 50")


def test_a_parameter_that_operations_share_is_reported_once() -> None:
    contract = changed(
        CONTRACT, ("schema: { type: string }\n  schemas", "schema: { type: integer }\n  schemas")
    )
    (found,) = api_findings(parse_contract(contract, "docs/openapi.yaml"), routes_of_text(APP))
    assert found.subject == "Trace header:x-trace"
    assert found.message.endswith(", and 1 more")


def test_an_array_in_one_text_is_split_by_the_handler() -> None:
    contract = changed(
        CONTRACT, ("{ name: tags, in: query,", "{ name: tags, in: query, explode: false,")
    )
    app = changed(APP, ("FromQuery[list[str] | None]", "FromQuery[str | None]"))
    assert codes(contract, app) == []


def test_a_parameter_of_a_layer_counts() -> None:
    app = changed(
        APP,
        ('            "/v1",\n', '            "/v1",\n            parameters={"lang": lang},\n'),
        (
            "app = Litestar(",
            'lang = QueryParameter(name="lang", annotation=str, required=False)\n\napp = Litestar(',
        ),
    )
    assert ("AR502", "GET /api/v1/orders query:lang") in codes(CONTRACT, app)


def test_parameters_that_the_code_reads_itself_are_configured() -> None:
    app = changed(APP, (', "read_parameters": ["header:If-None-Match"]', ""))
    rules = ApiRules(ambient_parameters=("header:if-none-match",))
    assert codes(CONTRACT, app, rules) == []


def test_an_api_key_in_a_parameter_is_no_undocumented_parameter() -> None:
    app = changed(
        APP,
        (
            "    async def get_order(self, ",
            "    async def get_order(self, ticket: FromQuery[str], ",
        ),
    )
    assert codes(CONTRACT, app) == [("AR502", "GET /api/v1/orders/{order_id} query:ticket")]
    key = "    bearer: { type: http, scheme: bearer }\n"
    contract = changed(
        CONTRACT, (key, f"{key}    ticket: {{ type: apiKey, in: query, name: ticket }}\n")
    )
    assert codes(contract, app) == []


GUARDS = "            guards=[needs_credentials],\n"


def test_a_dependency_can_authenticate() -> None:
    app = changed(APP, (GUARDS, ""))
    found = codes(CONTRACT, app, ApiRules(auth_dependencies=("trace", "window")))
    # Only the operations that take the dependency are authenticated by it.
    assert [subject for _, subject in found] == [
        "GET /api/v1/orders/{order_id}",
        "DELETE /api/v1/orders/{order_id}",
        "PATCH /api/v1/orders/{order_id}",
        "POST /api/v1/payments",
        "POST /api/v1/imports",
        "GET /api/v1/stream",
    ]
    assert {code for code, _ in found} == {"AR509"}


def test_a_handler_can_authenticate_itself() -> None:
    app = changed(
        APP,
        (GUARDS, ""),
        ("[OrderController, create_payment, import_orders, stream_orders],", "[stream_orders],"),
        (
            'opt={"permission": "orders:read"})\nasync',
            'opt={"permission": "orders:read", "authenticates": True})\nasync',
        ),
    )
    assert not [subject for code, subject in codes(CONTRACT, app) if code == "AR509"]


def test_an_authentication_middleware_authenticates_what_it_does_not_exclude() -> None:
    app = changed(
        APP,
        (GUARDS, ""),
        (
            '    path="/api",\n',
            '    path="/api",\n    middleware=[DefineMiddleware(Login, exclude="payments")],\n',
        ),
        (
            "app = Litestar(",
            "class Login(AbstractAuthenticationMiddleware):\n"
            "    async def authenticate_request(self, connection):\n"
            "        raise NotImplementedError\n\n\napp = Litestar(",
        ),
        (
            "from litestar.response",
            "from litestar.middleware import AbstractAuthenticationMiddleware, DefineMiddleware\n"
            "from litestar.response",
        ),
    )
    assert codes(CONTRACT, app) == [("AR509", "POST /api/v1/payments")]


def test_an_operation_id_may_be_made_by_a_function() -> None:
    app = changed(
        APP, ('operation_id="getOrder"', 'operation_id=lambda handler, method, path: "getOrder"')
    )
    assert codes(CONTRACT, app) == []


def test_paths_may_be_served_without_a_contract_on_purpose() -> None:
    app = changed(APP, ('@get("/stream"', '@get(["/stream", "/live"]'))
    assert codes(CONTRACT, app, ApiRules(undocumented=("/api/v1/live*",))) == []


def test_two_runs_print_the_same_whatever_the_hash_seed() -> None:
    script = (
        "from tests.contract.api_fixtures.shop import *\n"
        "contract = CONTRACT.replace('integer', 'string').replace('card', 'coin')\n"
        "contract = contract.replace('[open', '[lost').replace('limit', 'size')\n"
        "routes = routes_of_text(APP)\n"
        "for found in api_findings(parse_contract(contract, 'o'), routes): print(found)\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) > 10


@get("/files/{name:path}/{since:datetime}", operation_id="getFile", sync_to_thread=False)
def get_file(
    name: FromPath[Path],
    since: FromPath[datetime],
    price: FromQuery[Decimal],
    size: FromQuery[int | None] = None,
) -> None:
    """Show a file."""


def test_parameters_are_text_on_the_wire() -> None:
    contract = parse_contract(
        "openapi: 3.1.0\n"
        "paths:\n"
        "  /files/{name}/{since}:\n"
        "    get:\n"
        "      operationId: getFile\n"
        "      parameters:\n"
        "        - { name: name, in: path, required: true, schema: { type: string } }\n"
        "        - { name: since, in: path, schema: { type: string, format: date-time } }\n"
        "        - { name: price, in: query, required: true, schema: { type: number } }\n"
        "        - { name: size, in: query, schema: { type: [integer, 'null'], default: null } }\n"
        "      responses: { '200': { description: It. } }\n",
        "openapi.yaml",
    )
    routes = routes_of(Litestar([get_file], openapi_config=None), ROOT)
    assert api_findings(contract, routes) == []


def test_a_contract_that_names_no_permissions_says_nothing_of_them() -> None:
    contract = "".join(
        line for line in CONTRACT.splitlines(keepends=True) if "x-permission" not in line
    )
    assert codes(contract, APP) == []


def test_each_success_status_is_held_to_its_own_content() -> None:
    later = '        "202": { description: Later. }\n'
    imported = '        "200":\n          description: Imported.\n'
    contract = changed(CONTRACT, (imported, later + imported))
    app = changed(APP, ('"statuses": [200]', '"statuses": [200, 202]'))
    assert codes(contract, app) == [("AR508", "POST /api/v1/imports response 202")]
    by_status = changed(app, ('"response_struct": Imported', '"response_struct": {200: Imported}'))
    assert codes(contract, by_status) == []
