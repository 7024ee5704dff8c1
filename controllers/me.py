from litestar import Controller, Response, get, patch
from litestar.params import JSONBody

from app.auth.dependencies import Caller, may
from app.database.work import Session
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.schemas import me as s
from app.services import me


class MeController(Controller):
    path = "/me"
    tags = ("me",)

    @get(operation_id="getMe", opt=may("user"))
    async def get_me(
        self, session: Session, principal: Caller, if_none_match: IfNoneMatch = None
    ) -> Response[s.Profile]:
        """Show the calling user's profile."""
        return tagged(await me.visit(session, principal), if_none_match)

    @patch(operation_id="updateMe", opt=may("user", request_media_types=MERGE_PATCH))
    async def update_me(
        self,
        session: Session,
        principal: Caller,
        data: JSONBody[s.ProfilePatch],
        if_match: IfMatch = None,
    ) -> Response[s.Profile]:
        """Change the calling user's profile."""
        return tagged(await me.change(session, principal, data, expected_versions(if_match)))
