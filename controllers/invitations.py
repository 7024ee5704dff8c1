from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, delete, get, post
from litestar.params import FromPath, JSONBody

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.idempotency import Idempotent
from app.http.preconditions import IfMatch, expected_versions
from app.permissions import Permission
from app.runtime import runtime_of
from app.schemas import invitations as s
from app.services import invitations


class InvitationController(Controller):
    path = "/workspaces/{ws:str}/invitations"
    tags = ("invitations",)

    @get(operation_id="listInvitations", opt=may(Permission.INVITATIONS_READ))
    async def list_invitations(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.InvitationPage:
        """List a workspace's invitations and requests to join, newest first."""
        order = [m.Invitation.workspace_id, m.Invitation.id]
        return await read.page(m.Invitation.of, s.InvitationPage, cursor, limit, order)

    @post(operation_id="createInvitations", opt=may(Permission.INVITATIONS_MANAGE))
    async def create_invitations(
        self,
        request: Request[Any, Any, Any],
        once: Idempotent,
        data: JSONBody[s.InvitationCreate],
    ) -> Response[s.IssuedInvitations]:
        """Invite addresses, or make a link that several users may follow."""
        issue = invitations.Issue.of(runtime_of(request).settings, len(data.emails or [""]))
        return await once.respond(
            invitations.created,
            issue.creation(data),
            issue.several,
            invitations.SECRETS,
        )

    @delete(
        "/{invitation_id:uuid}",
        operation_id="revokeInvitation",
        opt=may(Permission.INVITATIONS_MANAGE),
    )
    async def revoke_invitation(
        self, write: Writing, invitation_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Revoke an invitation, or refuse a request to join."""
        values = {"invitation_id": invitation_id, "versions": expected_versions(if_match)}
        await write.call(invitations.revoked, values)

    @post(
        "/{invitation_id:uuid}/resend",
        operation_id="resendInvitation",
        opt=may(Permission.INVITATIONS_MANAGE),
        status_code=200,
    )
    async def resend_invitation(
        self,
        request: Request[Any, Any, Any],
        once: Idempotent,
        invitation_id: FromPath[UUID],
    ) -> Response[s.IssuedInvitation]:
        """Send an open or expired invitation again, with a new token."""
        issue = invitations.Issue.of(runtime_of(request).settings, 1)
        return await once.respond(
            invitations.resent,
            issue.resending(invitation_id),
            issue.one,
            invitations.SECRETS,
        )

    @post(
        "/{invitation_id:uuid}/approve",
        operation_id="approveInvitation",
        opt=may(Permission.INVITATIONS_MANAGE),
        status_code=204,
    )
    async def approve_invitation(self, write: Writing, invitation_id: FromPath[UUID]) -> None:
        """Let a user in who asked to join."""
        await write.call(invitations.approved, {"invitation_id": invitation_id})


class RecipientController(Controller):
    tags = ("invitations",)

    @get("/me/invitations", operation_id="listMyInvitations", opt=may("user"))
    async def list_my_invitations(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.InvitationOfferPage:
        """List the open invitations to the calling user's confirmed address, newest first."""
        return await invitations.list_mine(read, cursor, limit)

    @post("/invitations/lookup", operation_id="lookUpInvitation", opt=may("user"), status_code=200)
    async def look_up_invitation(
        self, read: Reading, data: JSONBody[s.InvitationLookup]
    ) -> s.InvitationOffer:
        """Show what an invitation's token offers, and change nothing."""
        return await invitations.look_up(read, data.token)

    @post(
        "/invitations/respond", operation_id="respondToInvitation", opt=may("user"), status_code=200
    )
    async def respond_to_invitation(
        self, once: Idempotent, data: JSONBody[s.InvitationResponse]
    ) -> Response[s.Joining]:
        """Accept or decline an invitation, or join by a rule."""
        build, values = invitations.response(data)
        return await once.respond(build, values, invitations.joining)
