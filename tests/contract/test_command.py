"""The command as people and CI run it, on a project that is not ours."""

import asyncio
import datetime as dt
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic_readonly_check.codes import FAMILIES, REGISTRY, finding
from alembic_readonly_check.command import cli, reporters
from alembic_readonly_check.db import guard
from alembic_readonly_check.findings import Location
from click.testing import CliRunner, Result
from sqlalchemy.engine import URL

FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the foreign project and stand in it, with no database given."""
    folder = tmp_path / "project"
    shutil.copytree(FOREIGN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(FOREIGN))
    for name in ("SHOP_DATABASE_URL", "SHOP_SCRATCH_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def edited(folder: Path) -> Path:
    """Give the project one drift: DM103 of a column."""
    edit(folder / "handbook/tables.md", "`varchar(50)`", "`varchar(80)`")
    return folder


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the test's own on the server."""

    url: URL

    @property
    def text(self) -> str:
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        async def work() -> None:
            connection = await asyncpg.connect(self.text)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(work())

    def apply(self, path: Path) -> None:
        """Apply a migration and record it as Supabase's command does."""
        text = path.read_text("utf-8")
        version, _, name = path.stem.partition("_")
        quoted = text.replace("'", "''")
        self.execute(
            text,
            "CREATE SCHEMA IF NOT EXISTS supabase_migrations;"
            " CREATE TABLE IF NOT EXISTS supabase_migrations.schema_migrations"
            " (version text PRIMARY KEY, statements text[], name text);"
            f" INSERT INTO supabase_migrations.schema_migrations"
            f" VALUES ('{version}', ARRAY['{quoted}'], '{name}')",
        )


