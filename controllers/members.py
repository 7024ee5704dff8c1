from litestar import Controller, get

import db_models as m
from app.auth.dependencies import InWorkspace, may
from app.database.paging import Cursor, Limit, page
from app.database.work import Session
from app.schemas import members as s


class MemberController(Controller):
    path = "/workspaces/{ws:str}/members"
    tags = ("members",)

    @get(operation_id="listMembers", opt=may("members:read"))
    async def list_members(
        self, session: Session, workspace: InWorkspace, cursor: Cursor = None, limit: Limit = 50
    ) -> s.MemberPage:
        """List a workspace's members, latest joined first."""
        order = [m.Member.joined_at, m.Member.user_id]
        visible = m.Member.visible_to(workspace.id)
        return await page(session, visible, s.MemberPage, cursor, limit, order)
