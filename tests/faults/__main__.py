"""Go through all faults again and again, each round longer than in CI and with a new seed.

`make chaos SECONDS=600`; `make chaos SEED=… SECONDS=1` goes through one round again.
"""

import argparse
import os
import secrets
import subprocess
import sys
import time

SCALE = 4
WHAT = ("tests/faults", "tests/inbox/test_model.py")
PYTEST = (sys.executable, "-m", "pytest", *WHAT, "--dist=worksteal", "--timeout=600", "-q")


def main() -> int:
    """Run rounds until the time is over or one fails; returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", default="2")
    given = parser.parse_args()
    until, rounds = time.monotonic() + given.seconds, 0
    while not rounds or time.monotonic() < until:
        seed = secrets.randbelow(2**32) if given.seed is None else given.seed + rounds
        rounds += 1
        sys.stdout.write(f"round {rounds}, seed {seed}\n")
        sys.stdout.flush()
        status = subprocess.run(
            [*PYTEST, "-n", given.jobs],
            env=os.environ | {"ANNEX_FAULTS_SEED": str(seed), "ANNEX_FAULTS_SCALE": str(SCALE)},
        ).returncode
        if status:
            sys.stdout.write(f"Again with: make chaos SEED={seed} SECONDS=1\n")
            return status
    sys.stdout.write(f"{rounds} rounds without a failure\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
