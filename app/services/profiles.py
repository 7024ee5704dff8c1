from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import UNSET
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, Select, func, update
from sqlalchemy.dialects.postgresql import insert

import db_models as m
from app.database.reads import Read, columns
from app.database.work import Work, Write
from app.errors import InvalidRequest, NotFound
from app.http.preconditions import stale
from app.schemas import profiles as s
from app.schemas.problems import FieldError


def own(_: ColumnElement[UUID]) -> Select[Any]:
    """Select the caller's profile."""
    return m.Profile.own()


async def visit(read: Read, write: Write) -> s.Profile:
    """Return the caller's profile; writes it only when it is new or its email is another."""
    try:
        profile = await read.one(own, s.Profile)
    except NotFound:
        profile = None
    if profile is not None and profile.email == read.scope.principal.email:
        return profile
    async with write.work() as work:
        return await keep(work)


async def change(write: Write, patch: s.ProfilePatch, versions: list[int] | None) -> s.Profile:
    """Change the caller's profile (RFC 7396) under its row's lock.

    `versions` are those that If-Match accepts.
    """
    values = {k: v for k, v in asdict(patch).items() if v is not UNSET}
    if patch.time_zone:
        check_time_zone(patch.time_zone)
    async with write.work() as work:
        profile = await keep(work)
        if versions is not None and profile.version not in versions:
            raise stale()
        if not values:
            return profile
        statement = update(m.Profile).where(m.Profile.id == profile.id).values(values)
        changed = await work.one(statement.returning(*columns(s.Profile, m.Profile)), s.Profile)
    assert changed is not None
    return changed


async def keep(work: Work) -> s.Profile:
    """Write the caller's profile with the token's email, and lock its row."""
    email = work.scope.principal.email
    upsert = (
        insert(m.Profile)
        .values({"user_id": func.annex.user_id(), "email": email})
        .on_conflict_do_update(index_elements=["user_id"], set_={"email": email})
    )
    profile = await work.one(upsert.returning(*columns(s.Profile, m.Profile)), s.Profile)
    assert profile is not None
    return profile


def check_time_zone(name: str) -> None:
    """Raise `InvalidRequest` for a name that the IANA database does not have."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            "The time zone is unknown; use an IANA name such as Europe/Berlin.",
            errors=[FieldError("/time_zone", "unknown")],
        ) from None
