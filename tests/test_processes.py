import time

import pytest

from app.dev.demo import demo_settings
from app.processes import ServerProcess, stop, watch
from tests.conftest import SECRETS

NOBODY_LISTENS = "postgresql://annex_api@127.0.0.1:1/annex"


def test_a_process_that_cannot_start_is_tried_again_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.processes.RESTART_SECONDS", 0.2)
    settings = demo_settings(SECRETS, NOBODY_LISTENS, NOBODY_LISTENS)
    started, said, forgotten = list[int](), set[str](), list[int]()

    def start(failures: int) -> ServerProcess:
        started.append(failures)
        return ServerProcess(settings, "127.0.0.1", 0, failures)

    processes = [start(0)]
    rounds, deadline = 0, time.monotonic() + 50
    try:
        while len(started) < 3 and time.monotonic() < deadline:
            said.add(watch(processes, start, forgotten.append))
            rounds += 1
    finally:
        stop(processes, 0)
    assert started == [0, 1, 2]
    assert len(forgotten) == 2
    assert "does not answer" in "".join(said)
    # It waits for news, also while a dead process waits for its successor.
    assert rounds < 5000
