"""Count which single changes of a database this command sees, and Alembic, and its plugin.

The changes are generated from the catalog of the foreign test project with more objects beside
it: for each object of each kind, each attribute that Postgres can change. Each is made in a
transaction that is rolled back. A change counts as seen by Alembic if what `compare_metadata`
returns differs in anything from what it returned before, which is the kindest way to count.
"""

import asyncio
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alembic.autogenerate import compare_metadata  # type: ignore[import-not-found,unused-ignore]
from alembic.migration import MigrationContext  # type: ignore[import-not-found,unused-ignore]
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Family, Rules, Side
from alembic_readonly_check.db import catalog, guard, scratch
from alembic_readonly_check.facts import Column, Schema, Table
from alembic_readonly_check.sources import models
from alembic_readonly_check.sources.document import datamodel
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

ROOT = Path(__file__).parents[2] / "contract/foreign"
SCOPE = catalog.Scope(("public",))
RULES = Rules(rolling_partitions=False)
LEAST, SHARE = 130, 0.98

MORE = """
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE span AS RANGE (subtype = integer);
CREATE FUNCTION plain(a integer DEFAULT 1) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT a';
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, sum(total) AS total FROM orders GROUP BY 1;
CREATE STATISTICS orders_both ON customer_id, status FROM orders;
CREATE RULE customers_kept AS ON DELETE TO customers DO INSTEAD NOTHING;
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A kind of object, what is changed of it, and how."""

    kind: str
    what: str
    sql: str


