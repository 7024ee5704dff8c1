"""`make preflight`: is this checkout whole, and does what it serves match what it promises?"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import yaml

from app.dev import DevError

if TYPE_CHECKING:
    from app.http.application import Application

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FILES = (
    "README.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
    ".env.example",
    ".ci/run",
    "docs/openapi.yaml",
    "docs/datamodel.md",
    "docs/external_apis.md",
    "docs/CHANGELOG.md",
    "supabase/config.toml",
    "supabase/seed.sql",
    "supabase/local/platform.sql",
)
METHODS = ("get", "put", "post", "patch", "delete")
START_SECONDS = 300


def files_are_there() -> str:
    """Look for what every other step reads."""
    missing = [name for name in FILES if not (ROOT / name).is_file()]
    if missing:
        raise DevError(f"{', '.join(missing)} is missing; restore it with git.")
    if not list((ROOT / "supabase/migrations").glob("*.sql")):
        raise DevError("supabase/migrations is empty; restore it with git.")
    return f"{len(FILES)} files and the migrations"


def contract_is_valid() -> str:
    """Validate openapi.yaml against the OpenAPI specification."""
    from openapi_spec_validator import validate
    from openapi_spec_validator.readers import read_from_filename
    from openapi_spec_validator.validation.exceptions import (
        OpenAPIValidationError,
        ValidatorDetectError,
    )

    try:
        contract, _ = read_from_filename(str(ROOT / "docs/openapi.yaml"))
        validate(contract)
    except OpenAPIValidationError as error:
        wrong = f"{error.message.splitlines()[0]} at {error.json_path}"
    except ValidatorDetectError:
        wrong = "it does not say which version of OpenAPI it is"
    except yaml.YAMLError as error:
        wrong = f"it is not YAML: {' '.join(str(error).split())}"
    else:
        return "docs/openapi.yaml is valid OpenAPI"
    raise DevError(f"docs/openapi.yaml is not valid OpenAPI, mend it: {wrong}.")


def documents_agree() -> str:
    """Compare the documents with each other; findings are headed MISMATCH or BLOCKED."""
    run("alembic-readonly-check", "docs", hint="mend the document that is wrong; code follows it")
    return "openapi.yaml, datamodel.md and external_apis.md agree"


def environment_syncs() -> str:
    """Compare the installed packages with pyproject.toml."""
    uv = os.environ.get("UV", "uv")
    run(uv, "sync", "--check", hint="run `make sync`", within=None)
    return "the environment is what pyproject.toml says"


def app_answers() -> str:
    """Run `annex dev` on a database of its own, and ask it for its health."""
    data = ROOT / ".data" / f"preflight-{os.getpid()}"
    command = [str(BIN / "annex"), "dev", "--port", "0", "--data", str(data)]
    said = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would fill up
    process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_SECONDS
        while not (facts := data / "dev.json").exists():
            if process.poll() is not None or time.monotonic() > until:
                process.terminate()
                process.wait()
                said.seek(0)
                words = said.read().strip().splitlines() or ["nothing"]
                raise DevError(f"The app does not start; it said: {words[-1]}")
            time.sleep(0.1)
        url = msgspec.json.decode(facts.read_bytes())["url"]
        httpx.get(f"{url}/health", timeout=START_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        raise DevError(f"/health does not answer: {error}.") from None
    finally:
        if process.poll() is None:
            process.terminate()  # SIGINT is ignored by what a shell put into the background
        process.wait()
        said.close()
        shutil.rmtree(data, ignore_errors=True)
    return "the app starts and /health answers"


STEPS: tuple[Callable[[], str], ...] = (
    files_are_there,
    contract_is_valid,
    documents_agree,
    environment_syncs,
    app_answers,
)


def run(command: str, *args: str, hint: str, within: Path | None = BIN) -> None:
    """Run a tool; raises `DevError` with what it said and what to do."""
    program = str(within / command) if within else command
    try:
        done = subprocess.run(
            [program, *args], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise DevError(f"{command} is not installed; run `make sync`.") from None
    if done.returncode:
        raise DevError(f"{(done.stdout + done.stderr).strip()}\n  {hint}.")


def promised(contract: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each operation of the contract with its id."""
    for path in contract["paths"].values():
        for method in METHODS:
            if operation := path.get(method):
                yield operation["operationId"], operation


def served(app: "Application") -> set[str]:
    """Return the operation ids of the handlers."""
    handlers = (h for route in app.routes for h in getattr(route, "route_handlers", []))
    return {h.operation_id for h in handlers if isinstance(h.operation_id, str)}


def report() -> tuple[list[str], list[str]]:
    """Count what is promised and what is there; returns the lines, and what is missing."""
    # Imported last: a step has said by then, in a sentence, why the app cannot be.
    from app.dev.server import offline_app
    from controllers.service import yaml_loader
    from db_models import Base

    text = (ROOT / "docs" / "openapi.yaml").read_text()
    contract = yaml.load(text, Loader=yaml_loader())
    operations = dict(promised(contract))
    implemented = served(offline_app())
    streams = [name for name, operation in operations.items() if "x-stream" in operation]
    document = (ROOT / "docs" / "datamodel.md").read_text()
    tables = {n for n in Base.metadata.tables if n.startswith("annex.")}
    documented = {
        line.strip("# `") for line in document.splitlines() if line.startswith("## `annex.")
    }
    tests = list((ROOT / "tests").rglob("test_*.py"))
    missing = sorted(set(operations) - implemented) + sorted(documented - tables)
    lines = [
        f"operations   {len(implemented & set(operations))} of {len(operations)} in openapi.yaml",
        f"streams      {len(streams)}: {', '.join(streams)}",
        f"tables       {len(tables)} of {len(documented)} in datamodel.md",
        f"documents    {', '.join(f for f in FILES if f.startswith('docs/'))}",
        f"tests        {len(tests)} files",
        f"missing      {', '.join(missing) or 'nothing'}",
    ]
    return lines, missing


def main() -> int:
    """Take every step, then report; returns the exit code."""
    failed = 0
    for step in STEPS:
        try:
            print(f"ok    {step()}", flush=True)  # noqa: T201
        except DevError as error:
            failed += 1
            print(f"FAIL  {error}", flush=True)  # noqa: T201
            if step is files_are_there:
                return 1
    try:
        lines, missing = report()
    except Exception as error:
        if not failed:
            raise
        print(f"\nNo report: {type(error).__name__}; mend what failed first.")  # noqa: T201
        return 1
    print("\n" + "\n".join(lines))  # noqa: T201
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
