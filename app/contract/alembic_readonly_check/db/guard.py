"""The only door to a database that is checked: read only, proved, and always rolled back.

One `REPEATABLE READ READ ONLY` transaction; its state is asserted before anything is read. Every
statement passes an allow-list on its way to the driver: the frozen queries of this package to
the letter, and `EXPLAIN` of exactly one expression, which Postgres' own parser has to agree is one.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, CursorResult, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic_readonly_check.compare.sides import Forbidden
from alembic_readonly_check.db.allowed import (
    BACK,
    EXPLAIN,
    FROZEN,
    SAVEPOINT,
    is_reflection,
    is_template,
)
from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.sql.expressions import Scope as Names
from alembic_readonly_check.sql.expressions import columns_of, parse_expression
from alembic_readonly_check.sql.parsing import Unparsable, quoted

T = TypeVar("T")


@dataclass(slots=True)
class Reader:
    """A guarded connection: the frozen queries by name, and the plan of one expression.

    `queries` counts the frozen ones that were sent; plans are remembered and counted by `plans`.
    """

    connection: Connection
    schemas: tuple[str, ...]
    role: str = ""
    queries: int = 0
    plans: dict[str, str | None] = field(default_factory=dict)

    def ask(self, name: str, **parameters: str) -> str:
        """Send a frozen query and return its one text."""
        self.queries += 1
        query = FROZEN[name]
        held = {"schemas": ",".join(self.schemas)} if ":schemas" in query else {}
        answer = self.connection.execute(text(query), held | parameters).scalar_one()
        return str(answer)

    def plan(self, expression: str, names: Names, type_: str | None = None) -> str | None:
        """Let the server write an expression out as it understands it; None if it will not.

        Nothing is executed: the planner reads the expression over a row of typed nulls.
        """
        try:
            named = columns_of(parse_expression(expression))
        except Unparsable:
            return None
        # A role that may not use the type of one column can still compare what names others.
        row = ", ".join(
            f"NULL::{held} AS {quoted(name)}"
            for name, held in names.types
            if name in named or names.table.rpartition(".")[2] in named
        )
        alias = names.table.rpartition(".")[2] or "t"
        value = f"({expression}\n)::{type_}" if type_ else f"({expression}\n)"
        statement = f"{EXPLAIN}{value} FROM (SELECT {row or 'NULL'} OFFSET 0) {quoted(alias)}"
        if statement not in self.plans:
            self.plans[statement] = self._explain(statement)
        return self.plans[statement]

    def _explain(self, statement: str) -> str | None:
        if not self.plans:
            self._send(SAVEPOINT)
        try:
            answer = self._send(statement).scalar_one()
        except DBAPIError as error:
            self._send(BACK)
            if "42501" in (getattr(error.orig, name, None) for name in ("sqlstate", "pgcode")):
                raise Forbidden(_reason(error)) from None
            return None
        plan = json.loads(answer) if isinstance(answer, str) else answer
        return re.sub(r"CURRENT_TIMESTAMP|transaction_timestamp\(\)", "now()", _told(plan))

    def _send(self, statement: str) -> CursorResult[Any]:
        return self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _told(plan: Any) -> str:
    """Give the one expression that is computed over the row of nulls, which is SQL, else it all."""
    top = plan[0]["Plan"]
    children = {child.get("Parent Relationship") for child in top.get("Plans", ())}
    if children <= {"Subquery"} and len(top.get("Output", ())) == 1:
        return str(top["Output"][0])
    return str(_outputs(plan))


def _outputs(plan: Any) -> Any:
    """Keep of a plan what says what is computed: outputs, filters, functions, relations."""
    if isinstance(plan, list):
        return [_outputs(item) for item in plan]
    if isinstance(plan, dict):
        return {key: _outputs(value) for key, value in plan.items() if key != "Alias"}
    return plan


READ_ONLY = {"postgresql_readonly": True}

PARAMETERS = frozenset(
    """application_name gsslib host krbsrvname options passfile port service sslcert sslcrl sslkey
    sslmode sslnegotiation sslpassword sslrootcert target_session_attrs""".split()
)
"""What of a URL's query the driver understands; the rest is meant for other programs."""


