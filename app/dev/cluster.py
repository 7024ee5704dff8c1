"""The folder of a cluster: who may use it, whose it is, and how it is made."""

import fcntl
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.dev import DevError
from app.dev.postmaster import LEFTOVER_SECONDS, Identity, end, reason_of

MISSING = (
    "The embedded Postgres is not installed; "
    "run `pip install 'annex-b2b[dev]'` (in a checkout: `make sync`)."
)

try:
    import psutil  # type: ignore[import-untyped]
except ImportError as error:
    raise DevError(MISSING) from error

SUPERUSER = "postgres"
_SOCKET_PATH_LIMIT = 103  # bytes, on macOS; Linux takes 107


@contextmanager
def owned_by_one(data: Path) -> Iterator[int]:
    """Lock the folder for this process, until the descriptor is closed or an exception leaves."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as error:
        raise DevError(others(data)) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DevError(f"{data} is not a folder; choose another one for the data.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DevError(
                f"The data folder {data} is in use by another `annex dev` or test run; "
                "stop that one, or choose another folder (`make run DATA=some/folder`)."
            ) from error
        yield lock
    except BaseException:
        os.close(lock)
        raise


def check_cluster(data: Path, version: int) -> None:
    """Refuse a cluster of another version or user; raises `DevError`."""
    cluster = data / "cluster"
    # A half-made cluster, of an initdb that was killed, never got its final name.
    shutil.rmtree(data / "cluster.new", ignore_errors=True)
    if cluster.exists():
        found = (cluster / "PG_VERSION").read_text().strip()
        if found != str(version):
            raise DevError(other_version(data, found, version))
        if os.geteuid() != 0 and cluster.stat().st_uid != os.geteuid():
            raise DevError(others(data))


def other_version(data: Path, found: int | str, wanted: int) -> str:
    """Say that a folder is of another version, and what to do."""
    return (
        f"The data folder {data} was made by Postgres {found}, not {wanted}; "
        "start over (`make run FRESH=1`) or choose another folder (`make run DATA=some/folder`)."
    )


def others(data: Path) -> str:
    """Say that a folder is another user's, and what to do."""
    return (
        f"The data folder {data} belongs to another user; "
        "delete it as that user, or choose another folder (`make run DATA=some/folder`)."
    )


def find_identity(cluster: Path, binaries: Path) -> Identity:
    """Choose the server's user and, being root, let that user through to cluster and programs."""
    if os.geteuid() != 0:
        return Identity()
    account = _account(cluster)
    identity = Identity(account.pw_uid, account.pw_gid)
    if cluster.exists() and cluster.stat().st_uid == 0:  # copied or chowned by root
        for path in (cluster, *cluster.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    wheel = binaries.parent.parent
    libraries = wheel.with_name(f"{wheel.name}.libs")
    for target in (cluster, wheel):
        for folder in target.parents:
            _permit(folder, 0o001)
    # Installed under a strict umask, the wheel itself is closed as well.
    if (binaries / "postgres").stat().st_mode & 0o005 != 0o005:
        for tree in filter(Path.exists, (wheel, libraries)):
            for path in (tree, *tree.rglob("*")):
                _permit(path, 0o005 if path.stat().st_mode & 0o100 else 0o004)
    return identity


def _account(cluster: Path) -> pwd.struct_passwd:
    """Return the unprivileged user for a server started by root: the cluster's owner if it has one.

    Otherwise `postgres` or `nobody`, which every system has, so no user is created.
    """
    owner = cluster.stat().st_uid if cluster.exists() else 0
    if owner != 0:
        try:
            return pwd.getpwuid(owner)
        except KeyError:  # a mounted folder: the number alone is enough to run
            group = cluster.stat().st_gid
            return pwd.struct_passwd((str(owner), "x", owner, group, "", "/", "/bin/sh"))
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DevError("Postgres does not run as root; run this as an ordinary user.")


def _permit(path: Path, rights: int) -> None:
    mode = path.stat().st_mode
    if mode & rights != rights:
        path.chmod(mode & 0o7777 | rights)


def initialise(
    cluster: Path, version: int, binaries: Path, identity: Identity, is_durable: bool
) -> None:
    """Make a cluster in UTF-8 whose order of text is the same on every machine."""
    draft = cluster.with_name("cluster.new")
    draft.mkdir(mode=0o700)
    identity.adopt(draft)
    locale = (
        ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if version >= 17
        else ["--locale=C.UTF-8"]
    )
    with tempfile.TemporaryFile() as output:
        initdb = identity.popen(
            [
                str(binaries / "initdb"),
                *("-D", str(draft), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
                *locale,
                "--no-instructions",
                *([] if is_durable else ["--no-sync"]),
            ],
            output,
        )
        try:
            status = initdb.wait()
        except BaseException:
            end(initdb)
            raise
        if status != 0:
            output.seek(0)
            reason = reason_of(output.read().decode(errors="replace"))
            raise DevError(f"Postgres could not make its data folder {cluster}: {reason}")
    draft.rename(cluster)


def wait_for_leftover(cluster: Path) -> None:
    """Wait for a server whose starter was killed, and forget a stale postmaster.pid.

    Postgres takes any process with the number in that file for a server; in a container, where
    numbers are small and come again, this may be anything.
    """
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while pid := _postmaster_pid(cluster):
        if not _is_postgres(pid):
            for stale in (cluster / "postmaster.pid", *cluster.glob(".s.PGSQL.*.lock")):
                stale.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise DevError(f"Another Postgres runs in {cluster}; end it with `kill -INT {pid}`.")
        time.sleep(0.05)


def _postmaster_pid(cluster: Path) -> int | None:
    try:
        return abs(int((cluster / "postmaster.pid").read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None


def _is_postgres(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return "postgres" in process.name() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def choose_socket_folder(cluster: Path, port: int, identity: Identity) -> tuple[Path, bool]:
    """Return the socket's folder and whether it is to be removed: the cluster, if its path will do.

    The name of a socket is short (about 100 bytes), and clients split a host at commas.
    """
    length = len(os.fsencode(cluster / f".s.PGSQL.{port}"))
    if length <= _SOCKET_PATH_LIMIT and "," not in str(cluster):
        return cluster, False
    folder = Path(tempfile.mkdtemp(prefix="annex-", dir="/tmp"))
    identity.adopt(folder)
    return folder, True
