"""Migrations that are no folder of SQL: Alembic's revisions, or a command of the project's own.

Both run in a process of their own. Every variable of its environment that holds the URL of a
Postgres database, and libpq's own, name the scratch database alone. A URL that the project puts
together from other variables, or reads from a file, is out of reach.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from alembic_readonly_check.config import Config
from alembic_readonly_check.db.guard import dsn
from alembic_readonly_check.findings import CannotCheck

LIMIT_SECONDS = 600
_URL = re.compile(r"\s*(postgres(?:ql)?(?:\+\w+)?)://")
# An address, a service or its file would lead elsewhere than PGHOST.
_DROPPED = ("PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE")
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


def _environment(config: Config, database: URL) -> dict[str, str]:
    """Give the variables of the process, none of which leads to another database."""
    held = {
        name: _written(database.set(drivername=url[1])) if (url := _URL.match(value)) else value
        for name, value in os.environ.items()
        if name not in (config.scratch.url_env, *_DROPPED)
    }
    host = database.query.get("host")
    parts = {
        "PGHOST": host if isinstance(host, str) else database.host,
        "PGPORT": database.port,
        "PGDATABASE": database.database,
        "PGUSER": database.username,
        "PGPASSWORD": database.password,
    }
    held |= {name: str(value) for name, value in parts.items() if value is not None}
    own = _written(database.set(drivername=config.scratch.driver))
    held |= dict.fromkeys((config.url_env, *config.url_envs), own)
    held["PYTHONPATH"] = os.pathsep.join(filter(None, (config.root, os.environ.get("PYTHONPATH"))))
    return held


def _run(config: Config, database: URL, command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=Path(config.root),
            env=_environment(config, database),
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