def changes(held: Schema) -> Iterator[Change]:
    """Generate every change that the objects of a catalog allow."""
    for table in held.tables.values():
        yield from _table(table)
    for name, part in held.partitions.items():
        parent, bounds = part.partition_of, part.bounds
        yield Change("partition", "dropped", f"DROP TABLE {name}")
        yield Change("partition", "detached", f"ALTER TABLE {parent} DETACH PARTITION {name}")
        yield Change("partition", "grant", f"GRANT SELECT ON {name} TO PUBLIC")
        if bounds != "DEFAULT":
            moved = "FOR VALUES FROM ('2026-01-01') TO ('2026-12-01')"
            yield Change(
                "partition",
                "bounds",
                f"ALTER TABLE {parent} DETACH PARTITION {name};"
                f" ALTER TABLE {parent} ATTACH PARTITION {name} {moved}",
            )
    for name in held.enums or {}:
        yield Change("enum", "value added", f"ALTER TYPE {name} ADD VALUE 'more'")
        yield Change("enum", "value first", f"ALTER TYPE {name} ADD VALUE 'more' BEFORE 'new'")
        yield Change("enum", "value renamed", f"ALTER TYPE {name} RENAME VALUE 'sent' TO 'gone'")
        yield Change("enum", "renamed", f"ALTER TYPE {name} RENAME TO renamed")
        yield Change("enum", "comment", f"COMMENT ON TYPE {name} IS 'x'")
    for name, domain in (held.domains or {}).items():
        check = domain.checks[0].name
        yield Change("domain", "default", f"ALTER DOMAIN {name} SET DEFAULT 'a@b'")
        yield Change("domain", "not null", f"ALTER DOMAIN {name} SET NOT NULL")
        yield Change("domain", "check dropped", f"ALTER DOMAIN {name} DROP CONSTRAINT {check}")
        yield Change("domain", "check added", f"ALTER DOMAIN {name} ADD CHECK (VALUE <> '')")
        yield Change(
            "domain", "check renamed", f"ALTER DOMAIN {name} RENAME CONSTRAINT {check} TO renamed"
        )
        yield Change("domain", "renamed", f"ALTER DOMAIN {name} RENAME TO renamed")
    for name in held.sequences or {}:
        for what, sql in (
            ("increment", "INCREMENT BY 3"),
            ("start", "START WITH 7"),
            ("minimum", "MINVALUE -5"),
            ("maximum", "MAXVALUE 99999"),
            ("cache", "CACHE 20"),
            ("cycle", "CYCLE"),
            ("type", "AS integer"),
            ("owner column", "OWNED BY customers.id"),
        ):
            yield Change("sequence", what, f"ALTER SEQUENCE {name} {sql}")
        yield Change("sequence", "renamed", f"ALTER SEQUENCE {name} RENAME TO renamed")
        yield Change("sequence", "unlogged", f"ALTER SEQUENCE {name} SET UNLOGGED")
    for name, view in (held.views or {}).items():
        word = "MATERIALIZED VIEW" if view.materialized else "VIEW"
        yield Change("view", "dropped", f"DROP {word} {name}")
        yield Change("view", "renamed", f"ALTER {word} {name} RENAME TO renamed")
        yield Change("view", "comment", f"COMMENT ON {word} {name} IS 'x'")
        yield Change("view", "grant", f"GRANT SELECT ON {name} TO PUBLIC")
        yield Change("view", "owner", f"ALTER {word} {name} OWNER TO shop_reader")
        column = view.columns[-1][0]
        yield Change("view", "column", f"ALTER {word} {name} RENAME COLUMN {column} TO renamed")
        if view.materialized:
            yield Change("view", "index", f"CREATE INDEX ON {name} ({column})")
        else:
            yield Change("view", "option", f"ALTER VIEW {name} RESET (security_invoker)")
            yield Change("view", "barrier", f"ALTER VIEW {name} SET (security_barrier = true)")
            yield Change(
                "view",
                "text",
                f"CREATE OR REPLACE VIEW {name} WITH (security_invoker = true) AS"
                " SELECT id, total FROM orders WHERE status <> 'paid'",
            )
    for signature, function in (held.functions or {}).items():
        for what, sql in (
            ("security", "SECURITY INVOKER" if function.definer else "SECURITY DEFINER"),
            ("volatility", "VOLATILE"),
            ("strict", "STRICT"),
            ("leakproof", "LEAKPROOF"),
            ("parallel", "PARALLEL SAFE"),
            ("cost", "COST 7"),
            ("setting", "SET work_mem = '1MB'"),
            ("owner", "OWNER TO shop_reader"),
            ("renamed", "RENAME TO renamed"),
        ):
            yield Change("function", what, f"ALTER FUNCTION {signature} {sql}")
        granted = "REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC"
        if "PUBLIC" not in function.executors:
            granted = "GRANT EXECUTE ON FUNCTION {} TO PUBLIC"
        yield Change("function", "grant", granted.format(signature))
        yield Change("function", "dropped", f"DROP FUNCTION {signature}")
        yield Change("function", "comment", f"COMMENT ON FUNCTION {signature} IS 'x'")
    yield Change(
        "function",
        "text",
        "CREATE OR REPLACE FUNCTION plain(a integer DEFAULT 1) RETURNS integer LANGUAGE sql"
        " IMMUTABLE AS 'SELECT a + 1'",
    )
    yield Change(
        "function",
        "argument default",
        "CREATE OR REPLACE FUNCTION plain(a integer DEFAULT 2) RETURNS integer LANGUAGE sql"
        " IMMUTABLE AS 'SELECT a'",
    )
    for name in held.publications or {}:
        yield Change("publication", "table", f"ALTER PUBLICATION {name} ADD TABLE customers")
        yield Change("publication", "actions", f"ALTER PUBLICATION {name} SET (publish = 'insert')")
        yield Change("publication", "renamed", f"ALTER PUBLICATION {name} RENAME TO renamed")
        yield Change("publication", "dropped", f"DROP PUBLICATION {name}")
    for name in held.extensions or {}:
        yield Change("extension", "dropped", f"DROP EXTENSION {name}")
    yield Change("composite type", "field", "ALTER TYPE pair ADD ATTRIBUTE c integer")
    yield Change("composite type", "dropped", "DROP TYPE pair")
    yield Change("range type", "dropped", "DROP TYPE span")
    yield Change("statistics", "dropped", "DROP STATISTICS orders_both")
    yield Change("rule", "dropped", "DROP RULE customers_kept ON customers")
    yield Change("rule", "disabled", "ALTER TABLE customers DISABLE RULE customers_kept")
    yield Change("schema", "grant", "GRANT CREATE ON SCHEMA public TO shop_reader")
    yield Change("schema", "comment", "COMMENT ON SCHEMA public IS 'x'")
    yield Change(
        "default privileges",
        "granted",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
    )
    yield Change("event trigger", "added", _EVENT_TRIGGER)


