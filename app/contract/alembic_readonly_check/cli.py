"""The command `alembic-readonly-check`."""

import datetime as dt
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from alembic_readonly_check import baseline, reporters
from alembic_readonly_check.check import Check, Options
from alembic_readonly_check.codes import REGISTRY
from alembic_readonly_check.config import Config, load, secret
from alembic_readonly_check.findings import SEVERITIES, CannotCheck
from alembic_readonly_check.reporters import Report

COMMANDLINE = ParameterSource.COMMANDLINE
F = TypeVar("F", bound=Callable[..., Any])

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.MAX_WIDTH = 100
click.rich_click.OPTION_GROUPS = {
    f"alembic-readonly-check{command}": [
        {
            "name": "What is compared",
            "options": [
                "--app",
                "--metadata",
                "--schema",
                "--url-env",
                "--scratch-url-env",
                "--snapshot",
                "--timeout",
            ],
        },
        {
            "name": "What counts",
            "options": [
                "--select",
                "--ignore",
                "--baseline",
                "--fail-on",
                "--strict-coverage",
                "--require-readonly-role",
            ],
        },
        {"name": "How it is told", "options": ["--format", "--output", "--help"]},
    ]
    for command in ("", " all", " docs", " models", " db", " migrations", " api")
}

_OPTIONS = (
    click.option("--app", metavar="MOD:APP", help="The Litestar app, or a function that makes it."),
    click.option(
        "--metadata", metavar="MOD:ATTR", help="The models' MetaData: `mod:Base.metadata`."
    ),
    click.option("--schema", multiple=True, help="Compare this schema; may be given again."),
    click.option(
        "--url-env", metavar="NAME", help="Variable that holds the URL of the live database."
    ),
    click.option(
        "--scratch-url-env",
        metavar="NAME",
        help="Variable that holds the URL of a server on which databases may be made and dropped.",
    ),
    click.option(
        "--snapshot",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A saved snapshot instead of a live database.",
    ),
    click.option("--timeout", type=float, metavar="SECONDS", help="Limit of each query. [30]"),
    click.option("--select", metavar="CODES", help="Only these codes or families: `DM,DC3`. [all]"),
    click.option("--ignore", metavar="CODES", help="Not these codes or families."),
    click.option(
        "--baseline",
        "baseline_",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Known findings, each with a reason and an expiry.",
    ),
    click.option(
        "--fail-on",
        type=click.Choice(["error", "warning", "warn", "none"]),
        default="error",
        show_default=True,
        help="The least severity that ends with 1.",
    ),
    click.option(
        "--strict-coverage", is_flag=True, help="An object of a kind nobody compares is an error."
    ),
    click.option(
        "--require-readonly-role", is_flag=True, help="End with 2 if the live role may write."
    ),
    click.option(
        "--format",
        "format_",
        type=click.Choice(list(reporters.FORMATS)),
        default="text",
        show_default=True,
    ),
    click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the report to a file; the summary still goes to the terminal.",
    ),
)


def _with_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


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
            raise CannotCheck(f"{code} is neither a code nor a family of codes.")
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

    status = Console(stderr=True, no_color="NO_COLOR" in os.environ).status("starting")
    return status, lambda text: status.update(text)


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
            given["baseline_"],
            given["snapshot"],
            given["strict_coverage"],
            given["require_readonly_role"],
        ),
        progress,
    )


def _write(report: Report, format_: str, output: Path | None) -> None:
    if output is not None:
        output.write_text(reporters.FORMATS[format_](report), encoding="utf-8")
        click.echo(report.summary)
    elif format_ == "text" and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
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
@_with_options
def main(**given: Any) -> None:
    """Prove that documents, models, migrations, app and database agree, without writing a byte.

    Without a subcommand it does **all** that the configuration (`[tool.alembic-readonly-check]` in
    pyproject.toml) and the environment give: offline (documents, models, app), scratch (migrations
    carried out on a server of one's own), live (a database, in one read-only transaction).

    Ends with **0** if all agree, **1** on drift, **2** if it could not check or had nothing to
    check. URLs are taken from environment variables and never shown.
    """
    context = get_current_context()
    if context.invoked_subcommand is None:
        _run(_everything, **given)
    elif any(context.get_parameter_source(name) is COMMANDLINE for name in given):
        _stop(CannotCheck(f"Give options after the subcommand: {context.invoked_subcommand} --…"))


@main.command("all")
@_with_options
def all_(**given: Any) -> None:
    """Compare everything that is configured and reachable (the default)."""
    _run(_everything, **given)


