from litestar import Controller, Response, get, patch
from litestar.params import JSONBody

from app.auth.dependencies import may
from app.database.work import Writing
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.schemas import profiles as s
from app.services import profiles


class ProfileController(Controller):
    path = "/me"
    tags = ("me",)

    @get(operation_id="getMe", opt=may("user"))
    async def get_me(
        self, write: Writing, if_none_match: IfNoneMatch = None
    ) -> Response[s.Profile]:
        """Show the calling user's profile."""
        return tagged(await profiles.visit(write), if_none_match)

    @patch(operation_id="updateMe", opt=may("user", request_media_types=MERGE_PATCH))
    async def update_me(
        self, write: Writing, data: JSONBody[s.ProfilePatch], if_match: IfMatch = None
    ) -> Response[s.Profile]:
        """Change the calling user's profile."""
        change = profiles.change(data, expected_versions(if_match))
        [row] = await write.call(profiles.updated, change)
        return tagged(s.Profile(*row))