_EVENT_TRIGGER = (
    "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    " CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION watch()"
)


def _table(table: Table) -> Iterator[Change]:
    name = table.name
    for what, sql in (
        ("renamed", "RENAME TO renamed"),
        ("owner", "OWNER TO shop_reader"),
        ("fill factor", "SET (fillfactor = 70)"),
        ("unlogged", "SET UNLOGGED"),
        ("replica identity", "REPLICA IDENTITY FULL"),
        (
            "row level security",
            f"{'ENABLE' if table.rls == 'off' else 'DISABLE'} ROW LEVEL SECURITY",
        ),
        ("row level security forced", "FORCE ROW LEVEL SECURITY"),
        ("column added", "ADD added integer"),
        ("check added", "ADD CONSTRAINT added CHECK (1 > 0)"),
    ):
        yield Change("table", what, f"ALTER TABLE {name} {sql}")
    yield Change("table", "dropped", f"DROP TABLE {name} CASCADE")
    yield Change("table", "comment", f"COMMENT ON TABLE {name} IS 'x'")
    for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
        yield Change("grant", privilege, f"GRANT {privilege} ON {name} TO PUBLIC")
    yield Change("policy", "added", f"CREATE POLICY added ON {name} USING (false)")
    for column in table.columns:
        yield from _column(name, column)
    for key in (table.primary_key, *table.foreign_keys, *table.uniques, *table.exclusions):
        if key is not None:
            yield from _constraint(name, str(key.name))
    for key in table.foreign_keys:
        body = f"FOREIGN KEY ({key.columns[0]}) REFERENCES {key.target} ({key.target_columns[0]})"
        for what, sql in (
            ("on delete", f"{body} ON DELETE SET NULL"),
            ("on update", f"{body} ON DELETE CASCADE ON UPDATE CASCADE"),
            ("not valid", f"{body} ON DELETE CASCADE NOT VALID"),
            ("match full", f"{body} MATCH FULL ON DELETE CASCADE"),
            ("deferrable", f"{body} ON DELETE CASCADE DEFERRABLE"),
            ("deferred", f"{body} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"),
        ):
            yield Change("foreign key", what, _again(name, str(key.name), sql))
    for unique in table.uniques:
        columns = ", ".join(unique.columns)
        for what, sql in (
            ("nulls not distinct", f"UNIQUE NULLS NOT DISTINCT ({columns})"),
            ("deferrable", f"UNIQUE ({columns}) DEFERRABLE"),
            ("include", f"UNIQUE ({columns}) INCLUDE ({table.columns[2].name})"),
            ("fill factor", f"UNIQUE ({columns}) WITH (fillfactor = 70)"),
        ):
            yield Change("unique", what, _again(name, str(unique.name), sql))
    for check in table.checks:
        yield from _constraint(name, str(check.name))
        for what, sql in (
            ("text", f"CHECK (NOT ({check.expression}))"),
            ("not valid", f"CHECK ({check.expression}) NOT VALID"),
            ("no inherit", f"CHECK ({check.expression}) NO INHERIT"),
        ):
            yield Change("check", what, _again(name, str(check.name), sql))
    for index in table.indexes:
        yield from _index(name, str(index.name), index)
    for policy in table.policies or ():
        yield Change("policy", "dropped", f"DROP POLICY {policy.name} ON {name}")
        for what, sql in (
            ("renamed", "RENAME TO renamed"),
            ("roles", "TO PUBLIC"),
            ("using", "USING (true)"),
        ):
            yield Change("policy", what, f"ALTER POLICY {policy.name} ON {name} {sql}")
        again = f"DROP POLICY {policy.name} ON {name}; CREATE POLICY {policy.name} ON {name}"
        body = f"TO {', '.join(policy.roles)} USING ({policy.using})"
        yield Change("policy", "command", f"{again} FOR DELETE {body}")
        yield Change("policy", "restrictive", f"{again} AS RESTRICTIVE FOR SELECT {body}")
        yield Change("policy", "with check", f"{again} FOR ALL {body} WITH CHECK (false)")
    for trigger in table.triggers or ():
        yield Change("trigger", "dropped", f"DROP TRIGGER {trigger.name} ON {name}")
        yield Change("trigger", "renamed", f"ALTER TRIGGER {trigger.name} ON {name} RENAME TO r")
        yield Change("trigger", "comment", f"COMMENT ON TRIGGER {trigger.name} ON {name} IS 'x'")
        for state in ("DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA"):
            yield Change("trigger", state, f"ALTER TABLE {name} {state} TRIGGER {trigger.name}")
        again = f"DROP TRIGGER {trigger.name} ON {name}; CREATE TRIGGER {trigger.name}"
        call = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        for what, sql in (
            ("events", f"BEFORE UPDATE OF status ON {name} FOR EACH ROW {call}"),
            ("condition", f"BEFORE UPDATE ON {name} FOR EACH ROW WHEN (OLD.id > 1) {call}"),
            ("timing", f"AFTER UPDATE ON {name} FOR EACH ROW {call}"),
        ):
            yield Change("trigger", what, f"{again} {sql}")


