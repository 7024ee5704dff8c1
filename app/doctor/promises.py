"""What the migrations promise of rights, policies and settings, read from their text.

They are the one place that says who may do what; a test holds this reading against a catalog.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from typing import NamedTuple

from app.database.migrations import carried
from app.installation.statements import split

COMMENT = re.compile(r"--[^\n]*")
GRANT = re.compile(r"grant (.+?) on (?:(schema|function) )?(annex.*?) to ([a-z_, ]+)")
PRIVILEGE = re.compile(r"([a-z]+)(?: \(([^)]*)\))?")
# Commas of a function's arguments are none between two objects.
COMMA = re.compile(r", (?=annex\.)")
POLICY = re.compile(r"create policy (\w+) on annex\.(\w+) ")
ALIASES = {"timestamptz": "timestamp with time zone"}


class Right(NamedTuple):
    """That a role may do something to an object, or to one column of it."""

    object: str
    """As SQL names it: `table annex.events`, `function annex.publish(uuid, …)`, `schema annex`."""
    role: str
    privilege: str
    column: str


@cache
def statements() -> tuple[str, ...]:
    """Return the migrations' statements in order, each on one line and without comments."""
    texts = [s for migration in carried() for s in split(migration.sql)]
    return tuple(" ".join(COMMENT.sub("", text).split()) for text in texts)


@cache
def rights() -> frozenset[Right]:
    """Return the rights that the migrations grant in the schema."""
    found = (GRANT.fullmatch(text) for text in statements() if text.startswith("grant "))
    return frozenset(right for match in found if match for right in granted(*match.groups()))


def granted(privileges: str, kind: str | None, objects: str, roles: str) -> Iterator[Right]:
    """Take one grant apart."""
    for name in COMMA.split(objects):
        for privilege, columns in PRIVILEGE.findall(privileges):
            for column in columns.strip().split(", "):
                for role in roles.split(", "):
                    known = f"{kind or 'table'} {canonical(name)}"
                    yield Right(known, role, privilege.upper(), column)


def canonical(name: str) -> str:
    """Write a function's argument types as Postgres does."""
    return re.sub(r"\b(?:" + "|".join(ALIASES) + r")\b", lambda m: ALIASES[m[0]], name)


@cache
def policies() -> dict[tuple[str, str], str]:
    """Return the statement that makes each policy, by table and name."""
    found = ((POLICY.match(text), text) for text in statements())
    return {(match[2], match[1]): text for match, text in found if match}


def role_setting(role: str, name: str) -> str:
    """Return the statement that gives a login role one of its settings."""
    start = f"alter role {role} set {name} = "
    return next(text for text in statements() if text.startswith(start))


class Difference(NamedTuple):
    """Rights that are there against the migrations, and those that were lost."""

    excess: frozenset[Right]
    lost: frozenset[Right]

    def words(self) -> list[str]:
        """Say each role and privilege once, with the names of the objects."""
        said: dict[tuple[str, str], list[str]] = {}
        for verb, found in (("has", self.excess), ("lacks", self.lost)):
            for right in sorted(found):
                columns = " on columns" if right.column else ""
                name = right.object.partition(" ")[2].partition("(")[0]
                names = said.setdefault((right.role, f"{verb} {right.privilege}{columns}"), [])
                names += [] if name in names else [name]
        return [f"{role} {what} of {shortened(names)}" for (role, what), names in said.items()]

    def cure(self, owned: Collection[str]) -> list[str]:
        """Return statements that restore what the migrations give, and change nothing else.

        `owned` are annex_owner's objects, whose rights it changes itself: for a member of several
        roles, Postgres might choose another one that may grant, and then revoke nothing.
        """
        lines = self._statements(lambda name: name in owned)
        lines = ["set role annex_owner", *lines, "reset role"] if lines else []
        return lines + self._statements(lambda name: name not in owned)

    def _statements(self, is_meant: Callable[[str], bool]) -> list[str]:
        # To revoke a table's privilege takes that of its columns along, so these are given again.
        revoked = {(r.object, r.role, r.privilege) for r in self.excess if is_meant(r.object)}
        touched = revoked | {r[:3] for r in self.lost if is_meant(r.object)}
        again = [r for r in rights() if r[:3] in touched]
        taken = gathered(("revoke", "from"), {key: {""} for key in revoked})
        columns: dict[tuple[str, str, str], set[str]] = {}
        for right in again:
            key = (right.object, right.role, right.privilege)
            columns.setdefault(key, set()).add(right.column)
        return taken + gathered(("grant", "to"), columns)


def gathered(words: tuple[str, str], columns: dict[tuple[str, str, str], set[str]]) -> list[str]:
    """Write few statements: roles of one object together, then objects of the same roles."""
    roles: dict[tuple[str, str], list[str]] = {}
    for (name, role, privilege), of in columns.items():
        listed = f" ({', '.join(sorted(of))})" if of != {""} else ""
        roles.setdefault((name, privilege.lower() + listed), []).append(role)
    objects: dict[tuple[str, str, str], list[str]] = {}
    for (name, privilege), found in sorted(roles.items()):
        kind, _, bare = name.partition(" ")
        objects.setdefault((privilege, kind, ", ".join(sorted(found))), []).append(bare)
    verb, preposition = words
    return [
        f"{verb} {privilege} on {kind} {', '.join(names)} {preposition} {to}"
        + (" cascade" if privilege.startswith("grant option") else "")
        for (privilege, kind, to), names in objects.items()
    ]


def shortened(names: Iterable[str], most: int = 4, between: str = ", ") -> str:
    """Write names for people, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return between.join(names[:most] + more)
