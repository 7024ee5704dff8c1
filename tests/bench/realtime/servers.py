"""The servers that are compared, each in a process: `python -m tests.bench.realtime.servers NAME`.

Prints its port once it serves. Annex reads its settings, as JSON, and is started as `annex serve`
starts it; the others are on uvicorn with the same options.
"""

import resource
import sys

import msgspec
import uvicorn

from app.server import BACKLOG, GRACE_SECONDS, listen, serve
from app.settings import Settings
from tests.bench.realtime.peers import PEERS, bare

HOST = "127.0.0.1"


def say_port(port: int | str) -> None:
    """Tell the bench where to connect."""
    print(port, flush=True)  # noqa: T201


def main(name: str) -> None:
    """Serve until SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if name == "annex":
        settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
        serve(settings, HOST, 0, ready=lambda url: say_port(url.rpartition(":")[2]))
        return
    listener = listen(HOST, 0)
    say_port(listener.getsockname()[1])
    if name == "bare":
        bare(listener)
        return
    config = uvicorn.Config(
        PEERS[name](),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main(sys.argv[1])