def driver_url(value: str, name: str) -> URL:
    """Read a URL for any driver, and leave out what only that driver or an ORM understands.

    Raises `CannotCheck`, which never shows the value.
    """
    try:
        url = make_url(value.strip())
    except (ArgumentError, ValueError):
        raise CannotCheck(f"{name} does not hold the URL of a Postgres database.") from None
    if url.get_backend_name() not in ("postgres", "postgresql"):
        raise CannotCheck(
            f"{name} holds the URL of another kind of database; only Postgres is read."
        )
    query = {key: value for key, value in url.query.items() if key in PARAMETERS}
    if "ssl" in url.query:
        query.setdefault("sslmode", url.query["ssl"])
    return url.set(drivername="postgresql", query=query)


def dsn(url: URL) -> str:
    """Write a URL out for the driver, password and all."""
    return url.render_as_string(hide_password=False)


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread of its own: a live check is open while it builds."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def run(
    url: URL,
    name: str,
    schemas: tuple[str, ...],
    work: Callable[[Reader], T],
    timeout: float = 30,
    reflecting: bool = False,
) -> T:
    """Do work in the guarded transaction and roll it back; `timeout` is in seconds a statement.

    With `reflecting`, for scratch databases, SELECTs on pg_catalog pass that are not frozen.

    Raises `CannotCheck` where the server cannot be reached, is not read only (RO902), or a
    statement is not on the allow-list (RO903).
    """
    try:
        return finish(_run_async(url, schemas, work, timeout, reflecting))
    except CannotCheck:
        raise
    except (
        SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        ValueError,
    ) as error:
        raise CannotCheck(f"The database of {name} cannot be read: {_reason(error)}.") from None


async def _run_async(
    url: URL,
    schemas: tuple[str, ...],
    work: Callable[[Reader], T],
    seconds: float,
    reflecting: bool,
) -> T:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        # Unnamed statements pass a transaction pooler, which keeps no prepared ones.
        async_creator=partial(asyncpg.connect, dsn(url), timeout=seconds, statement_cache_size=0),
        connect_args={"prepared_statement_cache_size": 0, "prepared_statement_name_func": str},
        isolation_level="REPEATABLE READ",
        execution_options=READ_ONLY,
    )
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_guarded, schemas, work, seconds, reflecting)
    finally:
        await engine.dispose()


def _guarded(
    connection: Connection,
    schemas: tuple[str, ...],
    work: Callable[[Reader], T],
    timeout: float,
    reflecting: bool,
) -> T:
    allowed = {str(text(query).compile(dialect=connection.dialect)) for query in FROZEN.values()}

    def allow(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not (
            statement in allowed
            or is_template(statement)
            or (reflecting and is_reflection(statement))
        ):
            words = " ".join(statement.split())
            raise CannotCheck(
                f"A statement that is not on the allow-list was stopped: {words[:120]}", "RO903"
            )

    event.listen(connection, "before_cursor_execute", allow)
    transaction = connection.begin()
    try:
        reader = Reader(connection, schemas)
        state = json.loads(reader.ask("state"))
        if (state["read_only"], state["isolation"]) != ("on", "repeatable read"):
            raise CannotCheck(
                "The server opened no REPEATABLE READ READ ONLY transaction, so nothing was read.",
                "RO902",
            )
        reader.role = state["role"]
        reader.ask("settings", timeout=str(int(timeout * 1000)))
        return work(reader)
    finally:
        transaction.rollback()


def _reason(error: BaseException) -> str:
    """Say a driver's error in one line; no driver puts the password or the URL there."""
    original = getattr(error, "orig", None) or error
    words = " ".join(str(original).split()) or type(original).__name__
    return re.sub(r"^<class '.*?'>: ", "", words).rstrip(".")
