"""What holds for every test: with ANNEX_FAIL_ON_SKIP=1 a skipped test fails the run."""

import os

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped something, since a gate that skips guards nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("ANNEX_FAIL_ON_SKIP") != "1":  # xdist's workers have none
        return
    if reporter.stats.get("skipped"):
        reporter.write_line("\nANNEX_FAIL_ON_SKIP=1: a skipped test fails this run.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
