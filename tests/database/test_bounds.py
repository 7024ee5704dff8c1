"""The numbers that docs/operations.md states are those that SQL holds."""

import re
from collections import defaultdict

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
