"""What is said of a database's URL that leads nowhere, without a part of its password."""

import socket
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from app.installation import InstallationError
from app.installation.database import connected, hint
from app.installation.folder import remove
from app.installation.removal import removal


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "is not a Postgres URL; write postgresql://"),
        ("host=127.0.0.1 password=s3cr3t", "is not a Postgres URL"),
        ("postgresql://u:s3cr@3t@127.0.0.1:9/x", "has two @; write an @ of the password as %40"),
        ("postgresql://u:s3cr/3t#s3cr@127.0.0.1:9/x", "Connect"),
        ("postgresql://u:[s3cr3t]@127.0.0.1:9/x", "Connect"),
        ("postgresql+asyncpg://u:s3cr3t@127.0.0.1:9/x", "Connect"),
        ("postgresql://u:s3cr3t@127.0.0.1:99999/x", "names no port that can be"),
        ("postgresql://u:s3cr3t@127.0.0.1:9/x?pgbouncer=true", "has the parameter 'pgbouncer'"),
        ("postgresql://u:s3cr3t@127.0.0.1:9/x?sslmode=on", "has no sslmode that is known"),
        (
            "postgresql://u:s3cr3t@127.0.0.1:9/x?sslmode=verify-full&sslrootcert=/nowhere.crt",
            "names as sslrootcert a file that is not there",
        ),
    ],
)
async def test_a_url_that_leads_nowhere_is_one_sentence_without_its_password(
    url: str, said: str
) -> None:
    with pytest.raises(InstallationError) as raised:
        async with connected(url):
            pass
    assert said in str(raised.value)
    assert "s3cr" not in str(raised.value)
    assert "3t" not in str(raised.value)


def test_a_direct_host_that_cannot_be_reached_leads_to_the_session_pooler() -> None:
    direct = make_url("postgresql://postgres@db.abcdefghijklmnop.supabase.co:5432/postgres")
    assert "take the session pooler's URL" in hint(direct, OSError(101, "Network is unreachable"))
    assert hint(direct, ValueError()) == ""


@pytest.mark.parametrize(
    ("failed", "cure"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such host"), "`@` is `%40`"),
        (TimeoutError(), "no firewall is between"),
        (ConnectionRefusedError(111, "refused"), "see that the server runs"),
        (asyncpg.InvalidPasswordError("refused"), "take the user's own password"),
        (asyncpg.InvalidAuthorizationSpecificationError("no entry"), "?sslmode=require"),
        (asyncpg.InvalidCatalogNameError("there is none"), "Supabase's is `postgres`"),
        (asyncpg.TooManyConnectionsError("too many"), "end processes that hold some"),
        (asyncpg.CannotConnectNowError("starting up"), "try again in a moment"),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, Exception) else "",
)
def test_each_kind_of_failure_has_its_cure(failed: Exception, cure: str) -> None:
    assert cure in hint(make_url("postgresql://localhost/x"), failed)


async def test_a_host_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(InstallationError, match="no answer within 15 s; see that host and port"):
        async with connected("postgresql://u@127.0.0.1/x"):
            pass


def test_what_removes_annex_is_written_as_the_newest_migration(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "20280101000000_own.sql").write_text("select 1;")
    path = remove(folder, removal(), datetime(2027, 3, 1, tzinfo=UTC))
    assert path.name == "20280101000001_remove_annex.sql"
    assert path.read_text() == removal()
