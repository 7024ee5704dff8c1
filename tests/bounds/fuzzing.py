"""What clients may send, generated: raw requests on a socket, and each place that takes a text."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterable
from datetime import UTC
from typing import Any, NamedTuple, get_args
from urllib.parse import quote, urlsplit
from uuid import UUID

import jwt
import msgspec
from hypothesis import strategies as st

from app.auth.keys import Key
from app.auth.tickets import derive_key
from app.database.reads import encode_cursor
from app.realtime.cursors import Cursors
from app.schemas.events import CloudEvent, EventCreate
from app.schemas.problems import ProblemCode
from tests.bounds.test_parsers import JSON, TEXT
from tests.conftest import NOBODYS_ID, SECRETS

Headers = Iterable[tuple[str, bytes]]
LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
CODES = frozenset(get_args(ProblemCode))
SAID: Headers = [("Content-Type", b"application/json")]


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    media_type: str
    body: bytes

    def check(self) -> int:
        """Return the status; fails for a failure of the server, and for what is no problem."""
        assert 200 <= self.status < 500, self
        if self.status >= 400:
            assert self.media_type == "application/problem+json", self
            problem = json.loads(self.body)
            assert problem["code"] in CODES, self
            assert problem["status"] == self.status, self
        return self.status


class Sender:
    """Sends whatever it is told, as a member of a workspace; on one connection while it lasts."""

    def __init__(self, url: str, path: str, feed_id: str, token: str) -> None:
        self.address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 80))
        self.path, self.token, self.feed_id = path, token, UUID(feed_id)
        self.claims = jwt.decode(token, options={"verify_signature": False})
        self.cursors = Cursors(derive_key(SECRETS.secret_key, "cursor"))
        self.socket: socket.socket | None = None

    def __call__(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        token: bytes | None = b"",
    ) -> Answer:
        """Send a request, with the caller's own token, another or none; returns the answer."""
        bearer = [] if token is None else [("Authorization", token or b"Bearer " + self.own)]
        lines = [("Host", b"x"), *bearer, *headers]
        if body:
            lines.append(("Content-Length", str(len(body)).encode()))
        head = [f"{method} {target} HTTP/1.1".encode("ascii")]
        head += [name.encode() + b": " + value.translate(LINE_ENDS) for name, value in lines]
        raw = b"\r\n".join(head) + b"\r\n\r\n" + body
        try:
            return self.exchange(raw)
        except ConnectionError:  # it had been closed since
            return self.exchange(raw)

    @property
    def own(self) -> bytes:
        return self.token.encode()

    def exchange(self, raw: bytes) -> Answer:
        """Send bytes; reads one answer, of a stream its beginning."""
        if self.socket is None:
            self.socket = socket.create_connection(self.address, timeout=20)
        is_kept = False
        try:
            self.socket.sendall(raw)
            with self.socket.makefile("rb") as file:
                status = file.readline()
                if not status:
                    raise ConnectionResetError
                headers = dict[str, str]()
                while (line := file.readline().strip()) != b"":
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                is_kept, body = headers.get("connection") != "close", b""
                if "content-length" in headers:
                    body = file.read(int(headers["content-length"]))
                elif status.split()[1] not in (b"204", b"304"):
                    is_kept, body = False, file.readline()
            return Answer(int(status.split()[1]), headers.get("content-type", ""), body)
        finally:
            if not is_kept:
                self.close()

    def close(self) -> None:
        """End the connection."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()
        self.socket = None


def raw(text: str) -> bytes:
    """Write a text as bytes, also one that is no Unicode."""
    return text.encode("utf-8", "surrogatepass")


def query(path: str, *given: tuple[str, str]) -> str:
    """Write a path with a query."""
    return f"{path}?" + "&".join(f"{name}={quote(raw(value), safe='')}" for name, value in given)


def dumped(value: Any) -> bytes:
    """Write JSON, and what Python takes for it."""
    return json.dumps(value).encode()


def part(value: bytes) -> str:
    """Write a part of a token."""
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def signed(claims: Any, header: Any = None) -> str:
    """Sign claims of any shape as they are, with the right secret."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    text = f"{part(dumped(head))}.{part(dumped(claims))}"
    mac = hmac.new(SECRETS.jwt_secret.encode(), text.encode(), hashlib.sha256)
    return f"{text}.{part(mac.digest())}"


