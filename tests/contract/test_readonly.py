"""The tool's own guard (RO901 to RO904): what it lets pass, what it stops, what a server saw."""

import asyncio
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic_readonly_check.command import cli
from alembic_readonly_check.command.check import Check, Options
from alembic_readonly_check.command.databases import DatabaseCheck
from alembic_readonly_check.config import Scratch, load
from alembic_readonly_check.db import allowed, catalog, guard, opinion, queries, scratch
from alembic_readonly_check.findings import CannotCheck
from alembic_readonly_check.sources import models
from alembic_readonly_check.sql.expressions import Scope
from click.testing import CliRunner
from sqlalchemy import Column, Integer, MetaData, text
from sqlalchemy.engine import URL

ROOT = Path(__file__).parent / "foreign"
SCHEMAS = ("public",)
SERVER_LOG = "CONTRACT_TEST_SERVER_LOG"
"""Variable with the path of the server's log, where that is not `log` in its data folder."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The foreign project's database, migrated, as a superuser and as a role that may log in."""

    owner: URL
    reader: URL
    password: str


def plain(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def execute(url: URL, *statements: str) -> list[Any]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(plain(url))
        try:
            return [await connection.fetch(statement) for statement in statements]
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def shop(server_url: str) -> Iterator[Shop]:
    server = guard.driver_url(server_url, "server")
    role, password = f"check_{secrets.token_hex(4)}", secrets.token_hex(8)
    with scratch.databases(
        server,
        "server",
        scratch.Scripts([ROOT / "sql/roles.sql"], sorted((ROOT / "sql/changes").glob("*.sql"))),
        None,
        "public",
    ) as made:
        execute(server, f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        try:
            reader = made.migrated.set(username=role, password=password)
            yield Shop(made.migrated, reader, password)
        finally:
            execute(server, f"DROP ROLE {role}")


def check(monkeypatch: pytest.MonkeyPatch, url: URL, **options: Any) -> Check:
    """Run everything against a live database, in the folder of the foreign project."""
    monkeypatch.setenv("SHOP_DATABASE_URL", plain(url))
    monkeypatch.delenv("SHOP_SCRATCH_URL", raising=False)
    run = Check(load(ROOT), Options(**options))
    run.docs()
    run.mapped()
    DatabaseCheck(run).compare()
    return run


def test_a_role_with_login_only_suffices(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(monkeypatch, shop.reader, require_readonly_role=True).findings == []


def test_what_a_role_may_not_read_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        shop.owner,
        "CREATE SCHEMA closed",
        "CREATE FUNCTION closed.empty() RETURNS jsonb LANGUAGE sql AS $$SELECT '{}'::jsonb$$",
        "ALTER TABLE customers ALTER settings SET DEFAULT closed.empty()",
    )
    try:
        run = check(monkeypatch, shop.reader)
    finally:
        execute(
            shop.owner,
            "ALTER TABLE customers ALTER settings SET DEFAULT '{}'",
            "DROP SCHEMA closed CASCADE",
        )
    assert run.findings == []
    (note,) = (note for note in run.notes if "could not compare" in note)
    assert note == (
        "the role of the check could not compare '{}' and closed.empty():"
        " permission denied for schema closed"
    )


def test_what_a_role_may_not_read_ends_with_2_unless_drift_is_found(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SHOP_DATABASE_URL", plain(shop.reader))
    monkeypatch.delenv("SHOP_SCRATCH_URL", raising=False)
    change = "ALTER TABLE orders DROP CONSTRAINT orders_quantity_check"
    add = "ADD CONSTRAINT orders_quantity_check CHECK"
    execute(
        shop.owner,
        "CREATE SCHEMA closed",
        "CREATE FUNCTION closed.most() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1000'",
        f"{change}, {add} (quantity BETWEEN 1 AND closed.most())",
    )
    try:
        blind = CliRunner().invoke(cli.main, ["db"])
        execute(shop.owner, "ALTER TABLE orders ALTER shipping SET DEFAULT 7")
        red = CliRunner().invoke(cli.main, ["db"])
    finally:
        execute(
            shop.owner,
            "ALTER TABLE orders ALTER shipping SET DEFAULT 0",
            f"{change}, {add} (quantity BETWEEN 1 AND 1000)",
            "DROP SCHEMA closed CASCADE",
        )
    assert blind.exit_code == 2, blind.output
    assert "permission denied for schema closed; grant it USAGE there" in blind.stderr
    assert (red.exit_code, "DC305" in red.stdout) == (1, True), red.output


def test_a_column_of_a_closed_type_hides_no_check(shop: Shop) -> None:
    execute(shop.owner, "CREATE SCHEMA closed", "CREATE TYPE closed.kind AS ENUM ('a')")
    try:
        names = Scope("public.orders", (("quantity", "integer"), ("kind", "closed.kind")))
        told = guard.run(shop.reader, "X", SCHEMAS, lambda r: r.plan("quantity > 1", names))
        whole = guard.run(
            shop.owner,
            "X",
            SCHEMAS,
            lambda r: r.plan("orders.quantity > 1 OR orders IS NULL", names),
        )
    finally:
        execute(shop.owner, "DROP SCHEMA closed CASCADE")
    assert told is not None
    assert whole is not None


def test_a_history_that_the_role_may_not_read_is_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        shop.owner,
        "CREATE SCHEMA supabase_migrations",
        "CREATE TABLE supabase_migrations.schema_migrations (version text PRIMARY KEY)",
    )
    try:
        run = check(monkeypatch, shop.reader)
    finally:
        execute(shop.owner, "DROP SCHEMA supabase_migrations CASCADE")
    assert run.findings == []
    assert f"the role {shop.reader.username} may not read the history of migrations" in run.notes


def test_a_role_that_may_write_is_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(monkeypatch, shop.owner).findings
    assert [(f.code, f.severity) for f in found] == [("RO901", "warning")]
    with pytest.raises(CannotCheck) as stopped:
        check(monkeypatch, shop.owner, require_readonly_role=True)
    assert stopped.value.code == "RO901"


def test_a_transaction_that_may_write_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "READ_ONLY", {})
    with pytest.raises(CannotCheck) as stopped:
        guard.run(shop.reader, "X", SCHEMAS, lambda reader: reader.ask("relations"))
    assert stopped.value.code == "RO902"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT nextval('order_number')",
        "UPDATE customers SET name = 'x'",
        "COPY customers TO STDOUT",
        allowed.STATE + " ",
        f"{allowed.EXPLAIN}1; DROP TABLE customers",
        f"{allowed.EXPLAIN}1, 2",
        f"{allowed.EXPLAIN}id FROM customers",
        f"{allowed.EXPLAIN}1 INTO stolen",
        f"{allowed.EXPLAIN}1 FOR UPDATE",
        "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, FORMAT JSON) SELECT 1",
        "EXPLAIN ANALYZE SELECT nextval('order_number')",
        f"{allowed.EXPLAIN}(WITH gone AS (DELETE FROM customers RETURNING 1) SELECT 1 FROM gone)",
    ],
)
def test_sabotage_ends_in_ro903(statement: str, shop: Shop) -> None:
    def sabotage(reader: guard.Reader) -> None:
        reader.connection.execute(text(statement.replace(":", "\\:")))

    with pytest.raises(CannotCheck) as stopped:
        guard.run(shop.owner, "X", SCHEMAS, sabotage)
    assert stopped.value.code == "RO903"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM public.customers",
        "SELECT * FROM customers",
        "SELECT relname INTO stolen FROM pg_class",
        "WITH gone AS (DELETE FROM pg_class RETURNING 1) SELECT 1 FROM gone",
        "SELECT relname FROM pg_class FOR UPDATE",
        "SELECT 1; SELECT relname FROM pg_class",
        "-- nothing",
    ],
)
def test_even_reflection_reads_nothing_but_catalogs(statement: str, shop: Shop) -> None:
    def sabotage(reader: guard.Reader) -> None:
        reader.connection.execute(text(statement))

    with pytest.raises(CannotCheck) as stopped:
        guard.run(shop.owner, "X", SCHEMAS, sabotage, reflecting=True)
    assert stopped.value.code == "RO903"


