from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.params import FromPath, JSONBody

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.idempotency import Idempotent
from app.permissions import Permission
from app.schemas import join_rules as s
from app.services import join_rules


class JoinRuleController(Controller):
    tags = ("join-rules",)

    @get(
        "/workspaces/{ws:str}/join-rules",
        operation_id="listJoinRules",
        opt=may(Permission.INVITATIONS_READ),
    )
    async def list_join_rules(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.JoinRulePage:
        """List the rules by which users join a workspace without an invitation, newest first."""
        order = [m.JoinRule.workspace_id, m.JoinRule.id]
        return await read.page(m.JoinRule.of, s.JoinRulePage, cursor, limit, order)

    @post(
        "/workspaces/{ws:str}/join-rules",
        operation_id="createJoinRule",
        opt=may(Permission.INVITATIONS_MANAGE),
    )
    async def create_join_rule(
        self, once: Idempotent, data: JSONBody[s.JoinRuleCreate]
    ) -> Response[s.JoinRule]:
        """Let users of a domain or of an SSO provider join."""
        values = join_rules.creation(data)
        return await once.respond(join_rules.created, values, join_rules.answer)

    @delete(
        "/workspaces/{ws:str}/join-rules/{join_rule_id:uuid}",
        operation_id="deleteJoinRule",
        opt=may(Permission.INVITATIONS_MANAGE),
    )
    async def delete_join_rule(self, write: Writing, join_rule_id: FromPath[UUID]) -> None:
        """Delete a joining rule; members stay."""
        await write.call(join_rules.deleted, {"join_rule_id": join_rule_id})

    @get("/me/join-rules", operation_id="listMyJoinRules", opt=may("user"))
    async def list_my_join_rules(self, read: Reading) -> s.JoinOfferPage:
        """List the rules by which the calling user may join a workspace now."""
        return await join_rules.list_mine(read)
