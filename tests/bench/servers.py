"""The servers that are compared, each in a process of its own: `python -m tests.bench.servers`.

Annex is served as `annex serve` does it: by its own protocol, with all limits of connections,
headers and bodies. The peers are served by uvicorn, as their documentation says, without its access
log. None of them has to collect what was made before its first request (`settle`).
"""

import asyncio
import socket
import sys
from typing import Any

import msgspec
import uvicorn
import uvloop

from app.http.application import Application
from app.main import create_app
from app.server import Server, configure, run, settle
from app.settings import Settings
from tests.bench.peers.fastapi_orm import create_peer
from tests.bench.peers.raw_asyncpg import create_raw


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


def config_of(app: Any, settings: Settings) -> uvicorn.Config:
    """Say how a variant is served."""
    if isinstance(app, Application):
        return configure(app, settings)
    return uvicorn.Config(app, loop="uvloop", http="httptools", log_config=None, access_log=False)


def serve(variant: str, settings: Settings, listener: socket.socket) -> None:
    """Serve a variant until ended."""
    if variant == "annex":
        app = create_app(settings)
        server = Server(app, config_of(app, settings))
        uvloop.run(run(server, listener))  # settles once it has begun
        return
    create = {"fastapi": create_peer, "raw": create_raw}[variant]
    config = config_of(create(settings), settings)
    settle()
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    variant, descriptor = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    given = sys.stdin.buffer.read()
    if variant == "canned":
        uvloop.run(serve_canned(listener, given))
    else:
        serve(variant, msgspec.json.decode(given, type=Settings), listener)
