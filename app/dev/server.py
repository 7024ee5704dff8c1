"""`annex dev`: everything in one process, on an embedded Postgres."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg

from app.auth.keys import Key
from app.dev.demo import (
    Secrets,
    demo_settings,
    facts,
    json_text,
    local_settings,
    seed,
    shell_lines,
)
from app.dev.migrations import apply
from app.dev.postgres import EmbeddedPostgres
from app.http.application import Application
from app.main import create_app
from app.resources import resource
from app.server import listen, serve
from app.worker.housekeeping import tasks_of

SUPABASE = resource("supabase")
DATABASE = "annex"
OFFLINE = "postgresql://localhost/annex"
MIGRATING_ROLE = "supabase_postgres"
"""Stands in for Supabase's `postgres`: may create roles, is no superuser."""


async def prepare(postgres: EmbeddedPostgres, api_key: Key) -> list[str]:
    """Bring the database to what a Supabase project with Annex has; returns what was applied."""
    admin = await asyncpg.connect(postgres.admin_url)
    try:
        if not await admin.fetchval("select 1 from pg_database where datname = $1", DATABASE):
            await admin.execute(f"create database {DATABASE}")
    finally:
        await admin.close()
    url = postgres.url("postgres", DATABASE)
    admin = await asyncpg.connect(url)
    try:
        await admin.execute((SUPABASE / "local" / "platform.sql").read_text())
    finally:
        await admin.close()
    applied = await apply(url, SUPABASE / "migrations", MIGRATING_ROLE)
    await seed(url, MIGRATING_ROLE, (SUPABASE / "seed.sql").read_text(), api_key)
    return applied


def run(
    data: Path,
    host: str,
    port: int,
    *,
    is_fresh: bool,
    say: Callable[[str], None],
    greet: Callable[[dict[str, object]], None],
) -> None:
    """Serve until interrupted; `say` gets a line a step, `greet` the facts once the API answers.

    Raises `DevError` or `SettingsError` with one sentence.
    """
    listen(host, port).close()  # before anything is started
    data.mkdir(parents=True, exist_ok=True)
    postgres = EmbeddedPostgres(data)
    if is_fresh:
        postgres.erase()
        (data / "secrets.json").unlink(missing_ok=True)
    drawn = Secrets.of(data)
    local_settings(drawn)  # says what is wrong before anything is started
    say(f"Starting Postgres in {os.path.relpath(data)} …")
    with postgres:
        api_key = Key.read(drawn.api_key)
        for name in asyncio.run(prepare(postgres, api_key)):
            say(f"Applied {name}")
        settings = local_settings(
            drawn, postgres.url("annex_api", DATABASE), postgres.url("annex_worker", DATABASE)
        )
        # The worker runs in the server's process.
        create = partial(create_app, beside=tasks_of(settings))
        files = {data / "dev.env": shell_lines, data / "dev.json": json_text}

        def ready(url: str) -> None:
            found = facts(settings, drawn, url)
            for file, write in files.items():
                file.touch(mode=0o600)
                file.write_text(write(found))
            greet(found)

        try:
            serve(settings, host, port, ready=ready, create=create)
        finally:
            for file in files:
                file.unlink(missing_ok=True)


def offline_app() -> Application:
    """Make the application for tools that look at its routes and never start it."""
    return create_app(demo_settings(Secrets("", "", "", str(Key.make("op"))), OFFLINE, OFFLINE))
