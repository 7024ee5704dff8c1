"""One meaning, two spellings: no pair of sides may call them different, server or not."""

from dataclasses import replace
from typing import Any

import pytest
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Family, Side
from alembic_readonly_check.facts import Column, ForeignKey, Schema, Table
from alembic_readonly_check.findings import Finding
from alembic_readonly_check.sql.expressions import Scope, canonical, query_shape
from alembic_readonly_check.sql.tables import parse_constraint, parse_index, parse_trigger
from alembic_readonly_check.sql.types import parse_type, qualified, same_type

COLUMNS = (
    ("qty", "integer"),
    ("price", "numeric(10,2)"),
    ("name", "character varying(50)"),
    ("note", "text"),
    ("active", "boolean"),
    ("day", "date"),
    ("order", "integer"),
    ("tags", "text[]"),
)
NAMES = Scope("public.goods", COLUMNS)
AS_HELD = Scope(exact=True)

DEFAULTS = (
    ("text[]", "'{}'", "ARRAY[]::text[]"),
    ("text[]", "'{}'::text[]", "array[]::text[]"),
    ("text[]", "'{a,b}'", "ARRAY['a', 'b']"),
    ("text[]", "ARRAY['a'::text, 'b'::text]", "'{a, b}'::text[]"),
    ("integer[]", "'{1,2}'", "ARRAY[1, 2]"),
    ("integer[]", "'{}'", "ARRAY[]::integer[]"),
    ("boolean[]", "'{t,f}'", "ARRAY[true, false]"),
    ("boolean", "true", "'t'"),
    ("boolean", "TRUE", "true"),
    ("boolean", "'false'", "false"),
    ("boolean", "'off'::boolean", "false"),
    ("integer", "0", "'0'"),
    ("integer", "'0'::integer", "0"),
    ("integer", "-1", "'-1'::integer"),
    ("integer", "(-1)", "-1"),
    ("numeric(10,2)", "0", "0.0"),
    ("numeric(10,2)", "0.00", "'0'::numeric"),
    ("double precision", "1", "1.0"),
    ("bigint", "1", "'1'::bigint"),
    ("text", "'x'", "'x'::text"),
    ("text", "1", "'1'"),
    ("text", "''", "''::character varying"),
    ("character varying(5)", "'x'", "'x'::varchar"),
    ("jsonb", "'{}'", "'{}'::jsonb"),
    ("jsonb", "'[]'", "CAST('[]' AS jsonb)"),
    ("timestamp with time zone", "now()", "CURRENT_TIMESTAMP"),
    ("timestamp with time zone", "now()", "transaction_timestamp()"),
    ("timestamp with time zone", "now()", "pg_catalog.now()"),
    ("timestamp with time zone", "(now())", "now()"),
    ("bigint", "nextval('s')", "nextval('public.s'::regclass)"),
    ("bigint", "nextval('\"S\"')", "nextval('public.\"S\"'::regclass)"),
    ("uuid", "gen_random_uuid()", "pg_catalog.gen_random_uuid()"),
    ("public.state", "'open'", "'open'::public.state"),
    ("text", "f()", "public.f()"),
)

