"""Parsers of outside input, on generated text: an answer or a problem, never anything else."""

import contextlib
import json
import re
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import db_models as m
from app.auth.keys import Key
from app.auth.tickets import Tickets
from app.auth.tokens import as_key, as_user
from app.database.reads import decode_cursor
from app.documents import check_patch
from app.errors import Problem
from app.filters import Filter
from app.http.addresses import Addresses, read_address
from app.http.idempotency import unquote
from app.http.media_types import check
from app.http.preconditions import ETAG, expected_versions
from app.logs import HIDDEN, redact
from app.realtime.cursors import Cursors
from app.schemas.workspaces import WorkspacePatch
from app.services import publishing
from app.settings import SettingsError, read_settings

TEXT = st.text(st.characters(codec=None), max_size=300) | st.text(
    alphabet='"\\,W/*:.=&%[]{}0123456789abcdef \t', max_size=300
)
PARSERS: dict[str, Callable[[str], Any]] = {
    "key": Key.read,
    "ticket": lambda text: Tickets("x" * 32).read(text, "/", is_reconnect=False),
    "types": lambda text: Filter.read(text, None, None),
    "topics": lambda text: Filter.read(None, text, None),
    "where": lambda text: Filter.read(None, None, [text]),
    "Idempotency-Key": unquote,
    "If-Match": expected_versions,
    "address": read_address,
    "stream cursor": lambda text: Cursors(bytes(32)).read(UUID(int=7), text),
    "cursor of members": lambda text: decode_cursor(text, [m.Member.joined_at, m.Member.user_id]),
    "cursor of events": lambda text: decode_cursor(text, [m.Event.workspace_id, m.Event.id]),
    "If-None-Match": lambda text: ETAG.findall(text),
    "media type": lambda text: check({"content-type": text}, ("application/json",)),
    "event": lambda text: publishing.one_event(text.encode("utf-8", "surrogatepass")),
    "batch": lambda text: publishing.many_events(text.encode("utf-8", "surrogatepass")),
    "CloudEvent": lambda text: publishing.one_cloud_event(text.encode("utf-8", "surrogatepass")),
    "CloudEvents": lambda text: publishing.many_cloud_events(text.encode("utf-8", "surrogatepass")),
    "merge patch": lambda text: merge_patch(text.encode("utf-8", "surrogatepass")),
    "claims": lambda text: claims_of(text),
    "log": redact,
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_answers_or_says_what_is_wrong(name: str) -> None:
    @settings(max_examples=300)
    @given(TEXT)
    def run(text: str) -> None:
        with contextlib.suppress(Problem):
            PARSERS[name](text)

    run()


def merge_patch(body: bytes) -> None:
    """Do with a body what updateWorkspace does before it asks the database."""
    patch = publishing.decoded(body, WorkspacePatch)
    if patch.metadata:
        check_patch(patch.metadata)


def claims_of(text: str) -> None:
    """Do with a token's payload what is done once its signature is good."""
    try:
        claims = json.loads(text)
    except (ValueError, RecursionError):
        claims = {"sub": text, "role": "authenticated", "exp": text, "email": text}
    if isinstance(claims, dict):
        as_user(claims).claims_json.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.fixed_dictionaries(dict.fromkeys(("exp", "email", "aal"), JSON)))
def test_claims_are_a_user_or_refused(claims: dict[str, Any]) -> None:
    said = {"role": "authenticated", "sub": "0190b000-0000-7000-8000-0000000000ff", **claims}
    with contextlib.suppress(Problem):
        as_user(said).claims_json.encode()
    key = {"id": said["sub"], "prefix": "x", "workspace_id": said["sub"]}
    with contextlib.suppress(Problem):
        as_key({**said, "annex_key": key}).claims_json.encode()


