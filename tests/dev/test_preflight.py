"""`make preflight` passes on a whole checkout and says in a sentence what another one lacks."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.dev import preflight

pytestmark = pytest.mark.timeout(300)  # two of these start a database

ROOT = Path(__file__).parents[2]
PARTS = ("app", "controllers", "db_models", "docs", "supabase")


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy what preflight looks at, and let the steps look there.

    Not below pytest's own folder: to that, each pytest that starts shuts the way for a Postgres
    which runs as another user.
    """
    (ROOT / ".data").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="preflight-test-", dir=ROOT / ".data"))
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in preflight.FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    monkeypatch.setattr(preflight, "ROOT", folder)
    yield folder
    shutil.rmtree(folder)


def tool(folder: Path, name: str, text: str) -> Path:
    """Write a program that stands for one on the PATH."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    path.chmod(0o755)
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def preflighted(folder: Path) -> tuple[int, list[str]]:
    """Run the whole of it as `make preflight` does, on the copy's own code and nothing else."""
    uv = tool(folder, "uv", "sys.exit(sys.argv[1:] != ['sync', '--check'])")
    done = subprocess.run(
        [sys.executable, "-m", "app.dev.preflight"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "UV": str(uv)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines()


def failed(
    step: Callable[[], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Take one step of it, which has to fail; return what it says."""
    monkeypatch.setattr(preflight, "STEPS", (step,))
    assert preflight.main() == 1
    told = capsys.readouterr().out.partition("\n\n")[0]
    assert told.startswith("FAIL  ")
    return told.removeprefix("FAIL  ").rstrip()


def test_a_whole_checkout_passes(checkout: Path) -> None:
    code, lines = preflighted(checkout)
    assert [line[:6] for line in lines[:6]] == ["ok    "] * 5 + [""], lines
    assert lines[-1] == "missing      nothing"
    assert code == 0
    assert not list((checkout / ".data").iterdir())


def test_an_app_that_does_not_start_is_told_by_its_last_words(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "supabase/migrations/99999999999999_broken.sql").write_text("create tabel x ();\n")
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    told = failed(preflight.app_answers, monkeypatch, capsys)
    assert told.startswith("The app does not start; it said: ")
    assert "tabel" in told


def test_an_app_that_cannot_be_imported_needs_no_report(checkout: Path) -> None:
    edit(checkout / "app/main.py", "import", "imptro")
    code, lines = preflighted(checkout)
    assert "FAIL  The app does not start; it said: SyntaxError: invalid syntax" in lines
    assert lines[-1] == "No report: SyntaxError; mend what failed first."
    assert code == 1


@pytest.mark.parametrize("name", preflight.FILES)
def test_a_missing_file_is_named(
    name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / name).unlink()
    told = failed(preflight.files_are_there, monkeypatch, capsys)
    assert told == f"{name} is missing; restore it with git."


def test_migrations_belong_to_a_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (checkout / "supabase/migrations").iterdir():
        path.unlink()
    told = failed(preflight.files_are_there, monkeypatch, capsys)
    assert told == "supabase/migrations is empty; restore it with git."


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (
            "operationId: getHealth",
            "operationID: getHealth",
            "('operationID' was unexpected) at $.",
        ),
        ("openapi: 3", "swagger: 3", "it does not say which version of OpenAPI it is"),
        ("paths:", "paths: [", "it is not YAML: while parsing a flow sequence"),
    ],
)
def test_an_invalid_contract_is_one_sentence(
    old: str,
    new: str,
    wrong: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(checkout / "docs/openapi.yaml", old, new)
    told = failed(preflight.contract_is_valid, monkeypatch, capsys)
    assert told.startswith("docs/openapi.yaml is not valid OpenAPI, mend it: ")
    assert wrong in told
    assert "\n" not in told


def test_documents_that_disagree_are_a_mismatch(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        checkout / "docs/openapi.yaml",
        "id: {type: string, format: uuid, x-db-column: profiles.user_id}",
        "id: {type: integer, x-db-column: profiles.user_id}",
    )
    told = failed(preflight.documents_agree, monkeypatch, capsys)
    assert told.startswith("MISMATCH: [")
    assert "openapi.yaml says integer, datamodel.md says uuid" in told
    assert told.endswith("mend the document that is wrong; code follows it.")


def test_an_operation_without_its_table_is_blocked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(checkout / "docs/openapi.yaml", "x-db-column: profiles.user_id", "x-db-column: faces.id")
    told = failed(preflight.documents_agree, monkeypatch, capsys)
    assert told.startswith("BLOCKED: datamodel incomplete - ")
    assert "needs annex.faces with id" in told


def test_an_operation_without_its_external_system_is_blocked(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        checkout / "docs/openapi.yaml",
        "operationId: getHealth\n",
        "operationId: getHealth\n      x-external-api: moon\n",
    )
    told = failed(preflight.documents_agree, monkeypatch, capsys)
    assert told.startswith("BLOCKED: external_apis.md incomplete - getHealth integrates moon")


def test_an_environment_that_differs_is_told_by_uv(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uv = tool(checkout, "uv", "sys.exit('The environment is outdated; run uv sync')")
    monkeypatch.setenv("UV", str(uv))
    told = failed(preflight.environment_syncs, monkeypatch, capsys)
    assert told == "The environment is outdated; run uv sync\n  run `make sync`."
    uv.unlink()
    told = failed(preflight.environment_syncs, monkeypatch, capsys)
    assert told == f"{uv} is not installed; run `make sync`."


def test_a_server_that_does_not_answer_is_no_start(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool(
        checkout,
        "annex",
        "import pathlib, signal\n"
        "data = pathlib.Path(sys.argv[-1])\n"
        "data.mkdir(parents=True)\n"
        "(data / 'new').write_text('{\"url\": \"http://127.0.0.1:1\"}')\n"
        "(data / 'new').rename(data / 'dev.json')\n"
        "signal.pause()",
    )
    monkeypatch.setattr(preflight, "BIN", checkout)
    told = failed(preflight.app_answers, monkeypatch, capsys)
    assert told.startswith("/health does not answer: ")
    assert not list((checkout / ".data").iterdir())


def test_an_operation_that_nobody_serves_is_missing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(checkout / "docs/openapi.yaml", "operationId: getHealth", "operationId: getWeather")
    monkeypatch.setattr(preflight, "STEPS", ())
    assert preflight.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "missing      getWeather"
