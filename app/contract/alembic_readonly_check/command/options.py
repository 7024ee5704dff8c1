"""The options of the subcommands, in groups that they share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from alembic_readonly_check.command import reporters

F = TypeVar("F", bound=Callable[..., Any])
COMPARED, COUNTED, TOLD = "What is compared", "What counts", "How it is told"
COMPARE, UNDERSTAND, KEEP = "Compare", "Understand", "Keep for later"
"""Titles of the panels of `--help`: those of options, those of subcommands."""


MODELS = (
    click.option(
        "--metadata",
        metavar="MOD:ATTR",
        help="The models' MetaData: `mod:Base.metadata`.",
        panel=COMPARED,
    ),
    click.option(
        "--schema",
        multiple=True,
        metavar="NAME",
        help="Compare this schema; may be given again.",
        panel=COMPARED,
    ),
)

APP = (
    click.option(
        "--app",
        metavar="MOD:APP",
        help="The Litestar app, or a function that makes it.",
        panel=COMPARED,
    ),
)

LIVE = (
    click.option(
        "--url-env",
        metavar="NAME",
        help="Variable that holds the URL of the live database.",
        panel=COMPARED,
    ),
    click.option(
        "--timeout", type=float, metavar="SECONDS", help="Limit of each query. [30]", panel=COMPARED
    ),
)

DATABASES = (
    *LIVE,
    click.option(
        "--scratch-url-env",
        metavar="NAME",
        help="Variable that holds the URL of a server on which databases may be made and dropped.",
        panel=COMPARED,
    ),
    click.option(
        "--snapshot",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A saved snapshot instead of a live database.",
        panel=COMPARED,
    ),
)

SELECT = (
    click.option(
        "--select",
        metavar="CODES",
        help="Only these codes or families: `DM,DC3`. [all]",
        panel=COUNTED,
    ),
)

COUNTS = (
    *SELECT,
    click.option("--ignore", metavar="CODES", help="Not these codes or families.", panel=COUNTED),
    click.option(
        "--fail-on",
        type=click.Choice(["error", "warning", "warn", "none"]),
        default="error",
        show_default=True,
        help="The least severity that ends with 1.",
        panel=COUNTED,
    ),
)

STRICT = (
    click.option(
        "--strict-coverage",
        is_flag=True,
        help="An object of a kind nobody compares is an error.",
        panel=COUNTED,
    ),
    click.option(
        "--require-readonly-role",
        is_flag=True,
        help="End with 2 if the live role may write.",
        panel=COUNTED,
    ),
)

REPORT = (
    click.option(
        "--format",
        "format_",
        type=click.Choice(list(reporters.FORMATS)),
        metavar="FORMAT",
        default="text",
        show_default=True,
        help=f"One of {', '.join(reporters.FORMATS)}.",
        panel=TOLD,
    ),
    click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the report to a file; the summary still goes to the terminal.",
        panel=TOLD,
    ),
)

KEPT = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write; it is replaced.",
)


def with_options(*groups: tuple[Callable[[F], F], ...]) -> Callable[[F], F]:
    """Give a command the options of these groups."""

    def add(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add
