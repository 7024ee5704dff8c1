from functools import partial
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Request, Response, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Reading
from app.database.work import Writing
from app.filters import Filter, Types
from app.http.media_types import MERGE_PATCH
from app.http.preconditions import IfMatch, expected_versions, tagged
from app.permissions import Permission
from app.runtime import runtime_of
from app.schemas import notifications as s
from app.services import notifications
from controllers.subscriptions import Workspace

Category = Annotated[str | None, QueryParameter(name="category", min_length=1, max_length=63)]
Flag = FromQuery[bool | None]


class NotificationController(Controller):
    path = "/me/notifications"
    tags = ("inbox",)

    @get(operation_id="listMyNotifications", opt=may("user"))
    async def list_my_notifications(
        self,
        request: Request[Any, Any, Any],
        read: Reading,
        workspace: Workspace = None,
        unread: Flag = None,
        seen: Flag = None,
        archived: Flag = None,
        snoozed: Flag = None,
        category: Category = None,
        types: Types = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.NotificationPage:
        """List the calling user's notifications, newest arrival first."""
        if workspace is not None:
            read.scope = read.scope.within(workspace, Permission.EVENTS_READ)
        wanted = notifications.Wanted(
            is_archived=bool(archived),
            is_snoozed=bool(snoozed),
            is_unread=unread,
            is_seen=seen,
            in_workspace=workspace is not None,
        )
        narrowed = notifications.narrowing(Filter.read(types, None, None), category)
        user_id = UUID(read.scope.principal.id)
        stand = partial(runtime_of(request).hub.stand(), user_id)
        return await notifications.list_mine(read, wanted, narrowed, cursor, limit, stand)

    @patch(
        "/{notification_id:uuid}",
        operation_id="updateNotification",
        opt=may("user", request_media_types=MERGE_PATCH),
    )
    async def update_notification(
        self,
        write: Writing,
        notification_id: FromPath[UUID],
        data: JSONBody[s.NotificationPatch],
        if_match: IfMatch = None,
    ) -> Response[s.Notification]:
        """Mark a notification seen, read or archived, or snooze it."""
        values = notifications.change(notification_id, data, expected_versions(if_match))
        return tagged(notifications.answer(await write.call(notifications.changed, values)))

    @post("/mark", operation_id="markNotifications", opt=may("user"), status_code=200)
    async def mark_notifications(
        self, write: Writing, data: JSONBody[s.NotificationMark]
    ) -> s.MarkedNotifications:
        """Mark all active notifications that arrived until a moment."""
        if data.workspace is not None:
            write.scope = write.scope.within(data.workspace, Permission.EVENTS_READ)
        [row] = await write.call(notifications.marked, notifications.mark(data))
        return s.MarkedNotifications(*row)
