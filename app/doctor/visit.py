"""Run every check and report: what `annex doctor` does."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import msgspec

from app.database.pools import CONNECT_SECONDS
from app.doctor import (
    Check,
    Finding,
    Site,
    addresses,
    connections,
    error,
    objects,
    outside,
    rights,
    schema,
    server,
    work,
)
from app.errors import Unavailable
from app.settings import Settings, SettingsError, database_url, read_settings

CHECK_SECONDS = 30.0
UNKNOWN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, Unavailable)


class Result(msgspec.Struct, frozen=True):
    """One check's outcome; None: all is well."""

    check: str
    finding: Finding | None


def diagnose(workers: int = 1) -> list[Result]:
    """Read the settings and check all; a setting that cannot be read ends it.

    `workers` is what each `annex serve` is given as `--workers`.
    """
    try:
        settings = read_settings()
    except SettingsError as wrong:
        mend = "Correct it in the environment or in .env; .env.example explains each setting."
        return [Result("settings", error(line, mend)) for line in str(wrong).splitlines()]
    whole = msgspec.structs.replace(settings, processes=settings.processes * workers)
    return asyncio.run(visit(whole))


async def visit(settings: Settings) -> list[Result]:
    """Run every check; those of a database that does not answer are left out."""
    results = [Result("settings", None)]
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        opened: list[asyncpg.Connection[Any]] = []
        for name in ("database_url", "worker_database_url"):
            setting = f"ANNEX_{name.upper()}"
            try:
                connection = await connect(settings, name)
            except (*UNKNOWN, ValueError) as failed:
                results.append(Result("connection", connections.unreachable(setting, failed)))
                continue
            stack.callback(connection.terminate)
            opened.append(connection)
        site = Site(settings, http, tuple(opened))
        if len(opened) == 2:
            results.append(Result("connection", None))
            results += [await run(c, site) for c in (*connections.CHECKS, *server.CHECKS)]
            found = [await run(check, site) for check in schema.CHECKS]
            results += found
            results += [await run(check, site) for check in rights.CHECKS]
            if found[0].finding is None:  # without the schema there is no work to look at
                results += [await run(c, site) for c in (*objects.CHECKS, *work.CHECKS)]
        results += [await run(c, site) for c in (*outside.CHECKS, *addresses.CHECKS)]
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


async def run(check: Check, site: Site) -> Result:
    """Run one check; one that cannot be made is a finding."""
    try:
        return Result(check.name, await check.find(site))
    except UNKNOWN as failed:
        said = str(failed) or type(failed).__name__
        return Result(
            check.name,
            error(
                f"This could not be checked: {said}.", "Mend what else is found, and run it again."
            ),
        )


def exit_code(results: list[Result]) -> int:
    """Return 0 if all is well or advice, 1 for warnings, 2 for errors."""
    levels = {r.finding.level for r in results if r.finding is not None}
    return 2 if "error" in levels else 1 if "warning" in levels else 0


def lines(results: list[Result]) -> list[str]:
    """Write the report: a line for what is well; what is not, with its cure and its SQL."""
    written = []
    for result in results:
        if (found := result.finding) is None:
            written.append(f"ok       {result.check}")
        else:
            written += [f"{found.level:8} {result.check}: {found.wrong}", f"{'':9}{found.cure}"]
            written += [f"{'':11}{statement};" for statement in found.sql]
    return written