TIMES = st.datetimes(timezones=st.just(UTC))
BASE62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
KEYSETS = st.lists(
    st.uuids() | TIMES | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.none(),
    max_size=3,
).map(encode_cursor) | st.tuples(TIMES, st.uuids()).map(encode_cursor)
LISTS = ("events", "members", "invitations", "api-keys", "roles", "join-rules")
SPELLED = TIMES.map(lambda t: t.isoformat()) | st.sampled_from(
    ("0001-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "2026-02-30T00:00:00Z", "infinity")
)
OPTIONAL = ("email", "aal", "is_anonymous", "user_metadata", "app_metadata", "session_id", "amr")
CLAIMS = ("exp", "nbf", "iat", "sub", "aud", "iss", "role", "email", "aal", "annex_key", "jti")
EVENTS = st.dictionaries(
    st.sampled_from(
        [f.name for f in msgspec.structs.fields(EventCreate)]
        + [f.name for f in msgspec.structs.fields(CloudEvent)]
    ),
    JSON | SPELLED,
    max_size=5,
)
CLAUSES = st.builds(
    "data.{}:{}".format,
    st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,9}", fullmatch=True),
    TEXT | st.sampled_from(("1e400", "1e-400", "9" * 400, "null", "-0", "[1]", "NaN")),
)
ITEMS = st.lists(
    TEXT | st.from_regex(r"[a-z0-9_.*-]{1,20}", fullmatch=True), min_size=1, max_size=3
).map(",".join)
TAGS = st.just("*") | st.lists(
    st.sampled_from(('"1"', 'W/"1"', '"a,b"', '""', '"99999999999"')) | TEXT, max_size=3
).map(", ".join)
HEADERS = (
    "Accept",
    "Accept-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "Origin",
    "Range",
    "TE",
    "Upgrade",
    "X-Forwarded-For",
    "X-Request-Id",
)


