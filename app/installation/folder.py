"""Copy migrations into a project's own folder, as new ones of that project.

The Supabase CLI applies a folder's files in the order of their stamps. It refuses a file that is
older than the newest applied one, and a database with a stamp that the folder lacks. So a copy is
stamped when it is made, after everything that is there, and keeps its stamp for ever.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from app.database.migrations import (
    START_ANEW,
    Migration,
    checksum_of,
    claimed_checksum,
    listed,
    name_in,
    with_checksum,
)
from app.installation import InstallationError

STAMP = "%Y%m%d%H%M%S"
FILE_NAME = re.compile(r"([0-9]+)_.*\.sql")
REMOVAL = "drop schema if exists annex cascade;"
"""What `annex uninstall` prints holds this line: the files before it no longer count."""


class Copy(msgspec.Struct, frozen=True):
    """A migration of ours in the project's folder."""

    name: str
    version: str
    path: Path
    sql: str


class Installed(msgspec.Struct, frozen=True):
    """What `install` found and did."""

    added: list[Copy]
    present: list[Copy]
    changed: list[Copy]
    """Those of `present` that somebody edited."""


def install(folder: Path, migrations: Sequence[Migration], now: datetime) -> Installed:
    """Copy the migrations that the folder lacks, stamped from `now` on, and never change a file.

    A copy is known by the name that it records, whatever its own name. Raises `InstallationError`
    without a folder to write into, and for a copy of a migration that this version has edited.
    """
    if not folder.is_dir():
        if not folder.parent.is_dir():
            raise InstallationError(
                f"There is no folder {folder.parent}; run this in your project, or name the folder "
                "of its migrations with --into."
            )
        folder.mkdir()
    files = [path for path in folder.glob("*.sql") if FILE_NAME.fullmatch(path.name)]
    present = copies(files)
    known = {copy.name for copy in present}
    ours = {migration.name: migration for migration in migrations}
    stale = [
        c.name
        for c in present
        if c.name in ours and claimed_checksum(c.sql) != ours[c.name].checksum
    ]
    if stale:
        raise InstallationError(
            f"Edited in this version after its copy into {folder}: {listed(stale)}. Nothing was "
            f"added; {START_ANEW}. What `annex uninstall` prints can be a migration of the folder."
        )
    changed = [c for c in present if c.name in ours and checksum_of(c.sql) != ours[c.name].checksum]
    newest = max((version_of(path) for path in files), default="")
    added: list[Copy] = []
    for migration in migrations:
        if migration.name not in known:
            newest = next_version(newest, now)
            path = folder / f"{newest}_annex_{migration.name}.sql"
            path.write_bytes(with_checksum(migration.sql).encode())
            added.append(Copy(migration.name, newest, path, migration.sql))
    return Installed(added, present, changed)


def copies(files: Sequence[Path]) -> list[Copy]:
    """Find our migrations among a project's files, in the order in which they are applied."""
    found: list[Copy] = []
    for path in sorted(files, key=lambda file: (version_of(file), file.name)):
        sql = path.read_bytes().decode(errors="replace")
        if name := name_in(sql):
            found.append(Copy(name, version_of(path), path, sql))
        elif REMOVAL in sql:
            found.clear()
    return found


def version_of(path: Path) -> str:
    """Return a file's stamp, which is text and compared as text."""
    return path.name.partition("_")[0]


def next_version(newest: str, now: datetime) -> str:
    """Return a stamp of `now` in UTC, or the first one after `newest` if that is later.

    Raises `InstallationError` for a newest stamp after which there is none.
    """
    stamp = now.astimezone(UTC).strftime(STAMP)
    if stamp > newest:
        return stamp
    try:
        later = datetime.strptime(newest, STAMP) + timedelta(seconds=1)
        return later.strftime(STAMP)
    except ValueError:
        counted = str(int(newest) + 1).zfill(len(newest))
    if len(counted) > len(newest):
        raise InstallationError(
            f"No stamp comes after {newest}; give that migration a stamp such as {stamp}."
        )
    return counted
