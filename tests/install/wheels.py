"""Build the wheel, install it elsewhere and run what it carries, as a stranger would."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.conftest import ROOT
from tests.uv import CERTIFICATES, UV

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BEFORE = PROJECT["tool"]["uv"]["exclude-newer"]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without settings of ours and without this environment."""
    return subprocess.run(command, cwd=cwd, env=bare(), capture_output=True, text=True, check=False)


def bare(**others: str) -> dict[str, str]:
    ours = ("ANNEX_", "VIRTUAL_ENV", "PYTHON")
    path = f"{Path(UV).parent}:{os.environ['PATH']}"
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {
        "PATH": path,
        **CERTIFICATES,
        **others,
    }


def done(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; returns what it said."""
    ended = run(*command, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def new_environment(folder: Path, wheel: Path) -> Path:
    """Install a wheel, without the extra, into a fresh environment; returns its programs."""
    done(UV, "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    install(folder / "bin", str(wheel))
    return folder / "bin"


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