PLACES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Sender, Any], Answer]]] = {
    # What is drawn, and what is sent with it.
    "cursor": (
        st.tuples(st.sampled_from(LISTS), TEXT | KEYSETS),
        lambda send, drawn: send("GET", query(f"{send.path}/{drawn[0]}", ("cursor", drawn[1]))),
    ),
    "cursor of the inbox": (
        TEXT | KEYSETS,
        lambda send, text: send("GET", query("/api/v1/me/notifications", ("cursor", text))),
    ),
    "ticket": (
        TEXT | st.binary(max_size=300).map(part),
        lambda send, text: send("GET", query(f"{send.path}/stream", ("ticket", text)), token=None),
    ),
    "ticket's cookie": (
        TEXT,
        lambda send, text: send(
            "GET", f"{send.path}/stream", [("Cookie", b"annex_ticket=" + raw(text))], token=None
        ),
    ),
    "types": (
        ITEMS,
        lambda send, text: send("GET", query(f"{send.path}/events", ("types", text))),
    ),
    "topics": (
        ITEMS,
        lambda send, text: send("GET", query(f"{send.path}/events", ("topics", text))),
    ),
    "where": (
        st.lists(CLAUSES | TEXT, min_size=1, max_size=6),
        lambda send, texts: send(
            "GET", query(f"{send.path}/events", *(("where", text) for text in texts))
        ),
    ),
    "a stream's filter": (
        st.tuples(ITEMS | st.just("fuzz.*"), CLAUSES | st.just("data.a.0:1e3")),
        lambda send, drawn: send(
            "GET", query(f"{send.path}/stream", ("types", drawn[0]), ("where", drawn[1]))
        ),
    ),
    "Last-Event-ID": (
        TEXT | st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1)),
        lambda send, drawn: send(
            "GET",
            f"{send.path}/stream",
            [("Last-Event-ID", raw(cursor_of(send, drawn)))],
        ),
    ),
    "Authorization": (
        TEXT.map(raw)
        | TEXT.map(lambda text: b"Bearer " + raw(text))
        | st.binary(max_size=100)
        | st.builds(
            Key,
            st.sampled_from(("sk", "op")),
            *(st.text(BASE62, min_size=n, max_size=n) for n in (12, 32)),
        ).map(lambda key: f"bearer {key}".encode())
        | st.tuples(JSON, JSON).map(lambda drawn: b"Bearer " + signed(*drawn).encode()),
        lambda send, value: send("GET", "/api/v1/me", token=value or b" "),
    ),
    "claims": (
        st.dictionaries(st.sampled_from(CLAIMS), JSON, max_size=2)
        | st.dictionaries(st.sampled_from(OPTIONAL), JSON | TEXT, max_size=4),
        lambda send, claims: send(
            "GET", "/api/v1/me", token=b"Bearer " + signed({**send.claims, **claims}).encode()
        ),
    ),
    "Idempotency-Key": (
        TEXT,
        lambda send, text: send(
            "POST",
            f"{send.path}/events",
            [*SAID, ("Idempotency-Key", raw(text))],
            b'{"type": "fuzz.keyed"}',
        ),
    ),
    "If-Match": (
        TEXT | TAGS,
        lambda send, text: send(
            "PATCH", send.path, [*SAID, ("If-Match", raw(text))], b'{"metadata": {}}'
        ),
    ),
    "If-None-Match": (
        TEXT | TAGS,
        lambda send, text: send("GET", send.path, [("If-None-Match", raw(text))]),
    ),
    "another header": (
        st.tuples(st.sampled_from(HEADERS), TEXT),
        lambda send, drawn: send("GET", send.path, [(drawn[0], raw(drawn[1]))]),
    ),
    "event": (
        EVENTS.map(lambda event: {"type": "fuzz.made", **event}) | EVENTS | JSON,
        lambda send, event: send("POST", f"{send.path}/events", SAID, dumped(event)),
    ),
    "batch": (
        st.lists(EVENTS.map(lambda event: {"type": "fuzz.made", **event}), max_size=3) | JSON,
        lambda send, events: send("POST", f"{send.path}/events/batch", SAID, dumped(events)),
    ),
    "body": (
        TEXT.map(raw) | st.binary(min_size=1, max_size=200),
        lambda send, body: send("POST", f"{send.path}/events", SAID, body or b" "),
    ),
    "CloudEvent": (
        st.tuples(EVENTS, st.booleans()),
        lambda send, drawn: send(
            "POST",
            f"{send.path}/events/cloudevents",
            [("Content-Type", b"application/cloudevents+json")],
            dumped({"specversion": "1.0", "id": "1", "source": "s", "type": "x", **drawn[0]}),
        ),
    ),
    "CloudEvent's headers": (
        st.tuples(st.sampled_from(("ce-specversion", "ce-type", "ce-id", "Content-Type")), TEXT),
        lambda send, drawn: send(
            "POST",
            f"{send.path}/events/cloudevents",
            [("Content-Type", b"application/json"), (drawn[0], raw(drawn[1]))],
            b'{"a": 1}',
        ),
    ),
    "merge patch": (
        st.dictionaries(st.sampled_from(("name", "slug", "metadata", "member_limit")), JSON)
        | st.dictionaries(TEXT, JSON, max_size=3).map(lambda found: {"metadata": found}),
        lambda send, patch: send(
            "PATCH", send.path, [("Content-Type", b"application/merge-patch+json")], dumped(patch)
        ),
    ),
    "the inbox's parameters": (
        st.tuples(
            st.sampled_from(
                ("workspace", "unread", "seen", "archived", "snoozed", "category", "types", "limit")
            ),
            TEXT | st.sampled_from(("true", "TRUE", "1", "0", "-1", "x" * 63, "9" * 30, "a\0b")),
        ),
        lambda send, given: send("GET", query("/api/v1/me/notifications", given)),
    ),
    "a moment of the inbox": (
        st.tuples(SPELLED | TEXT, TEXT, st.booleans()),
        lambda send, drawn: send(
            "POST",
            "/api/v1/me/notifications/mark",
            SAID,
            dumped(
                {"action": "read", "arrived_until": drawn[0]}
                | ({"category": drawn[1]} if drawn[2] else {})
            ),
        ),
    ),
    "a change of the inbox": (
        st.tuples(
            st.just(NOBODYS_ID) | TEXT.filter(lambda text: text not in ("", ".", "..")),
            st.dictionaries(
                st.sampled_from(("is_read", "is_seen", "is_archived", "snoozed_until")),
                JSON | SPELLED,
            ),
        ),
        lambda send, drawn: send(
            "PATCH",
            f"/api/v1/me/notifications/{quote(raw(drawn[0]), safe='')}",
            SAID,
            dumped(drawn[1]),
        ),
    ),
    "path": (
        st.lists(TEXT, min_size=1, max_size=3),
        lambda send, parts: send(
            "GET", "/api/v1/workspaces/" + "/".join(quote(raw(p), safe="") for p in parts)
        ),
    ),
    "token of a mail": (
        TEXT | st.from_regex("annex_ut_[A-Za-z0-9_-]{43}", fullmatch=True),
        lambda send, text: send("GET", query("/unsubscribe", ("token", text)), token=None),
    ),
}


def cursor_of(send: Sender, drawn: Any) -> str:
    """Write a stream's cursor: a text as it is, a place as only the server's own key can."""
    return drawn if isinstance(drawn, str) else send.cursors.write(send.feed_id, *drawn)
