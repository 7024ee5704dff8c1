import base64
import time
from typing import Any

import pytest

from app.auth.tickets import CONNECT_SECONDS, MAX_SECONDS, Tickets
from app.errors import InvalidTicket
from app.principals import Principal

PATH = "/api/v1/workspaces/acme/stream"
TICKETS = Tickets("a secret of the settings")


def user(expires_in: float | None = 900) -> Principal:
    expires_at = None if expires_in is None else time.time() + expires_in
    return Principal(kind="user", id="u", expires_at=expires_at, email="u@example.com", aal="aal2")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> "type[Later]":
    """Lets time pass, for the ticket's own check; PyJWT keeps the real clock."""
    Later.patch = monkeypatch
    return Later


class Later:
    """Moves the clock of tickets.py."""

    patch: pytest.MonkeyPatch

    def __init__(self, seconds: float) -> None:
        now = time.time() + seconds
        self.patch.setattr("app.auth.tickets.time.time", lambda: now)


def test_a_ticket_stands_for_its_principal() -> None:
    principal = user()
    ticket = TICKETS.issue(principal, PATH)
    assert TICKETS.read(ticket.ticket, PATH, is_reconnect=False).principal == principal
    assert ticket.url == f"{PATH}?ticket={ticket.ticket}"


def test_a_ticket_is_for_one_path() -> None:
    ticket = TICKETS.issue(user(), PATH).ticket
    with pytest.raises(InvalidTicket, match="another stream"):
        TICKETS.read(ticket, PATH.replace("acme", "other"), is_reconnect=True)


def test_after_the_first_minute_a_ticket_serves_reconnects_only(later: type[Later]) -> None:
    ticket = TICKETS.issue(user(), PATH).ticket
    later(CONNECT_SECONDS + 1)
    with pytest.raises(InvalidTicket, match="60 seconds"):
        TICKETS.read(ticket, PATH, is_reconnect=False)
    assert TICKETS.read(ticket, PATH, is_reconnect=True).principal.id == "u"


def test_a_ticket_ends_with_its_principal() -> None:
    expiring = user(expires_in=-1)
    with pytest.raises(InvalidTicket, match="expired"):
        TICKETS.read(TICKETS.issue(expiring, PATH).ticket, PATH, is_reconnect=True)


def test_the_ticket_of_a_key_that_does_not_expire_lasts_an_hour() -> None:
    ticket = TICKETS.issue(user(expires_in=None), PATH)
    assert ticket.expires_at.timestamp() - time.time() == pytest.approx(MAX_SECONDS, abs=2)


@pytest.mark.parametrize("kind", ["api_key", "operator"])
@pytest.mark.parametrize("expires_in", [None, 60, MAX_SECONDS, 3650 * 86400])
def test_only_a_users_ticket_lasts_longer_than_an_hour(kind: Any, expires_in: float | None) -> None:
    now = time.time()
    expires_at = None if expires_in is None else now + expires_in
    made = TICKETS.issue(Principal(kind=kind, id="k", expires_at=expires_at), PATH)
    left = made.expires_at.timestamp() - now
    assert left == pytest.approx(min(expires_in or MAX_SECONDS, MAX_SECONDS), abs=2)
    day = TICKETS.issue(user(86400), PATH).expires_at.timestamp() - now
    assert day == pytest.approx(86400, abs=2)


def test_a_tampered_ticket_is_refused() -> None:
    ticket = TICKETS.issue(user(), PATH).ticket
    for forged in (
        Tickets("another secret").issue(user(), PATH).ticket,
        ticket[:-2],
        ticket[:20] + ("A" if ticket[20] != "A" else "B") + ticket[21:],
        "nonsense",
        "é",
        "",
    ):
        with pytest.raises(InvalidTicket):
            TICKETS.read(forged, PATH, is_reconnect=True)


def test_a_ticket_tells_nobody_what_it_says() -> None:
    first, second = [TICKETS.issue(user(), PATH).ticket for _ in range(2)]
    assert first[:16] != second[:16]
    content = base64.urlsafe_b64decode(first + "==")
    assert not any(said in content for said in (b"u@example.com", b"user", b"stream", b"acme"))
