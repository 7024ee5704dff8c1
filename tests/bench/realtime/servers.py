"""The servers that are compared, each in a process: `python -m tests.bench.realtime.servers NAME`.

Prints its port once it listens. Annex reads its settings, as JSON, and is started as `annex serve`
starts it. The others are on uvicorn with the same options, written as their own documentation has
it: each takes a broadcast at `POST /publish` and sends it to every stream at `/stream`, without
authentication or database. A first comment tells a client that it is among the readers.
"""

import importlib
import resource
import socket
import sys

import msgspec

HOST = "127.0.0.1"
BACKLOG = 4096
PEERS = {
    "fastapi": "fastapi_streaming",
    "sse-starlette": "starlette_events",
    "litestar": "litestar_channels",
}
# Imported below and not here: what only one of them needs would count to the others' memory.


def say_port(port: int | str) -> None:
    """Tell the bench where to connect."""
    print(port, flush=True)  # noqa: T201


def serve_annex() -> None:
    """Serve as `annex serve` does."""
    from app.server import serve
    from app.settings import Settings

    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    serve(settings, HOST, 0, ready=lambda url: say_port(url.rpartition(":")[2]))


def serve_peer(name: str) -> None:
    """Serve another's app on uvicorn, with the options of `annex serve`."""
    import uvicorn

    config = uvicorn.Config(
        importlib.import_module(f"tests.bench.realtime.peers.{PEERS[name]}").create_app(),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
    )
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    say_port(listener.getsockname()[1])
    uvicorn.Server(config).run([listener])


def serve_bare() -> None:
    """Serve without a framework."""
    from tests.bench.realtime.peers.bare import serve

    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    say_port(listener.getsockname()[1])
    serve(listener)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name = sys.argv[1]
    if name == "annex":
        serve_annex()
    elif name == "bare":
        serve_bare()
    else:
        serve_peer(name)
