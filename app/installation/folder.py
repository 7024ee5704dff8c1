"""Copy migrations into a project's own folder, as new ones of that project.

The Supabase CLI applies a folder's files in the order of their stamps. It refuses a file that is
older than the newest applied one, and a database with a stamp that the folder lacks. So a copy is
stamped when it is made, after everything that is there, and keeps its stamp for ever.
"""

import contextlib
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
    for a folder that no project has or that lost a copy, and for a copy of a migration that this
    version has edited.
    """
    files = own_files(folder)
    present = copies(files)
    missing = [m for m in migrations if m.name not in {copy.name for copy in present}]
    refuse_gap(migrations, missing)
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
    for migration in missing:
        newest = next_version(newest, now)
        path = folder / f"{newest}_annex_{migration.name}.sql"
        path.write_bytes(with_checksum(migration.sql).encode())
        added.append(Copy(migration.name, newest, path, migration.sql))
    return Installed(added, present, changed)


def own_files(folder: Path) -> list[Path]:
    """List a project's migrations; the folder is made if only itself is missing."""
    if not folder.parent.is_dir():
        raise InstallationError(
            f"There is no folder {folder.parent}; run this in your project, or name the folder "
            "of its migrations with --into."
        )
    folder.mkdir(exist_ok=True)
    return [path for path in folder.glob("*.sql") if FILE_NAME.fullmatch(path.name)]


def refuse_gap(migrations: Sequence[Migration], missing: Sequence[Migration]) -> None:
    """Refuse a folder that lacks a copy and has a later one: a new one would come too late."""
    last = max((n for n, m in enumerate(migrations) if m not in missing), default=-1)
    if lost := [m.name for m in migrations[: last + 1] if m in missing]:
        raise InstallationError(
            f"The folder has later migrations of Annex and lacks {listed(lost)}; bring back what "
            "was deleted, from version control."
        )


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


def remove(folder: Path, sql: str, now: datetime) -> Path:
    """Write what removes Annex as the folder's newest migration; returns its path."""
    newest = max((version_of(path) for path in own_files(folder)), default="")
    path = folder / f"{next_version(newest, now)}_remove_annex.sql"
    path.write_text(sql)
    return path


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
    with contextlib.suppress(ValueError):
        later = (datetime.strptime(newest, STAMP) + timedelta(seconds=1)).strftime(STAMP)
        # It also reads shorter ones, as another time than who wrote them.
        if later > newest:
            return later
    counted = str(int(newest) + 1).zfill(len(newest))
    if len(counted) > len(newest):
        raise InstallationError(
            f"No stamp comes after {newest}; give that migration a stamp such as {stamp}."
        )
    return counted
