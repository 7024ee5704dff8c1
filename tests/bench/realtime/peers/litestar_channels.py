"""Litestar's channels in memory, and its ServerSentEvent."""

from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, get, post
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage


def create_app() -> Any:
    """Make the app; the response makes the bytes, once a subscriber."""

    @get("/stream")
    async def stream(channels: ChannelsPlugin) -> ServerSentEvent:
        async def messages() -> AsyncIterator[Any]:
            async with channels.start_subscription("events") as subscriber:
                yield ServerSentEventMessage(comment="ok")
                async for data in subscriber.iter_events():
                    yield data

        return ServerSentEvent(messages())

    @post("/publish", status_code=204)
    async def publish(request: Request[Any, Any, Any], channels: ChannelsPlugin) -> None:
        channels.publish((await request.body()).decode(), "events")

    plugin = ChannelsPlugin(MemoryChannelsBackend(), channels=["events"])
    return Litestar([stream, publish], plugins=[plugin], openapi_config=None, logging_config=None)
