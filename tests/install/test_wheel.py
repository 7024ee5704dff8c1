"""The built wheel, in a fresh environment and an empty folder, is the whole of Annex."""

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.conftest import ROOT, SECRETS, TestDatabase

BIN = Path(sys.executable).parent
UV = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools/uv/bin/uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BEFORE = PROJECT["tool"]["uv"]["exclude-newer"]
VERSION = PROJECT["project"]["version"]
MIGRATIONS = list((ROOT / "supabase/migrations").glob("*.sql"))

pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without settings of ours and without this environment."""
    return subprocess.run(command, cwd=cwd, env=bare(), capture_output=True, text=True, check=False)


def bare(**others: str) -> dict[str, str]:
    ours = ("ANNEX_", "VIRTUAL_ENV", "PYTHON")
    path = f"{Path(UV).parent}:{os.environ['PATH']}"
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {
        "PATH": path,
        **others,
    }


def done(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; returns what it said."""
    ended = run(*command, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


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
    """Install the wheel, without the extra, into a fresh environment; returns its programs."""
    # Below the checkout, since a server that root starts is another user and must reach the wheel.
    environment = ROOT / ".data" / f"wheel-{os.getpid()}"
    done(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=ROOT)
    install(environment / "bin", str(wheel))
    yield environment / "bin"
    shutil.rmtree(environment)


def install(programs: Path, what: str) -> None:
    to = ("--python", programs / "python", "--exclude-newer", BEFORE)
    done(UV, "pip", "install", "--quiet", *to, what, cwd=programs)


@contextmanager
def serving(programs: Path, *arguments: str, cwd: Path, **settings: str) -> Iterator[str]:
    """Run a server command until its address is known; it must end on SIGINT."""
    log = cwd / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [programs / "annex", *arguments],
            cwd=cwd,
            env=bare(**settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + 120
        while not (url := address(cwd)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert "Traceback" not in log.read_text()


def address(cwd: Path) -> str | None:
    """Find where a server answers: in dev.json, or in what it said."""
    if (facts := cwd / ".data" / "dev.json").exists():
        content = facts.read_bytes()
        return str(msgspec.json.decode(content)["url"]) if content else None
    said = (cwd / "log").read_text()
    return said.split("Annex serves ")[1].split()[0] if "Annex serves " in said else None


def serves_itself(url: str) -> None:
    """Ask for all that is package data."""
    for path, words in {
        "/openapi.yaml": (ROOT / "docs/openapi.yaml").read_text()[:200],
        "/openapi.json": '"openapi"',
        "/docs": "Annex API",
        "/docs/assets/swagger-ui-bundle.js": "SwaggerUIBundle",
        "/live": "<title>",
        "/health/ready": VERSION,
    }.items():
        response = httpx.get(url + path, timeout=30)
        assert response.status_code == 200, path
        assert words in response.text, path


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        found = message_from_bytes(archive.read(metadata))
    assert (found["Name"], found["Version"]) == ("annex-b2b", VERSION)
    assert found["License-Expression"] == "Apache-2.0"
    assert "Supabase" in str(found.get_payload())
    migrations = {f"app/data/supabase/migrations/{p.name}" for p in MIGRATIONS}
    assert migrations
    assert migrations <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "app/contract/"))]


def test_build_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = (BIN / "python", "-m", "build", "--installer", "uv", "--outdir", tmp_path, ROOT)
    done(*build, cwd=tmp_path)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as one, zipfile.ZipFile(wheel) as other:
        assert {i.filename: i.CRC for i in one.filelist} == {
            i.filename: i.CRC for i in other.filelist
        }


async def test_it_serves_from_an_empty_folder_and_says_what_dev_lacks(
    installed: Path, database: TestDatabase, tmp_path: Path
) -> None:
    assert done(installed / "annex", "--version", cwd=tmp_path) == f"annex, version {VERSION}\n"
    migrated = run(installed / "annex", "migrate", database.url("postgres"), cwd=tmp_path)
    assert "Nothing to apply" in migrated.stdout, migrated
    lacking = run(installed / "annex", "dev", "--port", "0", cwd=tmp_path)
    assert lacking.returncode == 1
    assert lacking.stderr.startswith("annex: The embedded Postgres is not installed; run `pip")
    settings = {
        "ANNEX_DATABASE_URL": database.url("annex_api"),
        "ANNEX_WORKER_DATABASE_URL": database.url("annex_worker"),
        "ANNEX_SUPABASE_URL": "http://127.0.0.1:9",
        "ANNEX_SECRET_KEY": SECRETS.secret_key,
    }
    with serving(installed, "serve", "--port", "0", cwd=tmp_path, **settings) as url:
        serves_itself(url)
    assert not (tmp_path / ".data").exists()


def test_with_the_extra_dev_runs_in_an_empty_folder(installed: Path, wheel: Path) -> None:
    install(installed, f"annex-b2b[dev] @ file://{wheel}")
    folder = ROOT / ".data" / f"empty-{os.getpid()}"
    folder.mkdir()
    try:
        with serving(installed, "dev", "--port", "0", cwd=folder) as url:
            serves_itself(url)
            assert "Annex is up" in (folder / "log").read_text()
    finally:
        shutil.rmtree(folder)
