from typing import Annotated

from litestar import Controller, Response, delete, get, put
from litestar.params import JSONBody, PathParameter

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.http.preconditions import IfMatch, IfNew, expected_versions, tagged
from app.permissions import Permission
from app.schemas import roles as s
from app.schemas.texts import ROLE_KEY
from app.services import roles

RoleKey = Annotated[str, PathParameter(pattern=ROLE_KEY)]


class RoleController(Controller):
    path = "/workspaces/{ws:str}/roles"
    tags = ("roles",)

    @get(operation_id="listRoles", opt=may(Permission.ROLES_READ))
    async def list_roles(
        self, read: Reading, cursor: Cursor = None, limit: Limit = 50
    ) -> s.RolePage:
        """List the built-in roles and the workspace's own."""
        return await read.page(m.Role.of, s.RolePage, cursor, limit, [m.Role.id])

    @put(
        "/{key:str}", operation_id="putRole", opt=may(Permission.ROLES_MANAGE, statuses=[200, 201])
    )
    async def put_role(
        self,
        write: Writing,
        key: RoleKey,
        data: JSONBody[s.RolePut],
        if_match: IfMatch = None,
        if_none_match: IfNew = None,
    ) -> Response[s.Role]:
        """Create or replace a role of the workspace's own."""
        is_new = None if if_match is None else False
        if if_none_match is not None:
            is_new = True
        versions = expected_versions(if_match)
        role, is_made = await roles.put(write, key, data, versions, is_new)
        return tagged(role, status_code=201 if is_made else 200)

    @delete("/{key:str}", operation_id="deleteRole", opt=may(Permission.ROLES_MANAGE))
    async def delete_role(self, write: Writing, key: RoleKey, if_match: IfMatch = None) -> None:
        """Delete a role of the workspace's own."""
        await roles.delete(write, key, expected_versions(if_match))
