"""On a terminal the command shows what it does and colours findings; anywhere else it does not."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

FOREIGN = Path(__file__).parent / "foreign"
ESCAPE = "\x1b"
RED = "\x1b[31merror\x1b[0m"
FINDING = "public.customers.name: type differs"
ERASED = "\x1b[2K"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy the foreign project and give it one drift: DM103 of a column."""
    folder = tmp_path / "project"
    shutil.copytree(FOREIGN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "handbook/tables.md"
    path.write_text(path.read_text("utf-8").replace("`varchar(50)`", "`varchar(80)`", 1), "utf-8")
    return folder


def on_terminal(folder: Path, stream: Literal["stdout", "stderr"], **given: str) -> tuple[str, str]:
    """Run `models` with one stream on a terminal, the other in a file; return what each got."""
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "200"} | given
    outer, inner = pty.openpty()
    file = folder / "other"
    try:
        with file.open("wb") as other:
            process = subprocess.Popen(
                [sys.executable, "-m", "alembic_readonly_check", "models"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=inner if stream == "stdout" else other,
                stderr=inner if stream == "stderr" else other,
            )
        os.close(inner)
        told = b"".join(iter(lambda: _read(outer), b""))
        assert process.wait() == 1
    finally:
        os.close(outer)
    return told.decode(), file.read_text("utf-8")


def _read(descriptor: int) -> bytes:
    """Read what is there; nothing once the other end is closed, which Linux calls an error."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_findings_are_coloured_on_a_terminal(project: Path) -> None:
    told, errors = on_terminal(project, "stdout")
    assert RED in told
    assert FINDING in told
    assert errors == ""


@pytest.mark.parametrize("given", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_nothing_is_coloured_for_who_wants_none(project: Path, given: dict[str, str]) -> None:
    told, _ = on_terminal(project, "stdout", **given)
    assert FINDING in told
    assert ESCAPE not in told


def test_an_empty_no_color_asks_for_nothing(project: Path) -> None:
    """As https://no-color.org says."""
    told, _ = on_terminal(project, "stdout", NO_COLOR="")
    assert RED in told


def test_progress_shows_on_a_terminal_and_is_gone_at_the_end(project: Path) -> None:
    told, report = on_terminal(project, "stderr")
    steps = ("reading handbook/tables.md", "importing shop.tables:metadata")
    places = [told.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert told.rfind(ERASED) > places[-1]
    assert FINDING in report
    assert ESCAPE not in report


def test_progress_has_no_colour_for_who_wants_none(project: Path) -> None:
    told, _ = on_terminal(project, "stderr", NO_COLOR="1")
    assert "importing shop.tables:metadata" in told
    assert "\x1b[3" not in told


def test_a_terminal_that_cannot_move_its_cursor_gets_no_progress(project: Path) -> None:
    told, report = on_terminal(project, "stderr", TERM="dumb")
    assert ESCAPE not in told
    assert FINDING in report