@main.command()
@_with_options
def docs(**given: Any) -> None:
    """Check the documents themselves and against each other, offline."""

    def work(check: Check) -> None:
        check.docs(required=True)
        check.contract()

    _run(work, **given)


@main.command()
@_with_options
def models(**given: Any) -> None:
    """Compare datamodel.md with the models, offline."""

    def work(check: Check) -> None:
        check.docs(required=True)
        check.mapped(required=True)
        check.offline()

    _run(work, **given)


@main.command()
@_with_options
def db(**given: Any) -> None:
    """Compare datamodel.md and the models with a scratch or live database, or a snapshot."""

    def work(check: Check) -> None:
        check.docs()
        check.mapped()
        check.databases(frozenset({"facts"}))

    _run(work, **given)


@main.command()
@_with_options
def migrations(**given: Any) -> None:
    """Compare the migrations with what a live database applied and now looks like."""

    def work(check: Check) -> None:
        check.docs()
        check.mapped()
        check.databases(frozenset({"migrations"}))

    _run(work, **given)


@main.command()
@_with_options
def api(**given: Any) -> None:
    """Compare openapi.yaml with routes, structs and columns, offline."""

    def work(check: Check) -> None:
        check.docs()
        check.api(required=True)

    _run(work, **given)


@main.command()
@click.argument("code")
def explain(code: str) -> None:
    """Explain a CODE: what it means, an example, the fix. A family (`DM`) lists its codes."""
    wanted = code.strip().upper()
    known = REGISTRY.get(wanted)
    if known is not None:
        click.echo(
            f"{known.code} ({known.severity}): {known.title}\n\n{known.explanation}\n\n"
            f"example: {known.example}\nfix: {known.fix}"
        )
        return
    family = [entry for entry in REGISTRY.values() if entry.code.startswith(wanted)]
    if not family:
        _stop(CannotCheck(f"{wanted} is neither a code nor a family of codes."))
    for entry in family:
        click.echo(f"{entry.code} {entry.title}")


@main.command("snapshot")
@click.option("--url-env", metavar="NAME", help="Variable that holds the database's URL.")
@click.option("--schema", multiple=True, help="Read this schema; may be given again.")
@click.option("--timeout", type=float, metavar="SECONDS")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
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


@main.command("baseline")
@click.option("--reason", required=True, help="Why this drift is borne.")
@click.option(
    "--until",
    required=True,
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day on which it is borne.",
)
@click.option("--select", metavar="CODES", help="Only these codes or families.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def baseline_(reason: str, until: dt.datetime, select: str | None, output: Path) -> None:
    """Write today's findings to a file that --baseline leaves out until a day."""
    try:
        check = Check(_configured(), Options(select=_codes(select)))
        _everything(check)
        found = check.report(dt.date.today()).findings
        output.write_text(baseline.make(found, reason, until.date()), encoding="utf-8")
    except CannotCheck as error:
        _stop(error)
    click.echo(f"{output}: {len(found)} findings until {until.date()}")


@main.command()
def doctor() -> None:
    """Say what is configured, what is found and what is missing; ends with 2 if nothing works."""
    try:
        config = _configured()
        lines = list(_diagnosis(config))
    except CannotCheck as error:
        _stop(error)
    for is_well, line in lines:
        click.echo(f"{'ok     ' if is_well else 'missing'} {line}")
    sys.exit(0 if any(is_well for is_well, _ in lines) else 2)


def _diagnosis(config: Config) -> Any:
    from alembic_readonly_check import guard

    for name, value in (
        ("datamodel", config.datamodel),
        ("openapi", config.openapi),
        ("external-apis", config.external_apis),
        ("migrations", config.migrations),
    ):
        yield config.path(value) is not None, f"{name}: {value}"
    check = Check(config)
    for read, subject in ((check.docs, config.datamodel), (check.mapped, config.metadata)):
        try:
            read(True)
            yield True, f"readable: {check.compared[-1]}"
        except CannotCheck as error:
            yield False, f"readable: {subject}: {error}"
    for name in (config.url_env, config.scratch.url_env):
        value = secret(name)
        if value is None:
            yield False, f"database: {name} is not set"
            continue
        try:
            url = guard.driver_url(value, name)
            state = guard.run(url, name, (), lambda reader: reader.ask("state"), config.timeout)
        except CannotCheck as error:
            yield False, f"database: {name}: {error}"
            continue
        held = msgspec.json.decode(state)
        version = held["version"] // 10000
        yield True, f"database: {name}: Postgres {version}, role {held['role']}, read only"
