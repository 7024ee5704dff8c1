"""Migrations that are no folder of SQL: Alembic's revisions, or a command of the project's own.

Both run in a process of their own. Every variable of its environment that holds the URL of a
Postgres database, and libpq's own, name the scratch database alone. A URL that the project puts
together from other variables, or reads from a file, is out of reach.
"""

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL

from alembic_readonly_check.config import Config, secret
from alembic_readonly_check.db.guard import driver_url, dsn
from alembic_readonly_check.findings import CannotCheck

LIMIT_SECONDS = 600
_URL = re.compile(r"\s*(postgres(?:ql)?(?:\+\w+)?)://")
# An address, a service or its file would lead elsewhere than PGHOST.
_DROPPED = ("PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE")
_TRACEBACK = "Traceback (most recent call last):"
_HINT = " Revisions that ask the database cannot be rendered; let `scratch.command` run them."

# Alembic writes the SQL of all its revisions; offline it opens no connection of its own.
RENDER = """
import sys
from alembic import command, config
held = config.Config(sys.argv[1], output_buffer=sys.stdout)
sys.stdout = sys.stderr  # What env.py prints or logs is no SQL.
held.set_main_option("sqlalchemy.url", sys.argv[2].replace("%", "%%"))
command.upgrade(held, "heads", sql=True)
"""


def migrate(config: Config, database: URL) -> str:
    """Run the project's command on a scratch database, or render its Alembic revisions as SQL.

    Returns the SQL that is still to be carried out. Raises `CannotCheck` with the error that the
    process wrote if it fails.
    """
    scratch = config.scratch
    if scratch.command:
        _refuse_written(config)
        _run(config, database, scratch.command)
        return ""
    if not (Path(config.root) / str(scratch.alembic)).is_file():
        raise CannotCheck(f"{scratch.alembic} is not there; correct `scratch.alembic`.")
    # asyncpg's dialect is the one that does not double the percent signs of literals.
    url = dsn(database.set(drivername="postgresql+asyncpg", query={}))
    sql = _run(config, database, (sys.executable, "-c", RENDER, str(scratch.alembic), url))
    if "INSERT INTO" not in sql:
        raise CannotCheck(f"{scratch.alembic} leads to no revision.")
    return sql


def _refuse_written(config: Config) -> None:
    """Raise RO904 if a file of Alembic's names the live database: its env.py may go by that."""
    root = Path(config.root)
    named = [root / word for word in config.scratch.command if word.endswith(".ini")]
    live = [
        _server(driver_url(url, name))
        for name in (config.url_env, *config.url_envs)
        if (url := secret(name))
    ]
    for path in dict.fromkeys((*named, *sorted(root.glob("*.ini")))):
        held = configparser.RawConfigParser(strict=False)
        try:
            held.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in held.sections():
            url = held.get(section, "sqlalchemy.url", fallback="").replace("%%", "%")
            if _URL.match(url) and _server(driver_url(url, path.name)) in live:
                raise CannotCheck(
                    f"sqlalchemy.url of {path.name} names the live database, which"
                    f" `scratch.command` could migrate; let env.py read {config.url_env}.",
                    "RO904",
                )


def _server(url: URL) -> tuple[object, ...]:
    host = url.query.get("host") or url.host or "localhost"
    same = {"127.0.0.1": "localhost", "[::1]": "localhost", "::1": "localhost"}
    return same.get(str(host), host), str(url.query.get("port") or url.port or 5432), url.database


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
    parts = {
        "PGHOST": database.query.get("host") or database.host,
        "PGPORT": database.query.get("port") or database.port,
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
        reason = _reason(done.stderr.strip() or done.stdout.strip())
        name = config.scratch.alembic or " ".join(command)
        hint = "" if config.scratch.command else _HINT
        if "No module named 'psycopg" in reason:
            hint = " Set `scratch.driver` to the driver you have, as postgresql+psycopg."
        raise CannotCheck(f"The migrations of {name} failed: {reason}.{hint}")
    return done.stdout


def _reason(text: str) -> str:
    """Return the first line of the last traceback's error, else the last line, without its stop."""
    lines = [line for line in text.splitlines() if line.strip()] or ["it said nothing"]
    # SQLAlchemy's errors end with the statement and a link, which say nothing of what is wrong.
    starts = [number for number, line in enumerate(lines) if line == _TRACEBACK]
    error = [line for line in lines[starts[-1] + 1 :] if line[0] != " "] if starts else []
    return (error or lines[-1:])[0].strip().rstrip(".")
