"""The built wheel, and an environment that it is installed into."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.install.wheels import done, new_environment
from tests.uv import UV


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build with `uv build`: the source archive, then the wheel from the archive."""
    folder = tmp_path_factory.mktemp("dist")
    done(UV, "build", "--quiet", "--out-dir", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    assert list(folder.glob("*.tar.gz"))
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """Install the wheel into a fresh environment; returns its programs."""
    # Below the checkout, since a server that root starts is another user and must reach the wheel.
    environment = ROOT / ".data" / f"wheel-{os.getpid()}"
    yield new_environment(environment, wheel)
    shutil.rmtree(environment)
