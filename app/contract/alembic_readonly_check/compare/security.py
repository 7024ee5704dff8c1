"""Rules on a database by itself, which need no second description to be broken."""

from collections.abc import Iterator

from alembic_readonly_check.codes import finding
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import Finding


def broken_rules(held: Schema) -> Iterator[Finding]:
    """Report definer functions that look names up in their caller's temporary schema first.

    Postgres searches pg_temp before everything else unless the path names it.
    """
    for signature, function in (held.functions or {}).items():
        path = function.search_path
        if function.definer and path is not None and path.split(",")[-1].strip(' "') != "pg_temp":
            yield finding(
                "SE001",
                signature,
                f"a definer function finds its caller's temporary tables first: search_path {path}",
                expected="a search_path that ends with pg_temp",
                actual=path,
            )
