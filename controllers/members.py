from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch
from litestar.params import FromPath, JSONBody, QueryParameter

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.permissions import Permission
from app.schemas import members as s
from app.schemas.texts import ROLE_KEY
from app.services import members

Q = Annotated[str | None, QueryParameter(name="q", min_length=1, max_length=200)]
Role = Annotated[str | None, QueryParameter(name="role", pattern=ROLE_KEY)]
Status = Annotated[s.Status | None, QueryParameter(name="status")]


class MemberController(Controller):
    path = "/workspaces/{ws:str}/members"
    tags = ("members",)

    @get(operation_id="listMembers", opt=may(Permission.MEMBERS_READ))
    async def list_members(
        self,
        read: Reading,
        q: Q = None,
        role: Role = None,
        status: Status = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.MemberPage:
        """List a workspace's members, latest joined first."""
        order = [m.Member.joined_at, m.Member.user_id]
        wanted = members.Search(q, role, status)
        where = None if wanted == members.EVERYBODY else wanted
        return await read.page(m.Member.of, s.MemberPage, cursor, limit, order, where)

    @get("/{user_id:uuid}", operation_id="getMember", opt=may(Permission.MEMBERS_READ))
    async def get_member(
        self, read: Reading, user_id: FromPath[UUID], if_none_match: IfNoneMatch = None
    ) -> Response[s.Member]:
        """Show a member."""
        return tagged(await read.one(m.Member.of, s.Member, user_id=user_id), if_none_match)

    @patch(
        "/{user_id:uuid}",
        operation_id="updateMember",
        opt=may(Permission.MEMBERS_MANAGE, request_media_types=MERGE_PATCH),
    )
    async def update_member(
        self,
        write: Writing,
        user_id: FromPath[UUID],
        data: JSONBody[s.MemberPatch],
        if_match: IfMatch = None,
    ) -> Response[s.Member]:
        """Change a member's role, status or metadata."""
        return tagged(await members.change(write, user_id, data, expected_versions(if_match)))

    @delete(
        "/{user_id:uuid}",
        operation_id="removeMember",
        opt=may(Permission.MEMBERS_MANAGE, own_permission=Permission.WORKSPACE_READ),
    )
    async def remove_member(
        self, write: Writing, user_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Remove a member, or leave."""
        await members.remove(write, user_id, expected_versions(if_match))
