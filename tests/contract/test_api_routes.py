"""Routes against the contract: each change gives exactly its code, each twin nothing."""

import pytest

from tests.contract.api_fixtures.shop import (
    Change,
    api_findings,
    covered,
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
