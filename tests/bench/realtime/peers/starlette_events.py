"""The EventSourceResponse of sse-starlette."""

from typing import Any

from fastapi import FastAPI, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from tests.bench.realtime.peers.broadcast import Broadcast


def create_app() -> Any:
    """Make the app; the response makes the bytes, once a subscriber."""
    app, broadcast = FastAPI(), Broadcast()

    @app.get("/stream")
    async def stream() -> EventSourceResponse:
        return EventSourceResponse(broadcast.subscribe(ServerSentEvent(comment="ok")))

    @app.post("/publish", status_code=204)
    async def publish(request: Request) -> Response:
        data = (await request.body()).decode()
        broadcast.publish(ServerSentEvent(data, id=str(next(broadcast.numbers))))
        return Response(status_code=204)

    return app
