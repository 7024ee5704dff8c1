"""Statements that SQLAlchemy composes and compiles once, and asyncpg runs.

Every statement of a request begins with its caller: the claims are set, what the caller may do in
the path's workspace hangs on them, and the page, row or call hangs on that. So permission and data
come from one snapshot in one round trip, and row level security sees the claims: were it ever asked
before, the claims would be empty and so would the answer. A function that requires the permission
itself needs no look-up before it, if the path says the workspace's id.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import (
    CTE,
    ColumnElement,
    Insert,
    Select,
    Update,
    any_,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.types import Boolean, Text, Uuid

from app.database.drivers import Driver
from app.database.pools import Pool
from app.errors import Forbidden, NotFound, SecondFactorRequired
from app.permissions import Permission
from app.principals import Principal

AnySelect: TypeAlias = Select[*tuple[Any, ...]]
Build = Callable[[ColumnElement[UUID]], AnySelect]
"""Makes a statement of the path's workspace; without one, the id is null."""
BuildT = TypeVar("BuildT", bound=Build)

# As annex.access reads it. A slug is never shaped like an id.
ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
CHECKED = set[Build]()
"""Calls of functions that themselves require the operation's permission."""


def checked(build: BuildT) -> BuildT:
    """Mark a call of a function that itself requires the operation's permission.

    If the path names the workspace by its id, rights are looked up by the function alone.
    """
    CHECKED.add(build)
    return build


class Compiled:
    """A statement's text and the order of its parameters."""

    def __init__(self, statement: AnySelect | Insert | Update) -> None:
        result = statement.compile(dialect=dialect())  # type: ignore[no-untyped-call]
        assert isinstance(result, PGCompiler)
        assert result.positiontup is not None
        self.sql, self.names = str(result), list(result.positiontup)
        self.constants: dict[str, Any] = result.params

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """Put values in the order of the parameters."""
        return [values[n] if n in values else self.constants[n] for n in self.names]


HELD = literal_column("a.permissions", ARRAY(Text))
"""What the caller holds in the path's workspace, for a statement that needs all of it."""


def one_spelling(ws: str) -> str:
    """Return the one name that a workspace has by its id or slug.

    An id is taken in any case, and would otherwise have thousands of names.
    """
    return ws.lower()


class Scope(msgspec.Struct, frozen=True):
    """Who asks, where, and by which permission."""

    principal: Principal
    ws: str | None = None
    """The workspace as the path names it: id or slug."""
    permission: str = Permission.WORKSPACE_READ

    @property
    def group(self) -> str | None:
        """What it is about, for turns: the path's workspace, whose two names are two groups."""
        return self.ws and one_spelling(self.ws)

    @property
    def named_id(self) -> UUID | None:
        """The workspace's id, if that is what the path names it by."""
        return UUID(self.ws) if self.ws is not None and ID.fullmatch(self.ws) else None

    @property
    def values(self) -> dict[str, Any]:
        """The parameters that stand before every statement's own."""
        return {
            "claims": self.principal.claims_json,
            "ws": self.ws,
            "permission": self.permission,
        }

    def within(self, ws: str, permission: str) -> "Scope":
        """Return the scope of a workspace that a query or a body names, by a permission there."""
        return Scope(self.principal, ws, permission)

    def access(self, rows: Sequence[Sequence[Any]]) -> UUID:
        """Read access from a statement's first row; returns the workspace's id.

        Raises `NotFound` where the workspace is out of sight, `SecondFactorRequired`, `Forbidden`.
        """
        if not rows:
            raise out_of_sight()
        row = rows[0]
        if row[1]:
            found: UUID = row[0]
            return found
        if row[2]:
            raise SecondFactorRequired(
                "This workspace asks for a second factor; raise the session to aal2."
            )
        raise Forbidden(f"The caller lacks the permission {self.permission} in this workspace.")


def out_of_sight() -> NotFound:
    """Say that a workspace does not exist for the caller."""
    return NotFound("There is no such workspace, or it is not yours to see.")


def claimed() -> CTE:
    """Set the claims, for this statement's transaction."""
    claims = func.set_config(
        literal_column("'request.jwt.claims'"), bindparam("claims", type_=Text), true()
    )
    return materialized(select(claims.label("claims")), "c")


