"""`annex worker`, as a process of its own."""

import sys

from app.cli import main

sys.argv = ["annex", "worker"]
main()
