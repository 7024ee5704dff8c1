from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET
from sqlalchemy import ColumnElement, Select, bindparam, func, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import Integer, Text, Uuid

import db_models as m
from app.database.reads import returned
from app.database.work import Write
from app.documents import check_patch
from app.schemas import members as s

NOTHING = msgspec.Raw(b"null")
"""JSON's null, which clears; Python's None is SQL's, which leaves."""


class Search(msgspec.Struct, frozen=True):
    """Which members a list shows; what is None shows all."""

    q: str | None = None
    role: str | None = None
    status: str | None = None

    @property
    def shape(self) -> "SearchShape":
        """What the search's SQL depends on."""
        return SearchShape(self.q is not None, self.role is not None, self.status is not None)

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of its SQL."""
        return {"q_": self.q, "role_": self.role, "status_": self.status}


class SearchShape(msgspec.Struct, frozen=True):
    """Writes a search as SQL, the same for equal shapes."""

    has_q: bool
    has_role: bool
    has_status: bool

    def conditions(self, columns: Any) -> list[ColumnElement[bool]]:
        """Write the conditions on a member's columns; parameters are `Search.values`."""
        found: list[ColumnElement[bool]] = []
        if self.has_q:
            # Not LIKE, in which the text could hold a pattern.
            text = func.lower(bindparam("q_", type_=Text))
            found.append(
                or_(
                    func.strpos(func.lower(columns.email), text) > 0,
                    func.strpos(func.lower(columns.display_name), text) > 0,
                )
            )
        if self.has_role:
            found.append(columns.role == bindparam("role_", type_=Text))
        if self.has_status:
            found.append(columns.status == bindparam("status_", type_=Text))
        return found


EVERYBODY = Search()


def updated(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.update_member."""
    member = func.annex.update_member(
        workspace_id,
        bindparam("member_id", type_=Uuid),
        bindparam("role", type_=Text),
        bindparam("status", type_=Text),
        bindparam("metadata", type_=JSONB),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(returned(member, s.Member, m.Member, m.Profile))


def removed(workspace_id: ColumnElement[UUID]) -> Select[Any]:
    """Call annex.remove_member."""
    done = func.annex.remove_member(
        workspace_id,
        bindparam("member_id", type_=Uuid),
        bindparam("versions", type_=ARRAY(Integer)),
    )
    return select(done.label("removed"))


async def change(
    write: Write, user_id: UUID, patch: s.MemberPatch, versions: list[int] | None
) -> s.Member:
    """Change a member; `versions` are those that If-Match accepts.

    Raises what `annex.update_member` raises.
    """
    if patch.metadata:
        check_patch(patch.metadata)
    given = {k: v for k, v in msgspec.structs.asdict(patch).items() if v is not UNSET}
    if "metadata" in given and given["metadata"] is None:
        given["metadata"] = NOTHING
    values = {"role": None, "status": None, "metadata": None, **given}
    [row] = await write.call(updated, {"member_id": user_id, "versions": versions, **values})
    return s.Member(*row)


async def remove(write: Write, user_id: UUID, versions: list[int] | None) -> None:
    """Remove a member, or leave; `versions` are those that If-Match accepts."""
    await write.call(removed, {"member_id": user_id, "versions": versions})