def test_alembic_is_asked_for_a_second_opinion(shop: Shop) -> None:
    scope = catalog.Scope(SCHEMAS)
    metadata = models.read("shop.tables:metadata", ROOT).metadata
    changed = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["customers"].append_column(Column("more", Integer))

    def ask(reader: guard.Reader) -> list[tuple[list[str], list[str]]]:
        held = catalog.read(reader.ask, scope, "migrations")
        return [
            ([f.code for f in found], [f.subject for f in found])
            for asked in (metadata, changed)
            for found in [list(opinion.findings(reader, asked, scope, held, "public", []))]
        ]

    told = guard.run(shop.reader, "X", SCHEMAS, ask, reflecting=True)
    assert told == [([], []), (["DB202"], ["public.customers.more"])]


def test_a_driver_cannot_be_used_past_the_guard(shop: Shop) -> None:
    def sabotage(reader: guard.Reader) -> None:
        cursor = reader.connection.connection.cursor()
        cursor.execute("UPDATE public.customers SET name = 'x'")

    with pytest.raises(Exception, match="read-only transaction"):
        guard.run(shop.owner, "X", SCHEMAS, sabotage)


def test_scratch_and_live_may_not_be_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", plain(shop.owner))
    monkeypatch.setenv("SHOP_SCRATCH_URL", plain(shop.owner))
    run = Check(load(ROOT))
    run.docs()
    with pytest.raises(CannotCheck) as stopped:
        DatabaseCheck(run).compare()
    assert stopped.value.code == "RO904"
    same = shop.owner.update_query_dict({"application_name": "another"})
    with pytest.raises(CannotCheck):
        scratch.refuse_live(same, "A", ("B", shop.reader))
    scratch.refuse_live(shop.owner.set(database="postgres"), "A", ("B", shop.owner))


