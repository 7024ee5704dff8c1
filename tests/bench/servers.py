"""The servers that are compared, each in a process of its own: `python -m tests.bench.servers`."""

import asyncio
import socket
import sys
from typing import Any

import msgspec
import uvicorn
import uvloop
from litestar import Controller, Request, Router, get

import db_models as m
from app.auth.dependencies import InWorkspace, may
from app.database.paging import Cursor, Limit, page
from app.database.work import Session
from app.main import create_app
from app.schemas import events as s
from app.server import Server, run
from app.settings import Settings
from tests.bench.peers.fastapi_orm import create_peer


class GenericEvents(Controller):
    path = "/workspaces/{ws:str}/events"

    @get(opt=may("events:read"))
    async def list_events(
        self,
        request: Request[Any, Any, Any],
        session: Session,
        workspace: InWorkspace,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> s.EventPage:
        """List a workspace's events as every other list is read: through `page`."""
        visible, order = m.Event.visible_to(workspace.id), [m.Event.id]
        stream = request.app.state.runtime.hub.cursor()
        return await page(session, visible, s.EventPage, cursor, limit, order, stream_cursor=stream)


GENERIC = (Router("/api/v1", route_handlers=[GenericEvents]),)


class Canned(asyncio.Protocol):
    """Answers at once, always the same: what the load generator can do at most."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer)


async def serve_canned(listener: socket.socket, answer: bytes) -> None:
    """Serve one answer until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Canned(answer), sock=listener)
    await server.serve_forever()


def serve(variant: str, settings: Settings, listener: socket.socket) -> None:
    """Serve a variant on uvicorn with the same options, without access logs."""

    def configure(app: Any) -> uvicorn.Config:
        return uvicorn.Config(
            app, loop="uvloop", http="httptools", log_config=None, access_log=False
        )

    if variant.startswith("fastapi"):
        # What is left of the difference when the peer, too, plans a statement once a connection.
        planned = {"plan_cache_mode": "force_generic_plan"} if variant != "fastapi" else {}
        uvicorn.Server(configure(create_peer(settings, planned))).run([listener])
    else:
        app = create_app(settings, GENERIC) if variant == "generic" else create_app(settings)
        uvloop.run(run(Server(app, configure(app)), app, listener, ()))


if __name__ == "__main__":
    variant, descriptor = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    given = sys.stdin.buffer.read()
    if variant == "canned":
        uvloop.run(serve_canned(listener, given))
    else:
        serve(variant, msgspec.json.decode(given, type=Settings), listener)
