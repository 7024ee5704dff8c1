from typing import Any
from uuid import UUID

from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, column, false, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Boolean, Integer, Text

import db_models as m
from app.database.reads import columns
from app.database.work import Write
from app.schemas import roles as s

TEXTS = ARRAY(Text)


def written(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.put_role; the last column says whether the role is new."""
    others = {"is_builtin": false()}
    fields = [
        column(c.name, c.type)
        for c in columns(s.Role, m.Role, others=others)
        if c is not others["is_builtin"]
    ]
    role = func.annex.put_role(
        workspace_id,
        bindparam("role_key", type_=Text),
        bindparam("name", type_=Text),
        bindparam("role_permissions", type_=TEXTS),
        bindparam("grantable", type_=TEXTS),
        bindparam("versions", type_=ARRAY(Integer)),
        bindparam("is_new", type_=Boolean),
    ).table_valued(*fields, name="written")
    shown = columns(s.Role, others={**role.c, **others})
    return select(*shown, (role.c.created_at == func.now()).label("is_made"))


def deleted(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.delete_role."""
    done = func.annex.delete_role(
        workspace_id,
        bindparam("role_key", type_=Text),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(done.label("deleted"))


async def put(
    write: Write, key: str, role: s.RolePut, versions: list[int] | None, is_new: bool | None
) -> tuple[s.Role, bool]:
    """Create a role or replace it; returns it, and whether it is new.

    `versions` are those that If-Match accepts; `is_new` says to create only, or to replace only.
    Raises what `annex.put_role` raises.
    """
    values = {
        "role_key": key,
        "name": role.name,
        "role_permissions": role.permissions,
        "grantable": [] if role.grantable is UNSET else role.grantable,
        "versions": versions,
        "is_new": is_new,
    }
    [row] = await write.call(written, values)
    return s.Role(*row[:-1]), row[-1]


async def delete(write: Write, key: str, versions: list[int] | None) -> None:
    """Delete a role that nobody holds; `versions` are those that If-Match accepts."""
    await write.call(deleted, {"role_key": key, "versions": versions})