CHECKS = (
    ("qty > 0", "0 < qty"),
    ("qty >= 0", "0 <= qty"),
    ("qty < 9", "9 > qty"),
    ("qty <> 0", "0 != qty"),
    ("qty = 1", "1 = qty"),
    ("qty > price", "price < qty"),
    ("qty = price", "price = qty"),
    ("qty BETWEEN 1 AND 9", "qty >= 1 AND qty <= 9"),
    ("qty BETWEEN 1 AND 9", "qty <= 9 AND 1 <= qty"),
    ("qty NOT BETWEEN 1 AND 9", "qty < 1 OR qty > 9"),
    ("active", "active = true"),
    ("active", "true = active"),
    ("active", "active <> false"),
    ("NOT active", "active = false"),
    ("NOT active", "active <> true"),
    ("active", "NOT (NOT active)"),
    ("NOT qty = 1", "qty <> 1"),
    ("NOT (qty < 1)", "qty >= 1"),
    ("name IN ('a', 'b')", "name = ANY (ARRAY['a', 'b'])"),
    ("name IN ('a', 'b')", "name IN ('b', 'a')"),
    ("name IN ('a', 'b')", "(name)::text = ANY ((ARRAY['b'::varchar, 'a'::varchar])::text[])"),
    ("name IN ('a')", "name = 'a'"),
    ("name NOT IN ('a', 'b')", "name <> ALL (ARRAY['a', 'b'])"),
    ("NOT name IN ('a', 'b')", "name NOT IN ('a', 'b')"),
    ("qty IN (1, 2)", "qty = ANY ('{1,2}'::integer[])"),
    ("qty IN (1, 2)", "qty = ANY (ARRAY[2, 1])"),
    ("char_length(name) > 1", "character_length(name) > 1"),
    ("char_length(note) > 1", "length(note) > 1"),
    ("length((name)::text) > 1", "1 < char_length(name)"),
    ("ceil(price) = 1", "ceiling(price) = 1"),
    ("pow(qty, 2) > 1", "power(qty, 2) > 1"),
    ("name = 'a'", "(name)::text = 'a'::text"),
    ("price > 0", "price > (0)::numeric"),
    ("price > 0", "goods.price > 0.0"),
    ("price > 0", "public.goods.price > 0"),
    ('"order" > 0', '0 < goods."order"'),
    ("qty > 0 AND active", "active AND qty > 0"),
    ("qty > 0 OR active", "active OR 0 < qty"),
    ("qty > 0 AND (active AND day > '2026-01-01')", "day > '2026-01-01' AND active AND qty > 0"),
    ("qty > 0 AND active", "qty > 0 AND active AND qty > 0"),
    ("name LIKE 'a%'", "(name)::text LIKE 'a%'"),
    ("lower(name) <> ''", "'' <> lower(name)"),
    ("day IS NOT NULL", "(day IS NOT NULL)"),
    ("coalesce(qty, 0) > 0", "0 < COALESCE(qty, 0)"),
    ("qty::bigint > 0", "CAST(qty AS int8) > 0"),
    ("qty = price", "(qty)::numeric = price"),
    ("qty + 1 > price", "((qty + 1))::numeric > price"),
    ("price / 2 > 1", "(price / (2)::numeric) > (1)::numeric"),
    ("price IN (1, 2.5)", "price = ANY (ARRAY[(1)::numeric, 2.5])"),
    ("coalesce(price, 0) > 1", "COALESCE(price, (0)::numeric) > 1.0"),
    ("greatest(price, 0) > 1", "GREATEST(price, (0)::numeric) > (1)::numeric"),
    ("name COLLATE \"C\" > 'a'", "name COLLATE pg_catalog.\"C\" > 'a'"),
)

DIFFERENT = (
    ("boolean", "'y'::boolean", "false"),
    ("boolean", "'of'::boolean", "true"),
    ("bigint", "nextval('A')", "nextval('\"A\"')"),
    ("timestamp with time zone", "public.now()", "now()"),
    ("integer", "0", "1"),
    ("text[]", "'{}'", "ARRAY['a']"),
    ("boolean", "qty > 0", "qty < 0"),
    ("boolean", "qty > 0", "0 > qty"),
    ("boolean", "qty > price", "price > qty"),
    ("boolean", "active", "active = false"),
    ("boolean", "name IN ('a', 'b')", "name IN ('a', 'c')"),
    ("boolean", "name NOT IN ('a', 'b')", "name <> ANY (ARRAY['a', 'b'])"),
    ("boolean", "qty > 0 AND active", "qty > 0 OR active"),
    ("boolean", "active", "active IS TRUE"),
    ("boolean", "octet_length(note) > 1", "char_length(note) > 1"),
    ("boolean", "qty - price > 0", "price - qty > 0"),
    ("boolean", "price <= 1/2.0", "price <= 1/2"),
    ("boolean", "qty / 2 > 1", "qty / 2.0 > 1"),
    ("boolean", "price = qty", "price::integer = qty"),
    ("boolean", "price::smallint > qty", "price > qty"),
    ("boolean", "greatest(qty, 1) > 2", "least(qty, 1) > 2"),
    ("boolean", "length(note) > 1", "public.length(note) > 1"),
    ("boolean", "char_length(note) > 1", "public.char_length(note) > 1"),
    ("boolean", "name COLLATE one.c > 'a'", "name COLLATE two.c > 'a'"),
    ("numeric", "1/2.0", "1/2"),
    ("numeric", "price * (1/2.0)", "price * (1/2)"),
    ("integer", "1.5", "1"),
    ("text", "1.0", "1"),
    ("text", "'abc'::varchar(2)", "'abc'"),
    ("interval", "interval '1' day", "interval '1' hour"),
    ("integer", "true::integer", "true"),
)

