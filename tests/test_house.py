"""The rooms of the house are small enough to read in one sitting, and lists of tests are true."""

import pytest

from tests.conftest import LONGEST, ROOT
from tests.versions import NOT_BETWEEN, ON_EVERY_POSTGRES, ON_ONE_POSTGRES, ONE_CASE

MOST = 400
"""Lines: what is longer has two tasks. Migrations may be longer, because each is all of a group of
tables, is applied as one, and does not grow after a release. So may pages of HTML."""


@pytest.mark.parametrize("folder", ["app", "controllers", "db_models"])
def test_no_module_is_longer_than_400_lines(folder: str) -> None:
    modules = [p for p in (ROOT / folder).rglob("*.py") if ".venv" not in p.parts]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules}
    assert len(lengths) > 10
    assert {name: n for name, n in lengths.items() if n > MOST} == {}


def test_what_is_said_of_tests_by_name_names_tests() -> None:
    lists = (ON_EVERY_POSTGRES, ON_ONE_POSTGRES, ONE_CASE, NOT_BETWEEN, LONGEST)
    for name in (name for names in lists for name in names):
        place, _, test = name.partition("[")[0].partition("::")
        assert (ROOT / place).exists(), name
        assert not test or f"def {test}" in (ROOT / place).read_text(), name
