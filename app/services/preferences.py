from typing import Any
from uuid import UUID

from msgspec import UNSET, Raw
from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    case,
    cast,
    column,
    false,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import DateTime, Integer, Text, Uuid

from app.database.reads import Read
from app.database.work import Write
from app.schemas import preferences as s

SHOWN = (
    column("workspace_id", Uuid),
    column("categories", JSONB),
    column("quiet_hours", JSONB),
    column("updated_at", DateTime(timezone=True)),
    column("version", Integer),
)
# Hangs on the claims, so that Postgres calls after they are set.
NAMED = case((literal_column("c.claims", Text).is_not(None), bindparam("named", type_=Text)))


def mine(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.find_preferences for the caller; `named` is a workspace's id or slug, or null."""
    return select(*func.annex.find_preferences(NAMED, false()).table_valued(*SHOWN, name="p").c)


def default(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.find_preferences for a workspace's default."""
    found = func.annex.find_preferences(cast(workspace_id, Text), true())
    return select(*found.table_valued(*SHOWN, name="p").c)


def patched_mine(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.patch_preferences for the caller."""
    return patched(NAMED, false())


def patched_default(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.patch_preferences for a workspace's default."""
    return patched(cast(workspace_id, Text), true())


def patched(ws: ColumnElement[Any], is_default: ColumnElement[bool]) -> Select[Any]:
    """Call annex.patch_preferences; `versions` are those that If-Match accepts."""
    found = func.annex.patch_preferences(
        ws,
        is_default,
        bindparam("categories", type_=JSONB),
        bindparam("quiet_hours", type_=JSONB),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(*found.table_valued(*SHOWN, name="p").c)


async def find_mine(read: Read, workspace: str | None) -> s.Preferences:
    """Return the caller's preferences, for one workspace or for all; raises `NotFound`."""
    _, [row] = await read.rows(mine, {"named": workspace})
    return s.Preferences(*row)


async def find_default(read: Read) -> s.Preferences:
    """Return the default of the path's workspace."""
    _, [row] = await read.rows(default, {})
    return s.Preferences(*row)


async def change_mine(
    write: Write, workspace: str | None, patch: s.PreferencesPatch, versions: list[int] | None
) -> s.Preferences:
    """Change the caller's preferences, for one workspace or for all; quiet hours as a whole.

    `versions` are those that If-Match accepts.
    """
    values = {"named": workspace, "versions": versions, **changes(patch)}
    [row] = await write.call(patched_mine, values)
    return s.Preferences(*row)


async def change_default(
    write: Write, patch: s.PreferencesPatch, versions: list[int] | None
) -> s.Preferences:
    """Change the default of the path's workspace; `versions` are those that If-Match accepts."""
    [row] = await write.call(patched_default, {"versions": versions, **changes(patch)})
    return s.Preferences(*row)


def changes(patch: s.PreferencesPatch) -> dict[str, Any]:
    """Tell what a patch leaves, an SQL null, from what it clears, a JSON one."""
    fields = {"categories": patch.categories, "quiet_hours": patch.quiet_hours}
    return {
        name: None if value is UNSET else Raw(b"null") if value is None else value
        for name, value in fields.items()
    }
