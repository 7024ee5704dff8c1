from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.params import JSONBody

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.idempotency import Idempotent
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.permissions import Permission
from app.schemas import workspaces as s
from app.services import workspaces


class WorkspaceController(Controller):
    path = "/workspaces"
    tags = ("workspaces",)

    @get(operation_id="listWorkspaces", opt=may("any"))
    async def list_workspaces(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.WorkspacePage:
        """List the caller's workspaces, newest first."""
        is_operator = read.scope.principal.kind == "operator"
        of = workspaces.all_of_them if is_operator else workspaces.own
        return await read.page(of, s.WorkspacePage, cursor, limit, [m.Workspace.id])

    @post(operation_id="createWorkspace", opt=may("user"))
    async def create_workspace(
        self, request: Request[Any, Any, Any], once: Idempotent, data: JSONBody[s.WorkspaceCreate]
    ) -> Response[s.Workspace]:
        """Create a workspace and become its owner."""

        def answer(rows: Sequence[Any]) -> Response[s.Workspace]:
            made = s.Workspace(*rows[0])
            location = {"Location": f"{request.scope['path']}/{made.id}"}
            return tagged(made, status_code=201, headers=location)

        return await once.respond(workspaces.created, workspaces.creation(data), answer)

    @get("/{ws:str}", operation_id="getWorkspace", opt=may(Permission.WORKSPACE_READ))
    async def get_workspace(
        self, read: Reading, if_none_match: IfNoneMatch = None
    ) -> Response[s.Workspace]:
        """Show a workspace."""
        return tagged(await read.one(workspaces.one, s.Workspace), if_none_match)

    @patch(
        "/{ws:str}",
        operation_id="updateWorkspace",
        opt=may(Permission.WORKSPACE_UPDATE, request_media_types=MERGE_PATCH),
    )
    async def update_workspace(
        self, write: Writing, data: JSONBody[s.WorkspacePatch], if_match: IfMatch = None
    ) -> Response[s.Workspace]:
        """Change a workspace."""
        change = workspaces.change(data, expected_versions(if_match))
        [row] = await write.call(workspaces.updated, change)
        return tagged(s.Workspace(*row))

    @delete("/{ws:str}", operation_id="deleteWorkspace", opt=may(Permission.WORKSPACE_DELETE))
    async def delete_workspace(self, write: Writing, if_match: IfMatch = None) -> None:
        """Delete a workspace for everybody."""
        await write.call(workspaces.deleted, {"versions": expected_versions(if_match)})
