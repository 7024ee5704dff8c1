"""A Postgres server to make scratch databases on.

`CONTRACT_TEST_SERVER_URL` names one; else it is embedded, the one of ANNEX_TEST_POSTGRES.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen
from tests.uv import CERTIFICATES, UV

SERVER = "CONTRACT_TEST_SERVER_URL"
PACKAGE = Path(__file__).parents[2] / "app/contract"
NEWEST = "2026-11-22T00:00:00Z"


def call(*command: str, cwd: Path | None = None, **variables: str) -> str:
    """Run a program to its end, and give what it wrote."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | CERTIFICATES | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def install(environment: Path, *packages: str) -> Path:
    """Make an environment with packages no newer than the project's own; give its interpreter."""
    call(UV, "venv", "--quiet", "--python", sys.executable, str(environment))
    python = environment / "bin/python"
    limits = ("--python", str(python), "--exclude-newer", NEWEST)
    call(UV, "pip", "install", "--quiet", *limits, *packages, cwd=environment)
    return python


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the folder alone."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "dist"))
    call(UV, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Give the URL of a server on which the tests may make and drop databases and roles."""
    if stated := os.environ.get(SERVER):
        yield stated
        return
    folder = Path(__file__).parents[2] / ".data" / f"contract-tests-{os.getpid()}"
    with EmbeddedPostgres(folder, version=chosen(), settings=THROWAWAY) as server:
        yield server.admin_url
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def own_imports() -> Iterator[None]:
    """Let each file import `shop` from its own folder: copies of the project share that name."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [n for n in sys.modules if n.partition(".")[0] == "shop"]:
        del sys.modules[name]
