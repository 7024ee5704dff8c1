"""What could be green by mistake ends with 2 and one sentence, and never with a traceback."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from alembic_readonly_check.command import cli
from alembic_readonly_check.db import guard, scripts
from alembic_readonly_check.sources import migrations
from click.testing import CliRunner, Result

FOREIGN = Path(__file__).parent / "foreign"
CONFIGURATION = "pyproject.toml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the shop and stand in it, with no database given."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("handbook", "shop", "sql"):
        shutil.copytree(FOREIGN / name, folder / name)
    shutil.copy(FOREIGN / CONFIGURATION, folder)
    monkeypatch.chdir(folder)
    for name in ("SHOP_DATABASE_URL", "SHOP_SCRATCH_URL"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(tmp_path))]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def refused(result: Result, sentence: str) -> None:
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def migration(project: Path, content: bytes) -> None:
    (project / "sql/changes/9999_more.sql").write_bytes(content)


@pytest.mark.parametrize("path", ["api.yaml", "partners.md", "tables.md", "sql/changes"])
def test_a_configured_path_that_is_not_there(project: Path, path: str) -> None:
    edit(project / CONFIGURATION, f'{path}"', f'{path}x"')
    refused(run(), f"{path}x is configured and not there")


def test_a_default_path_that_is_not_there_is_only_left_out(project: Path) -> None:
    edit(project / CONFIGURATION, 'external-apis = "handbook/partners.md"\n', "")
    assert run("models").exit_code == 0


def test_a_platform_file_that_is_not_there(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    (project / "sql/roles.sql").unlink()
    refused(run("db"), "roles.sql cannot be read")


@pytest.mark.parametrize("key", ["alembic", "command"])
def test_a_configuration_of_alembic_that_is_not_there(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    value = {"alembic": '"gone.ini"', "command": '["./gone.sh"]'}[key]
    edit(project / CONFIGURATION, 'role = "shop_owner"', f'role = "shop_owner"\n{key} = {value}')
    edit(project / CONFIGURATION, 'migrations = "sql/changes"\n', "")
    refused(run("db"), "gone")


def test_an_app_without_routes(project: Path) -> None:
    (project / "idle.py").write_text(
        "from litestar import Litestar\napp = Litestar([], openapi_config=None)\n"
    )
    refused(run("api", "--app", "idle:app"), "The app serves no HTTP route")


@pytest.mark.parametrize("codes", ["DB", "DC3,MG403"])
def test_selected_codes_that_nothing_could_give(project: Path, codes: str) -> None:
    refused(run("docs", "--select", codes), "Nothing was compared that")
    result = run("docs", "--select", f"{codes},DM0")
    assert result.exit_code == 0
    assert f"nothing was compared that {codes[:2]}" in result.stdout


def test_a_variable_that_was_named_and_is_not_set(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    refused(run("--url-env", "NOWHERE"), "NOWHERE is not set")
    refused(run("db", "--scratch-url-env", "NOWHERE"), "NOWHERE is not set")
    refused(run("db", "--require-readonly-role"), "there is no live database")
    refused(run("migrations"), "SHOP_DATABASE_URL is not set, so there is no live database")
    result = run("db")
    assert result.exit_code == 0
    assert "SHOP_DATABASE_URL is not set, so no live database was compared" in result.stdout
    edit(project / CONFIGURATION, '"SHOP_DATABASE_URL"', '"postgresql://me:s3cret@host/app"')
    refused(run("db"), "is no name of a variable")
    assert "s3cret" not in run("doctor").output


def test_two_ways_to_migrate(project: Path) -> None:
    path = project / CONFIGURATION
    path.write_text(path.read_text("utf-8") + 'alembic = "alembic.ini"\n', "utf-8")
    refused(run("docs"), "sets migrations and scratch.alembic; configure one of them")


def test_a_run_without_a_result_leaves_no_older_report(project: Path) -> None:
    report = project / "drift.txt"
    report.write_text("no drift")
    result = run("db", "--output", str(report), "--format", "github")
    assert (result.exit_code, report.exists()) == (2, False)
    assert result.stdout.startswith("::error title=no result::There is no database")


def test_what_a_project_prints_is_no_part_of_the_report(project: Path) -> None:
    for name in ("tables", "web"):
        path = project / f"shop/{name}.py"
        path.write_text(path.read_text("utf-8") + "\nprint('on stdout')\n", "utf-8")
    result = run("--format", "json")
    assert json.loads(result.stdout)["findings"] == []
    assert result.stderr == "on stdout\n" * 2


def test_a_contract_without_operations(project: Path) -> None:
    path = project / "handbook/api.yaml"
    path.write_text("openapi: 3.1.0\ninfo: { title: x, version: '1' }\npaths: {}\n")
    for command in ("api", "docs"):
        refused(run(command), "api.yaml names no operation")


def test_a_document_without_tables(project: Path) -> None:
    (project / "handbook/tables.md").write_text("# Tables\n\nNone yet.\n")
    refused(run("docs"), "has no section of a table")


def test_a_live_database_without_tables(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", server_url)
    refused(run("db"), "The database holds no table in public")


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise SystemExit", "exit()"])
def test_a_module_of_models_that_exits(project: Path, code: str) -> None:
    (project / "leaving.py").write_text(code)
    refused(run("models", "--metadata", "leaving:metadata"), "leaving ends the process")


def test_an_app_that_exits_while_it_is_made(project: Path) -> None:
    (project / "leaver.py").write_text("import sys\ndef make_app():\n    sys.exit(0)\n")
    refused(run("api", "--app", "leaver:make_app"), "leaver:make_app makes no app")


def test_models_of_other_schemas_alone(project: Path) -> None:
    refused(run("models", "--schema", "elsewhere"), "maps no table of the schemas")


@pytest.mark.usefixtures("project")
def test_a_scratch_server_without_migrations(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    edit(project / CONFIGURATION, 'migrations = "sql/changes"\n', "")
    for command in ("db", "all"):
        refused(run(command), "there is no migration to carry out")


@pytest.mark.parametrize("live", [True, False])
def test_a_configured_folder_without_migrations(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    for path in (project / "sql/changes").iterdir():
        path.unlink()
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    if live:
        monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://nowhere/live")
    refused(run("db"), "sql/changes is configured and holds no file *.sql")


def test_models_alone_are_compared_with_nothing(project: Path) -> None:
    for key in ("openapi", "external-apis", "datamodel", "app"):
        lines = (project / CONFIGURATION).read_text("utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(f"{key} =")]
        (project / CONFIGURATION).write_text("\n".join(kept))
    refused(run(), "Nothing was compared: 3 tables of shop.tables:metadata is all there is")


@pytest.mark.usefixtures("project")
def test_a_live_database_without_a_history_has_no_migrations_to_compare(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", server_url)
    refused(run("migrations"), "No database was compared")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"SELECT '\xff\xfe';", "9999_more.sql cannot be read"),
        (b"SELECT 'never ends", "9999_more.sql cannot be applied"),
        (b"SELECT 1 /* never ends", "9999_more.sql cannot be applied"),
        (b"ALTER TABLE nowhere ADD a int;", "9999_more.sql cannot be applied"),
    ],
)
def test_a_migration_that_cannot_be_read(
    project: Path,
    server_url: str,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    sentence: str,
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    migration(project, content)
    refused(run("db"), sentence)


@pytest.mark.parametrize("content", [b"", b"\n", b"-- nothing yet", b"/* nothing\n yet */\n", b";"])
def test_an_empty_migration_is_fine(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    migration(project, content)
    result = run("db")
    assert (result.exit_code, result.stderr) == (0, ""), result.output


def test_a_migration_leaves_no_setting_to_the_next(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    migration(project, b"CREATE SCHEMA aside; SET search_path = aside;")
    (project / "sql/changes/99999_last.sql").write_text("ALTER TABLE customers ADD extra int;")
    result = run("db")
    assert result.exit_code == 1
    assert "public.customers.extra" in result.stdout


@pytest.mark.parametrize(
    "content",
    [b"SELECT 1", b"\xff\xfe", b"openapi: 3.1.0\npaths: [", b"a: &a [*a]"],
)
def test_an_openapi_document_that_cannot_be_read(project: Path, content: bytes) -> None:
    (project / "handbook/api.yaml").write_bytes(content)
    refused(run(), "api.yaml")


def test_a_document_of_other_bytes(project: Path) -> None:
    for name in ("tables.md", "partners.md"):
        (project / "handbook" / name).write_bytes(b"## `a`\n\xff\xfe")
        refused(run(), f"{name} cannot be read")
        shutil.copy(FOREIGN / "handbook" / name, project / "handbook" / name)


def test_a_report_that_cannot_be_written(project: Path) -> None:
    refused(run("models", "--output", str(project / "no/such/report")), "cannot be used")


def test_whatever_else_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(cli, "load", fail)
    refused(run("models"), "ZeroDivisionError: by chance")
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert isinstance(run("models").exception, ZeroDivisionError)


def test_an_interruption(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", stop)
    refused(run("models"), "interrupted")


@pytest.mark.parametrize(
    ("scheme", "parameters"),
    [
        ("postgres", ""),
        ("postgresql+psycopg2", ""),
        ("postgresql+psycopg", "application_name=web&connect_timeout=3"),
        ("postgresql+pg8000", "sslmode=prefer"),
        ("postgresql+nosuchdriver", "options=-csearch_path%3Dpublic"),
        ("postgresql+asyncpg", "ssl=prefer&prepared_statement_cache_size=0"),
        ("postgresql", "pgbouncer=true&connection_limit=1&schema=public"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_url_for_another_program(
    server_url: str, monkeypatch: pytest.MonkeyPatch, scheme: str, parameters: str
) -> None:
    rest = server_url.partition(":")[2]
    mark = "&" if "?" in rest else "?"
    monkeypatch.setenv("SHOP_SCRATCH_URL", f"{scheme}:{rest}{mark}{parameters}")
    result = run("db")
    assert (result.exit_code, result.stderr) == (0, ""), result.output


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "postgresql://[/", ""])
@pytest.mark.usefixtures("project")
def test_a_url_of_something_else(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", url)
    refused(run("db"), "SHOP_DATABASE_URL")


def test_a_url_keeps_what_the_driver_understands() -> None:
    url = guard.driver_url("postgres://u:p%40@h:1/d?host=/tmp&pgbouncer=true&sslmode=require", "X")
    assert guard.dsn(url) == "postgresql://u:p%40@h:1/d?host=%2Ftmp&sslmode=require"


@pytest.mark.parametrize(
    "code",
    [
        "raise BaseException('no')",
        "import asyncio; raise asyncio.CancelledError",
        "raise GeneratorExit",
    ],
)
def test_a_module_of_models_that_raises_what_nobody_catches(project: Path, code: str) -> None:
    (project / "raising.py").write_text(code)
    refused(run("models", "--metadata", "raising:metadata"), "raising cannot be imported")


def test_a_type_that_ends_the_process_when_it_is_spelled(project: Path) -> None:
    (project / "leaving_late.py").write_text(
        "from sqlalchemy import Column, MetaData, Table\n"
        "from sqlalchemy.types import UserDefinedType\n"
        "class Late(UserDefinedType):\n"
        "    cache_ok = True\n"
        "    def get_col_spec(self, **kw):\n"
        "        raise SystemExit(0)\n"
        "metadata = MetaData()\n"
        "Table('customers', metadata, Column('id', Late()))\n"
    )
    refused(run("models", "--metadata", "leaving_late:metadata"), "ended the process")


@pytest.mark.parametrize(
    "code",
    [
        "import atexit, os; atexit.register(os._exit, 0)",
        "import threading, time; threading.Thread(target=time.sleep, args=(900,)).start()",
    ],
)
def test_what_a_module_leaves_for_the_end_changes_no_result(project: Path, code: str) -> None:
    path = project / "shop/tables.py"
    path.write_text(code + "\n" + path.read_text("utf-8").replace("String(50)", "String(51)"))
    done = subprocess.run(
        [sys.executable, "-m", "alembic_readonly_check", "models"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "DM103" in done.stdout) == (1, True), done.stderr


@pytest.mark.parametrize("rows", [b"COPY customers FROM stdin;", b"COPY customers (id) FROM STDIN"])
def test_a_migration_that_waits_for_rows(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, rows: bytes
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    migration(project, b"SELECT 1; " + rows)
    refused(run("db"), "9999_more.sql cannot be applied: COPY FROM STDIN has no rows to read")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfSELECT 1;",
        b"CREATE INDEX CONCURRENTLY more ON customers (name);",
        b"CREATE TEMP TABLE held (a int);",
        b"CREATE ROLE shop_passing; GRANT SELECT ON customers TO shop_passing;",
    ],
)
def test_a_migration_that_runs_as_in_its_own_tool(
    project: Path, server_url: str, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    edit(project / CONFIGURATION, 'role = "shop_owner"', "")
    migration(project, content)
    if b"TEMP" in content:
        (project / "sql/changes/99999_again.sql").write_bytes(content)
    codes = [run("db").exit_code for _ in range(2)]
    assert 2 not in codes, run("db").output


def test_migrations_are_carried_out_as_people_count(tmp_path: Path) -> None:
    names = ["1_a.sql", "2_b.sql", "10_c.sql"], ["V1__a.sql", "V2__b.sql", "V10__c.sql"]
    for number, order in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in order:
            (folder / name).write_text("")
        assert [one.name for one in migrations.files(folder)] == order


@pytest.mark.parametrize("key", ["url-env", "--url-env"])
def test_a_url_where_the_name_of_a_variable_belongs(project: Path, key: str) -> None:
    url = "postgresql://u:s3cret@h/db"
    if key == "url-env":
        edit(project / CONFIGURATION, 'url-env = "SHOP_DATABASE_URL"', f'url-env = "{url}"')
    options = ("--url-env", url) if key == "--url-env" else ()
    result = run("db", *options)
    refused(result, "name of a variable")
    assert "s3cret" not in result.output + run("doctor").output


@pytest.mark.usefixtures("project")
def test_schemas_that_nobody_compares_are_said(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SCRATCH_URL", server_url)
    told = run("db", "--schema", "public", "--schema", "biling").output
    assert "schema biling of the configuration is empty in the migrations" in told


def test_keywords_that_nothing_reads_are_said(project: Path) -> None:
    assert "which nothing is compared with" not in run("docs").output
    path = project / "handbook/api.yaml"
    text = path.read_text("utf-8")
    first = text.index("\n      type: object\n") + 1
    path.write_text(f"{text[:first]}      not: {{ required: [x] }}\n{text[first:]}")
    assert "uses not, which nothing is compared with" in run("docs").output


@pytest.mark.parametrize(
    ("text", "reaches"),
    [
        ("ALTER DATABASE shop SET work_mem = '5MB';", True),
        ("ALTER ROLE x IN DATABASE shop SET work_mem = '5MB';", True),
        ("COMMENT ON TABLE database IS 'x'", False),
    ],
)
def test_a_migration_that_reaches_beyond_its_database(
    tmp_path: Path, text: str, reaches: bool
) -> None:
    path = tmp_path / "1.sql"
    path.write_text(text)
    assert scripts.touches_others(path) == reaches
