from litestar import Controller, get

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.permissions import Permission
from app.schemas import members as s


class MemberController(Controller):
    path = "/workspaces/{ws:str}/members"
    tags = ("members",)

    @get(operation_id="listMembers", opt=may(Permission.MEMBERS_READ))
    async def list_members(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.MemberPage:
        """List a workspace's members, latest joined first."""
        order = [m.Member.joined_at, m.Member.user_id]
        return await read.page(m.Member.of, s.MemberPage, cursor, limit, order)