TYPES = (
    ("geometry(POINT,4326)", "gis.geometry(Point,4326)"),
    ("Geometry(Point, 4326)", "public.geometry(Point,4326)"),
    ("vector(3)", "extensions.vector(3)"),
    ("citext", "extensions.citext"),
    ("FLOAT(24)", "real"),
    ("FLOAT(53)", "double precision"),
    ("float", "double precision"),
    ("DECIMAL(10)", "numeric(10,0)"),
    ("varchar(5)[]", "character varying(5)[]"),
    ("int8", "bigint"),
    ("char(3)", "character(3)"),
    ("timestamptz(3)", "timestamp(3) with time zone"),
    ("bit varying(3)", "varbit(3)"),
    ('"orderState"', 'public."orderState"'),
    ('"orderState"[]', 'public."orderState"[]'),
    ('"user"', 'public."user"'),
    ('"plain"', "public.plain"),
)

INDEXES = (
    ("btree (qty)", "btree (qty ASC NULLS LAST)"),
    ("btree (qty DESC)", "BTREE (qty DESC NULLS FIRST)"),
    ("UNIQUE btree (qty)", "unique btree ( qty )"),
    ("btree (lower(name))", "btree (lower((name)::text))"),
    ("btree (qty) WHERE active", "btree (qty) WHERE (active = true)"),
    ("btree (qty) INCLUDE (name, note)", "btree (qty) include (name,note)"),
    ('btree ("order")', 'btree ("order" ASC)'),
    ("gin (tags) WITH (fastupdate = off)", "gin (tags) WITH (fastupdate=off)"),
    ("btree (qty) NULLS NOT DISTINCT", "btree (qty) nulls not distinct"),
)
CONSTRAINTS = (
    ("FOREIGN KEY (qty) REFERENCES o(id)", "foreign key (qty) references public.o (id)"),
    (
        "FOREIGN KEY (qty) REFERENCES o(id)",
        "FOREIGN KEY (qty) REFERENCES o(id) MATCH SIMPLE ON UPDATE NO ACTION ON DELETE NO ACTION",
    ),
    (
        "FOREIGN KEY (qty) REFERENCES o(id) DEFERRABLE INITIALLY DEFERRED",
        "FOREIGN KEY (qty) REFERENCES o(id) INITIALLY DEFERRED",
    ),
    ("UNIQUE (qty, name)", "unique ( qty,name )"),
    ("UNIQUE (qty)", "UNIQUE NULLS DISTINCT (qty)"),
    ("UNIQUE (qty)", "UNIQUE (qty) NOT DEFERRABLE"),
)
TRIGGERS = (
    (
        "BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION f()",
        "before update for row execute procedure f()",
    ),
    (
        "BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION f()",
        "BEFORE UPDATE ON public.goods FOR EACH ROW EXECUTE FUNCTION public.f()",
    ),
    (
        "AFTER INSERT OR UPDATE FOR EACH ROW WHEN (NEW.qty > 0) EXECUTE FUNCTION f()",
        "AFTER INSERT OR UPDATE FOR EACH ROW WHEN ((0 < new.qty)) EXECUTE FUNCTION f()",
    ),
    (
        "AFTER DELETE EXECUTE FUNCTION f('a')",
        "AFTER DELETE FOR EACH STATEMENT EXECUTE FUNCTION f('a')",
    ),
)
QUERIES = (
    ("SELECT id FROM public.a", "SELECT id FROM public.a x;"),
    ("SELECT x.id FROM a x JOIN b ON b.id = x.b", "SELECT a.id FROM a JOIN b y ON a.b = y.id"),
    ("SELECT id AS id FROM a WHERE n > 0", "SELECT id FROM a WHERE 0 < n"),
    (
        "SELECT x.id FROM a x WHERE EXISTS (SELECT 1 FROM b x WHERE x.n = 1)",
        "SELECT y.id FROM a y WHERE EXISTS (SELECT 1 FROM b z WHERE z.n = 1)",
    ),
    ("SELECT s.n FROM (SELECT a.n FROM a) s", "SELECT t.n FROM (SELECT x.n FROM a x) t"),
)
OTHER_QUERIES = (
    ("SELECT id FROM a", "SELECT id FROM b"),
    ("SELECT x.id FROM a x JOIN b ON b.id = x.b", "SELECT b.id FROM a x JOIN b ON b.id = x.b"),
    (
        "SELECT x.id FROM a x WHERE EXISTS (SELECT 1 FROM b y WHERE y.n = x.n)",
        "SELECT x.id FROM a x WHERE EXISTS (SELECT 1 FROM b y WHERE y.n = y.n)",
    ),
)
BENIGN = (DEFAULTS, CHECKS, TYPES, INDEXES, CONSTRAINTS, TRIGGERS, QUERIES)