def _again(table: str, name: str, body: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {body}"


def _constraint(table: str, name: str) -> Iterator[Change]:
    yield Change("constraint", "dropped", f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE")
    yield Change(
        "constraint", "renamed", f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO renamed"
    )
    yield Change("constraint", "comment", f"COMMENT ON CONSTRAINT {name} ON {table} IS 'x'")


_TYPES = {
    "bigint": ("integer", "numeric"),
    "integer": ("bigint", "smallint"),
    "text": ("character varying", 'text COLLATE "POSIX"'),
    "jsonb": ("json",),
    "text[]": ("character varying[]",),
    "timestamp with time zone": ("timestamp", "timestamptz(3)"),
    "date": ("timestamp",),
    "double precision": ("real",),
}


def _column(table: str, column: Column) -> Iterator[Change]:
    start, name = f"ALTER TABLE {table}", column.name
    yield Change("column", "dropped", f"{start} DROP {name} CASCADE")
    yield Change("column", "renamed", f"{start} RENAME {name} TO renamed")
    yield Change("column", "comment", f"COMMENT ON COLUMN {table}.{name} IS 'x'")
    yield Change("column", "statistics", f"{start} ALTER {name} SET STATISTICS 7")
    yield Change("column", "grant", f"GRANT SELECT ({name}) ON {table} TO PUBLIC")
    if column.nullable:
        yield Change("column", "not null", f"{start} ALTER {name} SET NOT NULL")
    else:
        yield Change("column", "nullable", f"{start} ALTER {name} DROP NOT NULL")
    if column.generated is not None:
        yield Change("column", "generated dropped", f"{start} ALTER {name} DROP EXPRESSION")
    elif column.identity is not None:
        other = "BY DEFAULT" if column.identity == "ALWAYS" else "ALWAYS"
        yield Change("column", "identity dropped", f"{start} ALTER {name} DROP IDENTITY")
        yield Change("column", "identity kind", f"{start} ALTER {name} SET GENERATED {other}")
        for what, sql in (
            ("increment", "INCREMENT BY 5"),
            ("start", "START WITH 9"),
            ("cache", "CACHE 8"),
            ("cycle", "CYCLE"),
            ("maximum", "MAXVALUE 9999"),
        ):
            yield Change("column", f"identity {what}", f"{start} ALTER {name} SET {sql}")
    elif column.default is not None:
        yield Change("column", "default dropped", f"{start} ALTER {name} DROP DEFAULT")
        yield Change("column", "default null", f"{start} ALTER {name} SET DEFAULT NULL")
    else:
        yield Change(
            "column", "default added", f"{start} ALTER {name} SET DEFAULT {_default(column)}"
        )
    base = column.type.partition("(")[0]
    wider = {
        "character varying": ("character varying(99)", "character varying", "text"),
        "numeric": ("numeric", "numeric(14,3)"),
    }.get(base, _TYPES.get(column.type, ()))
    for other in wider:
        yield Change("column", f"type to {other}", f"{start} ALTER {name} TYPE {other}")
    if column.type in ("text", "jsonb", "text[]") or base == "character varying":
        yield Change("column", "storage", f"{start} ALTER {name} SET STORAGE EXTERNAL")
        yield Change("column", "compression", f"{start} ALTER {name} SET COMPRESSION pglz")


def _default(column: Column) -> str:
    """Write a default that suits the column."""
    if column.type in ("integer", "bigint", "double precision") or column.type.startswith("num"):
        return "7"
    return {"date": "now()", "timestamp with time zone": "now()", "text[]": "'{x}'"}.get(
        column.type, "'x@y'"
    )


def _index(table: str, name: str, index: Any) -> Iterator[Change]:
    yield Change("index", "dropped", f"DROP INDEX {name}")
    yield Change("index", "renamed", f"ALTER INDEX {name} RENAME TO renamed")
    yield Change("index", "comment", f"COMMENT ON INDEX {name} IS 'x'")
    fast = "fastupdate = off" if index.method == "gin" else "fillfactor = 70"
    yield Change("index", "option", f"ALTER INDEX {name} SET ({fast})")
    yield Change(
        "index",
        "invalid",
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass",
    )
    yield Change("index", "clustered", f"ALTER TABLE {table} CLUSTER ON {name}")
    again = f"DROP INDEX {name}; CREATE INDEX {name} ON {table}"
    keys = ", ".join(str(key) for key in index.keys)
    include = f" INCLUDE ({', '.join(index.include)})" if index.include else ""
    where = f" WHERE {index.predicate}" if index.predicate else ""
    if index.method == "btree":
        unique = again.replace("CREATE INDEX", "CREATE UNIQUE INDEX")
        yield Change("index", "unique", f"{unique} ({keys}){include}{where}")
        yield Change("index", "key added", f"{again} ({keys}, number){include}{where}")
        yield Change("index", "included", f"{again} ({keys}) INCLUDE (price){where}")
        flipped = keys.removesuffix(" DESC") if keys.endswith(" DESC") else f"{keys} DESC"
        yield Change("index", "order", f"{again} ({flipped}){include}{where}")
        yield Change(
            "index",
            "nulls",
            (
                f"{again} ({keys} NULLS LAST){include}{where}"
                if "DESC" in keys
                else f"{again} ({keys} NULLS FIRST){include}{where}"
            ),
        )
    else:
        yield Change("index", "method", f"{again} USING btree ({keys})")
    more = "quantity > 1" if index.predicate is None else f"({index.predicate}) AND quantity > 1"
    yield Change(
        "index", "predicate", f"{again} USING {index.method} ({keys}){include} WHERE {more}"
    )


@dataclass(slots=True)
class Result:
    """What each saw of one change; None is a crash."""

    change: Change
    models: bool = False
    document: bool = False
    migrations: bool = False
    alembic: bool | None = False
    plugin: bool | None = False

    @property
    def ours(self) -> bool:
        return self.models or self.document or self.migrations


def measure(server_url: str) -> list[str]:
    """Make every change, count who sees it, and write the counts and our misses as Markdown."""
    server = guard.driver_url(server_url, "server")
    mapped = models.read("shop.tables:metadata", ROOT, "public", lambda schema: schema == "public")
    document = datamodel.read(ROOT / "handbook/tables.md", ROOT, rls="off").schema
    with scratch.databases(
        server,
        "server",
        scratch.Scripts([ROOT / "sql/roles.sql"], sorted((ROOT / "sql/changes").glob("*.sql"))),
        None,
        "public",
    ) as made:

        def work(connection: Connection) -> list[Result]:
            return _measured(connection, mapped.schema, document, mapped.metadata)

        results = connected(made.migrated, work)
    return _told(results)


def connected(url: URL, work: Callable[[Connection], T]) -> T:
    async def run() -> T:
        engine = create_async_engine(url.set(drivername="postgresql+asyncpg"), poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _measured(
    connection: Connection, models: Schema, document: Schema, target: Any
) -> list[Result]:
    for statement in filter(None, (part.strip() for part in MORE.split(";"))):
        connection.exec_driver_sql(statement)

    def seen(held: Schema, family: Family, lead: Schema) -> set[str]:
        side = Side(lead, lead.source)
        reader = guard.Reader(connection, SCOPE.schemas) if family != "MG" else None
        found = Comparison(family, side, Side(held, "database"), RULES, reader).run()
        return {f"{one.code} {one.subject} {one.actual}" for one in found}

    def after(change: Change | None, look: Callable[[], T]) -> T | None:
        """Make a change, look, undo it; None if Postgres does not allow the change."""
        savepoint = connection.begin_nested()
        try:
            for statement in (change.sql.split("; ") if change else ()):
                connection.exec_driver_sql(statement)
        except DBAPIError:
            savepoint.rollback()
            return None
        try:
            return look()
        finally:
            savepoint.rollback()

    def ours() -> tuple[set[str], set[str], Schema]:
        connection.exec_driver_sql("SET LOCAL search_path = ''")
        reader = guard.Reader(connection, SCOPE.schemas)
        held = catalog.read(reader.ask, SCOPE, "database")
        return seen(held, "DB", models), seen(held, "DC", document), held

    def alembic() -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return repr(compare_metadata(MigrationContext.configure(connection), target))
        except Exception:
            return None

    first = after(None, ours)
    assert first is not None
    by_models, by_document, before = first
    results = []
    for change in changes(before):
        now = after(change, ours)
        if now is None:
            continue
        found = Result(change, now[0] != by_models, now[1] != by_document)
        found.migrations = bool(seen(now[2], "MG", before))
        results.append(found)
    for attribute in ("alembic", "plugin"):
        if attribute == "plugin":
            import alembic_postgresql_enum  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        reference = after(None, alembic)
        for found in results:
            told = after(found.change, alembic)
            setattr(found, attribute, None if told is None else told != reference)
    return results


def _told(results: list[Result]) -> list[str]:
    total = len(results)
    rows = (
        ("alembic-readonly-check, all of it", [r.ours for r in results]),
        ("- models alone (DB)", [r.models for r in results]),
        ("- datamodel.md alone (DC)", [r.document for r in results]),
        ("- migrations alone (MG)", [r.migrations for r in results]),
        ("alembic check", [r.alembic for r in results]),
        ("alembic check with alembic-postgresql-enum", [r.plugin for r in results]),
    )
    lines = [
        f"Single changes of a database, generated from its own catalog: {total} in"
        f" {len({r.change.kind for r in results})} kinds of objects.\n\n",
        "| Who | Seen | Share | Crashed |\n|---|---|---|---|\n",
    ]
    for who, seen in rows:
        counts = Counter(seen)
        lines.append(f"| {who} | {counts[True]} | {counts[True] / total:.1%} | {counts[None]} |\n")
    missed = [r.change for r in results if not r.ours]
    lines.append("\n")
    if missed:
        lines.append("Not seen by us:\n\n")
        lines += [f"- {change.kind}, {change.what}: `{change.sql}`\n" for change in missed]
    else:
        lines.append("Nothing was missed.\n")
    ahead = Counter(
        f"{r.change.kind} {r.change.what}"
        for r in results
        if (r.alembic or r.plugin) and not r.models
    )
    told = ", ".join(f"{what} ({count})" for what, count in sorted(ahead.items())) or "nothing"
    lines.append(
        f"\nSeen by Alembic and not by our models alone: {told}. A model that states no comment"
        " asks for none, and a partition of a mapped table is no table to remove.\n"
    )
    held = total >= LEAST and 1 - len(missed) / total >= SHARE
    lines.append(
        f"\n| Limit | Held |\n|---|---|\n| at least {LEAST} changes, {SHARE:.0%} seen |"
        f" {'yes' if held else 'NO'} |\n"
    )
    return lines


if __name__ == "__main__":
    sys.stdout.write("".join(measure(sys.argv[1])))
