from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import asdict
from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, Integer, Text, Uuid

import db_models as m
from app.database.reads import columns, selected
from app.database.statements import access_on, out_of_sight
from app.database.work import Write
from app.documents import check_members, check_patch, merge
from app.errors import SecondFactorRequired
from app.http.preconditions import stale
from app.principals import Principal
from app.schemas import workspaces as s


def own(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the caller's workspaces, with what the caller holds in each."""
    # Hangs on the claims, so that Postgres asks after they are set.
    everywhere = literal_column("case when c.claims is null then null::uuid end", Uuid)
    held = rights(everywhere)
    statement = m.Workspace.visible().join(held, held.c.workspace_id == m.Workspace.id)
    return statement.add_columns(held.c.role, held.c.permissions)


def all_of_them(_: ColumnElement[UUID]) -> Select[Any]:
    """Select every workspace, for an operator, who holds everything in each."""
    permissions = func.annex.permissions().label("permissions")
    return m.Workspace.visible().add_columns(null().cast(Text).label("role"), permissions)


def one(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Select one workspace, with what the caller holds in it."""
    held = rights(workspace_id)
    statement = m.Workspace.of(workspace_id).join(held, true())
    return statement.add_columns(held.c.role, held.c.permissions)


def rights(only_id: ColumnElement[UUID]) -> Any:
    """Ask what the caller holds in one workspace, or without an id in each."""
    return func.annex.held(only_id).table_valued(
        column("workspace_id", Uuid),
        column("role", Text),
        column("permissions", ARRAY(Text)),
        name="h",
    )


def created(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.create_workspace; its parameters are `creation`."""
    made = func.annex.create_workspace(
        bindparam("name", type_=Text),
        bindparam("slug", type_=Text),
        bindparam("external_id", type_=Text),
        bindparam("metadata", type_=JSONB),
        bindparam("require_aal2", type_=Boolean),
        bindparam("event_retention_days", type_=Integer),
        bindparam("allowed_email_domains", type_=ARRAY(Text)),
    )
    # Its creator is its owner.
    others = {"role": literal("owner", Text), "permissions": func.annex.permissions()}
    fields = [c for c in columns(s.Workspace, m.Workspace, others=others) if isinstance(c, Column)]
    row = made.table_valued(*(column(c.name, c.type) for c in fields), name="made")
    return select(*columns(s.Workspace, others={**row.c, **others}))


def creation(new: s.WorkspaceCreate) -> dict[str, Any]:
    """Return the parameters of `created`; a taken slug raises `SlugTaken` when it is called.

    Raises `InvalidRequest` for metadata with a number that is out of range.
    """
    if new.metadata:
        check_members(new.metadata, "/metadata")
    return {name: value or None for name, value in asdict(new).items()}


def deleted(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.delete_workspace; `versions` are those that If-Match accepts."""
    versions = bindparam("versions", type_=ARRAY(Integer))
    return select(func.annex.delete_workspace(workspace_id, versions).label("deleted"))


async def change(write: Write, patch: s.WorkspacePatch, versions: list[int] | None) -> s.Workspace:
    """Change a workspace (RFC 7396) under its row's lock.

    `versions` are those that If-Match accepts.
    """
    check_own_factor(write.scope.principal, patch.require_aal2)
    if patch.metadata:
        check_patch(patch.metadata)
    values = {k: v for k, v in asdict(patch).items() if v is not UNSET}
    async with write.work() as work:
        # The answer shows the workspace.
        seen = msgspec.structs.replace(work.scope, permission="workspace:read")
        mine = selected(s.Workspace, one(literal(await access_on(work.driver, seen), Uuid)))
        before = await work.one(mine.with_for_update(of=m.Workspace), s.Workspace)
        if before is None:
            raise out_of_sight()
        if versions is not None and before.version not in versions:
            raise stale()
        if "metadata" in values:
            values["metadata"] = merge(cast(Raw, before.metadata), values["metadata"])
        if not values:
            return before
        # `metadata` is taken by SQLAlchemy, so the attribute is `metadata_`.
        named = {"metadata_" if k == "metadata" else k: v for k, v in values.items()}
        await work.rows(update(m.Workspace).where(m.Workspace.id == before.id).values(named))
        after = await work.one(mine, s.Workspace)
    assert after is not None
    return after


def check_own_factor(principal: Principal, require_aal2: Any) -> None:
    """Refuse a demand for a second factor by a user without one: they would lock themselves out."""
    if require_aal2 is True and principal.kind == "user" and principal.aal != "aal2":
        raise SecondFactorRequired("Raise your own session to aal2 before you demand it of others.")
