from litestar import Controller, Response, get, patch
from litestar.params import JSONBody

from app.auth.dependencies import may
from app.database.reads import Reading
from app.database.work import Writing
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, IfNoneMatch, expected_versions, tagged
from app.permissions import Permission
from app.schemas import preferences as s
from app.services import preferences
from controllers.subscriptions import Workspace


class MyPreferencesController(Controller):
    path = "/me/preferences"
    tags = ("preferences",)

    @get(operation_id="getMyPreferences", opt=may("user"))
    async def get_my_preferences(
        self, read: Reading, workspace: Workspace = None, if_none_match: IfNoneMatch = None
    ) -> Response[s.Preferences]:
        """Show the calling user's preferences."""
        return tagged(await preferences.find_mine(read, workspace), if_none_match)

    @patch(operation_id="updateMyPreferences", opt=may("user", request_media_types=MERGE_PATCH))
    async def update_my_preferences(
        self,
        write: Writing,
        data: JSONBody[s.PreferencesPatch],
        workspace: Workspace = None,
        if_match: IfMatch = None,
    ) -> Response[s.Preferences]:
        """Change the calling user's preferences."""
        versions = expected_versions(if_match)
        return tagged(await preferences.change_mine(write, workspace, data, versions))


class WorkspacePreferencesController(Controller):
    path = "/workspaces/{ws:str}/preferences"
    tags = ("preferences",)

    @get(operation_id="getWorkspacePreferences", opt=may(Permission.WORKSPACE_READ))
    async def get_workspace_preferences(
        self, read: Reading, if_none_match: IfNoneMatch = None
    ) -> Response[s.Preferences]:
        """Show the default of a workspace's members."""
        return tagged(await preferences.find_default(read), if_none_match)

    @patch(
        operation_id="updateWorkspacePreferences",
        opt=may(Permission.PREFERENCES_MANAGE, request_media_types=MERGE_PATCH),
    )
    async def update_workspace_preferences(
        self, write: Writing, data: JSONBody[s.PreferencesPatch], if_match: IfMatch = None
    ) -> Response[s.Preferences]:
        """Change the default of a workspace's members."""
        return tagged(await preferences.change_default(write, data, expected_versions(if_match)))
