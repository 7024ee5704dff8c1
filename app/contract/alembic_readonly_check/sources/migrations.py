"""Compare migration files with the history that a database recorded when it applied them."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pglast

from alembic_readonly_check.codes import finding
from alembic_readonly_check.facts import Json
from alembic_readonly_check.findings import CannotCheck, Finding, Location, relative


@dataclass(frozen=True, slots=True)
class Migration:
    """A file `<version>_<name>.sql`; the version is its leading digits."""

    path: Path
    version: str

    @property
    def name(self) -> str:
        """Say what the file is called."""
        return self.path.name


def read(path: Path) -> str:
    """Read a script; raises `CannotCheck` if it is no UTF-8 text."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotCheck(f"{path.name} cannot be read: {error}.") from None


def files(folder: Path | None) -> list[Migration]:
    """List the migrations of a folder in the order they are applied.

    Raises `CannotCheck` if two files bear one version.
    """
    found: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql"), key=_counted) if folder else ():
        match = re.match(r"\d+", path.name)
        version = match[0] if match else path.stem
        if version in found:
            raise CannotCheck(f"{path.name} and {found[version].name} bear the same version.")
        found[version] = Migration(path, version)
    return list(found.values())


def _counted(path: Path) -> list[str | int]:
    """Order names as people count: 2 before 10, V2 before V10."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)]


def history(text: str) -> dict[str, Json]:
    """Read the answer of the history query: version -> its row."""
    return {row["version"]: row for row in json.loads(text)}


def pending(held: Iterable[Migration], applied: dict[str, Json]) -> list[Migration]:
    """List the files that the database has not applied."""
    return [migration for migration in held if migration.version not in applied]


def check(held: list[Migration], applied: dict[str, Json], root: Path) -> Iterator[Finding]:
    """Report files not applied (MG401) and applied ones that were edited or are gone (MG402)."""
    for migration in pending(held, applied):
        yield finding(
            "MG401",
            migration.name,
            "the migration is not applied",
            Location(relative(migration.path, root), 1),
            expected=migration.name,
        )
    by_version = {migration.version: migration for migration in held}
    for version, row in applied.items():
        known = by_version.get(version)
        if known is None:
            yield finding(
                "MG402",
                f"{version}_{row['name']}" if row["name"] else version,
                "the database applied a migration whose file is gone",
                actual=version,
                fix="restore the file; what is applied stays in the folder",
            )
        elif row["statements"] is not None:
            yield from _edited(known, row["statements"], root)


def _edited(migration: Migration, statements: list[str], root: Path) -> Iterator[Finding]:
    text = read(migration.path)
    mine, theirs = list(_words(text)), [word for part in statements for word in _words(part)]
    for position, word in enumerate(mine):
        if position >= len(theirs) or theirs[position][0] != word[0]:
            line, held = text.count("\n", 0, word[1]) + 1, theirs[position : position + 1]
            yield finding(
                "MG402",
                migration.name,
                f"the file was edited after it was applied: file {word[0]},"
                f" database {held[0][0] if held else 'nothing more'}",
                Location(relative(migration.path, root), line),
                expected=held[0][0] if held else None,
                actual=word[0],
            )
            return
    if len(theirs) > len(mine):
        yield finding(
            "MG402",
            migration.name,
            f"the file was edited after it was applied: the database goes on with"
            f" {theirs[len(mine)][0]}",
            Location(relative(migration.path, root), text.count("\n") + 1),
            expected=theirs[len(mine)][0],
        )


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Cut SQL into its tokens with their offsets, without comments and semicolons."""
    try:
        tokens = pglast.parser.scan(text)
    except pglast.parser.ParseError:
        # What Postgres' scanner refuses is compared word by word.
        yield from ((match[0], match.start()) for match in re.finditer(r"\S+", text))
        return
    raw = text.encode()
    ascii_only = len(raw) == len(text)
    for token in tokens:
        if token.name in ("SQL_COMMENT", "C_COMMENT", "ASCII_59"):
            continue
        if ascii_only:
            yield text[token.start : token.end + 1], token.start
        else:
            yield raw[token.start : token.end + 1].decode(errors="replace"), len(
                raw[: token.start].decode(errors="replace")
            )
