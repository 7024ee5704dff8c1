"""What `annex doctor` checks: a check is a name and a function that finds one thing wrong, or None.

Every check is read-only, and says in words what is wrong and what cures it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import asyncpg
import httpx
import msgspec

from app.settings import Settings


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong, and its cure; each a sentence."""

    level: Literal["error", "warning", "advice"]
    """An error keeps Annex from working or from being safe, a warning will; advice may be meant."""
    wrong: str
    cure: str
    sql: tuple[str, ...] = ()
    """The statements of the cure, if SQL alone is one."""


class Site(msgspec.Struct, frozen=True):
    """The deployment that is looked at."""

    settings: Settings
    http: httpx.AsyncClient
    opened: tuple["asyncpg.Connection[Any]", ...]
    """Both connections; none where one could not be made, and no check of the database is."""

    @property
    def api(self) -> "asyncpg.Connection[Any]":
        """The connection as ANNEX_DATABASE_URL says."""
        return self.opened[0]

    @property
    def worker(self) -> "asyncpg.Connection[Any]":
        """The connection as ANNEX_WORKER_DATABASE_URL says."""
        return self.opened[1]


class Check(msgspec.Struct, frozen=True):
    """One thing to look at."""

    name: str
    find: Callable[[Site], Awaitable[Finding | None]]
    needs: tuple[str, ...] = ()
    """Checks before this one; if one of them finds something, this one would say nothing useful."""


def error(wrong: str, cure: str, *sql: str) -> Finding:
    """Make a finding that keeps Annex from working or from being safe."""
    return Finding("error", wrong, cure, sql)


def warning(wrong: str, cure: str, *sql: str) -> Finding:
    """Make a finding that will do harm."""
    return Finding("warning", wrong, cure, sql)


def advice(wrong: str, cure: str, *sql: str) -> Finding:
    """Make a finding that may be meant."""
    return Finding("advice", wrong, cure, sql)
