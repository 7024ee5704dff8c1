"""The package by itself: its wheel, in an environment of SQLAlchemy 2.0 without Litestar."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.contract.conftest import call, install
from tests.uv import CERTIFICATES

FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = tmp_path_factory.mktemp("environment") / "venv"
    return install(environment, str(wheel), "sqlalchemy==2.0.*").with_name("alembic-readonly-check")


def test_the_wheel_carries_what_a_reader_and_the_command_need(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("codes.md", "py.typed", "platforms/supabase.sql", "command/cli.py"):
        assert f"alembic_readonly_check/{name}" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    (metadata,) = (name for name in names if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "# alembic-readonly-check" in text
    assert not [
        line
        for line in text.splitlines()
        if line.startswith("Requires-Dist") and "==" in line.partition(";")[0]
    ]


@pytest.mark.timeout(600)
def test_it_finds_planted_drift_with_sqlalchemy_2_0_and_no_litestar(
    command: Path, server_url: str, tmp_path: Path
) -> None:
    installed = call(
        str(command.with_name("python")),
        "-c",
        "import importlib.util as u, sqlalchemy;"
        "print(sqlalchemy.__version__, u.find_spec('litestar'), u.find_spec('msgspec'))",
    )
    assert installed.startswith("2.0.")
    assert installed.split()[1:] == ["None", "None"]
    assert call(str(command), "--version").endswith("0.2.0\n")
    for name in ("handbook", "shop", "sql"):
        shutil.copytree(FOREIGN / name, tmp_path / name)
    text = (FOREIGN / "pyproject.toml").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace('app = "shop.web:make_app"\n', ""))
    variables = {"SHOP_SCRATCH_URL": server_url}
    assert "no drift" in call(str(command), cwd=tmp_path, **variables)
    path = tmp_path / "sql/changes/0002_tables.sql"
    path.write_text(path.read_text("utf-8").replace("varchar(50)", "varchar(51)"))
    done = subprocess.run(
        [str(command)],
        cwd=tmp_path,
        env=os.environ | CERTIFICATES | variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "DC303 error public.customers.name" in done.stdout) == (1, True)
    (tmp_path / "pyproject.toml").write_text(text)
    done = subprocess.run([str(command), "api"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "alembic-readonly-check[api]" in done.stderr) == (2, True)
