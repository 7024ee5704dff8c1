from typing import Any, cast
from uuid import UUID

from msgspec import UNSET, Raw
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, Select, bindparam, column, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, Integer, Text

import db_models as m
from app.database.reads import columns
from app.database.statements import out_of_sight
from app.database.work import Write
from app.documents import check_members, check_patch, merge
from app.errors import SecondFactorRequired
from app.http.preconditions import stale
from app.principals import Principal
from app.schemas import workspaces as s


def visible(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the caller's workspaces."""
    return m.Workspace.visible()


def created(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.create_workspace; its parameters are `creation`."""
    made = func.annex.create_workspace(
        bindparam("name", type_=Text),
        bindparam("slug", type_=Text),
        bindparam("external_id", type_=Text),
        bindparam("metadata", type_=JSONB),
        bindparam("require_aal2", type_=Boolean),
        bindparam("event_retention_days", type_=Integer),
    )
    fields = [column(c.name, c.type) for c in columns(s.Workspace, m.Workspace)]
    return select(made.table_valued(*fields, name="made"))


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
    returned = columns(s.Workspace, m.Workspace)
    async with write.work() as work:
        assert work.access is not None
        # The answer shows the workspace.
        work.access.require("workspace:read")
        mine = m.Workspace.visible().where(m.Workspace.id == work.access.workspace_id)
        locked = mine.with_only_columns(*returned).with_for_update()
        before = await work.one(locked, s.Workspace)
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
        statement = update(m.Workspace).where(m.Workspace.id == before.id).values(named)
        after = await work.one(statement.returning(*returned), s.Workspace)
    assert after is not None
    return after


def check_own_factor(principal: Principal, require_aal2: Any) -> None:
    """Refuse a demand for a second factor by a user without one: they would lock themselves out."""
    if require_aal2 is True and principal.kind == "user" and principal.aal != "aal2":
        raise SecondFactorRequired("Raise your own session to aal2 before you demand it of others.")
