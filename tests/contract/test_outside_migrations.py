"""Migrations that are no folder of SQL: Alembic's revisions, and a command of the project's own."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic_readonly_check.command import cli
from alembic_readonly_check.config import Config, Scratch
from alembic_readonly_check.db import outside
from alembic_readonly_check.findings import CannotCheck
from click.testing import CliRunner, Result
from sqlalchemy.engine import make_url

MODELS = """
from sqlalchemy import Column, Integer, MetaData, String, Table

metadata = MetaData()
Table("notes", metadata, Column("id", Integer, primary_key=True), Column("text", String(40)))
"""
ENV = """
from alembic import context

print("this is no SQL")
if not context.is_offline_mode():
    raise SystemExit("this would connect")
context.configure(url=context.config.get_main_option("sqlalchemy.url"), literal_binds=True)
with context.begin_transaction():
    context.run_migrations()
"""
REVISION = '''
"""one"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "one", None

def upgrade():
    op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("text", sa.String(40)))
    op.execute("INSERT INTO notes (text) VALUES ('100% of it')")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY notes_text ON notes (text)")
        op.execute("DROP INDEX notes_text")
'''
OWN = """
import asyncio, os, asyncpg

async def main():
    assert "/readonly_check_" in os.environ.get("SCRATCH_DATABASE_URL", "/readonly_check_")
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    await connection.execute("CREATE TABLE notes (id serial PRIMARY KEY, text varchar(40))")
    await connection.close()

asyncio.run(main())
"""
# SQLAlchemy writes the statement and a link after what is wrong.
RAISES = "from sqlalchemy.exc import *; raise DataError('X', None, Exception('no such table.'))"
SECTION = '[tool.alembic-readonly-check]\nmetadata = "notes_models:metadata"\n'


@pytest.fixture
def folder(tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("SCRATCH_DATABASE_URL", server_url)
    (tmp_path / "notes_models.py").write_text(MODELS)
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "versions/one.py").write_text(REVISION)
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = .\nsqlalchemy.url = driver://user:pass@localhost/dbname\n"
    )
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def configure(folder: Path, scratch: str, *arguments: str) -> Result:
    text = f"{SECTION}\n[tool.alembic-readonly-check.scratch]\n{scratch}\n"
    (folder / "pyproject.toml").write_text(text)
    return CliRunner().invoke(cli.main, ["db", *arguments])


def test_the_revisions_of_alembic_are_carried_out(folder: Path) -> None:
    result = configure(folder, 'alembic = "alembic.ini"')
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "no drift in 1 tables of notes_models:metadata, 1 tables of the migrations" in (
        result.stdout
    )
    path = folder / "versions/one.py"
    path.write_text(REVISION.replace("String(40)", "String(41)"))
    result = configure(folder, 'alembic = "alembic.ini"')
    assert (result.exit_code, "DB203 error public.notes.text" in result.stdout) == (1, True)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('op.create_table("notes"', 'op.nonsense("notes"', "nonsense"),
        ("CREATE INDEX", "CREATE NONSENSE", "Alembic's SQL cannot be applied"),
    ],
)
def test_a_revision_that_cannot_be_carried_out(
    folder: Path, old: str, new: str, sentence: str
) -> None:
    (folder / "versions/one.py").write_text(REVISION.replace(old, new))
    result = configure(folder, 'alembic = "alembic.ini"')
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_a_folder_without_revisions(folder: Path) -> None:
    shutil.rmtree(folder / "versions")
    result = configure(folder, 'alembic = "alembic.ini"')
    assert (result.exit_code, result.stdout) == (2, ""), result.output


def test_a_command_of_the_projects_own_migrates(folder: Path) -> None:
    result = configure(folder, f'command = ["{sys.executable}", "own.py"]')
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    (folder / "own.py").write_text(OWN.replace("varchar(40)", "varchar(41)"))
    result = configure(folder, f'command = ["{sys.executable}", "own.py"]')
    assert (result.exit_code, "DB203 error public.notes.text" in result.stdout) == (1, True)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ('["no-such-program"]', "no-such-program cannot be run"),
        ('["python", "-c", "raise SystemExit(\'not today\')"]', "failed: not today"),
        (f'["python", "-c", "{RAISES}"]', "Error: (builtins.Exception) no such table.\n"),
        ('["python", "-c", ""]', "The command made no table in public of the scratch"),
    ],
)
def test_a_command_that_fails(folder: Path, command: str, sentence: str) -> None:
    # Some systems have a python3 and no python.
    result = configure(folder, f"command = {command.replace('python', sys.executable)}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_no_variable_leads_a_command_to_another_database(
    folder: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = "postgresql+psycopg://owner:word@live:5433/app?sslmode=require"
    for name in ("DATABASE_URL", "PROD", "REPLICA_URL", "SCRATCH_DATABASE_URL"):
        monkeypatch.setenv(name, live)
    for name in ("HOST", "PORT", "DATABASE", "USER", "HOSTADDR", "SERVICE"):
        monkeypatch.setenv(f"PG{name}", "live")
    monkeypatch.setenv("OTHER_SCRATCH", server_url)
    (folder / "own.py").write_text(
        "import json, os\nopen('held.json', 'w').write(json.dumps(dict(os.environ)))\n" + OWN
    )
    monkeypatch.delenv("DATABASE_URL")
    result = configure(
        *(folder, f'command = ["{sys.executable}", "own.py"]'),
        *("--scratch-url-env", "OTHER_SCRATCH"),
    )
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    held = json.loads((folder / "held.json").read_text())
    assert [name for name, value in held.items() if "live" in value] == []
    assert "OTHER_SCRATCH" not in held
    names = ("DATABASE_URL", "PROD", "REPLICA_URL", "SCRATCH_DATABASE_URL")
    assert {make_url(held[name]).database for name in names} == {held["PGDATABASE"]}


def test_the_command_line_replaces_no_name_of_a_live_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text(SECTION)
    monkeypatch.setenv("PROD", "postgresql://live/app")
    config = cli._configured(url_env="PROD")
    held = outside._environment(config, make_url("postgresql://own/scratch"))
    assert held["DATABASE_URL"] == held["PROD"] == "postgresql://own/scratch"


def test_an_ini_of_alembics_leads_no_command_to_the_live_database(
    folder: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://me:word@127.0.0.1/app")
    config = replace(Config(root=str(folder)), scratch=Scratch(command=("touch", "made")))
    url = "postgresql://other%%40@localhost:5432/app"
    (folder / "alembic.ini").write_text(f"[alembic]\nsqlalchemy.url = {url}\n")
    with pytest.raises(CannotCheck, match=r"sqlalchemy.url of alembic.ini names the live") as error:
        outside.migrate(config, make_url(server_url))
    assert (error.value.code, (folder / "made").exists()) == ("RO904", False)
    (folder / "alembic.ini").write_text(f"[alembic]\nsqlalchemy.url = {url}lication\n")
    outside.migrate(config, make_url(server_url))
    assert (folder / "made").exists()
