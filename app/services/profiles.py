from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import ColumnElement, Select, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Integer

import db_models as m
from app.database.reads import Read, returned
from app.database.work import Write
from app.errors import InvalidRequest, NotFound
from app.schemas import profiles as s
from app.schemas.problems import FieldError


def own(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the caller's profile."""
    return m.Profile.own()


async def visit(write: Write) -> s.Profile:
    """Return the caller's profile; writes it only when it is new or its email is another."""
    try:
        profile = await Read(write.pool, write.scope).one(own, s.Profile)
    except NotFound:
        profile = None
    if profile is not None and profile.email == write.scope.principal.email:
        return profile
    [row] = await write.call(updated, change(s.ProfilePatch(), None))
    return s.Profile(*row)


def updated(_: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.update_profile; its parameters are `change`."""
    profile = func.annex.update_profile(
        bindparam("patch", type_=JSONB), bindparam("versions", type_=ARRAY(Integer))
    )
    return select(returned(profile, s.Profile, m.Profile))


def change(patch: s.ProfilePatch, versions: list[int] | None) -> dict[str, Any]:
    """Return the parameters of `updated`; `versions` are those that If-Match accepts.

    Raises `InvalidRequest` for a time zone that the IANA database does not have.
    """
    if patch.time_zone:
        check_time_zone(patch.time_zone)
    return {"patch": patch, "versions": versions}


def check_time_zone(name: str) -> None:
    """Raise `InvalidRequest` for a name that the IANA database does not have."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            "The time zone is unknown; use an IANA name such as Europe/Berlin.",
            errors=[FieldError("/time_zone", "unknown")],
        ) from None
