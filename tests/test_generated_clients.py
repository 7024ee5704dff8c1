"""What generators and linters make of docs/openapi.yaml: clients compile strictly and work live.

Needs node and the packages of tests/clients (`make clients`), which `.ci/run` installs.
"""

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from app.dev.demo import mint_token
from tests.conftest import CONTRACT, Callers, Tenant
from tests.guides.outside import Auth

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
    files = sorted([*CLIENTS.glob("with-*.ts"), *CLIENTS.glob("team-*.ts")])
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


async def team(callers: Callers) -> dict[str, str]:
    """Sign up who takes part in a team: the owner and two colleagues share a domain."""
    domain = f"d{uuid4().hex[:12]}.example"
    people = {}
    for name, at in (
        ("owner", domain),
        ("admin", "example.com"),
        ("guest", "example.com"),
        ("colleague", domain),
        ("applicant", domain),
    ):
        caller = await callers.user(email=f"{name}-{uuid4().hex[:8]}@{at}")
        token = caller.client.headers["authorization"].removeprefix("Bearer ")
        people[name] = {"id": str(caller.user_id), "email": caller.email, "token": token}
    return {
        "ANNEX_URL": callers.server.url,
        "ANNEX_DOMAIN": domain,
        "ANNEX_PEOPLE": json.dumps(people),
    }


async def test_a_typed_client_does_all_that_a_team_page_does(
    compiled: None, callers: Callers
) -> None:
    program = GENERATED / "built" / "team-openapi-fetch.mjs"
    assert "works" in await run("node", program, env=await team(callers))


async def test_supabase_js_does_what_a_team_page_does_with_its_own_tokens(
    compiled: None, callers: Callers
) -> None:
    env = await team(callers)
    owner, numbers = json.loads(env["ANNEX_PEOPLE"])["owner"], itertools.count()

    def mint(seconds: int) -> str:
        """Sign a token that no other one equals."""
        claims = {"session_id": f"session-{next(numbers)}"}
        settings = callers.server.settings
        return mint_token(settings, owner["id"], owner["email"], seconds=seconds, **claims)

    program = GENERATED / "built" / "team-supabase-js.mjs"
    async with Auth(mint, 5).serving() as auth:
        said = await run("node", program, env={**env, "SUPABASE_URL": auth.url})
    assert "works" in said
    assert auth.count > 2


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
