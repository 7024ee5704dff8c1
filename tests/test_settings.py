import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.dev.demo import new_signing_key
from app.settings import (
    DEVELOPMENT_SECRET,
    OTHER_NAMES,
    PREFIX,
    Settings,
    SettingsError,
    misspelt,
    read_settings,
)
from tests.conftest import ROOT

PUBLIC = "super-secret-jwt-token-with-at-least-32-characters-long"
JWK = msgspec.json.decode(new_signing_key())
PUBLIC_JWK = msgspec.json.encode({k: v for k, v in JWK.items() if k != "d"}).decode()
NAMELESS_JWK = msgspec.json.encode({k: v for k, v in JWK.items() if k != "kid"}).decode()
GOOD = {
    "ANNEX_DATABASE_URL": "postgresql://annex_api@localhost/annex",
    "ANNEX_WORKER_DATABASE_URL": "postgres://annex_worker@localhost/annex?sslmode=require",
    "ANNEX_SUPABASE_URL": "https://abc.supabase.co/",
    "ANNEX_SECRET_KEY": "thirty-two characters of our own, at least",
}


def test_four_settings_are_enough() -> None:
    settings = read_settings(GOOD)
    assert settings.issuer == "https://abc.supabase.co/auth/v1"
    assert settings.environment == "production"


def test_port_6543_is_taken_once_it_is_called_a_transaction_pooler() -> None:
    url = "postgresql://annex_api@pooler:6543/annex"
    change = {"ANNEX_DATABASE_URL": url, "ANNEX_TRANSACTION_POOLER": "true"}
    assert read_settings(GOOD | change).transaction_pooler


def test_events_stay_for_ever_unless_a_number_of_days_is_set() -> None:
    assert read_settings(GOOD).event_retention_days is None
    assert read_settings({**GOOD, "ANNEX_EVENT_RETENTION_DAYS": "30"}).event_retention_days == 30


