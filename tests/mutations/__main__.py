"""Take each guard out of the schema, one at a time, and expect that a test fails for it.

`python -m tests.mutations [WORD …]` runs the mutants whose name has one of the words, and
`make mutants` all of them, which takes an hour. It changes the functions, policies and triggers of
scratch databases, and of the template that others are made from. A mutant that no test notices is a
guard that nobody would miss: the run fails then.
"""

import sys

import pytest

from tests.mutations.runner import FILES, Runner

if __name__ == "__main__":
    options = ["-p", "no:cacheprovider", "-n", "0", "-q", "--no-header", *FILES]
    sys.exit(pytest.main(options, plugins=[Runner(sys.argv[1:])]))
