"""The numbers that docs/operations.md states are those that SQL holds."""

import re
from collections import defaultdict

from app import documents, filters, main
from app.database import pools, reads
from app.http import application, unread
from app.realtime import channels, replay, streams
from app.services import publishing
from tests.conftest import ROOT, TestDatabase

PAGE = (ROOT / "docs" / "operations.md").read_text()
FIXED = re.compile(
    r"^\| (?P<bound>[\d,]+) \| [^|]+ \| `annex\.(?P<function>\w+)` \|$", re.MULTILINE
)
RAISED = (
    r">=? (\d+)(?:(?!raise|>).)*?then\s+raise exception (?:(?!raise).)+?"
    r" constraint = 'limit_reached'"
)
STORED = re.compile(r"^\| (?P<name>\w+) \| (?P<value>[\d,]+) \| ", re.MULTILINE)
RAISING = """
select p.proname, p.prosrc from pg_proc p
where p.pronamespace = 'annex'::regnamespace and p.prosrc like '%limit_reached%'
"""
# These ask a row of the table: annex.limits, or the workspace itself.
BY_A_ROW = {"check_subscriptions", "keep_member_limit", "change_notification"}


async def test_fixed_bounds_are_those_of_the_functions(database: TestDatabase) -> None:
    stated = defaultdict[str, list[str]](list)
    for found in FIXED.finditer(PAGE):
        stated[found["function"]].append(found["bound"].replace(",", ""))
    async with database.connect("postgres") as admin:
        held = {row["proname"]: row["prosrc"] for row in await admin.fetch(RAISING)}
    assert stated.keys() == held.keys() - BY_A_ROW
    for function, bounds in stated.items():
        assert re.findall(RAISED, held[function], re.DOTALL) == bounds, function


async def test_bounds_of_the_installation_are_those_of_its_table(database: TestDatabase) -> None:
    section = PAGE[PAGE.index("| row of annex.limits |") :].partition("\n\n")[0]
    stated = {f["name"]: int(f["value"].replace(",", "")) for f in STORED.finditer(section)}
    sql = "".join(p.read_text() for p in (ROOT / "supabase" / "migrations").glob("*.sql"))
    inserted = sql.partition("insert into annex.limits (name, value) values ")[2].partition(";")[0]
    rows = re.findall(r"\('(\w+)', (\d+)\)", inserted)
    assert stated == {name: int(value) for name, value in rows}
    async with database.connect("postgres") as admin:
        assert {r["name"] for r in await admin.fetch("select name from annex.limits")} == {*stated}


async def test_bounds_in_code_are_those_of_its_constants() -> None:
    section = PAGE[PAGE.index("| bound | of what | where |") :].partition("\n\n")[0]
    stated = re.findall(r"^\| ([\d,. a-zA-Z]+) \| .+? \| .*`([\w/.]+)`", section, re.MULTILINE)
    mebibyte, kibibyte = 1024 * 1024, 1024
    held = {
        ("app/main.py", f"{main.MAX_BODY_BYTES // mebibyte} MiB"),
        ("app/services/publishing.py", f"{publishing.MAX_DATA_BYTES // kibibyte} KiB"),
        ("app/filters.py", f"{filters.MAX_PATTERNS}"),
        ("app/http/application.py", f"{application.MAX_PARAMETERS}"),
        ("app/documents.py", f"{documents.MAX_PRINTED // kibibyte} KiB"),
        ("app/services/publishing.py", f"{publishing.MAX_PRINTED_TOGETHER // mebibyte} MiB"),
        ("app/database/pools.py", f"{pools.ACQUIRE_SECONDS:.0f} s"),
        ("app/database/pools.py", f"{pools.COMMAND_SECONDS:.0f} s"),
        ("app/realtime/streams.py", f"{streams.ANSWER_SECONDS:.0f} s"),
        ("app/realtime/streams.py", f"{streams.LIFETIME_SECONDS:.0f} s"),
        ("app/database/reads.py", f"{reads.MAX_PAGE_BYTES // mebibyte} MiB"),
        ("app/realtime/channels.py", f"{channels.MAX_CHUNK // kibibyte} KiB"),
        ("app/realtime/channels.py", f"{channels.RING_BYTES // mebibyte} MiB"),
        ("app/http/unread.py", f"{unread.MAX_UNREAD_BYTES // mebibyte} MiB"),
        ("app/http/unread.py", f"{unread.PACE_SECONDS:.0f} s"),
        ("app/realtime/replay.py", f"{replay.MAX_PATCHED}"),
    }
    found = {(place, bound) for bound, place in stated if place.startswith("app/")}
    assert found == held


async def test_time_limits_of_requests_are_those_of_their_role(database: TestDatabase) -> None:
    async with database.connect("annex_api") as session:
        limits = [
            await session.fetchval(f"show {name}")
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert f"| {', '.join(limit.replace('s', ' s') for limit in limits)} |" in PAGE
