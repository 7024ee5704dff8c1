"""A newcomer's desk: a checkout, a terminal for each page, a psql, and a Vite app."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx

from tests.conftest import ROOT
from tests.guides.blocks import Block
from tests.ports import free_port

PACKAGES = ROOT / "tests" / "clients" / "node_modules"
# What `make run` looks at, and a page of which files are taken; the code is the one under test.
CHECKOUT = ["Makefile", "pyproject.toml", "app/contract/pyproject.toml", "docs/realtime.md"]
INDEX = """<!doctype html><title>A page of the customer's</title><ul id="events"></ul>
<script type="module">
  import { supabase } from "./supabase.js";
  await supabase.auth.signInWithPassword({ email: "owner@example.com", password: "secret" });
  await import("./main.js");
</script>
"""
VITE = """export default {{
  cacheDir: ".vite",
  server: {{ port: {port}, strictPort: true, hmr: false, watch: null }},
  optimizeDeps: {{ include: ["@supabase/supabase-js", "@supabase/functions-js"] }},
}};
"""
END = "-- block ended --"


def checkout(folder: Path) -> None:
    """Lay out what a fresh clone has after its packages were installed."""
    for name in CHECKOUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)  # with its time, or make would install again
    for name in (".venv", ".tools"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)


class Terminal:
    """One `sh`, which runs a page's blocks one after the other as they are pasted."""

    def __init__(self, shell: asyncio.subprocess.Process, folder: Path) -> None:
        self.shell = shell
        self.folder = folder
        self.logs: dict[str, Path] = {}

    async def paste(self, block: Block) -> str:
        """Run a block; returns what it said. Raises AssertionError where it fails."""
        code = block.code
        if block.tag == "run background":
            log = self.folder / f"{re.sub('[^a-zA-Z]+', '-', block.page)}-{block.line}.log"
            log.touch()
            self.logs[code.strip()] = log
            code = f"{{\n{code}}} >'{log}' 2>&1 &\n"
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{code}\necho '{END}'\n".encode())
        said = ""
        async with asyncio.timeout(60):
            while not said.endswith(f"{END}\n"):
                line = await self.shell.stdout.readline()
                assert line, f"{block.place} failed:\n{said}"
                said += line.decode()
        return said.removesuffix(f"{END}\n")

    def log(self, command: str) -> str:
        """Return what a command in the background has said."""
        [log] = [log for code, log in self.logs.items() if command in code]
        return log.read_text()


@contextlib.asynccontextmanager
async def terminal(folder: Path) -> AsyncIterator[Terminal]:
    """Open a terminal in the folder, and end with it all that still runs in it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ANNEX_", "VIRTUAL_ENV"))}
    shell = await asyncio.create_subprocess_exec(
        "sh",
        "-eu",
        cwd=folder,
        # Tests share a machine; a log is read while its program runs.
        env={**clean, "PORT": "0", "PYTHON": sys.executable, "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Terminal(shell, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
        await shell.communicate()


async def run_sql(url: str, block: Block) -> None:
    """Run a block as psql would, statement by statement."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(block.code)
    except asyncpg.PostgresError as error:
        raise AssertionError(f"{block.place} failed: {error}") from error
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def vite(folder: Path, variables: dict[str, str]) -> AsyncIterator[str]:
    """Serve a folder with Vite's dev server; yields its origin."""
    port = free_port()
    (folder / "index.html").write_text(INDEX)
    (folder / "vite.config.mjs").write_text(VITE.format(port=port))
    (folder / ".env.local").write_text("".join(f"{k}={v}\n" for k, v in variables.items()))
    (folder / "node_modules").symlink_to(PACKAGES)
    origin = f"http://localhost:{port}"
    log = folder / "vite.log"
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(
            PACKAGES / ".bin" / "vite", cwd=folder, stdout=out, stderr=out, start_new_session=True
        )
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            while True:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    await client.get(origin)
                    break
                await asyncio.sleep(0.1)
        yield origin
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
