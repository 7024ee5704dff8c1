"""The command `alembic-readonly-check`."""

import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn, TypeVar

import msgspec
import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from alembic_readonly_check import reporters
from alembic_readonly_check.check import Check, Options
from alembic_readonly_check.codes import FAMILIES, REGISTRY
from alembic_readonly_check.config import SECTION, Config, load, secret
from alembic_readonly_check.findings import SEVERITIES, CannotCheck
from alembic_readonly_check.reporters import Report

COMMANDLINE = ParameterSource.COMMANDLINE
F = TypeVar("F", bound=Callable[..., Any])

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.MAX_WIDTH = 100

UNKNOWN = "{} is neither a code nor a family of codes; `explain` alone lists the families."
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


def _with(*groups: tuple[Callable[[F], F], ...]) -> Callable[[F], F]:
    """Give a command the options of these groups."""

    def add(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add


def _configured(**given: Any) -> Config:
    """Lay the command line over the configuration."""
    config = load(Path.cwd())
    changes: dict[str, Any] = {
        key: given[key] for key in ("app", "metadata", "url_env", "timeout") if given.get(key)
    }
    if given.get("schema"):
        changes["schemas"] = tuple(given["schema"])
    if given.get("scratch_url_env"):
        changes["scratch"] = msgspec.structs.replace(
            config.scratch, url_env=given["scratch_url_env"]
        )
    return msgspec.structs.replace(config, **changes)


def _codes(text: str | None) -> tuple[str, ...]:
    codes = tuple(code.strip().upper() for code in (text or "").split(",") if code.strip())
    for code in codes:
        if not any(known.startswith(code) for known in REGISTRY):
            raise CannotCheck(UNKNOWN.format(code))
    return codes


def _stop(error: CannotCheck) -> NoReturn:
    code = f"{error.code}: " if error.code else ""
    click.echo(f"alembic-readonly-check: {code}{error}", err=True)
    sys.exit(2)


def _status() -> tuple[AbstractContextManager[Any], Callable[[str], None]]:
    """Show what happens now on a terminal, and nothing anywhere else."""
    if not sys.stderr.isatty():
        return nullcontext(), lambda _: None
    from rich.console import Console

    status = Console(stderr=True).status("starting")
    # Naming the spinner draws at once; the thread that draws starves while a module is imported.
    return status, lambda text: status.update(text, spinner="dots")


def _run(work: Callable[[Check], None], **given: Any) -> None:
    """Do the work of a subcommand, report, and exit with 0, 1 or 2."""
    try:
        shown, progress = _status()
        with shown:
            check = _check(progress, **given)
            work(check)
        report = check.report(dt.date.today())
        _write(report, given["format_"], given["output"])
    except CannotCheck as error:
        _stop(error)
    limits = {"none": 0, "error": 1}
    least = limits.get(given["fail_on"], 2)
    sys.exit(1 if any(SEVERITIES.index(f.severity) < least for f in report.findings) else 0)


def _check(progress: Callable[[str], None], **given: Any) -> Check:
    return Check(
        _configured(**given),
        Options(
            _codes(given["select"]),
            _codes(given["ignore"]),
            given.get("snapshot"),
            given.get("strict_coverage", False),
            given.get("require_readonly_role", False),
        ),
        progress,
    )


def _takes_colour() -> bool:
    """Tell whether stdout is a terminal that shows colours and a person who wants them."""
    held = os.environ
    return sys.stdout.isatty() and not held.get("NO_COLOR") and held.get("TERM") != "dumb"


def _write(report: Report, format_: str, output: Path | None) -> None:
    if output is not None:
        output.write_text(reporters.FORMATS[format_](report), encoding="utf-8")
        click.echo(report.summary)
    elif format_ == "text" and _takes_colour():
        click.echo(reporters.coloured(report), nl=False)
    else:
        click.echo(reporters.FORMATS[format_](report), nl=False)


def _everything(check: Check) -> None:
    check.docs()
    check.mapped()
    check.offline()
    check.api()
    if (
        secret(check.config.url_env)
        or secret(check.config.scratch.url_env)
        or (check.options.snapshot)
    ):
        check.databases()
    else:
        check.note(
            f"neither {check.config.scratch.url_env} nor {check.config.url_env} is set,"
            " so no database was compared"
        )


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_with(DATABASES, APP, MODELS, STRICT, COUNTS, REPORT)
def main(**given: Any) -> None:
    """Prove that documents, models, migrations, app and database agree, without writing a byte.

    Without a subcommand it does **all** that the configuration (`[tool.alembic-readonly-check]` in
    pyproject.toml) and the environment give: offline (documents, models, app), scratch (migrations
    carried out on a server of one's own), live (a database, in one read-only transaction). Begin
    with **doctor**, which says what of that is there.

    Ends with **0** if all agree, **1** on drift, **2** if it could not check or had nothing to
    check. URLs are taken from environment variables and never shown.
    """
    context = get_current_context()
    if context.invoked_subcommand is None:
        _run(_everything, **given)
    elif any(context.get_parameter_source(name) is COMMANDLINE for name in given):
        _stop(CannotCheck(f"Give options after the subcommand: {context.invoked_subcommand} --…"))


@main.command("all", panel=COMPARE)
@_with(DATABASES, APP, MODELS, STRICT, COUNTS, REPORT)
def all_(**given: Any) -> None:
    """Compare everything that is configured and reachable (the default)."""
    _run(_everything, **given)


@main.command(panel=COMPARE)
@_with(COUNTS, REPORT)
def docs(**given: Any) -> None:
    """Check the documents themselves and against each other, offline."""

    def work(check: Check) -> None:
        check.docs(required=True)
        check.contract()

    _run(work, **given)


@main.command(panel=COMPARE)
@_with(MODELS, COUNTS, REPORT)
def models(**given: Any) -> None:
    """Compare datamodel.md with the models, offline."""

    def work(check: Check) -> None:
        check.docs(required=True)
        check.mapped(required=True)
        check.offline()

    _run(work, **given)


@main.command(panel=COMPARE)
@_with(DATABASES, MODELS, STRICT, COUNTS, REPORT)
def db(**given: Any) -> None:
    """Compare datamodel.md and the models with a scratch or live database, or a snapshot."""

    def work(check: Check) -> None:
        check.docs()
        check.mapped()
        check.databases(frozenset({"facts"}))

    _run(work, **given)


@main.command(panel=COMPARE)
@_with(DATABASES, MODELS, STRICT, COUNTS, REPORT)
def migrations(**given: Any) -> None:
    """Compare the migrations with what a live database applied and now looks like."""

    def work(check: Check) -> None:
        check.docs()
        check.mapped()
        check.databases(frozenset({"migrations"}))

    _run(work, **given)


@main.command(panel=COMPARE)
@_with(APP, COUNTS, REPORT)
def api(**given: Any) -> None:
    """Compare openapi.yaml with routes, structs and columns, offline."""

    def work(check: Check) -> None:
        check.docs()
        check.api(required=True)

    _run(work, **given)


@main.command(panel=UNDERSTAND)
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Explain a CODE: what it means, an example, the fix.

    A family (`DM`, `DC3`) lists its codes; nothing lists the families.
    """
    if code is None:
        for family, title in FAMILIES.items():
            count = sum(known.startswith(family) for known in REGISTRY)
            click.echo(f"{family}  {title}, {count} codes")
        return
    wanted = code.strip().upper()
    if entry := REGISTRY.get(wanted):
        explanation = fill(entry.explanation, 100, break_on_hyphens=False)
        click.echo(
            f"{entry.code} ({entry.severity}): {entry.title}\n\n{explanation}\n\n"
            f"example: {entry.example}\nfix: {entry.fix}"
        )
        return
    listed = [entry for entry in REGISTRY.values() if entry.code.startswith(wanted)]
    if not listed:
        _stop(CannotCheck(UNKNOWN.format(wanted)))
    for entry in listed:
        click.echo(f"{entry.code}  {entry.title}")


@main.command("snapshot", panel=KEEP)
@_with(LIVE, MODELS)
@KEPT
def snapshot_(output: Path, **given: Any) -> None:
    """Save what the catalogs of a live database say, for later checks with --snapshot.

    Holds definitions only, no row of any table.
    """
    from alembic_readonly_check import guard, snapshot

    try:
        check = Check(_configured(**given))
        check.docs()
        check.mapped()
        name = check.config.url_env
        url = guard.driver_url(_needed(name), name)
        taken = guard.run(url, name, check.scope().schemas, snapshot.take, check.config.timeout)
        output.write_text(snapshot.encode(taken), encoding="utf-8")
    except CannotCheck as error:
        _stop(error)
    click.echo(
        f"{output}: {len(taken.answers['relations'])} relations of {', '.join(taken.schemas)}"
    )


def _needed(name: str) -> str:
    value = secret(name)
    if value is None:
        raise CannotCheck(f"{name} is not set.")
    return value


@main.command(panel=UNDERSTAND)
def doctor() -> None:
    """Say what is configured, what is there and what is missing, and what can be compared with it.

    Ends with **2** if that is nothing.
    """
    try:
        config = _configured()
    except CannotCheck as error:
        _stop(error)
    click.echo(
        f"{SECTION} of {config.source}"
        if config.source
        else f"There is no {SECTION} in a pyproject.toml here or above; these are the defaults."
    )
    well = set()
    for key, state, told in _diagnosis(config):
        click.echo(f"  {state:7}  {key:15}  {told}")
        well |= {key} if state == "ok" else set()
    able = [name for name, ways in NEEDED.items() if any(well.issuperset(way) for way in ways)]
    click.echo(f"Can compare: {', '.join(able)}." if able else "Nothing can be compared.")
    sys.exit(0 if able else 2)


NEEDED = {
    "docs": (("datamodel",),),
    "models": (("datamodel", "metadata"),),
    "api": (("openapi", "app"),),
    "db": (("url-env",), ("scratch.url-env", "migrations")),
    "migrations": (("url-env", "migrations"),),
}
"""Subcommand -> keys of the configuration that have to be well; one of the tuples suffices."""


def _diagnosis(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the configuration, how it stands, and what is there or wrong."""
    check = Check(config)

    def read(part: Callable[[], object]) -> str:
        part()
        return check.compared[-1]

    files: dict[str, tuple[str | None, Callable[[], str]]] = {
        "datamodel": (config.datamodel, lambda: read(check.docs)),
        "openapi": (config.openapi, lambda: read(check.contract)),
        "external-apis": (config.external_apis, lambda: str(config.external_apis)),
        "migrations": (config.migrations, lambda: _migrations(config)),
    }
    for key, (path, look) in files.items():
        is_there = config.path(path) is not None
        yield key, *(_tried(look) if is_there else ("missing", f"{path} is not there"))
    modules: dict[str, tuple[str | None, Callable[[], str]]] = {
        "metadata": (config.metadata, lambda: read(check.mapped)),
        "app": (config.app, lambda: read(check.routes)),
    }
    for key, (target, look) in modules.items():
        yield key, *(_tried(look) if target else ("missing", "is not configured"))
    for key, name in (("url-env", config.url_env), ("scratch.url-env", config.scratch.url_env)):
        is_set = secret(name) is not None
        look = partial(_server, name, config.timeout)
        yield key, *(_tried(look) if is_set else ("missing", f"{name} is not set"))


def _tried(look: Callable[[], str]) -> tuple[str, str]:
    try:
        return "ok", look()
    except CannotCheck as error:
        return "wrong", str(error)


def _migrations(config: Config) -> str:
    from alembic_readonly_check import migrations

    return f"{len(migrations.files(config.path(config.migrations)))} files in {config.migrations}"


def _server(name: str, timeout: float) -> str:
    from alembic_readonly_check import guard

    url = guard.driver_url(_needed(name), name)
    state = msgspec.json.decode(
        guard.run(url, name, (), lambda reader: reader.ask("state"), timeout)
    )
    return f"{name}: Postgres {state['version'] // 10000}, role {state['role']}, read only"
