"""FastAPI's StreamingResponse."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from tests.bench.realtime.peers.broadcast import Broadcast

COMMENT = b": ok\n\n"


def create_app() -> Any:
    """Make the app; the bytes of an event are made once for all."""
    app, broadcast = FastAPI(), Broadcast()

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(broadcast.subscribe(COMMENT), media_type="text/event-stream")

    @app.post("/publish", status_code=204)
    async def publish(request: Request) -> Response:
        data = await request.body()
        broadcast.publish(b"id: %d\ndata: %b\n\n" % (next(broadcast.numbers), data))
        return Response(status_code=204)

    return app