def test_lists_are_separated_by_commas() -> None:
    settings = read_settings({**GOOD, "ANNEX_CORS_ORIGINS": "https://a.example, https://b.example"})
    assert settings.cors_origins == ["https://a.example", "https://b.example"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ANNEX_DATABASE_URL": ""}, "ANNEX_DATABASE_URL is not set"),
        ({"ANNEX_DATABASE_URL": "mysql://localhost/x"}, "ANNEX_DATABASE_URL is not a Postgres URL"),
        ({"ANNEX_WORKER_DATABASE_URL": "nonsense"}, "ANNEX_WORKER_DATABASE_URL is not a Postgres"),
        ({"ANNEX_POOL_SIZE": "many"}, "ANNEX_POOL_SIZE is not usable"),
        ({"ANNEX_POOL_SIZE": "0"}, "ANNEX_POOL_SIZE is not usable"),
        ({"ANNEX_SLOW_QUERY_SECONDS": "inf"}, "ANNEX_SLOW_QUERY_SECONDS is not usable"),
        ({"ANNEX_SLOW_QUERY_SECONDS": "nan"}, "ANNEX_SLOW_QUERY_SECONDS is not usable"),
        ({"ANNEX_EVENT_RETENTION_DAYS": "0"}, "ANNEX_EVENT_RETENTION_DAYS is not usable"),
        ({"ANNEX_EVENT_RETENTION_DAYS": "3651"}, "ANNEX_EVENT_RETENTION_DAYS is not usable"),
        ({"ANNEX_WORKSPACE_GRACE_DAYS": "-1"}, "ANNEX_WORKSPACE_GRACE_DAYS is not usable"),
        ({"ANNEX_SIGNING_KEY": "secret"}, "ANNEX_SIGNING_KEY is not usable: it is no JWK"),
        ({"ANNEX_SIGNING_KEY": "{}"}, "ANNEX_SIGNING_KEY is not usable: it is no JWK"),
        ({"ANNEX_SIGNING_KEY": PUBLIC_JWK}, "it is no private P-256 key with a kid"),
        ({"ANNEX_SIGNING_KEY": NAMELESS_JWK}, "it is no private P-256 key with a kid"),
        ({"ANNEX_ENVIRONMENT": "test"}, "not usable: write one of development, production"),
        ({"ANNEX_LOG_LEVEL": "trace"}, "not usable: write one of debug, info, warning, error"),
        ({"ANNEX_SECRET_KEY": ""}, "ANNEX_SECRET_KEY is the development default"),
        ({"ANNEX_SECRET_KEY": DEVELOPMENT_SECRET}, "ANNEX_SECRET_KEY is the development default"),
        ({"ANNEX_SECRET_KEY": "short"}, "ANNEX_SECRET_KEY is the development default"),
        ({"ANNEX_JWT_SECRET": PUBLIC}, "ANNEX_JWT_SECRET is a publicly known default"),
        ({"ANNEX_OPERATOR_KEY_HASHES": "abc"}, "ANNEX_OPERATOR_KEY_HASHES takes SHA-256"),
        ({"ANNEX_SUPABASE_URL": ""}, "ANNEX_SUPABASE_URL is not set"),
        ({"ANNEX_SUPABASE_URL": "abc.supabase.co"}, "ANNEX_SUPABASE_URL is not usable"),
        ({"ANNEX_SUPABASE_URL": "https://a.example/auth/v1"}, "ANNEX_SUPABASE_URL is not usable"),
        ({"ANNEX_CORS_ORIGINS": "https://a.example/x"}, "ANNEX_CORS_ORIGINS is not usable"),
        ({"ANNEX_CORS_ORIGINS": "https://*.a.example"}, "ANNEX_CORS_ORIGINS is not usable"),
        ({"ANNEX_APP_URL": "app.example.com"}, "ANNEX_APP_URL is not usable"),
        ({"ANNEX_APP_URL": "javascript:alert(1)//a"}, "ANNEX_APP_URL is not usable"),
        ({"ANNEX_APP_URL": "https://a@b.example"}, "ANNEX_APP_URL is not usable"),
        ({"ANNEX_APP_URL": "https://a.example/#/join"}, "ANNEX_APP_URL is not usable"),
        ({"ANNEX_APP_URL": "http://a.example"}, "ANNEX_APP_URL must begin with https"),
        ({"ANNEX_SMTP_URL": "mail.example.com"}, "ANNEX_SMTP_URL is not usable"),
        ({"ANNEX_SMTP_URL": "https://mail.example.com"}, "ANNEX_SMTP_URL is not usable"),
        ({"ANNEX_SMTP_URL": "smtps://mail.example.com/x"}, "ANNEX_SMTP_URL is not usable"),
        ({"ANNEX_SMTP_URL": "smtps://m.example"}, "ANNEX_MAIL_FROM is not set"),
        ({"ANNEX_SMTP_URL": "smtps://m.example"}, "ANNEX_APP_URL is not set"),
        ({"ANNEX_SMTP_URL": "smtp://u:p@m.example"}, "ANNEX_SMTP_URL would send its password"),
        ({"ANNEX_MAIL_FROM": "nobody"}, "ANNEX_MAIL_FROM is not usable"),
        ({"ANNEX_MAIL_FROM": "a@b.example\r\nBcc: c@d.example"}, "ANNEX_MAIL_FROM is not usable"),
        ({"ANNEX_MAIL_TEMPLATES": "/nowhere"}, "ANNEX_MAIL_TEMPLATES is no folder"),
        ({"ANNEX_TRUSTED_PROXIES": "proxy"}, "ANNEX_TRUSTED_PROXIES is not usable"),
        ({"ANNEX_CLIENT_ADDRESS_HEADER": "Forwarded"}, "ANNEX_CLIENT_ADDRESS_HEADER is not usable"),
        ({"ANNEX_CLIENT_ADDRESS_HEADER": "X-A: 1"}, "ANNEX_CLIENT_ADDRESS_HEADER is not usable"),
        ({"ANNEX_DATABASE_URL": "postgresql://h/d?pgbouncer=true"}, "ANNEX_TRANSACTION_POOLER"),
        ({"ANNEX_DATABASE_URL": "postgresql://h/d?channel_binding=require"}, "only prefer"),
        ({"ANNEX_DATABASE_URL": "postgresql://h/d?connect_timeout=1"}, "take it out"),
        ({"ANNEX_DATABASE_URL": "postgresql://h:x/d"}, "ANNEX_DATABASE_URL is not a Postgres URL"),
        ({"ANNEX_TRANSACTION_POOLER": "maybe"}, "ANNEX_TRANSACTION_POOLER is not usable"),
        (
            {"ANNEX_DATABASE_URL": "postgresql://annex_api@pooler:6543/annex"},
            "ANNEX_DATABASE_URL is on port 6543, .* set ANNEX_TRANSACTION_POOLER=true",
        ),
    ],
)
def test_an_unusable_setting_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings(GOOD | change)


