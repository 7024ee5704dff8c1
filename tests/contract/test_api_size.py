"""A project of 150 operations agrees with its contract; `make bench-drift` times the same."""

from alembic_readonly_check.api.columns import check_columns
from alembic_readonly_check.api.external import check_external
from alembic_readonly_check.api.routes import check_routes
from alembic_readonly_check.api.served import routes_of
from alembic_readonly_check.api.structs import check_structs
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.openapi.contract import parse_contract

from tests.contract.api_fixtures.shop import (
    APP,
    CONTRACT,
    EXTERNAL,
    ROOT,
    TABLES,
    app_of_text,
    schema_of_text,
)

COPIES = 17


def test_150_operations_agree_with_their_contract() -> None:
    text = copied_contract()
    apps = [
        app_of_text(APP.replace('path="/api"', f'path="/api{number}"')) for number in range(COPIES)
    ]
    schema = schema_of_text(TABLES)
    rules = ApiRules()
    contract = parse_contract(text, "docs/openapi.yaml")
    routes = [route for app in apps for route in routes_of(app, ROOT)]
    found = check_routes(contract, routes, rules)
    found += check_structs(contract, routes, ROOT)
    found += check_columns(contract, schema, rules, "shop")
    found += check_external(contract, EXTERNAL, "docs/external_apis.md", rules)
    assert len(contract.operations) >= 150
    assert found == []


def copied_contract() -> str:
    """Copy every path and every schema of the shop under numbered names."""
    head, _, rest = CONTRACT.replace("https://shop.example/api", "/").partition("paths:\n")
    paths, _, components = rest.partition("components:\n")
    kept, _, schemas = components.partition("  schemas:\n")
    names = [line.strip(" :") for line in schemas.splitlines() if line[4:5].isupper()]
    copies = [["", ""] for _ in range(COPIES)]
    for number, copy in enumerate(copies):
        copy[0] = paths.replace("  /v1/", f"  /api{number}/v1/")
        copy[0] = copy[0].replace("  /health", f"  /api{number}/health")
        copy[1] = schemas
        for name in names:
            old, new = f'schemas/{name}"', f'schemas/{name}{number}"'
            copy[0], copy[1] = copy[0].replace(old, new), copy[1].replace(old, new)
            copy[1] = copy[1].replace(f"    {name}:\n", f"    {name}{number}:\n")
    return (
        f"{head}paths:\n{''.join(copy[0] for copy in copies)}"
        f"components:\n{kept}  schemas:\n{''.join(copy[1] for copy in copies)}"
    )
