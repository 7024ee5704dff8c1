"""The options of the subcommands, in groups that they share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from alembic_readonly_check.command import reporters

F = TypeVar("F", bound=Callable[..., Any])
COMPARED, COUNTED, TOLD = "What is compared", "What counts", "Report"
COMPARE, UNDERSTAND, KEEP = "Compare", "Understand", "Keep for later"
"""Titles of the panels of `--help`: those of options, those of subcommands."""


def _option(panel: str, name: str, help_: str, **more: Any) -> Callable[[F], F]:
    return click.option(f"--{name}", help=help_, panel=panel, **more)


_FILE = click.Path(dir_okay=False, path_type=Path)
_HELD = click.Path(exists=True, dir_okay=False, path_type=Path)
_SERVER = "Variable that holds the URL of a server on which databases may be made and dropped."
_FORMATS = click.Choice(list(reporters.FORMATS))
_LEVELS = click.Choice(["error", "warning", "warn", "none"])

MODELS = (
    _option(COMPARED, "metadata", "The models' MetaData: `mod:Base.metadata`.", metavar="MOD:ATTR"),
    _option(
        COMPARED,
        "schema",
        "Compare this schema; may be given again.",
        metavar="NAME",
        multiple=True,
    ),
)
APP = (
    _option(COMPARED, "app", "The Litestar app, or a function that makes it.", metavar="MOD:APP"),
)
LIVE = (
    _option(
        COMPARED, "url-env", "Variable that holds the URL of the live database.", metavar="NAME"
    ),
    _option(COMPARED, "timeout", "Limit of each query. [30]", metavar="SECONDS", type=float),
)
DATABASES = (
    *LIVE,
    _option(COMPARED, "scratch-url-env", _SERVER, metavar="NAME"),
    _option(COMPARED, "snapshot", "A saved snapshot instead of a live database.", type=_HELD),
)
COUNTS = (
    _option(COUNTED, "select", "Only these codes or families: `DM,DC3`. [all]", metavar="CODES"),
    _option(COUNTED, "ignore", "Not these codes or families.", metavar="CODES"),
    _option(
        *(COUNTED, "fail-on", "The least severity that ends with 1."),
        type=_LEVELS,
        default="error",
        show_default=True,
    ),
)
STRICT = (
    _option(
        *(COUNTED, "strict-coverage", "An object of a kind nobody compares is an error."),
        is_flag=True,
    ),
    _option(
        *(COUNTED, "require-readonly-role", "End with 2 if the live role may write."), is_flag=True
    ),
)
REPORT = (
    click.option(
        *("--format", "format_"),
        type=_FORMATS,
        metavar="FORMAT",
        default="text",
        show_default=True,
        help=f"One of {', '.join(reporters.FORMATS)}.",
        panel=TOLD,
    ),
    _option(
        *(TOLD, "output", "Write the report to a file; the summary still goes to the terminal."),
        type=_FILE,
    ),
)
KEPT = click.option(
    "--output", type=_FILE, required=True, help="The file to write; it is replaced."
)


def with_options(*groups: tuple[Callable[[F], F], ...]) -> Callable[[F], F]:
    """Give a command the options of these groups."""

    def add(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add
