"""Whether functions, policies and columns are still what the migrations wrote, not only there."""

import re
from functools import cache
from typing import NamedTuple

import db_models as m
from app.database.migrations import carried
from app.doctor import Check, Finding, Site, error
from app.doctor.promises import policies, shortened
from app.doctor.rights import AS, is_newer
from app.installation.statements import split

FUNCTION = re.compile(r"^create (?:or replace )?function annex\.(\w+)\(", re.MULTILINE)
BODY = re.compile(r"\bas \$(\w*)\$(.*)\$\1\$", re.DOTALL)
POLICY = re.compile(
    r"create policy \w+ on annex\.\w+(?: for (\w+))? to ([a-z_, ]+?)"
    r"(?: using \((.*?)\))?(?: with check \((.*)\))?"
)
COMMANDS = {"select": "r", "insert": "a", "update": "w", "delete": "d"}
# What Postgres adds when it writes an expression.
ADDED = re.compile(
    r"::[a-z_]+(?: with time zone)?(?:\[\])?|\bas [a-z_0-9]+|(?<=\(\) [a-z])\([a-z_, ]+\)|[\s()]"
)
FUNCTIONS = """
select p.proname, p.prosrc, p.prosecdef,
  exists (select from unnest(p.proconfig) s where s like 'search_path=%') as has_path
from pg_proc p where p.pronamespace = 'annex'::regnamespace
"""
POLICIES = """
select c.relname, p.polname, p.polcmd::text as command, p.polpermissive,
  array(select case o when 0 then 'public' else pg_get_userbyid(o) end
    from unnest(p.polroles) o)::text[] as roles,
  coalesce(pg_get_expr(p.polqual, p.polrelid), '') as "using",
  coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') as checked
from pg_policy p join pg_class c on c.oid = p.polrelid
where c.relnamespace = 'annex'::regnamespace
"""
COLUMNS = """
select c.relname, a.attname, a.attnotnull from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'annex'::regnamespace and a.attnum > 0 and not a.attisdropped
"""


class Function(NamedTuple):
    """What decides how a function behaves, apart from its arguments."""

    name: str
    body: str
    """Empty for one that Postgres keeps as a tree and writes anew."""
    is_definer: bool
    has_path: bool


@cache
def functions() -> dict[Function, str]:
    """Return the statement that makes each function."""
    found: dict[Function, str] = {}
    for migration in carried():
        for statement in split(migration.sql.replace("\r\n", "\n")):
            if (start := FUNCTION.search(statement)) is None:
                continue
            text = statement[start.start() :]
            body = BODY.search(text)
            around = text.replace(body[2], "") if body else text.partition("return ")[0]
            made = Function(
                start[1],
                body[2] if body else "",
                "security definer" in around,
                "set search_path" in around,
            )
            found[made] = re.sub(r"\Acreate function", "create or replace function", text)
    return found


async def find_functions(site: Site) -> Finding | None:
    """A function that somebody replaced decides otherwise than the code expects."""
    if await is_newer(site):
        return None
    there = {
        Function(row[0], row[1].replace("\r\n", "\n"), row[2], row[3])
        for row in await site.api.fetch(FUNCTIONS)
    }
    names = {function.name for function in there}
    lost = [made for made in functions() if made not in there and made.name in names]
    if not lost:
        return None
    own = [functions()[made] for made in lost if made.name == "find_user"]
    ours = [functions()[made] for made in lost if made.name != "find_user"]
    return error(
        "Functions are not what the migrations make: "
        f"{shortened(sorted({f'annex.{made.name}' for made in lost}), 6)}.",
        AS,
        *own,
        *(["set role annex_owner", *ours, "reset role"] if ours else []),
    )


class Policy(NamedTuple):
    """Whom a policy lets do what."""

    command: str
    roles: tuple[str, ...]
    using: str
    checked: str


def as_written(statement: str) -> Policy:
    """Read a policy from the statement that makes it."""
    found = POLICY.fullmatch(statement)
    assert found is not None, statement
    command, roles, using, checked = found.groups()
    return Policy(
        COMMANDS.get(command or "", "*"),
        tuple(sorted(roles.split(", "))),
        plain(using or ""),
        plain(checked or ""),
    )


def plain(expression: str) -> str:
    """Write an expression so that a person's spelling and Postgres' own are the same."""
    return ADDED.sub("", expression.lower())


async def find_altered_policies(site: Site) -> Finding | None:
    """A policy of the right name may let everybody in."""
    altered = list[tuple[str, str]]()
    for row in await site.api.fetch(POLICIES):
        key = (row["relname"], row["polname"])
        if key not in policies():
            continue
        there = Policy(
            row["command"],
            tuple(sorted(row["roles"])),
            plain(row["using"]),
            plain(row["checked"]),
        )
        if there != as_written(policies()[key]) or not row["polpermissive"]:
            altered.append(key)
    if not altered or await is_newer(site):
        return None
    names = [f"{name} on annex.{table}" for table, name in sorted(altered)]
    return error(
        f"Policies say something else than the migrations: {shortened(names, 6)}.",
        AS,
        *(
            statement
            for table, name in sorted(altered)
            for statement in (f"drop policy {name} on annex.{table}", policies()[table, name])
        ),
    )


async def find_columns(site: Site) -> Finding | None:
    """Columns that were dropped, or may be null now."""
    rows = await site.api.fetch(COLUMNS)
    there = {(row["relname"], row["attname"]): row["attnotnull"] for row in rows}
    tables = {table for table, _ in there}
    lost, loose = list[str](), list[tuple[str, str]]()
    for table in m.Base.metadata.sorted_tables:
        for column in table.columns:
            if table.name in tables and (table.name, column.name) not in there:
                lost.append(f"annex.{table.name}.{column.name}")
            elif not column.nullable and not there.get((table.name, column.name), True):
                loose.append((table.name, column.name))
    if lost:
        return error(
            f"Columns were dropped: {shortened(lost, 6)}; what was in them is lost.",
            "Restore a backup of before, or add them again as the migrations in supabase/migrations"
            " write them.",
        )
    if loose:
        names = [f"annex.{table}.{column}" for table, column in loose]
        return error(
            f"Columns have lost their NOT NULL: {shortened(names, 6)}.",
            AS,
            *(f"alter table annex.{table} alter column {c} set not null" for table, c in loose),
        )
    return None


CHECKS = (
    Check("columns", find_columns, ("migrations", "edited migrations")),
    Check("functions", find_functions, ("migrations", "edited migrations")),
    Check("text of the policies", find_altered_policies, ("migrations", "edited migrations")),
)
