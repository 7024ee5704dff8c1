"""What `make mutants` takes out is there to be taken out."""

import re

from tests.database.conftest import Connection
from tests.mutations.mutants import CONDITIONS, SOURCES, mutants


async def test_each_condition_stands_in_a_function(admin: Connection) -> None:
    sources = [source for _, source, _ in await admin.fetch(SOURCES)]
    unknown = [c for c in CONDITIONS if not any(re.search(c, source) for source in sources)]
    assert unknown == []


async def test_each_mutant_is_something_else(admin: Connection) -> None:
    found = await mutants(admin)
    assert len(found) > 200
    assert all(mutant.out != mutant.back for mutant in found)