def accessed(claims: CTE) -> CTE:
    """Look up what the caller may do in the workspace; its argument hangs on the claims."""
    named = case((claims.c.claims.is_not(None), bindparam("ws", type_=Text)))
    access = func.annex.access(named).table_valued(
        column("workspace_id", Uuid),
        column("permissions", ARRAY(Text)),
        column("needs_aal2", Boolean),
        name="x",
    )
    # Granted or not, once: a page's rows need not carry what the caller holds.
    is_granted = bindparam("permission", type_=Text) == any_(access.c.permissions)
    held = select(access, is_granted.label("is_granted"))
    return materialized(held.select_from(claims.join(access, true())), "a")


def materialized(statement: Select[Any], name: str) -> CTE:
    """Name a part of a statement that Postgres must run once, as it stands."""
    return statement.cte(name).prefix_with("MATERIALIZED", dialect="postgresql")


def in_workspace(build: Build) -> Select[Any]:
    """Compose claims, access and a statement of the workspace.

    The first columns are access; then one that is null where the statement gave no row, and its
    own. No row at all means that the workspace is out of sight.
    """
    access = accessed(claimed())
    # By name and not by column: SQLAlchemy would join `a` again in every subquery of the builder's.
    inner = build(literal_column("a.workspace_id", Uuid)).where(
        literal_column("a.is_granted", Boolean)
    )
    found = inner.add_columns(true().label("is_there")).lateral("p")
    return select(
        access.c.workspace_id,
        access.c.is_granted,
        access.c.needs_aal2,
        found.c.is_there,
        *own(found),
    ).select_from(access.outerjoin(found, true()))


def without_workspace(build: Build) -> Select[Any]:
    """Compose claims and a statement."""
    claims = claimed()
    inner = build(literal_column("null::uuid", Uuid)).where(
        literal_column("c.claims", Text).is_not(None)
    )
    found = inner.lateral("p")
    return select(*own(found)).select_from(claims.join(found, true()))


def by_id(build: Build) -> Select[Any]:
    """Compose claims and a call in the workspace of an id; the called function looks access up.

    Its argument hangs on the claims.
    """
    claims = claimed()
    is_claimed = literal_column("c.claims", Text).is_not(None)
    found = build(case((is_claimed, bindparam("named_id", type_=Uuid)))).lateral("p")
    return select(*found.c).select_from(claims.join(found, true()))


def own(found: Any) -> list[ColumnElement[Any]]:
    """List a statement's columns without the one that says that there is a row."""
    return [c for c in found.c if c.key != "is_there"]


@cache
def compiled(build: Build, *, has_workspace: bool) -> Compiled:
    """Compose and compile a statement once; `build` is hashable, such as a module's function."""
    return Compiled(in_workspace(build) if has_workspace else without_workspace(build))


@cache
def compiled_by_id(build: Build) -> Compiled:
    """Do what `compiled` does, for a call that is `checked`."""
    return Compiled(by_id(build))


@cache
def access_alone() -> Compiled:
    """Look up access, and nothing else."""
    access = accessed(claimed())
    return Compiled(select(access.c.workspace_id, access.c.is_granted, access.c.needs_aal2))


async def run(
    pool: Pool, scope: Scope, build: Build, values: dict[str, Any]
) -> tuple[UUID | None, list[Sequence[Any]]]:
    """Do what `run_on` does, on a connection that is lent for this statement alone."""
    async with pool.lend(scope.principal.turn, scope.group) as driver:
        return await run_on(driver, scope, build, values)


async def run_on(
    driver: Driver, scope: Scope, build: Build, values: dict[str, Any]
) -> tuple[UUID | None, list[Sequence[Any]]]:
    """Run a statement as its caller; returns the id of the path's workspace, and the rows.

    Raises what `Scope.access` raises: also within a transaction that has looked access up, because
    each statement sees what was committed before it. A call that is `checked` raises the same as
    an error of the database.
    """
    if build in CHECKED and (named_id := scope.named_id) is not None:
        statement = compiled_by_id(build)
        given = scope.values | values | {"named_id": named_id}
        return named_id, list(await driver.fetch(statement.sql, *statement.arguments(given)))
    statement = compiled(build, has_workspace=scope.ws is not None)
    found = await driver.fetch(statement.sql, *statement.arguments(scope.values | values))
    if scope.ws is None:
        return None, list(found)
    return scope.access(found), [row[4:] for row in found if row[3]]


async def access_on(driver: Driver, scope: Scope) -> UUID:
    """Look up access to the path's workspace; returns its id, raises what `Scope.access` raises."""
    statement = access_alone()
    return scope.access(await driver.fetch(statement.sql, *statement.arguments(scope.values)))
