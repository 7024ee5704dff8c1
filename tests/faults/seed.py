"""What a run draws its choices from, and how much it does of each."""

import os

SEED = int(os.environ.get("ANNEX_FAULTS_SEED", "20261123"))
SCALE = int(os.environ.get("ANNEX_FAULTS_SCALE", "1"))
"""How many times as long as in CI each scenario goes on."""
