"""Run every check and report: what `annex doctor` does."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import msgspec

from app.database.migrations import listed
from app.database.pools import CONNECT_SECONDS
from app.doctor import (
    Check,
    Finding,
    Site,
    addresses,
    connections,
    definitions,
    error,
    objects,
    outside,
    rights,
    roles,
    schema,
    server,
    warning,
    work,
)
from app.errors import Unavailable
from app.settings import (
    Settings,
    SettingsError,
    database_url,
    environment,
    misspelt,
    read_settings,
)

CHECK_SECONDS = 30.0
UNKNOWN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, Unavailable)
IN_DATABASE = (
    *connections.CHECKS,
    *roles.CHECKS,
    *server.CHECKS,
    *schema.CHECKS,
    *rights.CHECKS,
    *objects.CHECKS,
    *definitions.CHECKS,
    *work.CHECKS,
)
OUTSIDE = (*outside.CHECKS, *addresses.CHECKS)
RENAME = "Rename it, or take it out; until then Annex does not read it."
WITHOUT_RIGHTS = ("rights in the schema", "owners")
"""Checks that say why another one was denied something."""


class Result(msgspec.Struct, frozen=True):
    """One check's outcome; without a finding all is well, unless it was skipped."""

    check: str
    finding: Finding | None
    skipped_for: str | None = None
    """The check that found something without which this one would say nothing useful."""


def diagnose(workers: int = 1) -> list[Result]:
    """Read the settings and check all; a setting that cannot be read ends it.

    `workers` is what each `annex serve` is given as `--workers`.
    """
    results = list[Result]()
    try:
        results = [Result("settings", warning(line, RENAME)) for line in misspelt(environment())]
        settings = read_settings()
    except SettingsError as wrong:
        mend = "Correct it in the environment or in .env; .env.example explains each setting."
        found = [Result("settings", error(line, mend)) for line in str(wrong).splitlines()]
        return found + results
    whole = msgspec.structs.replace(settings, processes=settings.processes * workers)
    return (results or [Result("settings", None)]) + asyncio.run(visit(whole))


async def visit(settings: Settings) -> list[Result]:
    """Run every check, and skip those that need what another one found wrong."""
    results = list[Result]()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        opened: list[asyncpg.Connection[Any]] = []
        for name in ("database_url", "worker_database_url"):
            setting = f"ANNEX_{name.upper()}"
            try:
                connection = await connect(settings, name)
            except (*UNKNOWN, ValueError) as failed:
                user = database_url(name.upper(), getattr(settings, name)).username
                finding = connections.unreachable(setting, user, failed)
                results.append(Result("connection", finding))
                continue
            stack.callback(connection.terminate)
            opened.append(connection)
        site = Site(settings, http, tuple(opened))
        if len(opened) == 2:
            results.append(Result("connection", None))
            results += await run_all(IN_DATABASE, site)
        else:
            results += [Result(check.name, None, "connection") for check in IN_DATABASE]
        results += await run_all(OUTSIDE, site)
    return results


async def run_all(checks: Sequence[Check], site: Site) -> list[Result]:
    """Run checks in order, each but those that need one that found something."""
    results, causes, denied = list[Result](), dict[str, str](), set[str]()
    for check in checks:
        cause = next((causes[name] for name in check.needs if name in causes), None)
        if cause is not None:
            results.append(Result(check.name, None, cause))
            causes[check.name] = cause
            continue
        try:
            finding = await check.find(site)
        except UNKNOWN as failed:
            finding = unknown(failed)
            if isinstance(failed, asyncpg.InsufficientPrivilegeError):
                denied.add(check.name)
        results.append(Result(check.name, finding))
        if finding is not None:
            causes[check.name] = check.name
    # Why something was denied is found later, if at all.
    found = (name for name in WITHOUT_RIGHTS if causes.get(name) == name)  # and not skipped
    if (why := next(found, None)) is not None:
        results = [
            Result(r.check, None, why) if {r.check, r.skipped_for} & denied else r for r in results
        ]
    return results


async def connect(settings: Settings, name: str) -> "asyncpg.Connection[Any]":
    """Connect as a setting says."""
    url = database_url(name.upper(), getattr(settings, name))
    return await asyncpg.connect(
        url.render_as_string(hide_password=False),
        statement_cache_size=0,
        timeout=CONNECT_SECONDS,
        command_timeout=CHECK_SECONDS,
        server_settings={"application_name": "annex doctor"},
    )


def unknown(failed: BaseException) -> Finding:
    """Say that a check could not be made."""
    said = str(failed) or type(failed).__name__
    return error(
        f"This could not be checked: {said}.", "Mend what else is found, and run it again."
    )


def exit_code(results: list[Result]) -> int:
    """Return 0 if all is well or advice, 1 for warnings, 2 for errors."""
    levels = {r.finding.level for r in results if r.finding is not None}
    return 2 if "error" in levels else 1 if "warning" in levels else 0


def lines(results: list[Result]) -> list[str]:
    """Write the report: a line for what is well; what is not, with its cure and its SQL.

    What was skipped comes last, a line for each reason.
    """
    written, skipped = list[str](), dict[str, list[str]]()
    for result in results:
        if (found := result.finding) is not None:
            written += [f"{found.level:8} {result.check}: {found.wrong}", f"{'':9}{found.cure}"]
            written += [f"{'':11}{statement};" for statement in found.sql]
        elif result.skipped_for is not None:
            skipped.setdefault(result.skipped_for, []).append(result.check)
        else:
            written.append(f"ok       {result.check}")
    return written + [
        f"skipped  {listed(names)}: not checked, because of what `{cause}` found."
        for cause, names in skipped.items()
    ]
