"""Parsers of outside input, on generated text: an answer or a problem, never anything else."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.auth.keys import Key
from app.auth.tickets import Tickets
from app.auth.tokens import as_user
from app.errors import Problem
from app.filters import Filter
from app.http.addresses import Addresses, read_address
from app.http.idempotency import unquote
from app.http.preconditions import expected_versions
from app.logs import HIDDEN, redact
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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.fixed_dictionaries(dict.fromkeys(("exp", "email", "session_id", "aal"), JSON)))
def test_claims_are_a_user_or_refused(claims: dict[str, Any]) -> None:
    said = {"role": "authenticated", "sub": "0190b000-0000-7000-8000-0000000000ff", **claims}
    with contextlib.suppress(Problem):
        as_user(said).claims_json.encode()


@settings(max_examples=200)
@given(TEXT)
def test_settings_are_read_or_refused_in_sentences(text: str) -> None:
    names = ("DATABASE_URL", "SUPABASE_URL", "CORS_ORIGINS", "TRUSTED_PROXIES", "POOL_SIZE")
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


SECRETS = [
    "annex_sk_0123456789abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "Bearer some-opaque-credential",
    "?ticket=abcdef",
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
