"""Ports of servers that come back at the address that they had."""

import contextlib
import random
import socket

# Below those that a kernel gives to connections and to whoever binds port 0 (32768 on Linux, 49152
# elsewhere), so that nobody is given the port before its server has started. Browsers refuse 10080.
FIRST, LAST = 11_000, 32_000
# Not the seeded one of a test: two runs beside each other must not draw alike.
DRAWN = random.SystemRandom()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    while True:
        port = DRAWN.randint(FIRST, LAST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
