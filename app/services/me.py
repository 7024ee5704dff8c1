from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import UNSET
from msgspec.structs import asdict
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

import db_models as m
from app.database.paging import one, written
from app.errors import InvalidRequest
from app.http.preconditions import stale
from app.principals import Principal
from app.schemas import me as s
from app.schemas.problems import FieldError


async def visit(
    session: AsyncSession, principal: Principal, *, is_locked: bool = False
) -> s.Profile:
    """Return a user's profile.

    Writes it only at the first visit and when the token's email is another.
    """
    mine = select(m.Profile).where(m.Profile.id == func.annex.user_id())
    if is_locked:
        mine = mine.with_for_update()
    profile = await one(session, mine, s.Profile)
    if profile is not None and profile.email == principal.email:
        return profile
    upsert = (
        insert(m.Profile)
        .values({"user_id": func.annex.user_id(), "email": principal.email})
        .on_conflict_do_update(index_elements=["user_id"], set_={"email": principal.email})
    )
    return await written(session, upsert, s.Profile, m.Profile)


async def change(
    session: AsyncSession, principal: Principal, patch: s.ProfilePatch, versions: list[int] | None
) -> s.Profile:
    """Change the caller's profile (RFC 7396) under its row's lock.

    `versions` are those that If-Match accepts.
    """
    profile = await visit(session, principal, is_locked=True)
    if versions is not None and profile.version not in versions:
        raise stale()
    values = {k: v for k, v in asdict(patch).items() if v is not UNSET}
    if patch.time_zone:
        check_time_zone(patch.time_zone)
    if not values:
        return profile
    statement = update(m.Profile).where(m.Profile.id == profile.id).values(values)
    return await written(session, statement, s.Profile, m.Profile)


def check_time_zone(name: str) -> None:
    """Raise `InvalidRequest` for a name that the IANA database does not have."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidRequest(
            "The time zone is unknown; use an IANA name such as Europe/Berlin.",
            errors=[FieldError("/time_zone", "unknown")],
        ) from None
