"""A Postgres server to make scratch databases on.

`CONTRACT_TEST_SERVER_URL` names one; else it is embedded, the one of ANNEX_TEST_POSTGRES.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen

SERVER = "CONTRACT_TEST_SERVER_URL"


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
