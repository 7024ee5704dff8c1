from litestar import Controller, post
from litestar.params import JSONBody

from app.auth.dependencies import may
from app.database.reads import Reading
from app.permissions import Permission
from app.schemas import checks as s
from app.services import checks


class CheckController(Controller):
    path = "/workspaces/{ws:str}/checks"
    tags = ("roles",)

    @post(operation_id="checkPermissions", status_code=200, opt=may(Permission.WORKSPACE_READ))
    async def check_permissions(self, read: Reading, data: JSONBody[s.ChecksCreate]) -> s.Checks:
        """Answer who holds which permissions, with the reason."""
        return await checks.check(read, data.questions)
