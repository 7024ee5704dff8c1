"""What generators and linters make of docs/openapi.yaml: clients compile strictly and work live.

Needs node and the packages of tests/clients (`make clients`), which `.ci/run` installs.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import CONTRACT, Tenant

CLIENTS = Path(__file__).parent / "clients"
GENERATED = CLIENTS / "generated"
BIN = CLIENTS / "node_modules" / ".bin"
HERE = Path(sys.executable).parent

pytestmark = [
    pytest.mark.skipif(not BIN.exists(), reason="make clients installs what this needs"),
    pytest.mark.timeout(300),
]


async def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a program in the clients' folder; returns what it said, which a failure shows."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=CLIENTS,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
async def compiled() -> None:
    """Generate the TypeScript clients, type-check them strictly and bundle them."""
    await run(BIN / "openapi-typescript", CONTRACT, "-o", GENERATED / "annex.d.ts")
    await run(BIN / "openapi-ts")
    await run(BIN / "orval")
    await run(BIN / "tsc", "-p", ".")
    files = sorted(CLIENTS.glob("with-*.ts"))
    options = ("--bundle", "--platform=node", "--format=esm", "--out-extension:.js=.mjs")
    await run(BIN / "esbuild", *files, *options, f"--outdir={GENERATED / 'built'}")


def whereabouts(tenant: Tenant) -> dict[str, str]:
    """Tell a client where the server is, and whose workspace."""
    client = tenant.owner.client
    return {
        "ANNEX_URL": str(client.base_url).rstrip("/"),
        "ANNEX_TOKEN": client.headers["authorization"].removeprefix("Bearer "),
        "ANNEX_WORKSPACE": tenant.slug,
    }


@pytest.mark.parametrize("name", ["with-openapi-fetch", "with-hey-api", "with-orval"])
async def test_a_generated_typescript_client_works(
    compiled: None, tenant: Tenant, name: str
) -> None:
    said = await run("node", GENERATED / "built" / f"{name}.mjs", env=whereabouts(tenant))
    assert "requests" in said


async def test_the_generated_python_client_works(tenant: Tenant) -> None:
    client = GENERATED / "annex_client"
    path = f"{HERE}{os.pathsep}{os.environ['PATH']}"
    options = ("--path", CONTRACT, "--output-path", client, "--meta", "none", "--overwrite")
    await run(HERE / "openapi-python-client", "generate", *options, env={"PATH": path})
    found = {"MYPYPATH": str(GENERATED), "PYTHONPATH": str(GENERATED)}
    typed = ("--strict", "--config-file=", "--follow-imports=silent")
    await run(sys.executable, "-m", "mypy", *typed, "with_python.py", env=found)
    await run(sys.executable, "with_python.py", env={**found, **whereabouts(tenant)})


@pytest.mark.parametrize(
    "linter",
    [
        ("redocly", "lint", "--config=linters/redocly.yaml", CONTRACT),
        ("spectral", "lint", "--ruleset=linters/spectral.yaml", "--fail-severity=hint", CONTRACT),
    ],
    ids=lambda linter: str(linter[0]),
)
async def test_a_linter_finds_nothing_but_the_listed_exceptions(
    linter: tuple[str | Path, ...],
) -> None:
    await run(BIN / linter[0], *linter[1:])


def test_the_lock_file_records_no_address_to_download_from() -> None:
    assert '"resolved"' not in (CLIENTS / "package-lock.json").read_text()
