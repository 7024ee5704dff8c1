from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, put
from litestar.params import JSONBody, PathParameter, QueryParameter

import db_models as m
from app.auth.dependencies import may
from app.database.reads import Cursor, Limit, Of, Reading
from app.database.work import Writing
from app.http.links import path_segment
from app.http.preconditions import IfMatch, expected_versions, tagged
from app.permissions import Permission
from app.schemas import subscriptions as s
from app.services import subscriptions

Workspace = Annotated[str | None, QueryParameter(name="workspace", min_length=1, max_length=63)]
OneWorkspace = Annotated[str, QueryParameter(name="workspace", min_length=1, max_length=63)]
# \Z and not $, which in Python lets a line feed follow.
Topic = Annotated[str, PathParameter(min_length=1, max_length=200, pattern=r"^[^,\x00]+\Z")]
BY_TOPIC = [m.Subscription.workspace_id, m.Subscription.topic]


class SubscriptionController(Controller):
    tags = ("inbox",)

    @get("/me/subscriptions", operation_id="listMySubscriptions", opt=may("user"))
    async def list_my_subscriptions(
        self,
        read: Reading,
        workspace: Workspace = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.SubscriptionPage:
        """List the topics that the calling user follows."""
        of: Of = m.Subscription.own
        if workspace is not None:
            read.scope = read.scope.within(workspace, Permission.EVENTS_READ)
            of = m.Subscription.own_in
        return await read.page(of, s.SubscriptionPage, cursor, limit, BY_TOPIC)

    @put(
        "/me/subscriptions/{topic:str}",
        operation_id="followTopic",
        opt=may("user", statuses=[200, 201]),
    )
    async def follow_topic(
        self,
        request: Request[Any, Any, Any],
        write: Writing,
        topic: Topic,
        data: JSONBody[s.SubscriptionPut],
        workspace: OneWorkspace,
        if_match: IfMatch = None,
    ) -> Response[s.Subscription]:
        """Follow a topic, or replace the filter and the mute of a subscription."""
        write.scope = write.scope.within(workspace, Permission.EVENTS_READ)
        topic = path_segment(request, -1)
        values = subscriptions.following(topic, data, expected_versions(if_match))
        made = subscriptions.answer(await write.call(subscriptions.followed, values))
        return tagged(made, status_code=201 if made.version == 1 else 200)

    @delete("/me/subscriptions/{topic:str}", operation_id="unfollowTopic", opt=may("user"))
    async def unfollow_topic(
        self,
        request: Request[Any, Any, Any],
        write: Writing,
        topic: Topic,
        workspace: OneWorkspace,
        if_match: IfMatch = None,
    ) -> None:
        """Stop following a topic."""
        write.scope = write.scope.within(workspace, Permission.EVENTS_READ)
        topic = path_segment(request, -1)
        values = {"topic": topic, "versions": expected_versions(if_match)}
        await write.call(subscriptions.unfollowed, values)

    @put(
        "/workspaces/{ws:str}/topics/{topic:str}/subscribers",
        operation_id="setSubscribers",
        opt=may(Permission.SUBSCRIPTIONS_MANAGE),
    )
    async def set_subscribers(
        self,
        request: Request[Any, Any, Any],
        write: Writing,
        topic: Topic,
        data: JSONBody[s.SubscribersPut],
    ) -> s.ChangedSubscribers:
        """Subscribe members to a topic, and unsubscribe others."""
        topic = path_segment(request, -2)
        [row] = await write.call(subscriptions.subscribed, subscriptions.subscribers(topic, data))
        return s.ChangedSubscribers(*row)
