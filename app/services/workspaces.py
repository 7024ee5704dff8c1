from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict
from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

import db_models as m
from app.database.paging import one, written
from app.errors import NotFound, SecondFactorRequired
from app.http.preconditions import stale
from app.principals import Principal
from app.schemas import workspaces as s


async def create(
    session: AsyncSession, principal: Principal, new: s.WorkspaceCreate
) -> s.Workspace:
    """Create a workspace owned by the calling user; a taken slug raises `SlugTaken`."""
    check_own_factor(principal, new.require_aal2)
    workspace_id = await session.scalar(
        select(
            func.annex.create_workspace(
                new.name,
                new.slug or None,
                new.external_id,
                literal(new.metadata or {}, JSONB),
                new.require_aal2 or False,
                new.event_retention_days,
            )
        )
    )
    assert workspace_id is not None
    return await show(session, workspace_id)


async def show(session: AsyncSession, workspace_id: UUID) -> s.Workspace:
    """Return a workspace; raises `NotFound` out of the caller's sight."""
    statement = m.Workspace.visible().where(m.Workspace.id == workspace_id)
    found = await one(session, statement, s.Workspace)
    if found is None:
        raise NotFound("There is no such workspace, or it is not yours to see.")
    return found


async def change(
    session: AsyncSession,
    principal: Principal,
    workspace_id: UUID,
    patch: s.WorkspacePatch,
    versions: list[int] | None,
) -> s.Workspace:
    """Change a workspace (RFC 7396) under its row's lock.

    `versions` are those that If-Match accepts.
    """
    check_own_factor(principal, patch.require_aal2)
    statement = m.Workspace.visible().where(m.Workspace.id == workspace_id).with_for_update()
    before = await one(session, statement, s.Workspace)
    if before is None:
        raise NotFound("There is no such workspace, or it is not yours to see.")
    if versions is not None and before.version not in versions:
        raise stale()
    values = {k: v for k, v in asdict(patch).items() if v is not UNSET}
    if "metadata" in values:
        values["metadata"] = merge(decoded(before.metadata), values["metadata"])
    if not values:
        return before
    # `metadata` is taken by SQLAlchemy, so the attribute is `metadata_`.
    named = {"metadata_" if k == "metadata" else k: v for k, v in values.items()}
    change = update(m.Workspace).where(m.Workspace.id == workspace_id).values(named)
    return await written(session, change, s.Workspace, m.Workspace)


async def delete(session: AsyncSession, workspace_id: UUID, versions: list[int] | None) -> None:
    """Soft-delete a workspace; `versions` are those that If-Match accepts."""
    expected = None
    if versions is not None:
        expected = (await show(session, workspace_id)).version
        if expected not in versions:
            raise stale()
    if not await session.scalar(select(func.annex.delete_workspace(workspace_id, expected))):
        raise stale()


def check_own_factor(principal: Principal, require_aal2: Any) -> None:
    """Refuse a demand for a second factor by a user without one: they would lock themselves out."""
    if require_aal2 is True and principal.kind == "user" and principal.aal != "aal2":
        raise SecondFactorRequired("Raise your own session to aal2 before you demand it of others.")


def decoded(value: Any) -> dict[str, Any]:
    """Decode what came from the database as undecoded JSON."""
    found: dict[str, Any] = msgspec.json.decode(value)
    return found


def merge(target: dict[str, Any], patch: dict[str, Any] | None) -> dict[str, Any]:
    """Apply a JSON merge patch (RFC 7396, section 2) to an object; None clears it."""
    if patch is None:
        return {}
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            inner = merged.get(name)
            merged[name] = merge(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[name] = value
    return merged
