"""One change of the database at a time: each gives exactly its codes, each benign twin none.

Every change is made in a transaction that is rolled back, on a database that the foreign project's
migrations made. Three comparisons look at it: the models as they stand (live), the models as the
server compiles them (scratch), and the document; and a fourth with the catalog before the change.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.security import broken_rules
from alembic_readonly_check.compare.sides import Family, Rules, Side
from alembic_readonly_check.db import catalog, guard, scratch
from alembic_readonly_check.db.guard import Reader
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.sources import models
from alembic_readonly_check.sources.document import datamodel
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

ROOT = Path(__file__).parent / "foreign"
SCOPE = catalog.Scope(("public",))
RULES = Rules(rolling_partitions=False)


@dataclass(frozen=True, slots=True)
class Change:
    """SQL on the migrated database, and the codes of models and document that it must give.

    With `benign`, the codes are those that it must not give: nothing may be found at all.
    """

    id: str
    sql: str
    codes: str
    benign: bool = False

    def of(self, family: str) -> set[str]:
        return set() if self.benign else {c for c in self.codes.split() if c.startswith(family)}


CHECK = "ALTER TABLE orders DROP CONSTRAINT orders_quantity_check, ADD CONSTRAINT"
FK = "ALTER TABLE orders DROP CONSTRAINT orders_customer_fkey, ADD CONSTRAINT orders_customer_fkey"
REFERENCE = "FOREIGN KEY (customer_id) REFERENCES customers (id) ON DELETE CASCADE"
OPEN = "DROP INDEX orders_open_idx; CREATE INDEX orders_open_idx ON orders"
NUMBER = "ALTER TABLE orders DROP CONSTRAINT orders_number_key, ADD CONSTRAINT orders_number_key"
MEASURES = """DROP TABLE measures; CREATE TABLE measures ({columns},
  CONSTRAINT measures_pkey PRIMARY KEY (sensor, taken_on)) {partition};"""
OWN = "DROP POLICY orders_own ON orders; CREATE POLICY orders_own ON orders"
TOUCH = "DROP TRIGGER orders_touch ON orders; CREATE TRIGGER orders_touch BEFORE UPDATE ON orders"
TOTAL = (
    "CREATE OR REPLACE FUNCTION order_total(customer bigint) RETURNS numeric LANGUAGE sql STABLE"
)
TOTAL_BODY = (
    "SET search_path = pg_catalog, pg_temp AS"
    " 'SELECT sum(o.total) FROM public.orders o WHERE o.customer_id = customer'"
)

CHANGES = (
    Change("table added", "CREATE TABLE surplus (id int)", "DB201 DC301"),
    Change("table dropped", "DROP TABLE measures", "DB201 DC301"),
    Change("table renamed", "ALTER TABLE customers RENAME TO clients", "DB201 DC301 DB207 DC307"),
    Change(
        "table of an extension",
        "CREATE TABLE held (id int); ALTER EXTENSION plpgsql ADD TABLE held",
        "DB201 DC301",
        benign=True,
    ),
    Change(
        "table in a managed schema",
        "CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY)",
        "DB201 DC301",
        benign=True,
    ),
    Change(
        "partition of a declared parent",
        "ALTER TABLE measures DETACH PARTITION measures_rest; DROP TABLE measures_rest",
        "DB201 DC301 DB237 DC327",
        benign=True,
    ),
    Change("column added", "ALTER TABLE customers ADD extra int", "DB202 DC302"),
    Change("column dropped", "ALTER TABLE customers DROP nickname", "DB202 DC302"),
    Change("column renamed", "ALTER TABLE customers RENAME nickname TO called", "DB202 DC302"),
    Change(
        "column added and dropped again",
        "ALTER TABLE customers ADD extra int; ALTER TABLE customers DROP extra",
        "DB202 DC302 DC314",
        benign=True,
    ),
    Change("int to bigint", "ALTER TABLE measures ALTER sensor TYPE bigint", "DB203 DC303"),
    Change(
        "varchar(50) to (80)", "ALTER TABLE customers ALTER name TYPE varchar(80)", "DB203 DC303"
    ),
    Change("length removed", "ALTER TABLE customers ALTER name TYPE varchar", "DB203 DC303"),
    Change("precision removed", "ALTER TABLE orders ALTER shipping TYPE numeric", "DB203 DC303"),
    Change(
        "timestamptz to timestamp",
        "ALTER TABLE orders ALTER updated_at TYPE timestamp",
        "DB203 DC303",
    ),
    Change(
        "jsonb to json",
        "ALTER TABLE customers ALTER settings DROP DEFAULT;"
        " ALTER TABLE customers ALTER settings TYPE json, ALTER settings SET DEFAULT '{}'",
        "DB203 DC303",
    ),
    Change(
        "text[] to int[]",
        "ALTER TABLE customers ALTER groups TYPE int[] USING '{}'",
        "DB203 DC303",
    ),
    Change(
        "int4 is integer", "ALTER TABLE measures ALTER sensor TYPE int4", "DB203 DC303", benign=True
    ),
    Change("not null dropped", "ALTER TABLE orders ALTER placed_at DROP NOT NULL", "DB204 DC304"),
    Change("not null set", "ALTER TABLE orders ALTER updated_at SET NOT NULL", "DB204 DC304"),
    Change(
        "not null set twice",
        "ALTER TABLE orders ALTER placed_at SET NOT NULL",
        "DB204 DC304",
        benign=True,
    ),
    Change("default dropped", "ALTER TABLE orders ALTER placed_at DROP DEFAULT", "DB205 DC305"),
    Change("default changed", "ALTER TABLE orders ALTER status SET DEFAULT 'paid'", "DB205 DC305"),
    Change("default added", "ALTER TABLE orders ALTER updated_at SET DEFAULT now()", "DB205 DC305"),
    Change(
        "default of another sequence",
        "ALTER TABLE orders ALTER number SET DEFAULT nextval('other_number')",
        "DB205 DC305",
    ),
    Change(
        "now() and CURRENT_TIMESTAMP",
        "ALTER TABLE orders ALTER placed_at SET DEFAULT CURRENT_TIMESTAMP;"
        " ALTER TABLE customers ALTER created_at SET DEFAULT transaction_timestamp()",
        "DB205 DC305",
        benign=True,
    ),
    Change(
        "'{}' and '{}'::jsonb",
        "ALTER TABLE customers ALTER settings SET DEFAULT '{}'::jsonb;"
        " ALTER TABLE orders ALTER tags SET DEFAULT ARRAY[]::text[]",
        "DB205 DC305",
        benign=True,
    ),
    Change("primary key dropped", "ALTER TABLE orders DROP CONSTRAINT orders_pkey", "DB206 DC306"),
    Change(
        "primary key of other columns",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey,"
        " ADD CONSTRAINT orders_pkey PRIMARY KEY (id, number)",
        "DB206 DC306",
    ),
    Change(
        "primary key made anew",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey,"
        " ADD CONSTRAINT orders_pkey PRIMARY KEY (id)",
        "DB206 DC306 DB204",
        benign=True,
    ),
    Change(
        "foreign key dropped",
        "ALTER TABLE orders DROP CONSTRAINT orders_customer_fkey",
        "DB207 DC307",
    ),
    Change(
        "foreign key on delete",
        f"{FK} FOREIGN KEY (customer_id) REFERENCES customers (id)",
        "DB207 DC307",
    ),
    Change("foreign key on update", f"{FK} {REFERENCE} ON UPDATE CASCADE", "DB207 DC307"),
    Change(
        "foreign key renamed",
        "ALTER TABLE orders RENAME CONSTRAINT orders_customer_fkey TO orders_buyer_fkey",
        "DB207 DC307",
    ),
    Change("no action stated", f"{FK} {REFERENCE} ON UPDATE NO ACTION", "DB207 DC307", benign=True),
    Change("unique dropped", "ALTER TABLE orders DROP CONSTRAINT orders_number_key", "DB208 DC308"),
    Change("unique of nulls", f"{NUMBER} UNIQUE NULLS NOT DISTINCT (number)", "DB208 DC308"),
    Change("unique of more columns", f"{NUMBER} UNIQUE (number, id)", "DB208 DC308"),
    Change(
        "unique made anew", f"{NUMBER} UNIQUE NULLS DISTINCT (number)", "DB208 DC308", benign=True
    ),
    Change(
        "check dropped", "ALTER TABLE orders DROP CONSTRAINT orders_quantity_check", "DB209 DC309"
    ),
    Change("check added", "ALTER TABLE orders ADD CHECK (price > 0)", "DB209 DC309"),
    Change(
        "check text",
        f"{CHECK} orders_quantity_check CHECK (quantity BETWEEN 0 AND 1000)",
        "DB231 DC309",
    ),
    Change(
        "BETWEEN and two comparisons",
        f"{CHECK} orders_quantity_check CHECK (quantity >= 1 AND quantity <= 1000);"
        " ALTER TABLE orders DROP CONSTRAINT orders_code_check, ADD CONSTRAINT orders_code_check"
        " CHECK (code = ANY (ARRAY['a', 'b', 'c']))",
        "DB209 DC309 DB231",
        benign=True,
    ),
    Change("index dropped", "DROP INDEX orders_tags_idx", "DB210 DC310"),
    Change("index added", "CREATE INDEX ON orders (status)", "DB210 DC310"),
    Change(
        "index unique",
        "DROP INDEX orders_code_idx;"
        " CREATE UNIQUE INDEX orders_code_idx ON orders (lower(code) text_pattern_ops)",
        "DB210 DC310",
    ),
    Change(
        "index on another expression",
        "DROP INDEX orders_code_idx;"
        " CREATE INDEX orders_code_idx ON orders (upper(code) text_pattern_ops)",
        "DB210 DC310",
    ),
    Change(
        "index made anew",
        f"{OPEN} USING btree (customer_id ASC, placed_at DESC NULLS FIRST)"
        " INCLUDE (total) WHERE NOT status = 'sent'",
        "DB210 DC310 DB233 DB234 DB235",
        benign=True,
    ),
    Change("enum value added", "ALTER TYPE order_status ADD VALUE 'lost'", "DB211 DC311"),
    Change(
        "enum values reordered",
        "UPDATE pg_enum SET enumsortorder = 9 WHERE enumlabel = 'paid'",
        "DB211 DC311",
    ),
    Change(
        "enum of others",
        "CREATE SCHEMA auth; CREATE TYPE auth.level AS ENUM ('a', 'b')",
        "DB211 DC311",
        benign=True,
    ),
    Change("comment changed", "COMMENT ON COLUMN orders.price IS 'net'", "DB212 DC312"),
    Change("comment of a table", "COMMENT ON TABLE customers IS 'Who sells.'", "DB212 DC312"),
    Change(
        "comment spaced otherwise",
        "COMMENT ON COLUMN orders.price IS ' Price  of one piece. '",
        "DB212 DC312",
        benign=True,
    ),
    Change("identity kind", "ALTER TABLE orders ALTER id SET GENERATED ALWAYS", "DB213 DC313"),
    Change("identity dropped", "ALTER TABLE orders ALTER id DROP IDENTITY", "DB213 DC313"),
    Change("generated dropped", "ALTER TABLE orders ALTER doubled DROP EXPRESSION", "DB213 DC313"),
    Change(
        "generated expression",
        "ALTER TABLE orders DROP doubled;"
        " ALTER TABLE orders ADD doubled int GENERATED ALWAYS AS (quantity * 3) STORED",
        "DB213 DC313",
    ),
    Change(
        "generated expression made anew",
        "ALTER TABLE orders DROP doubled;"
        " ALTER TABLE orders ADD doubled int GENERATED ALWAYS AS ((quantity) * (2)) STORED",
        "DB213 DC313 DC314",
        benign=True,
    ),
    Change(
        "columns in another order",
        MEASURES.format(
            columns="taken_on date, sensor integer, value float8 NOT NULL",
            partition="PARTITION BY RANGE (taken_on)",
        ),
        "DC314",
    ),
    Change(
        "collation",
        'ALTER TABLE orders ALTER code TYPE text COLLATE "default"',
        "DB230 DC303",
    ),
    Change(
        "collation stated again",
        'ALTER TABLE orders ALTER code TYPE text COLLATE "C"',
        "DB230 DC303",
        benign=True,
    ),
    Change(
        "check not valid",
        f"{CHECK} orders_quantity_check CHECK (quantity BETWEEN 1 AND 1000) NOT VALID",
        "DB232 DC309",
    ),
    Change("foreign key not valid", f"{FK} {REFERENCE} NOT VALID", "DB232 DC307"),
    Change(
        "index invalid",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_open_idx'::regclass",
        "DB232 DC310",
    ),
    Change(
        "constraint validated later",
        f"{FK} {REFERENCE} NOT VALID; ALTER TABLE orders VALIDATE CONSTRAINT orders_customer_fkey",
        "DB232 DC307",
        benign=True,
    ),
    Change(
        "predicate",
        f"{OPEN} (customer_id, placed_at DESC) INCLUDE (total) WHERE status <> 'paid'",
        "DB233 DC310",
    ),
    Change(
        "predicate dropped", f"{OPEN} (customer_id, placed_at DESC) INCLUDE (total)", "DB233 DC310"
    ),
    Change(
        "include",
        f"{OPEN} (customer_id, placed_at DESC) INCLUDE (price) WHERE status <> 'sent'",
        "DB234 DC310",
    ),
    Change(
        "method",
        "DROP INDEX orders_tags_idx; CREATE INDEX orders_tags_idx ON orders USING btree (tags)",
        "DB235 DC310",
    ),
    Change(
        "operator class",
        "DROP INDEX orders_code_idx; CREATE INDEX orders_code_idx ON orders (lower(code))",
        "DB235 DC310",
    ),
    Change(
        "order of an index",
        f"{OPEN} (customer_id, placed_at) INCLUDE (total) WHERE status <> 'sent'",
        "DB235 DC310",
    ),
    Change(
        "exclusion dropped", "ALTER TABLE orders DROP CONSTRAINT orders_no_overlap", "DB236 DC309"
    ),
    Change(
        "exclusion of another operator",
        "ALTER TABLE orders DROP CONSTRAINT orders_no_overlap,"
        " ADD CONSTRAINT orders_no_overlap EXCLUDE USING btree (code WITH =) WHERE (code <> 'c')",
        "DB236 DC309",
    ),
    Change(
        "exclusion made anew",
        "ALTER TABLE orders DROP CONSTRAINT orders_no_overlap,"
        " ADD CONSTRAINT orders_no_overlap EXCLUDE (code WITH =)",
        "DB236 DC309",
        benign=True,
    ),
    Change(
        "no longer partitioned",
        MEASURES.format(
            columns="sensor integer, taken_on date, value float8 NOT NULL", partition=""
        ),
        "DB237 DC327",
    ),
    Change(
        "domain check dropped",
        "ALTER DOMAIN email DROP CONSTRAINT email_check",
        "DB238 DC330",
    ),
    Change(
        "domain check",
        "ALTER DOMAIN email DROP CONSTRAINT email_check;"
        " ALTER DOMAIN email ADD CONSTRAINT email_check CHECK (VALUE LIKE '%.%')",
        "DB238 DC330",
    ),
    Change("domain default", "ALTER DOMAIN email SET DEFAULT 'a@b'", "DB238 DC330"),
    Change(
        "domain check made anew",
        "ALTER DOMAIN email DROP CONSTRAINT email_check;"
        " ALTER DOMAIN email ADD CONSTRAINT email_check CHECK ((VALUE)::text ~~ '%@%'::text)",
        "DB238 DC330",
        benign=True,
    ),
    Change(
        "unique deferrable",
        f"{NUMBER} UNIQUE (number) DEFERRABLE",
        "DB239 DC308",
    ),
    Change("foreign key deferrable", f"{FK} {REFERENCE} INITIALLY DEFERRED", "DB239 DC307"),
    Change(
        "primary key deferrable",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey,"
        " ADD CONSTRAINT orders_pkey PRIMARY KEY (id) DEFERRABLE",
        "DB239 DC306",
    ),
    Change(
        "not deferrable stated",
        f"{FK} {REFERENCE} NOT DEFERRABLE INITIALLY IMMEDIATE",
        "DB239 DC307",
        benign=True,
    ),
    Change("row level security off", "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "DC320"),
    Change("row level security on", "ALTER TABLE customers ENABLE ROW LEVEL SECURITY", "DC320"),
    Change(
        "row level security on and off",
        "ALTER TABLE customers ENABLE ROW LEVEL SECURITY;"
        " ALTER TABLE customers DISABLE ROW LEVEL SECURITY",
        "DC320",
        benign=True,
    ),
    Change("policy USING", f"{OWN} FOR SELECT TO shop_reader USING (true)", "DC321"),
    Change("policy dropped", "DROP POLICY orders_own ON orders", "DC321"),
    Change("policy added", "CREATE POLICY more ON customers USING (false)", "DC321"),
    Change(
        "policy for everybody",
        f"{OWN} FOR SELECT USING (customer_id = current_setting('shop.customer')::bigint)",
        "DC321",
    ),
    Change(
        "policy restrictive",
        f"{OWN} AS RESTRICTIVE FOR SELECT TO shop_reader"
        " USING (customer_id = current_setting('shop.customer')::bigint)",
        "DC321",
    ),
    Change(
        "policy made anew",
        f"{OWN} AS PERMISSIVE FOR SELECT TO shop_reader"
        " USING ((orders.customer_id) = CAST(current_setting('shop.customer') AS int8))",
        "DC321",
        benign=True,
    ),
    Change("grant to everybody", "GRANT SELECT ON customers TO PUBLIC", "DC322"),
    Change("grant of a column", "GRANT SELECT (price) ON orders TO shop_reader", "DC322"),
    Change("grant revoked", "REVOKE UPDATE (status) ON orders FROM shop_reader", "DC322"),
    Change(
        "grant to pass on",
        "GRANT SELECT (id) ON orders TO shop_reader WITH GRANT OPTION",
        "DC322",
    ),
    Change("grant on a view", "GRANT SELECT ON open_orders TO PUBLIC", "DC322"),
    Change("grant on a partition", "GRANT SELECT ON measures_rest TO shop_reader", "DC322"),
    Change(
        "grants in another order",
        "REVOKE SELECT (id, status) ON orders FROM shop_reader;"
        " GRANT SELECT (status) ON orders TO shop_reader;"
        " GRANT SELECT (id) ON orders TO shop_reader",
        "DC322",
        benign=True,
    ),
    Change("trigger disabled", "ALTER TABLE orders DISABLE TRIGGER orders_touch", "DC323"),
    Change("trigger dropped", "DROP TRIGGER orders_touch ON orders", "DC323"),
    Change(
        "trigger without WHEN",
        f"{TOUCH} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DC323",
    ),
    Change(
        "trigger made anew",
        f"{TOUCH} FOR EACH ROW WHEN (((OLD.status IS DISTINCT FROM NEW.status)))"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "DC323",
        benign=True,
    ),
    Change("function invoker", f"{TOTAL} SECURITY INVOKER {TOTAL_BODY}", "DC324"),
    Change("function for everybody", "GRANT EXECUTE ON FUNCTION order_total TO PUBLIC", "DC324"),
    Change("function dropped", "DROP FUNCTION order_total", "DC324"),
    Change(
        "function added", "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DC324"
    ),
    Change(
        "function replaced by itself",
        f"{TOTAL} SECURITY DEFINER {TOTAL_BODY}",
        "DC324",
        benign=True,
    ),
    Change("view as its owner", "ALTER VIEW open_orders RESET (security_invoker)", "DC325"),
    Change("view dropped", "DROP VIEW open_orders", "DC325"),
    Change(
        "view with another column",
        "CREATE OR REPLACE VIEW open_orders WITH (security_invoker = true) AS"
        " SELECT id, total, code FROM orders WHERE status <> 'sent'",
        "DC325",
    ),
    Change(
        "view replaced by itself",
        "CREATE OR REPLACE VIEW open_orders WITH (security_invoker = true) AS"
        " SELECT o.id, o.total FROM orders o WHERE o.status <> 'sent'",
        "DC325",
        benign=True,
    ),
    Change("extension dropped", "DROP EXTENSION plpgsql", "DC326"),
    Change("extension described", "COMMENT ON EXTENSION plpgsql IS 'x'", "DC326", benign=True),
    Change(
        "publication of another table",
        "ALTER PUBLICATION shop_changes ADD TABLE customers",
        "DC328",
    ),
    Change("publication dropped", "DROP PUBLICATION shop_changes", "DC328"),
    Change("publication of everything", "CREATE PUBLICATION more FOR ALL TABLES", "DC328"),
    Change("publication of nothing", "CREATE PUBLICATION more", "DC328", benign=True),
    Change("sequence step", "ALTER SEQUENCE order_number INCREMENT BY 1", "DC329"),
    Change("sequence added", "CREATE SEQUENCE more", "DC329"),
    Change("sequence dropped", "DROP SEQUENCE other_number", "DC329"),
    Change("sequence advanced", "SELECT nextval('order_number')", "DC329", benign=True),
    Change("sequence granted", "GRANT USAGE ON SEQUENCE order_number TO shop_reader", "MG403"),
    Change("sequence of another", "ALTER SEQUENCE order_number OWNER TO shop_owner", "MG403"),
    Change("type granted", "GRANT USAGE ON TYPE order_status TO shop_reader", "MG403"),
    Change("type revoked", "REVOKE USAGE ON TYPE order_status FROM PUBLIC", "MG403"),
    Change("type of another", "ALTER TYPE order_status OWNER TO shop_owner", "MG403"),
    Change(
        "publication of columns", "ALTER PUBLICATION shop_changes SET TABLE orders (id)", "MG403"
    ),
    Change(
        "publication of rows",
        "ALTER PUBLICATION shop_changes SET TABLE orders WHERE (id > 9)",
        "MG403",
    ),
    Change("default on a view", "ALTER VIEW open_orders ALTER total SET DEFAULT 1", "MG403"),
    Change(
        "trigger on a view",
        "CREATE TRIGGER aside INSTEAD OF UPDATE ON open_orders"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "MG403",
    ),
    Change(
        "default privileges of no schema",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "DC390",
    ),
    Change(
        "default privileges of a schema",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO shop_reader",
        "DC390",
    ),
    Change(
        "default privileges that open nothing",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "DC390",
        benign=True,
    ),
    Change(
        "primary key with INCLUDE",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey CASCADE,"
        " ADD CONSTRAINT orders_pkey PRIMARY KEY (id) INCLUDE (total)",
        "MG403",
    ),
    Change(
        "storage option of the overflow",
        "ALTER TABLE orders SET (toast.autovacuum_enabled = false)",
        "MG403",
    ),
    Change("right of the owner", "REVOKE DELETE ON orders FROM CURRENT_USER", "MG403"),
    Change(
        "right to pass on",
        "GRANT EXECUTE ON FUNCTION order_total(bigint) TO shop_reader WITH GRANT OPTION",
        "MG403",
    ),
    Change("comment of a policy", "COMMENT ON POLICY orders_own ON orders IS 'x'", "MG403"),
    Change("comment in a view", "COMMENT ON COLUMN open_orders.id IS 'x'", "MG403"),
    Change("cluster of a key", "ALTER TABLE customers CLUSTER ON customers_pkey", "MG403"),
    Change("trigger of a key", "ALTER TABLE orders DISABLE TRIGGER ALL", "DC323"),
    Change("owner's rights stated", "GRANT ALL ON orders TO CURRENT_USER", "DC322", benign=True),
    Change("storage option", "ALTER TABLE orders SET (fillfactor = 70)", "MG403"),
    Change("statistics of a column", "ALTER TABLE orders ALTER total SET STATISTICS 9", "MG403"),
    Change("rule", "CREATE RULE keep AS ON DELETE TO customers DO INSTEAD NOTHING", "DC390"),
    Change("composite type", "CREATE TYPE pair AS (a int, b int)", "DC390"),
    Change("comment on a schema", "COMMENT ON SCHEMA public IS 'ours'", "DC390", benign=True),
)

STILL_IN_CATALOGS = {
    "partition of a declared parent",
    "publication of nothing",
    "default privileges that open nothing",
    "comment on a schema",
}
"""What document and models let pass, and two catalogs tell apart."""

COVERED: dict[str, tuple[list[str], list[str]]] = {}
for _change in CHANGES:
    for _code in _change.codes.split():
        COVERED.setdefault(_code, ([], []))[_change.benign].append(_change.id)


@dataclass(frozen=True, slots=True)
class Base:
    """The migrated database, and the sides that it is compared with."""

    url: URL
    models: Schema
    compiled: Schema
    document: Schema
    before: Schema


def connected(url: URL, work: Callable[[Connection], T]) -> T:
    """Do work in a transaction that is rolled back."""

    async def run() -> T:
        engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def base(server_url: str) -> Iterator[Base]:
    server = guard.driver_url(server_url, "server")
    mapped = models.read("shop.tables:metadata", ROOT, "public", lambda schema: schema == "public")
    document = datamodel.read(ROOT / "handbook/tables.md", ROOT, rls="off")
    assert document.findings == []
    with scratch.databases(
        server,
        "server",
        scratch.Scripts([ROOT / "sql/roles.sql"], sorted((ROOT / "sql/changes").glob("*.sql"))),
        mapped.metadata,
        "public",
    ) as made:
        shadow = catalog.Scope(tuple(inner for inner, _ in made.shadows), (), made.shadows)
        assert made.compiled is not None
        compiled = guard.run(
            made.compiled, "B", shadow.schemas, lambda r: catalog.read(r.ask, shadow, "models")
        )
        before = guard.run(
            made.migrated, "A", SCOPE.schemas, lambda r: catalog.read(r.ask, SCOPE, "before")
        )
        assert set(compiled.tables) >= set(mapped.schema.tables)
        yield Base(
            made.migrated,
            mapped.schema,
            scratch.as_models(compiled, mapped.schema),
            document.schema,
            before,
        )


def found(base: Base, sql: str) -> dict[str, set[str]]:
    """Make the change and compare, with each of the four."""

    def work(connection: Connection) -> dict[str, set[str]]:
        raw: Any = connection.connection.dbapi_connection
        connection.exec_driver_sql("SELECT 1")
        for statement in filter(None, (part.strip() for part in sql.split(";"))):
            connection.exec_driver_sql(statement)
        assert raw is not None
        reader = Reader(connection, SCOPE.schemas)
        reader.ask("settings", timeout="10000")
        held = Side(catalog.read(reader.ask, SCOPE, "after"), "database")

        def codes(family: Family, lead: Schema) -> set[str]:
            side = Side(lead, lead.source)
            return {f.code for f in Comparison(family, side, held, RULES, reader).run()}

        return {
            "live": codes("DB", base.models),
            "scratch": codes("DB", base.compiled),
            "document": codes("DC", base.document),
            "catalog": codes("MG", base.before),
        }

    return connected(base.url, work)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_codes(change: Change, base: Base) -> None:
    codes = found(base, change.sql)
    catalogs = codes.pop("catalog")
    assert codes == {
        "live": change.of("DB"),
        "scratch": change.of("DB"),
        "document": change.of("DC"),
    }
    told = not change.benign or change.id in STILL_IN_CATALOGS
    assert catalogs == ({"MG403"} if told else set())


DEFINER = "CREATE FUNCTION gate() RETURNS int LANGUAGE {} SECURITY DEFINER{} AS '{}'"


@pytest.mark.parametrize(
    ("sql", "path"),
    [
        (DEFINER.format("sql", "", "SELECT 1"), "the caller's"),
        (DEFINER.format("sql", " SET search_path = ''", "SELECT 1"), '""'),
        (DEFINER.format("sql", " SET search_path = pg_temp, public", "SELECT 1"), "public"),
        (DEFINER.format("plpgsql", " SET search_path = public", "BEGIN RETURN 1; END"), "public"),
    ],
)
def test_a_definer_function_that_finds_temporary_tables(base: Base, sql: str, path: str) -> None:
    (told,) = rules_broken_by(base, sql)
    assert told.code == "SE001"
    assert told.subject == "public.gate()"
    assert path in str(told.actual)


@pytest.mark.parametrize(
    "sql",
    [
        DEFINER.format("sql", " SET search_path = pg_catalog, pg_temp", "SELECT 1"),
        DEFINER.format("sql", " SET search_path = public, 'pg_temp'", "SELECT 1"),
        "CREATE FUNCTION gate() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1",
        "CREATE FUNCTION gate() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_a_definer_function_that_finds_none(base: Base, sql: str) -> None:
    assert rules_broken_by(base, sql) == []


def rules_broken_by(base: Base, sql: str) -> list[Finding]:
    """Make a function and ask the rules of its catalog, those of the shop's own left out."""

    def work(connection: Connection) -> list[Finding]:
        connection.exec_driver_sql(sql)
        held = catalog.read(Reader(connection, SCOPE.schemas).ask, SCOPE, "after")
        return [told for told in broken_rules(held) if "gate" in told.subject]

    return connected(base.url, work)


COVERED["SE001"] = (
    [test_a_definer_function_that_finds_temporary_tables.__name__],
    [test_a_definer_function_that_finds_none.__name__],
)


def test_nothing_is_found_where_nothing_changed(base: Base) -> None:
    assert set().union(*found(base, "").values()) == set()
