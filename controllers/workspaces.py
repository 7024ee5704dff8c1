from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.params import JSONBody

import db_models as m
from app.auth.dependencies import Caller, InWorkspace, may
from app.database.paging import Cursor, Limit, page
from app.database.work import Session
from app.errors import Forbidden
from app.http.idempotency import IdempotencyKey, once
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.schemas import workspaces as s
from app.services import workspaces


class WorkspaceController(Controller):
    path = "/workspaces"
    tags = ("workspaces",)

    @get(operation_id="listWorkspaces", opt=may("any"))
    async def list_workspaces(
        self, session: Session, cursor: Cursor = None, limit: Limit = 50
    ) -> s.WorkspacePage:
        """List the caller's workspaces, newest first."""
        statement = m.Workspace.visible()
        return await page(session, statement, s.WorkspacePage, cursor, limit, [m.Workspace.id])

    @post(operation_id="createWorkspace", opt=may("user"))
    async def create_workspace(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        principal: Caller,
        data: JSONBody[s.WorkspaceCreate],
        idempotency_key: IdempotencyKey = None,
    ) -> Response[s.Workspace]:
        """Create a workspace and become its owner."""

        async def answer() -> Response[s.Workspace]:
            created = await workspaces.create(session, principal, data)
            location = {"Location": f"{request.scope['path']}/{created.id}"}
            return tagged(created, status_code=201, headers=location)

        return await once(request, session, principal, idempotency_key, answer)

    @get("/{ws:str}", operation_id="getWorkspace", opt=may("workspace:read"))
    async def get_workspace(
        self, session: Session, workspace: InWorkspace, if_none_match: IfNoneMatch = None
    ) -> Response[s.Workspace]:
        """Show a workspace."""
        return tagged(await workspaces.show(session, workspace.id), if_none_match)

    @patch(
        "/{ws:str}",
        operation_id="updateWorkspace",
        opt=may("workspace:update", request_media_types=MERGE_PATCH),
    )
    async def update_workspace(
        self,
        session: Session,
        principal: Caller,
        workspace: InWorkspace,
        data: JSONBody[s.WorkspacePatch],
        if_match: IfMatch = None,
    ) -> Response[s.Workspace]:
        """Change a workspace."""
        if "workspace:read" not in workspace.permissions:
            raise Forbidden("The answer shows the workspace; that needs workspace:read as well.")
        versions = expected_versions(if_match)
        return tagged(await workspaces.change(session, principal, workspace.id, data, versions))

    @delete("/{ws:str}", operation_id="deleteWorkspace", opt=may("workspace:delete"))
    async def delete_workspace(
        self, session: Session, workspace: InWorkspace, if_match: IfMatch = None
    ) -> None:
        """Delete a workspace for everybody."""
        await workspaces.delete(session, workspace.id, expected_versions(if_match))
