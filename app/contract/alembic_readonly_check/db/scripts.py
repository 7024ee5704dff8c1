"""Carry scripts out on a scratch database, each as a migration runs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pglast
from pglast import ast

from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.sources.migrations import read


@dataclass(slots=True)
class Session:
    """A connection that fills a database, beside the administrator's; `roles` is what it made."""

    connection: Any
    admin: Any
    roles: set[str]

    async def apply(self, name: str, text: str) -> None:
        """Run one script in one transaction, as a migration runs, and forget its settings.

        A statement that is alone in its file runs by itself, as CREATE INDEX CONCURRENTLY has to.
        """
        refuse_stdin(name, text)
        try:
            if _is_alone(text):
                await self.connection.execute(text)
            else:
                async with self.connection.transaction():
                    await self.connection.execute(f"{text}\n;RESET ALL")
                    await self.note_roles()
            await self.connection.execute("RESET ALL; DISCARD TEMP")
        except asyncpg.PostgresError as error:
            told = str(error).replace("\n;RESET ALL", "")
            raise CannotCheck(f"{name} cannot be applied: {told}.") from None

    async def note_roles(self) -> None:
        """Remember the roles that no other session sees yet, for they are this transaction's."""
        query = "SELECT rolname FROM pg_catalog.pg_roles"
        mine, all_ = [await one.fetch(query) for one in (self.connection, self.admin)]
        self.roles |= {row[0] for row in mine} - {row[0] for row in all_}


_SHARED = re.compile(
    r"\b(?:CREATE|ALTER|DROP|ON)\s+DATABASE\b|\bALTER\s+SYSTEM\b|\bIN\s+DATABASE\b", re.IGNORECASE
)


def touches_others(path: Path) -> bool:
    """Tell whether a script names a database or the whole server, and so reaches beyond its own."""
    return _SHARED.search(read(path)) is not None


def refuse_stdin(name: str, text: str) -> None:
    """Raise `CannotCheck` for COPY FROM STDIN: the server would wait for rows without end."""
    if re.search(r"\bcopy\b", text, re.IGNORECASE) is None:
        return
    try:
        held = [statement.stmt for statement in pglast.parse_sql(text)]
        waits = any(
            isinstance(one, ast.CopyStmt) and one.is_from and not one.filename for one in held
        )
    except pglast.parser.ParseError:
        # A newer server may read what this parser cannot.
        waits = re.search(r"\bcopy\b[^;]*\bfrom\s+stdin\b", text, re.IGNORECASE) is not None
    if waits:
        raise CannotCheck(f"{name} cannot be applied: COPY FROM STDIN has no rows to read.")


def _is_alone(text: str) -> bool:
    try:
        return len(pglast.split(text)) == 1 and "CONCURRENTLY" in text.upper()
    except pglast.parser.ParseError:
        return False
