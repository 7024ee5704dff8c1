"""Secrets planted in what fails: no log line may hold one."""

import logging
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from app.dev.demo import demo_settings
from app.logs import Handler, configure_logging
from tests.conftest import SECRETS

CANARY = "canary-0123456789"


@pytest.fixture(params=["production", "development"])
def configured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Logging as in each environment, undone afterwards."""
    settings = msgspec.structs.replace(
        demo_settings(SECRETS, "postgresql:///x", "postgresql:///x"), environment=request.param
    )
    configure_logging(settings)
    yield
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Handler)]:
        root.removeHandler(handler)


def fail(secret: str) -> None:
    """Fail with the secret in a local variable, in the message and in a cause."""
    kept = {"password": secret}
    try:
        raise ValueError(secret)
    except ValueError as error:
        raise ExceptionGroup(f"failed with {kept}", [KeyError(secret)]) from error


@pytest.mark.usefixtures("configured")
def test_an_exception_is_logged_without_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        fail(CANARY)
    except ExceptionGroup as error:
        structlog.get_logger().error("unexpected", exc_info=error)
        logging.getLogger("asyncio").error("Task failed\nfuture: %r", error, exc_info=error)
        logging.getLogger("library").warning("argument %s", CANARY)
    said = capsys.readouterr().err
    assert said.count("test_canary.py") >= 2
    assert "KeyError" in said
    assert CANARY not in said
