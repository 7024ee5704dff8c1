"""Which functions of the schema the tests have called, so that a run for a version leaves none out.

Postgres counts the calls (`track_functions`). It parses and plans a body of PL/pgSQL when it is
called, so that a function which nobody calls on a version may fail there.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

TRACKED = {"track_functions": "all"}
"""Settings of the server."""
# A body in SQL may be taken into the statement that calls it, and then counts no calls.
ALL = """
select p.oid::regprocedure::text from pg_proc p join pg_language l on l.oid = p.prolang
where p.pronamespace = 'annex'::regnamespace
  and (l.lanname = 'plpgsql' or p.prosecdef or p.proconfig is not null)
"""
CALLED = "select funcid::regprocedure::text from pg_stat_user_functions where schemaname = 'annex'"
# A session's counts are there when it has ended.
OTHERS = """
select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""
NAME = "called"


@dataclass
class Calls:
    """What the databases of one process have counted."""

    all: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    is_on: bool = False

    async def count(self, url: str) -> None:
        """Add what a database has counted, before it is dropped."""
        connection = await asyncpg.connect(url)
        try:
            for _ in range(100):
                if not await connection.fetchval(OTHERS):
                    break
                await asyncio.sleep(0.02)
            self.called.update(row[0] for row in await connection.fetch(CALLED))
            if not self.all:
                self.all.update(row[0] for row in await connection.fetch(ALL))
        finally:
            await connection.close()

    def add(self, said: dict[str, Any]) -> None:
        """Add what another process has counted."""
        self.all.update(said["all"])
        self.called.update(said["called"])

    def say(self) -> dict[str, Any]:
        """Tell another process."""
        return {"all": sorted(self.all), "called": sorted(self.called)}


CALLS = Calls()


def is_counting(config: pytest.Config) -> bool:
    """Say whether a run is one for a version."""
    return bool(config.option.markexpr == "postgres")


def is_whole(config: pytest.Config) -> bool:
    """Say whether nothing else narrows it."""
    by_paths = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    return is_counting(config) and not by_paths and not config.option.keyword
