"""Check every project of the corpus in every mode, with the interpreter that runs this file.

    python corpus.py URL

URL names a server on which databases may be made and dropped. Prints one JSON object: the versions
of SQLAlchemy and of the server, and what was found by project and mode. Nothing should be.
"""

import asyncio
import json
import logging
import os
import secrets
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy
from alembic_readonly_check.command import cli
from click.testing import CliRunner
from sqlalchemy.engine import URL, make_url

FOREIGN = Path(__file__).parent / "foreign"
PROJECTS = sorted(path.parent.name for path in FOREIGN.glob("*/pyproject.toml"))
SCRATCH, LIVE = "SCRATCH_DATABASE_URL", "DATABASE_URL"
MODES = {"offline": (), "scratch": (SCRATCH,), "live": (LIVE,), "both": (SCRATCH, LIVE)}
READER = "foreign_reader"


def plain(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def execute(url: URL, *statements: str) -> Any:
    """Send statements, each as one simple query, as migrating tools do; return the last status."""

    async def work() -> Any:
        connection = await asyncpg.connect(plain(url))
        try:
            for statement in statements:
                await connection.execute(statement)
            return connection.get_server_version().major
        finally:
            await connection.close()

    return asyncio.run(work())


def migrated(server: URL, folder: Path) -> URL:
    """Make a database as the project's own tools would, and let the reader log in to it."""
    name = f"foreign_{secrets.token_hex(6)}"
    execute(
        server,
        f"CREATE DATABASE {name}",
        f"DO $$ BEGIN CREATE ROLE {READER} LOGIN;"
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    url = server.set(database=name)
    text = (folder / "pyproject.toml").read_text("utf-8")
    settings = tomllib.loads(text)["tool"]["alembic-readonly-check"]
    files = [folder / path for path in settings.get("scratch", {}).get("platform", [])]
    files += sorted((folder / settings["migrations"]).glob("*.sql"))
    execute(url, *(path.read_text("utf-8") for path in files))
    return url


def found() -> list[str]:
    """Run the command where it stands; give its findings, or why it could not check."""
    result = CliRunner().invoke(cli.main, ["all", "--format", "json"])
    if result.exit_code == 2 or not result.stdout.startswith("{"):
        return [f"{result.exit_code} {result.output} {result.exception!r}"]
    return [
        f"{one['code']} {one['severity']} {one['subject']}: {one['message']}"
        for one in json.loads(result.stdout)["findings"]
    ]


def check(server: URL, project: str) -> dict[str, list[str]]:
    """Check a project in every mode, live as a role that may only log in."""
    folder = FOREIGN / project
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    live = migrated(server, folder)
    urls = {SCRATCH: plain(server), LIVE: plain(live.set(username=READER))}
    told = {}
    try:
        for mode, names in MODES.items():
            for name in urls:
                os.environ.pop(name, None)
            os.environ |= {name: urls[name] for name in names}
            told[f"{project} {mode}"] = found()
    finally:
        execute(server, f"DROP DATABASE {live.database} WITH (FORCE)")
    return told


def main(url: str) -> None:
    warnings.simplefilter("error", sqlalchemy.exc.SAWarning)
    logging.disable()
    server = make_url(url)
    told: dict[str, list[str]] = {}
    for project in PROJECTS:
        told |= check(server, project)
    versions = {"sqlalchemy": sqlalchemy.__version__, "postgres": execute(server)}
    json.dump(versions | {"told": told}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
