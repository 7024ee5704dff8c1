"""The command: `alembic-readonly-check`, or `python -m alembic_readonly_check`."""

import gc
import os
import sys


def main() -> None:
    """Run the command line without the collector of reference cycles.

    A run makes objects until it ends, seconds later: searching them for garbage, at last when the
    interpreter ends, takes more than a third of its CPU and gives back 2 of 95 MB.

    Ends at once with the code of the run: what the project's modules left for the end of the
    process, a thread or a function of `atexit`, can neither hold it up nor give it another code.
    """
    gc.disable()
    from alembic_readonly_check.command.cli import main as command

    try:
        command()
    except SystemExit as done:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # Whoever read the report has gone, and saw no end of it.
            os._exit(2)
        os._exit(done.code if isinstance(done.code, int) else 0 if done.code is None else 2)


if __name__ == "__main__":
    main()
