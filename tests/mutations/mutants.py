"""The mutants: each takes one guard out of a migrated database, and puts it back."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg

# What a function refuses, and what it asks of another one that refuses. Locks are guards, too.
REST = r"(?:'(?:[^']|'')*'|[^;'])*;"
REFUSALS = re.compile(
    rf"raise exception\s{REST}" rf"|perform annex\.(?:(?:require|refuse)\w*|lock_workspace)\({REST}"
)
# Conditions that keep a row from those who may not have it, with a word of the tests about it; each
# is replaced by what is always so.
CONDITIONS = {
    r"(?<=and )m\.status = 'active'": "suspended",
    r"(?<=and )w\.deleted_at is null": "deleted_workspace",
    r"(?<=and )k\.revoked_at is null": "revoked",
    r"k\.expires_at > (?:statement_timestamp|now)\(\)": "expire",
    r"k\.workspace_id = \w+\.workspace_id": "another",
    r"session_user = 'annex_api'": "vouches",
    r"session_user not in \([^)]*\)": "member_limit",
    r"i\.expires_at > now\(\)": "expired",
    r"invitation\.expires_at > now\(\)": "expired",
    r"invitation\.uses < invitation\.max_uses": "max_uses",
    r"u\.email = invitation\.email": "approve",
    r"u\.email_confirmed_at is not null": "confirmed",
    r"j\.value = u\.value": "domain",
    r"annex\.is_domain_allowed\([^()]*\)": "domain",
    r"annex\.removed_at\([^()]*\) is null": "removed",
    r"'invitations:manage' = any \(g\.permissions\)": "inviter",
    r"given\.permissions <@ permissions": "above",
    r"m\.user_id <> old\.user_id": "last_owner",
    r"annex\.has_permission\([^()]*\)": "already_member",
    r"annex\.may_give\([^()]*\)": "made_an_invitation_possible",
    r"annex\.is_proof\([^()]*\)": "sso",
}
SOURCES = """
select p.proname, p.prosrc, pg_get_functiondef(p.oid) from pg_proc p
where p.pronamespace = 'annex'::regnamespace and p.prosqlbody is null order by p.oid
"""
POLICIES = """
select p.polname, p.polrelid::regclass::text, pg_get_expr(p.polqual, p.polrelid),
  pg_get_expr(p.polwithcheck, p.polrelid)
from pg_policy p join pg_class c on c.oid = p.polrelid
where c.relnamespace = 'annex'::regnamespace and p.polname !~ '_owner$' order by 2, 1
"""
TRIGGERS = """
select t.tgname, t.tgrelid::regclass::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
where c.relnamespace = 'annex'::regnamespace and not t.tgisinternal and t.tgparentid = 0
order by 2, 1
"""
TABLES = """
select c.oid::regclass::text from pg_class c
where c.relnamespace = 'annex'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
order by 1
"""


class Mutant(NamedTuple):
    """A guard that is missing: how to take it out and put it back, and what a test of it says."""

    name: str
    out: str
    back: str
    words: list[str]


def cuts(source: str) -> Iterator[tuple[re.Match[str], str, list[str]]]:
    """Yield what is taken out of a function, what stands there instead, and words of its tests."""
    for found in REFUSALS.finditer(source):
        quoted = re.findall(r"constraint = '(\w+)'", found[0])
        yield found, "null;", quoted + re.findall(r"'([a-z]+:[a-z]+)'", found[0])
    for pattern, word in CONDITIONS.items():
        for found in re.finditer(pattern, source):
            yield found, "true", [word]


async def mutants(connection: "asyncpg.Connection[Any]") -> list[Mutant]:
    """Read a migrated database's functions, policies, triggers and tables, and make its mutants."""
    made = []
    for name, source, definition in await connection.fetch(SOURCES):
        for found, instead, words in cuts(source):
            rest = source[: found.start()] + instead + source[found.end() :]
            line = source.count("\n", 0, found.start()) + 1
            what = " ".join(found[0].split()).removeprefix("raise exception ")[:80]
            made.append(
                Mutant(
                    f"{name}:{line} {what}",
                    definition.replace(source, rest),
                    definition,
                    [name, *words],
                )
            )
    for policy, table, using, check in await connection.fetch(POLICIES):
        for clause, kept in (("using", using), ("with check", check)):
            if kept not in (None, "true"):
                alter = f"alter policy {policy} on {table} {clause}"
                words = [policy.rsplit("_", 1)[0], "isolation", table.split(".")[1]]
                made.append(
                    Mutant(
                        f"policy {policy}: {clause}", f"{alter} (true)", f"{alter} ({kept})", words
                    )
                )
    for trigger, table in await connection.fetch(TRIGGERS):
        alter = f"alter table {table}"
        words = [trigger, trigger.split("_", 1)[1], table.split(".")[1]]
        made.append(
            Mutant(
                f"trigger {trigger}",
                f"{alter} disable trigger {trigger}",
                f"{alter} enable trigger {trigger}",
                words,
            )
        )
    for (table,) in await connection.fetch(TABLES):
        alter = f"alter table {table}"
        made.append(
            Mutant(
                f"row level security of {table}",
                f"{alter} disable row level security",
                f"{alter} enable row level security",
                ["isolation", table.split(".")[1]],
            )
        )
    return made