@pytest.fixture
def database(server_url: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Make a live database with the project's migrations applied, beside the scratch server."""
    server = Database(guard.driver_url(server_url, "server"))
    name = f"live_{secrets.token_hex(6)}"
    server.execute(f"CREATE DATABASE {name}")
    live = Database(server.url.set(database=name))
    try:
        live.execute((project / "sql/roles.sql").read_text("utf-8"))
        live.execute(
            "SET ROLE shop_owner; RESET ROLE", f"ALTER DATABASE {name} OWNER TO shop_owner"
        )
        monkeypatch.setenv("SHOP_DATABASE_URL", live.text)
        monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
        yield live
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate(live: Database, project: Path, count: int = 3) -> list[Path]:
    files = sorted((project / "sql/changes").glob("*.sql"))
    for path in files[:count]:
        edit(path, "", "SET SESSION AUTHORIZATION shop_owner;\n")
        live.apply(path)
        edit(path, "SET SESSION AUTHORIZATION shop_owner;\n", "")
    live.execute(
        "UPDATE supabase_migrations.schema_migrations SET statements ="
        " ARRAY[replace(statements[1], 'SET SESSION AUTHORIZATION shop_owner;', '')]"
    )
    return files


def codes(result: Result) -> list[str]:
    return sorted({found["code"] for found in json.loads(result.stdout)["findings"]})


# -------------------------------------------------------------------------------- exit codes


@pytest.mark.usefixtures("project")
def test_a_foreign_project_works_from_its_configuration_alone(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "note: SHOP_DATABASE_URL is not set, so no live database was compared\n"
        "no drift in 3 tables of handbook/tables.md, 3 tables of shop.tables:metadata,"
        " 3 operations of api.yaml, 3 routes of shop.web:make_app, 3 tables of the migrations\n"
    )


def test_drift_ends_with_1(project: Path) -> None:
    result = run("models")
    assert result.exit_code == 0
    edited(project)
    result = run("models")
    assert result.exit_code == 1
    assert "DM103 error public.customers.name: type differs" in result.stdout
    assert run("models", "--fail-on", "none").exit_code == 0
    assert run("models", "--ignore", "DM103").exit_code == 0
    assert run("models", "--select", "DM0").exit_code == 0
    assert run("models", "--select", "dm1").exit_code == 1


def test_a_warning_ends_with_1_only_if_asked(project: Path) -> None:
    edit(project / "handbook/tables.md", "| What to call them. |", "| |")
    assert run("docs").exit_code == 0
    assert run("docs", "--fail-on", "warn").exit_code == 1


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["db"], "There is no database: set SHOP_DATABASE_URL or SHOP_SCRATCH_URL"),
        (["models", "--metadata", "no.such:thing"], "no.such cannot be imported"),
        (["models", "--metadata", "shop.tables:missing"], "shop.tables has no missing"),
        (["models", "--metadata", "shop.tables:Base"], "is not a SQLAlchemy MetaData"),
        (["api", "--app", "shop.tables:metadata"], "is not a Litestar app"),
        (["models", "--select", "XX1"], "XX1 is neither a code nor a family"),
        (["explain", "XX1"], "XX1 is neither a code nor a family"),
        (["snapshot", "--output", "x.json"], "SHOP_DATABASE_URL is not set"),
    ],
)
def test_what_cannot_be_checked_ends_with_2_and_a_sentence(
    arguments: list[str], sentence: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_nothing_to_check_is_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "SCRATCH_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    result = run()
    assert result.exit_code == 2
    assert "Nothing was compared" in result.stderr


@pytest.mark.usefixtures("project")
def test_a_server_that_is_away_ends_with_2_and_hides_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://someone:s3cret@127.0.0.1:1/nowhere")
    result = run("db")
    assert result.exit_code == 2
    assert "SHOP_DATABASE_URL" in result.stderr
    assert "s3cret" not in result.output


def test_a_wrong_key_of_the_configuration_is_named(project: Path) -> None:
    edit(project / "pyproject.toml", 'rls = "off"', 'rls = "perhaps"')
    result = run()
    assert result.exit_code == 2
    assert "$.rls" in result.stderr


# -------------------------------------------------------------------------------- live


def test_a_live_database_that_agrees(database: Database, project: Path) -> None:
    migrate(database, project)
    result = run("--format", "json", "--ignore", "RO901")
    assert (result.exit_code, codes(result)) == (0, []), result.output


def test_a_servers_own_stamp_on_columns_is_no_drift(database: Database, project: Path) -> None:
    # Postgres 15.20 writes one, beside what was set by hand.
    migrate(database, project)
    for options, found in (("pg_attver=7", []), ("pg_attver=7,n_distinct=5", ["MG403"])):
        database.execute(
            f"UPDATE pg_attribute SET attoptions = '{{{options}}}'"
            " WHERE attrelid = 'customers'::regclass AND attname = 'email'"
        )
        result = run("--format", "json", "--ignore", "RO901")
        assert (result.exit_code, codes(result)) == (len(found), found), result.output


def test_a_migration_waits_and_is_no_drift(database: Database, project: Path) -> None:
    migrate(database, project, 2)
    result = run("--format", "json", "--ignore", "RO901")
    assert (result.exit_code, codes(result)) == (0, ["MG401"])


def test_a_change_by_hand_is_found(database: Database, project: Path) -> None:
    migrate(database, project)
    database.execute("ALTER TABLE customers ALTER settings SET DEFAULT '[]'")
    result = run("migrations", "--format", "json", "--ignore", "RO901")
    assert (result.exit_code, codes(result)) == (1, ["MG403"])
    result = run("db", "--format", "json", "--ignore", "RO901")
    assert (result.exit_code, codes(result)) == (1, ["DC305"])


def test_an_applied_migration_was_edited(database: Database, project: Path) -> None:
    files = migrate(database, project)
    edit(files[1], "name varchar(50)", "-- a comment is no change\n  name  varchar(50)")
    select = ("migrations", "--format", "json", "--select", "MG402")
    assert codes(run(*select)) == []
    edit(files[1], "varchar(50)", "varchar(51)")
    result = run(*select)
    (found,) = json.loads(result.stdout)["findings"]
    assert (found["code"], found["expected"], found["actual"]) == ("MG402", "50", "51")
    assert found["line"] == files[1].read_text("utf-8").split("varchar(51)")[0].count("\n") + 1


def test_an_applied_migration_is_gone(database: Database, project: Path) -> None:
    files = migrate(database, project)
    files[2].unlink()
    assert codes(run("migrations", "--format", "json", "--select", "MG402")) == ["MG402"]


def test_a_snapshot_stands_for_the_database(
    database: Database, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database, project)
    assert run("snapshot", "--output", "held.json").exit_code == 0
    for name in ("SHOP_DATABASE_URL", "SHOP_SCRATCH_URL"):
        monkeypatch.delenv(name)
    result = run("db", "--snapshot", "held.json", "--format", "json")
    assert (result.exit_code, codes(result)) == (0, []), result.output
    edited(project)
    result = run("db", "--snapshot", "held.json", "--format", "json")
    assert (result.exit_code, codes(result)) == (1, ["DC303"])
    Path("held.json").write_text("{}")
    assert run("db", "--snapshot", "held.json").exit_code == 2


# -------------------------------------------------------------------------------- what is borne


def test_an_ignore_needs_a_reason_and_ends(project: Path) -> None:
    edited(project)
    until = dt.date.today() + dt.timedelta(days=1)
    with (project / "pyproject.toml").open("a") as stream:
        stream.write(
            "\n[[tool.alembic-readonly-check.ignore]]\n"
            f'code = "DM103"\nsubject = "public.customers.*"\nreason = "soon"\nuntil = {until}\n'
        )
    assert run("models").exit_code == 0
    edit(project / "pyproject.toml", f"until = {until}", "until = 2020-01-01")
    result = run("models")
    assert result.exit_code == 1
    assert "the ignore of DM103 public.customers.* ended on 2020-01-01" in result.stdout
    edit(project / "pyproject.toml", '"soon"', '""')
    assert run("models").exit_code == 2


# -------------------------------------------------------------------------------- telling


FOUND = (
    finding("DM103", "a.b.c", "type | differs", Location("docs/x.md", 3), expected="1", actual="2"),
    finding("MG401", "0001.sql", "the migration is <not> applied"),
    finding("EX801", "bank", "100% missing", heading="BLOCKED: external_apis.md incomplete"),
)
REPORT = reporters.Report(FOUND, ("3 tables",), ("one thing was left out",))


def test_the_machine_formats_hold_every_finding() -> None:
    held = json.loads(reporters.json(REPORT))
    assert [found["code"] for found in held["findings"]] == ["DM103", "MG401", "EX801"]
    assert held["counts"] == {"error": 2, "warning": 0, "info": 1}
    sarif = json.loads(reporters.sarif(REPORT))["runs"][0]
    assert [result["level"] for result in sarif["results"]] == ["error", "note", "error"]
    for result in sarif["results"]:
        assert sarif["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    suite = ElementTree.fromstring(reporters.junit(REPORT))
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")


def test_the_formats_for_people_escape_what_would_break_them() -> None:
    github = reporters.github(REPORT).splitlines()
    assert github[0].startswith(
        "::error file=docs/x.md,line=3,title=DM103::a.b.c: type | differs%0A"
    )
    assert "100%25 missing" in github[2]
    text = reporters.text(REPORT)
    assert "BLOCKED: external_apis.md incomplete\nEX801 error bank: 100% missing\n" in text
    assert "note: one thing was left out\n2 errors, 1 info in 3 tables\n" in text
    assert "\x1b[31m" in reporters.coloured(REPORT)


def test_colours_are_only_for_terminals(project: Path) -> None:
    edited(project)
    assert "\x1b" not in run("models").stdout


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (["explain", "DM103"], ["sqlalchemy", "litestar", "alembic", "asyncpg"]),
        (["docs"], ["sqlalchemy", "litestar", "alembic", "asyncpg"]),
        (["models"], ["litestar", "alembic", "asyncpg"]),
        (["all"], ["alembic", "asyncpg"]),
    ],
)
def test_a_subcommand_imports_what_it_needs_and_no_more(
    arguments: list[str], spared: list[str], project: Path
) -> None:
    code = (
        "import gc, os, sys; from alembic_readonly_check.__main__ import main;"
        f" os._exit = lambda _: print(gc.isenabled(), *(set({spared}) & sys.modules.keys()));"
        f" sys.argv[1:] = {arguments}; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_a_report_goes_to_a_file(project: Path) -> None:
    edited(project)
    result = run("models", "--format", "sarif", "--output", "drift.sarif")
    assert (result.exit_code, result.stdout.startswith("1 error in")) == (1, True)
    assert json.loads((project / "drift.sarif").read_text("utf-8"))["version"] == "2.1.0"


def test_two_runs_print_the_same_bytes(project: Path) -> None:
    edited(project)
    first, second = (run("--format", "json").stdout for _ in range(2))
    assert hashlib.sha256(first.encode()).digest() == hashlib.sha256(second.encode()).digest()


@pytest.mark.parametrize("code", REGISTRY)
def test_every_code_is_explained(code: str) -> None:
    result = run("explain", code.lower())
    entry = REGISTRY[code]
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    for text in (entry.title, entry.explanation, entry.example, entry.fix):
        assert text in told


def test_explain_alone_lists_the_families() -> None:
    lines = run("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(FAMILIES)
    assert "DB2  The models and the database, 24 codes" in lines
    assert run("explain", "DB2").stdout.count("\n") == 24


def test_doctor_says_what_is_there_and_what_can_be_compared(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://someone:s3cret@127.0.0.1:1/nowhere")
    result = run("doctor")
    assert result.exit_code == 0
    source, *keys, able = result.stdout.splitlines()
    assert source == f"[tool.alembic-readonly-check] of {project / 'pyproject.toml'}"
    assert {tuple(line.split(maxsplit=2)) for line in keys[:6]} == {
        ("ok", "datamodel", "3 tables of handbook/tables.md"),
        ("ok", "openapi", "3 operations of api.yaml"),
        ("ok", "external-apis", "handbook/partners.md"),
        ("ok", "migrations", "3 files in sql/changes"),
        ("ok", "metadata", "3 tables of shop.tables:metadata"),
        ("ok", "app", "3 routes of shop.web:make_app"),
    }
    assert keys[6].split()[:2] == ["wrong", "url-env"]
    assert keys[7].split(maxsplit=2) == [
        "missing",
        "scratch.url-env",
        "SHOP_SCRATCH_URL is not set",
    ]
    assert able == "Can compare: docs, models, api."
    assert "s3cret" not in result.output


def test_doctor_ends_with_2_where_nothing_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "SCRATCH_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    result = run("doctor")
    assert result.exit_code == 2
    assert result.stdout.startswith("There is no [tool.alembic-readonly-check]")
    assert result.stdout.endswith("Nothing can be compared.\n")


def test_an_app_that_cannot_be_made_ends_with_2_and_a_sentence(project: Path) -> None:
    (project / "broken.py").write_text("def make_app():\n    raise RuntimeError('no settings')\n")
    result = run("api", "--app", "broken:make_app")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "broken:make_app makes no app: RuntimeError: no settings." in result.stderr


@pytest.mark.usefixtures("project")
def test_options_before_a_subcommand_are_not_lost_silently() -> None:
    result: Any = run("--format", "json", "models")
    assert result.exit_code == 2
    assert "after the subcommand" in result.stderr


COVERED = {
    "MG401": ([test_a_migration_waits_and_is_no_drift], [test_a_live_database_that_agrees]),
    "MG402": (
        [test_an_applied_migration_was_edited, test_an_applied_migration_is_gone],
        [test_an_applied_migration_was_edited],
    ),
    "MG403": ([test_a_change_by_hand_is_found], [test_a_migration_waits_and_is_no_drift]),
}
"""Code -> the tests that make it, and those that show what it lets pass."""
