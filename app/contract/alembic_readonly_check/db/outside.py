"""Migrations that are no folder of SQL: Alembic's revisions, or a command of the project's own.

Both run in a process of their own that is told of the scratch database alone: the variables of the
live one and of the scratch server are gone from its environment, or name the scratch database.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from alembic_readonly_check.config import Config
from alembic_readonly_check.db.guard import dsn
from alembic_readonly_check.findings import CannotCheck

LIMIT_SECONDS = 600
_HINT = " Revisions that ask the database cannot be rendered; let `scratch.command` run them."

# Alembic writes the SQL of all its revisions; offline it opens no connection of its own.
RENDER = """
import sys
from alembic import command, config
held = config.Config(sys.argv[1])
held.set_main_option("sqlalchemy.url", sys.argv[2].replace("%", "%%"))
command.upgrade(held, "heads", sql=True)
"""


def migrate(config: Config, database: URL) -> str:
    """Run the project's command on a scratch database, or render its Alembic revisions as SQL.

    Returns the SQL that is still to be carried out. Raises `CannotCheck` with the last line that
    the process wrote if it fails.
    """
    scratch = config.scratch
    if scratch.command:
        _run(config, database, scratch.command)
        return ""
    # asyncpg's dialect is the one that does not double the percent signs of literals.
    url = dsn(database.set(drivername="postgresql+asyncpg", query={}))
    sql = _run(config, database, (sys.executable, "-c", RENDER, str(scratch.alembic), url))
    if "INSERT INTO" not in sql:
        raise CannotCheck(f"{scratch.alembic} leads to no revision.")
    return sql


def _written(url: URL) -> str:
    """Leave the slashes of a socket's folder: many an env.py trips over a percent sign."""
    head, mark, query = dsn(url).partition("?")
    return head + mark + query.replace("%2F", "/")


def _run(config: Config, database: URL, command: Sequence[str]) -> str:
    environment = {
        **{k: v for k, v in os.environ.items() if k != config.scratch.url_env},
        config.url_env: _written(database.set(drivername=config.scratch.driver)),
        "PYTHONPATH": os.pathsep.join(filter(None, (config.root, os.environ.get("PYTHONPATH")))),
    }
    try:
        done = subprocess.run(
            command,
            cwd=Path(config.root),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCheck(f"{command[0]} cannot be run: {error}.") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        name = config.scratch.alembic or " ".join(command)
        hint = "" if config.scratch.command else _HINT
        raise CannotCheck(f"The migrations of {name} failed: {lines[-1]}.{hint}")
    return done.stdout
