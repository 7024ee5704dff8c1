"""Copy migrations into a project's own folder, as new ones of that project.

The Supabase CLI applies a folder's files in the order of their stamps. It refuses a file that is
older than the newest applied one, and a database with a stamp that the folder lacks. So a copy is
stamped when it is made, after everything that is there, and keeps its stamp for ever.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
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
PART = ".annex-part"
"""A file that is being written; neither the CLI nor git's `*.sql` takes it for a migration."""
# As a formatter writes it.
RECORD = re.compile(
    r"""\binsert\s+into\s+"?annex"?\."?migrations"?.*?'([0-9]{2,3}_[a-z0-9_]{1,60})'""",
    re.IGNORECASE | re.DOTALL,
)
CHECKSUM = re.compile(r"'([0-9a-f]{64})'")
MAKES_SCHEMA = re.compile(
    r"""^\s*create\s+schema\s+(?:if\s+not\s+exists\s+)?"?annex"?(?!\w)""",
    re.IGNORECASE | re.MULTILINE,
)
# As `annex uninstall` prints it, or a person writes it: the files before it no longer count.
DROPS_SCHEMA = re.compile(
    r"""^\s*drop\s+schema\s+(?:if\s+exists\s+)?"?annex"?(?!\w)""", re.IGNORECASE | re.MULTILINE
)
RENAMES_SCHEMA = re.compile(
    r"""^\s*alter\s+schema\s+"?annex"?\s+rename\s""", re.IGNORECASE | re.MULTILINE
)


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
    unknown: list[Copy]
    """Those of `present` that a later release wrote."""


def install(folder: Path, migrations: Sequence[Migration], now: datetime) -> Installed:
    """Copy the migrations that the folder lacks, stamped from `now` on, and never change a file.

    A copy is known by the name that it records, whatever its own name. Raises `InstallationError`
    for a folder that no project has or that lost a copy or has one twice, and for a copy of a
    migration that this version has edited.
    """
    make(folder)
    with alone_in(folder):
        files = own_files(folder)
        present = copies(files)
        refuse_second(present)
        missing = [m for m in migrations if m.name not in {copy.name for copy in present}]
        refuse_gap(migrations, missing)
        ours = {migration.name: migration for migration in migrations}
        known = [copy for copy in present if copy.name in ours]
        stale = [c.name for c in known if claimed(c) not in (None, ours[c.name].checksum)]
        if stale:
            raise InstallationError(
                f"Edited in this version after its copy into {folder}: {listed(stale)}. Nothing was"
                f" added; {START_ANEW}. What `annex uninstall` prints can be a migration of the "
                "folder."
            )
        changed = [copy for copy in known if checksum_of(copy.sql) != ours[copy.name].checksum]
        newest = max((version_of(path) for path in files), default="")
        added: list[Copy] = []
        for migration in missing:
            newest = next_version(newest, now)
            path = folder / f"{newest}_annex_{migration.name}.sql"
            write(path, with_checksum(migration.sql))
            added.append(Copy(migration.name, newest, path, migration.sql))
        unknown = [copy for copy in present if copy.name not in ours]
        return Installed(added, present, changed, unknown)


def make(folder: Path) -> None:
    """Make a project's folder of migrations if only itself is missing."""
    if not folder.parent.is_dir():
        raise InstallationError(
            f"There is no folder {folder.parent}; run this in your project, or name the folder "
            "of its migrations with --into."
        )
    folder.mkdir(exist_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder: two at once would both add what is missing.

    The lock is the kernel's and leaves no file; it goes however a process ends.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks, such as some of a network, does without.
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def write(path: Path, sql: str) -> None:
    """Write a whole file or none: half of a migration could be taken for one of the project."""
    part = path.with_name(PART)
    try:
        with part.open("wb") as file:
            file.write(sql.encode())
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def own_files(folder: Path) -> list[Path]:
    """List a project's migrations."""
    return [path for path in folder.glob("*.sql") if FILE_NAME.fullmatch(path.name)]


def refuse_second(present: Sequence[Copy]) -> None:
    """Refuse a folder that has a migration twice: two branches may each have installed it."""
    first: dict[str, Copy] = {}
    for copy in present:
        if (other := first.setdefault(copy.name, copy)) is not copy:
            raise InstallationError(
                f"{other.path} and {copy.path.name} are both {copy.name}, and the second one would "
                "fail; delete the one that no database has applied (`supabase migration list`). "
                "Nothing was added."
            )


def refuse_gap(migrations: Sequence[Migration], missing: Sequence[Migration]) -> None:
    """Refuse a folder that lacks a copy and has a later one: a new one would come too late."""
    last = max((n for n, m in enumerate(migrations) if m not in missing), default=-1)
    if lost := [m.name for m in migrations[: last + 1] if m in missing]:
        raise InstallationError(
            f"The folder has later migrations of Annex and lacks {listed(lost)}; bring back what "
            "was deleted, from version control."
        )


def copies(files: Sequence[Path]) -> list[Copy]:
    """Find our migrations among a project's files, in the order in which they are applied.

    Raises `InstallationError` for a file that makes our schema and records no migration.
    """
    found: list[Copy] = []
    foreign: Path | None = None
    for path in sorted(files, key=lambda file: (version_of(file), file.name)):
        sql = path.read_bytes().decode(errors="replace")
        if name := name_in(sql) or recorded_in(sql):
            found.append(Copy(name, version_of(path), path, sql))
        elif DROPS_SCHEMA.search(sql):
            found.clear()
            foreign = None
        elif RENAMES_SCHEMA.search(sql):
            foreign = None
        elif MAKES_SCHEMA.search(sql):
            foreign = path
    if foreign is not None:
        raise InstallationError(
            f"{foreign} makes a schema annex and is no migration of Annex. If it was squashed or "
            "dumped from some, bring these back from version control; if the schema is your own, "
            "rename it (`alter schema annex rename to …`) in a migration. Nothing was added."
        )
    return found


def recorded_in(sql: str) -> str | None:
    """Return the last name that a file records in another spelling, as a formatter writes it."""
    return names[-1] if (names := RECORD.findall(sql)) else None


def claimed(copy: Copy) -> str | None:
    """Return the checksum that a copy records; None if another spelling of it has none."""
    if name_in(copy.sql):
        return claimed_checksum(copy.sql)
    recorded = CHECKSUM.findall(copy.sql)
    return recorded[-1] if recorded else None


def remove(folder: Path, sql: str, now: datetime) -> Path:
    """Write what removes Annex as the folder's newest migration; returns its path."""
    make(folder)
    with alone_in(folder):
        newest = max((version_of(path) for path in own_files(folder)), default="")
        path = folder / f"{next_version(newest, now)}_remove_annex.sql"
        write(path, sql)
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
