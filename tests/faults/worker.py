"""`annex worker`, as a process of its own."""

import sys

from app.cli import main
from app.worker import mails

# A mail that a killed worker had taken is sent again after that, and no test waits five minutes.
mails.LEASE_SECONDS = 15
sys.argv = ["annex", "worker"]
main()
