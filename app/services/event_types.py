from typing import Any
from uuid import UUID

from msgspec import UNSET
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, Select, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Boolean, Integer, Text

import db_models as m
from app.database.reads import returned
from app.database.work import Write
from app.documents import check_members
from app.errors import InvalidSchema
from app.schemas import event_types as s
from app.schemas.problems import FieldError

MAX_SENT = 65_536


def listed(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the catalogue."""
    return m.EventType.catalogue()


def written(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.put_event_type; the last column says whether the type is new."""
    made = func.annex.put_event_type(
        bindparam("type_name", type_=Text),
        bindparam("description", type_=Text),
        bindparam("category", type_=Text),
        bindparam("is_critical", type_=Boolean),
        bindparam("title", type_=Text),
        bindparam("body", type_=Text),
        bindparam("link", type_=Text),
        bindparam("data_schema", type_=JSONB),
        bindparam("versions", type_=ARRAY(Integer)),
        bindparam("is_new", type_=Boolean),
    )
    row = returned(made, s.EventType, m.EventType).c
    return select(*row, (row.created_at == func.now()).label("is_made"))


async def put(
    write: Write, name: str, new: s.EventTypePut, versions: list[int] | None, is_new: bool | None
) -> tuple[s.EventType, bool]:
    """Create an event type or replace it; returns it, and whether it is new.

    `versions` are those that If-Match accepts; `is_new` says to create only, or to replace only.
    Raises `InvalidSchema`, and what else `annex.put_event_type` raises.
    """
    if new.data_schema:
        # Spaces and all; Postgres then counts what is left of 16 KiB.
        if sum(len(name) + len(bytes(value)) for name, value in new.data_schema.items()) > MAX_SENT:
            raise InvalidSchema(
                "The schema is none that Annex can check; `errors` says where.",
                errors=[FieldError("/data_schema", "is larger than 16 KiB")],
            )
        check_members(new.data_schema, "/data_schema")
    values = {field: None if value is UNSET else value for field, value in asdict(new).items()}
    given = {**values, "type_name": name, "versions": versions, "is_new": is_new}
    [row] = await write.call(written, given)
    return s.EventType(*row[:-1]), row[-1]
