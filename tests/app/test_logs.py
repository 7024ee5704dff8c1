"""What the log says of an error that an operator can mend."""

import asyncpg
import pytest

from app.logs import denied_in
from tests.conftest import TestDatabase, execute, running
from tests.realtime.reader import calling


async def test_a_right_that_is_missing_is_one_line_that_names_the_doctor(
    own_database: TestDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(own_database, log_level="warning") as made, calling(made) as callers:
        user = await callers.user()
        slug = (await user.client.post("/api/v1/workspaces", json={"name": "A"})).json()["slug"]
        capsys.readouterr()
        revoked = "revoke select on annex.members from annex_api"
        await execute(own_database.url("postgres"), revoked)
        answer = await user.client.get(f"/api/v1/workspaces/{slug}/members")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "unexpected" in line)
    assert ".py" not in said
    assert "unexpected: a role lacks a right that the migrations give; run `annex doctor`" in line
    assert "table members" in line
    assert answer.json()["request_id"] in line


def test_what_row_level_security_refuses_keeps_its_traceback() -> None:
    refused = 'new row violates row-level security policy for table "events"'
    assert denied_in(asyncpg.InsufficientPrivilegeError(refused)) is None
    denied = asyncpg.InsufficientPrivilegeError("permission denied for function publish")
    assert denied_in(ExceptionGroup("both", [ValueError(), denied])) == "function publish"
