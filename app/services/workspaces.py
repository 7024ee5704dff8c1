from typing import Any
from uuid import UUID

from msgspec.structs import asdict
from sqlalchemy import (
    Column,
    ColumnElement,
    Function,
    Select,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, Integer, Text, Uuid

import db_models as m
from app.database.reads import columns
from app.documents import check_members, check_patch
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
    return select(*row_of(made, others))


def creation(new: s.WorkspaceCreate) -> dict[str, Any]:
    """Return the parameters of `created`; a taken slug raises `SlugTaken` when it is called.

    Raises `InvalidRequest` for metadata with a number that is out of range.
    """
    if new.metadata:
        check_members(new.metadata, "/metadata")
    return {name: value or None for name, value in asdict(new).items()}


def updated(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.update_workspace; its parameters are `change`."""
    changed = func.annex.update_workspace(
        workspace_id, bindparam("patch", type_=JSONB), bindparam("versions", type_=ARRAY(Integer))
    )
    held = rights(workspace_id)
    row = row_of(changed, {"role": held.c.role, "permissions": held.c.permissions})
    return select(*row).join(held, true())


def change(patch: s.WorkspacePatch, versions: list[int] | None) -> dict[str, Any]:
    """Return the parameters of `updated`; `versions` are those that If-Match accepts.

    Raises `InvalidRequest` for metadata that is too large, too deep or has a number out of range.
    """
    if patch.metadata:
        check_patch(patch.metadata)
    return {"patch": patch, "versions": versions}


def row_of(call: Function[Any], others: dict[str, Any]) -> list[ColumnElement[Any]]:
    """Read the row that a function returns as a workspace, with what it says of the caller."""
    fields = [c for c in columns(s.Workspace, m.Workspace, others=others) if isinstance(c, Column)]
    row = call.table_valued(*(column(c.name, c.type) for c in fields), name="row")
    return columns(s.Workspace, others={**row.c, **others})


def deleted(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.delete_workspace; `versions` are those that If-Match accepts."""
    versions = bindparam("versions", type_=ARRAY(Integer))
    return select(func.annex.delete_workspace(workspace_id, versions).label("deleted"))
