"""Projects in the styles that real ones have: all agree, so nothing is found.

Each is checked offline, against scratch databases, against a live database, and against both at
once; with SQLAlchemy 2.0 and 2.1, on every Postgres of 15, 17 and 18 that is installed. One knows
nothing of the other, so that each version of both is enough, and not each pair.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.dev import DevError
from app.dev.postgres import THROWAWAY, VARIABLE, EmbeddedPostgres, chosen
from tests.contract.conftest import SERVER, call, install
from tests.contract.corpus import MODES, PROJECTS

HERE = Path(__file__).parent


def installed() -> list[str]:
    """List the versions to check on; alone the one that a stated server has."""
    if os.environ.get(SERVER):
        return ["stated"]
    versions = []
    for version in ("15", "17", "18"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, version)
            try:
                chosen()
            except DevError:
                continue
        versions.append(version)
    return versions


def pairs() -> list[tuple[str, str]]:
    """Pair versions of Postgres and of SQLAlchemy: the oldest ones, and the newest of both."""
    oldest, *others = installed()
    return [(oldest, "2.0"), *((postgres, "2.1") for postgres in others or [oldest])]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a server of one version."""
    if stated := os.environ.get(SERVER):
        yield stated
        return
    folder = HERE.parents[1] / ".data" / f"contract-corpus-{os.getpid()}-{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, request.param)
        version = chosen()
    with EmbeddedPostgres(folder, version=version, settings=THROWAWAY) as postgres:
        yield postgres.admin_url
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an interpreter whose SQLAlchemy is of one version: the project's own for the newest."""
    if request.param == "2.1":
        return Path(sys.executable)
    wheel: Path = request.getfixturevalue("wheel")
    environment = tmp_path_factory.mktemp("environment") / "venv"
    return install(environment, f"{wheel}[api]", f"sqlalchemy=={request.param}.*")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("server", "python"), pairs(), indirect=True)
def test_nothing_is_found_where_all_agree(
    server: str, python: Path, request: pytest.FixtureRequest
) -> None:
    report = json.loads(call(str(python), str(HERE / "corpus.py"), server))
    versions = request.node.callspec.params
    assert report["sqlalchemy"].startswith(f"{versions['python']}.")
    assert str(report["postgres"]) == versions["server"] or versions["server"] == "stated"
    assert len(report["told"]) == len(PROJECTS) * len(MODES)
    told = [f"{where}: {line}" for where, lines in report["told"].items() for line in lines]
    assert told == []


def test_the_corpus_has_every_style() -> None:
    assert len(PROJECTS) >= 6
