"""The command `alembic-readonly-check`."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

import rich_click as click
from click import get_current_context
from click.core import ParameterSource
from click.exceptions import Exit

from alembic_readonly_check.codes import FAMILIES, REGISTRY
from alembic_readonly_check.command import reporters
from alembic_readonly_check.command.check import Check, Options
from alembic_readonly_check.command.doctor import NEEDED, diagnosis
from alembic_readonly_check.command.options import (
    APP,
    COMPARE,
    COUNTS,
    DATABASES,
    KEEP,
    KEPT,
    LIVE,
    MODELS,
    REPORT,
    STRICT,
    UNDERSTAND,
    with_options,
)
from alembic_readonly_check.command.reporters import Report
from alembic_readonly_check.config import SECTION, Config, load, needed, secret
from alembic_readonly_check.findings import SEVERITIES, CannotCheck

COMMANDLINE = ParameterSource.COMMANDLINE
click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.MAX_WIDTH = 100
TRACEBACK = "ALEMBIC_READONLY_CHECK_TRACEBACK"
UNKNOWN = "{} is neither a code nor a family of codes; `explain` alone lists the families."


def _configured(**given: Any) -> Config:
    """Lay the command line over the configuration."""
    config = load(Path.cwd())
    changes: dict[str, Any] = {
        key: given[key] for key in ("app", "metadata", "url_env", "timeout") if given.get(key)
    }
    for name in filter(None, (given.get("url_env"), given.get("scratch_url_env"))):
        needed(name)  # A name that was given for this run, and leads nowhere, is a mistake.
    if given.get("url_env"):
        changes["url_envs"] = (config.url_env,)
    if given.get("schema"):
        changes["schemas"] = tuple(given["schema"])
    if given.get("scratch_url_env"):
        changes["scratch"] = replace(config.scratch, url_env=given["scratch_url_env"])
    return replace(config, **changes)


def _codes(text: str | None) -> tuple[str, ...]:
    codes = tuple(code.strip().upper() for code in (text or "").split(",") if code.strip())
    for code in codes:
        if not any(known.startswith(code) for known in REGISTRY):
            raise CannotCheck(UNKNOWN.format(code))
    return codes


class Sentences(click.RichGroup):
    """Ends with 2 and a sentence whatever goes wrong, for 1 means drift."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CannotCheck as error:
            _stop(f"{error.code}: {error}" if error.code else str(error))
        except (click.ClickException, Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            _stop("It was interrupted before it had a result.")
        except OSError as error:
            _stop(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.")
        except SystemExit:
            _stop("A module of the project ended the process, so there is no result.")
        except BaseException as error:
            if os.environ.get(TRACEBACK):
                raise
            _stop(
                f"It failed and compared nothing to its end: {type(error).__name__}: {error}."
                f" {TRACEBACK}=1 shows where; please report it."
            )


def _stop(sentence: str) -> NoReturn:
    click.echo(f"alembic-readonly-check: {' '.join(sentence.split())}", err=True)
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
    if given["output"] is not None:
        given["output"].unlink(missing_ok=True)  # A run without a result leaves no older one.
    shown, progress = _status()
    try:
        with shown:
            check = _check(progress, **given)
            work(check)
        report = check.report()
    except CannotCheck as error:
        if given["format_"] == "github":
            click.echo(reporters.github_line("error", "", error.code or "no result", str(error)))
        raise
    _write(report, given["format_"], given["output"])
    limits = {"none": 0, "error": 1}
    least = limits.get(given["fail_on"], 2)
    if any(SEVERITIES.index(f.severity) < least for f in report.findings):
        raise Exit(1)
    if check.unable:
        raise CannotCheck(
            f"The role of the check could not compare {check.unable[0]}; grant it USAGE there."
        )
    raise Exit(0)


def _check(progress: Callable[[str], None], **given: Any) -> Check:
    config = _configured(**given)
    for path in (config.datamodel, config.openapi, config.external_apis, config.migrations):
        config.path(path)
    return Check(
        config,
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
        _databases(check)
    else:
        check.note(
            f"neither {check.config.scratch.url_env} nor {check.config.url_env} is set,"
            " so no database was compared"
        )


def _databases(check: Check, only: frozenset[str] = frozenset({"facts", "migrations"})) -> None:
    # The engine and the driver are imported only here: an offline check needs neither.
    from alembic_readonly_check.command.databases import DatabaseCheck

    DatabaseCheck(check).compare(only)


@click.group(
    cls=Sentences,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="alembic-readonly-check")
@with_options(DATABASES, APP, MODELS, STRICT, COUNTS, REPORT)
def main(**given: Any) -> None:
    """Prove that documents, models, migrations, app and database agree, without writing a byte.

    Without a subcommand it does **all** that the configuration (`[tool.alembic-readonly-check]` in
    pyproject.toml) and the environment give: offline (documents, models, app), scratch (migrations
    carried out on your own server), live (a database, in one read-only transaction). Begin
    with **doctor**, which says what of that is there.

    Ends with **0** if all agree, **1** on drift, **2** if it could not check or had nothing to
    check. URLs are taken from environment variables and never shown.
    """
    context = get_current_context()
    if context.invoked_subcommand is None:
        _run(_everything, **given)
    elif any(context.get_parameter_source(name) is COMMANDLINE for name in given):
        raise CannotCheck(f"Give options after the subcommand: {context.invoked_subcommand} --…")


def _docs(check: Check) -> None:
    check.docs(required=True)
    check.contract()


def _models(check: Check) -> None:
    check.docs(required=True)
    check.mapped(required=True)
    check.offline()


def _facts(check: Check) -> None:
    check.docs()
    check.mapped()
    _databases(check, frozenset({"facts"}))


def _migrations(check: Check) -> None:
    check.docs()
    check.mapped()
    _databases(check, frozenset({"migrations"}))


def _api(check: Check) -> None:
    check.docs()
    check.api(required=True)


def _subcommand(name: str, help_: str, work: Callable[[Check], None], *groups: Any) -> None:
    @main.command(name, panel=COMPARE, help=help_)
    @with_options(*groups, COUNTS, REPORT)
    def run(**given: Any) -> None:
        _run(work, **given)


_subcommand(
    "all",
    "Compare everything that is configured and reachable (the default).",
    _everything,
    DATABASES,
    APP,
    MODELS,
    STRICT,
)
_subcommand("docs", "Check the documents themselves and against each other, offline.", _docs)
_subcommand("models", "Compare datamodel.md with the models, offline.", _models, MODELS)
_subcommand(
    "db",
    "Compare datamodel.md and the models with a scratch or live database, or a snapshot.",
    _facts,
    DATABASES,
    MODELS,
    STRICT,
)
_subcommand(
    "migrations",
    "Compare the migrations with what a live database applied and now looks like.",
    _migrations,
    DATABASES,
    MODELS,
    STRICT,
)
_subcommand("api", "Compare openapi.yaml with routes, structs and columns, offline.", _api, APP)


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
        raise CannotCheck(UNKNOWN.format(wanted))
    for entry in listed:
        click.echo(f"{entry.code}  {entry.title}")


@main.command("snapshot", panel=KEEP)
@with_options(LIVE, MODELS)
@KEPT
def snapshot_(output: Path, **given: Any) -> None:
    """Save what the catalogs of a live database say, for later checks with --snapshot.

    Holds definitions only, no row of any table.
    """
    from alembic_readonly_check.db import guard, snapshot

    check = Check(_configured(**given))
    check.docs()
    check.mapped()
    name = check.config.url_env
    url = guard.driver_url(needed(name), name)
    taken = guard.run(url, name, check.scope().schemas, snapshot.take, check.config.timeout)
    output.write_text(snapshot.encode(taken), encoding="utf-8")
    click.echo(
        f"{output}: {len(taken.answers['relations'])} relations of {', '.join(taken.schemas)}"
    )


@main.command(panel=UNDERSTAND)
def doctor() -> None:
    """Say what is configured, what is there and what is missing, and what can be compared with it.

    Ends with **2** if that is nothing.
    """
    config = _configured()
    click.echo(
        f"{SECTION} of {config.source}"
        if config.source
        else f"There is no {SECTION} in a pyproject.toml here or above; these are the defaults."
    )
    well = set()
    for key, state, told in diagnosis(config):
        click.echo(f"  {state:7}  {key:15}  {told}")
        well |= {key} if state == "ok" else set()
    able = [name for name, ways in NEEDED.items() if any(well.issuperset(way) for way in ways)]
    click.echo(f"Can compare: {', '.join(able)}." if able else "Nothing can be compared.")
    raise Exit(0 if able else 2)
