"""nchan, the push module of nginx, from Debian's packages."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click
import psutil  # type: ignore[import-untyped]

MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
MISSING = "nchan is not installed: apt install nginx libnginx-mod-nchan"
START_SECONDS = 20.0
CONFIG = """
load_module {module};
{user}
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    keepalive_requests 1000000000;
    location = /stream {{
      nchan_subscriber eventsource;
      nchan_channel_id events;
    }}
    location = /publish {{
      nchan_publisher http;
      nchan_channel_id events;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 1m;
    }}
  }}
}}
"""


def find() -> str | None:
    """Return nginx' path if nchan is there."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    return nginx if MODULE.exists() else None


def version_of(nginx: str) -> str:
    """Return nginx' name and version."""
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition(" ")[2].replace("/", " ")


@contextmanager
def running(folder: Path, files: int, said: IO[str]) -> Iterator[tuple[int, psutil.Process]]:
    """Run nginx with one worker; yields the port and the worker's process."""
    nginx = find()
    if nginx is None:
        raise click.ClickException(MISSING)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    user = "user root;" if psutil.Process().username() == "root" else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(module=MODULE, user=user, files=files, port=port))
    process = subprocess.Popen([nginx, "-p", folder, "-c", config, "-e", "stderr"], stderr=said)
    try:
        yield port, wait(process, port)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait(process: "subprocess.Popen[bytes]", port: int) -> psutil.Process:
    """Wait until the worker answers; returns its process."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            [worker] = psutil.Process(process.pid).children()
        except (OSError, ValueError):
            time.sleep(0.05)
        else:
            return worker
    raise click.ClickException("nginx does not start.")