@settings(max_examples=200)
@given(TEXT)
def test_settings_are_read_or_refused_in_sentences(text: str) -> None:
    names = (
        "DATABASE_URL", "SUPABASE_URL", "CORS_ORIGINS", "TRUSTED_PROXIES", "CLIENT_ADDRESS_HEADER",
        "POOL_SIZE",
    )  # fmt: skip
    with contextlib.suppress(SettingsError):
        read_settings({f"ANNEX_{name}": text for name in names})


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6", "203.0.113.7, 10.1.1.1"], "203.0.113.7"),
        (["6.6.6.6, unknown"], "10.0.0.1"),
        (["6.6.6.6, , 10.1.1.1"], "10.1.1.1"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["[2001:db8::1]:443"], "2001:db8::/64"),
        (["fe80::1%eth0"], "fe80::/64"),
    ],
)
def test_the_right_most_entry_that_is_no_proxy_is_the_client(
    forwarded: list[str], client: str
) -> None:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    headers += [(b"x-real-ip", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6")]
    scope = {"client": ("10.0.0.1", 1), "headers": headers}
    assert Addresses(["10.0.0.0/8"]).of(scope) == client
    assert Addresses().of(scope) == "10.0.0.1"


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ([], "10.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
        (["unknown"], "10.0.0.1"),
    ],
)
def test_a_header_of_the_operators_choice_takes_the_place_of_x_forwarded_for(
    said: list[str], client: str
) -> None:
    headers = [(b"x-real-ip", line.encode()) for line in said]
    headers += [(b"x-forwarded-for", b"203.0.113.9, 198.51.100.4"), (b"forwarded", b"for=6.6.6.6")]
    scope = {"client": ("10.0.0.1", 1), "headers": headers}
    assert Addresses(["10.0.0.0/8"], "X-Real-IP").of(scope) == client
    assert Addresses([], "X-Real-IP").of(scope) == "10.0.0.1"


SECRETS = [
    "annex_sk_0123456789abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "Bearer some-opaque-credential",
    "?ticket=abcdef",
    "annex_ticket=abcdef",
    "refresh_token=abcdef",
    "smtp_password=pass-word",
    "postgresql://annex_api:pass-word@db/x",
    "person@example.com",
    "sb_secret_abcdef",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_log_line_hides_what_looks_like_a_secret(secret: str) -> None:
    shown = redact(f"before {secret} after")
    assert HIDDEN in shown
    assert re.search("abcdef|pass-word|person|eyJ|opaque", shown) is None
    assert shown.startswith("before ")


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("type", "data", "source", "context", "occurred_at"), JSON)
    ),
    st.sampled_from([publishing.one_event, publishing.one_cloud_event]),
)
def test_an_event_of_any_shape_is_read_or_refused(
    event: dict[str, Any], read: Callable[[bytes], Any]
) -> None:
    said = {"specversion": "1.0", "id": "1", "type": "x", "source": "s", **event}
    with contextlib.suppress(Problem):
        read(json.dumps(said).encode())


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_metadata_of_any_shape_is_taken_or_refused(metadata: dict[str, Any]) -> None:
    with contextlib.suppress(Problem):
        merge_patch(json.dumps({"metadata": metadata}).encode())


LONG = {
    "stream cursor": "A",
    "cursor of members": "A",
    "cursor of events": "A",
    "where": "data.a:1",
    "media type": "application/json;",
    "CloudEvents": '[{"a":1e300,',
    "claims": '{"exp":[',
    "If-Match": '"a",',
    "If-None-Match": '"a',
    "Idempotency-Key": '\\"',
    "types": "a.",
    "topics": "a:",
    "event": '{"a":',
    "batch": "[",
    "CloudEvent": '{"a":1e300,',
    "merge patch": '{"metadata":{"a":',
    "log": "annex_sk_",
    "address": "::",
    "ticket": "A",
    "key": "annex_sk_",
}


def test_every_parser_is_given_long_input() -> None:
    assert PARSERS.keys() == LONG.keys()


@pytest.mark.parametrize("name", LONG)
def test_a_parser_costs_no_more_than_its_input_is_long(name: str) -> None:
    """Ten times the input costs at most 40 times the CPU: a square would be 100 times."""

    def cost(count: int) -> float:
        text, best = LONG[name] * count, float("inf")
        for _ in range(3):
            began = time.process_time()
            with contextlib.suppress(Problem):
                PARSERS[name](text)
            best = min(best, time.process_time() - began)
        return best

    assert cost(50_000) < 40 * max(cost(5_000), 0.001)