def test_every_mistake_is_reported_at_once() -> None:
    change = {"ANNEX_POOL_SIZE": "0", "ANNEX_SECRET_KEY": "short", "ANNEX_DATABASE_URL": "x"}
    with pytest.raises(SettingsError) as caught:
        read_settings(GOOD | change)
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert all(any(name in line for line in said) for name in change)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("https://App.Example.com/", "https://app.example.com"),
        ("HTTPS://a.example:443", "https://a.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("*", "*"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(given: str, read: str) -> None:
    assert read_settings({**GOOD, "ANNEX_CORS_ORIGINS": given}).cors_origins == [read]


def test_development_allows_the_defaults_that_everybody_knows() -> None:
    change = {
        "ANNEX_SECRET_KEY": "",
        "ANNEX_JWT_SECRET": PUBLIC,
        "ANNEX_ENVIRONMENT": "development",
    }
    assert read_settings(GOOD | change).secret_key == DEVELOPMENT_SECRET


def test_dotenv_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GOOD:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("".join(f"{k}='{v}'\n" for k, v in GOOD.items()))
    assert read_settings().issuer == "https://abc.supabase.co/auth/v1"


def test_the_environment_goes_before_dotenv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{k}='{v}'\n" for k, v in GOOD.items()))
    monkeypatch.setenv("ANNEX_SUPABASE_URL", "https://other.supabase.co")
    assert read_settings().issuer == "https://other.supabase.co/auth/v1"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ANNEX_STMP_URL", "ANNEX_SMTP_URL"),
        ("ANNEX_TRUSTED_PROXY", "ANNEX_TRUSTED_PROXIES"),
        ("annex_pool_size", "ANNEX_POOL_SIZE"),
        ("ANNEX_MIGRATION_URL", "ANNEX_MIGRATE_URL"),
    ],
)
def test_a_misspelt_name_is_said_without_its_value(name: str, meant: str) -> None:
    said = f"{name} is no setting of Annex; did you mean {meant}?"
    assert misspelt({**GOOD, name: "hidden"}) == [said]
    assert misspelt({**GOOD, name: ""}) == []
    # Where the right one is set as well, the other may be of somebody else.
    assert misspelt({**GOOD, name: "hidden", meant: "x"}) == []


def test_names_of_somebody_else_are_not_misspelt() -> None:
    of_kubernetes = ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR")
    of_callers = ("SUPABASE_KEY", "API_KEY", "API_URL", "PUBLIC_API_URL", "API_PUBLIC_URL")
    others = {f"ANNEX_{name}": "x" for name in (*of_kubernetes, *of_callers)}
    assert misspelt({**GOOD, **others}) == []


def test_every_name_that_annex_itself_reads_or_writes_is_known() -> None:
    files = [
        *(p for p in (ROOT / "app").rglob("*.py") if "contract" not in p.parts),
        *(ROOT / "docs" / "deploy").iterdir(),
        *(ROOT / n for n in ("compose.yaml", "Dockerfile", "Makefile", ".env.example", ".ci/run")),
    ]
    names = {n for p in files for n in re.findall(r"\bANNEX_[A-Z_]*[A-Z]\b", p.read_text())}
    settings = {PREFIX + field.name.upper() for field in msgspec.structs.fields(Settings)}
    assert len(names & settings) > 40
    assert names - settings <= OTHER_NAMES
    documents = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    told = {n for p in documents for n in re.findall(r"\bANNEX_[A-Z_]*[A-Z]\b", p.read_text())}
    assert misspelt(dict.fromkeys(told | names, "x")) == []


def test_no_sentence_repeats_a_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(GOOD | {"ANNEX_DATABASE_URL": "mysql://user:pass-word@localhost/x"})
    assert "pass-word" not in str(caught.value)