def test_a_server_sees_nothing_that_writes(
    shop: Shop, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = guard.driver_url(server_url, "server")
    role, name = shop.reader.username, shop.owner.database
    counter = (
        "SELECT last_value, is_called FROM order_number",
        "SELECT count(*) FROM volatile_calls",
    )
    execute(
        shop.owner,
        "CREATE TABLE volatile_calls (at timestamptz)",
        "CREATE FUNCTION called() RETURNS text LANGUAGE sql VOLATILE"
        " AS 'INSERT INTO volatile_calls VALUES (now()) RETURNING ''x''::text'",
        "ALTER TABLE customers ALTER nickname SET DEFAULT called()",
        f"ALTER ROLE {role} IN DATABASE \"{name}\" SET log_statement = 'all'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    try:
        before = [execute(shop.owner, *counter), dump(shop)]
        folder = execute(server, "SHOW data_directory")[0][0][0]
        log = Path(os.environ.get(SERVER_LOG) or Path(folder).parent / "postgres.log")
        offset = log.stat().st_size
        found = check(monkeypatch, shop.reader).findings
        assert {f.code for f in found} >= {"DC305", "DC301", "RO901"}
        assert [execute(shop.owner, *counter), dump(shop)] == before
        with log.open("rb") as stream:
            stream.seek(offset)
            logged = stream.read().decode()
    finally:
        execute(
            shop.owner,
            "ALTER TABLE customers ALTER nickname DROP DEFAULT",
            "DROP FUNCTION called()",
            "DROP TABLE volatile_calls",
            f'ALTER ROLE {role} IN DATABASE "{name}" RESET log_statement',
            f"DROP OWNED BY {role}",
        )
    verbs = set(re.findall(r"(?:statement|execute [^:]*): *(\w+)", logged))
    assert {"BEGIN", "ROLLBACK"} <= {verb.upper() for verb in verbs}
    assert {verb.upper() for verb in verbs} <= {
        "BEGIN",
        "SET",
        "SHOW",
        "SELECT",
        "EXPLAIN",
        "SAVEPOINT",
        "ROLLBACK",
    }


def dump(shop: Shop) -> str:
    """Read the whole database as rows of text; what a dump would hold."""
    tables = execute(
        shop.owner,
        "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = 'public'::regnamespace ORDER BY 1",
    )[0]
    rows = execute(shop.owner, *(f"SELECT t::text FROM {table[0]} t" for table in tables))
    facts = guard.run(shop.owner, "X", SCHEMAS, lambda r: [r.ask(q) for q in queries.QUERIES])
    return f"{rows}{facts}"


def test_an_expression_that_the_server_refuses_ends_nothing(shop: Shop) -> None:
    def work(reader: guard.Reader) -> tuple[str | None, str | None, str]:
        names = Scope("public.orders", (("quantity", "integer"),))
        return (
            reader.plan("no_such_function(quantity)", names),
            reader.plan("quantity > 1", names),
            reader.ask("relations"),
        )

    refused, planned, answer = guard.run(shop.reader, "X", SCHEMAS, work)
    assert refused is None
    assert planned is not None
    assert "public.orders" in answer


def test_an_error_never_shows_the_password(shop: Shop) -> None:
    wrong = shop.reader.set(database="no_such_database")
    with pytest.raises(CannotCheck) as stopped:
        guard.run(wrong, "SHOP_DATABASE_URL", SCHEMAS, lambda reader: None)
    assert "SHOP_DATABASE_URL" in str(stopped.value)
    assert shop.password not in str(stopped.value)


def test_the_configuration_is_read_from_the_project() -> None:
    config = load(ROOT / "shop")
    assert config.scratch == Scratch("SHOP_SCRATCH_URL", ("sql/roles.sql",), "shop_owner")
    assert config.folder == ROOT


COVERED = {
    "RO901": ([test_a_role_that_may_write_is_named], [test_a_role_with_login_only_suffices]),
    "RO902": (
        [test_a_transaction_that_may_write_is_refused],
        [test_a_role_with_login_only_suffices],
    ),
    "RO903": ([test_sabotage_ends_in_ro903], [test_a_server_sees_nothing_that_writes]),
    "RO904": ([test_scratch_and_live_may_not_be_one], [test_scratch_and_live_may_not_be_one]),
}
"""Code -> the tests that make it, and those that show what it lets pass."""
