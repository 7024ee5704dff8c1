import socket
import sys

import pytest

from app.server import STALLED_SECONDS, UNSENT_BYTES, listen
from app.settings import SettingsError


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux' own")
def test_connections_inherit_what_bounds_a_reader_that_does_not_read() -> None:
    with listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                unsent = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
                stalled = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert (unsent, stalled) == (UNSENT_BYTES, STALLED_SECONDS * 1000)


def test_only_processes_that_agree_to_it_share_a_port() -> None:
    with listen("127.0.0.1", 0, is_shared=True) as first:
        port = first.getsockname()[1]
        listen("127.0.0.1", port, is_shared=True).close()
        with pytest.raises(SettingsError, match=f"Port {port} on 127.0.0.1 cannot be used"):
            listen("127.0.0.1", port)
