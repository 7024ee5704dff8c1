"""Run a command with a throwaway Postgres, whose URL it finds in SCRATCH_DATABASE_URL."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from app.dev import DevError
from app.dev.postgres import THROWAWAY, EmbeddedPostgres, chosen

VARIABLE = "SCRATCH_DATABASE_URL"


def main(command: list[str]) -> int:
    """Start the server, run the command, throw the server away; returns the command's exit code."""
    folder = Path(".data").resolve() / f"scratch-{os.getpid()}"
    try:
        with EmbeddedPostgres(folder, version=chosen(), settings=THROWAWAY) as postgres:
            environment = {**os.environ, VARIABLE: postgres.admin_url}
            return subprocess.run(command, env=environment, check=False).returncode
    except DevError as error:
        print(f"annex: {error}", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