def table(**facts: Any) -> Schema:
    columns = tuple(Column(name, type_, True) for name, type_ in COLUMNS)
    return Schema("a", {"public.goods": replace(Table("public.goods", columns), **facts)})


def differences(first: Schema, second: Schema) -> list[Finding]:
    sides = Side(first, "one"), Side(second, "other")
    families: tuple[Family, ...] = ("DM", "DB", "DC")
    return [found for family in families for found in Comparison(family, *sides).run()]


def same(first: str, second: str, type_: str) -> bool:
    sides = Side(Schema("a"), "a"), Side(Schema("b"), "b")
    return Comparison("DM", *sides).equal(first, second, NAMES, type_)


@pytest.mark.parametrize(("type_", "first", "second"), DEFAULTS)
def test_a_default_spelled_otherwise_is_the_same(type_: str, first: str, second: str) -> None:
    assert same(first, second, type_)
    assert same(second, first, type_)


@pytest.mark.parametrize(("first", "second"), CHECKS)
def test_a_check_spelled_otherwise_is_the_same(first: str, second: str) -> None:
    assert same(first, second, "boolean")
    assert same(second, first, "boolean")


@pytest.mark.parametrize(("first", "second"), TYPES)
def test_a_type_spelled_otherwise_is_the_same(first: str, second: str) -> None:
    assert same_type(*(qualified(parse_type(text), "public") for text in (first, second)))


@pytest.mark.parametrize(("first", "second"), INDEXES)
def test_an_index_spelled_otherwise_is_the_same(first: str, second: str) -> None:
    one, other = (parse_index("i", text, "public.goods") for text in (first, second))
    assert differences(table(indexes=(one,)), table(indexes=(other,))) == []


@pytest.mark.parametrize(("first", "second"), CONSTRAINTS)
def test_a_constraint_spelled_otherwise_is_the_same(first: str, second: str) -> None:
    one, other = (parse_constraint("c", text, "public") for text in (first, second))
    kind = "foreign_keys" if isinstance(one, ForeignKey) else "uniques"
    assert differences(table(**{kind: (one,)}), table(**{kind: (other,)})) == []


@pytest.mark.parametrize(("first", "second"), TRIGGERS)
def test_a_trigger_spelled_otherwise_is_the_same(first: str, second: str) -> None:
    one, other = (parse_trigger("t", text, "public.goods") for text in (first, second))
    assert differences(table(triggers=(one,)), table(triggers=(other,))) == []


@pytest.mark.parametrize(("first", "second"), QUERIES)
def test_a_query_with_other_aliases_is_the_same(first: str, second: str) -> None:
    assert query_shape(first, AS_HELD) == query_shape(second, AS_HELD)


@pytest.mark.parametrize(("first", "second"), OTHER_QUERIES)
def test_a_query_that_reads_something_else_is_not(first: str, second: str) -> None:
    assert query_shape(first, AS_HELD) != query_shape(second, AS_HELD)


def test_benign_respellings_are_many() -> None:
    assert len({pair for pairs in BENIGN for pair in pairs}) >= 120


@pytest.mark.parametrize(("type_", "first", "second"), DIFFERENT)
def test_what_means_something_else_stays_different(type_: str, first: str, second: str) -> None:
    assert not same(first, second, type_)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1::numeric / 3", "1 / 3"),
        ("name = 'A'::citext", "name = 'A'::text"),
        ("(qty)::integer / 2", "qty / 2"),
        ("1.5::integer", "1.5"),
    ],
)
def test_between_catalogs_no_cast_is_mere_spelling(first: str, second: str) -> None:
    assert canonical(first, AS_HELD) != canonical(second, AS_HELD)
