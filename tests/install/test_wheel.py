"""The built wheel, in a fresh environment and an empty folder, is the whole of Annex."""

import os
import shutil
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import httpx
import pytest

from app.guides import GUIDES
from tests.conftest import ROOT, SECRETS, TestDatabase
from tests.install.wheels import PROJECT, done, install, run, serving

BIN = Path(sys.executable).parent
VERSION = PROJECT["project"]["version"]
MIGRATIONS = list((ROOT / "supabase/migrations").glob("*.sql"))

pytestmark = pytest.mark.timeout(300)


def serves_itself(url: str) -> None:
    """Ask for all that is package data."""
    for path, words in {
        "/openapi.yaml": (ROOT / "docs/openapi.yaml").read_text()[:200],
        "/openapi.json": '"openapi"',
        "/docs": "Annex API",
        "/docs/assets/scalar.js": "createApiReference",
        "/llms.txt": "/guides/deploy.md",
        **{f"/guides/{name}.md": "# " for name in GUIDES},
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
