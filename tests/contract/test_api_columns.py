"""Mapped properties against the data model: each change gives exactly its code, twins nothing."""

import pytest
from alembic_readonly_check.api.columns import check_columns
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import Finding

from tests.contract.api_fixtures.shop import TABLES, Change, covered, schema_of_text

QUANTITY = "- `orders_quantity_check`: `CHECK (quantity BETWEEN 1 AND 99)`"
NOTE = "- `orders_note_check`: `CHECK (char_length(note) <= 200)`"
CHANGE = "    OrderChange:\n      type: object\n      additionalProperties: false\n"
LABELS = "          items: { type: string }\n          x-db-column: shop.orders.labels"

CHANGES = (
    Change("table missing", "AC701", "tables", "## `shop.lines`", "## `shop.order_lines`"),
    Change(
        "mapping to another schema", "AC701", "contract", "shop.lines.price", "annex.lines.price"
    ),
    Change(
        "table of the default schema",
        "AC701",
        "contract",
        "shop.lines.price",
        "lines.price",
        benign=True,
    ),
    Change(
        "mapping to a missing column", "AC702", "contract", "shop.orders.note", "shop.orders.notes"
    ),
    Change("column renamed", "AC702", "tables", "| `placed_at` |", "| `made_at` |"),
    Change(
        "rows in another order",
        "AC702",
        "tables",
        "| `code` | `varchar(12)` | no | | | What the customer calls it. |\n",
        "",
        (
            (
                "| `labels`",
                "| `code` | `varchar(12)` | no | | | What the customer calls it. |\n| `labels`",
            ),
        ),
        benign=True,
    ),
    Change(
        "int to text",
        "AC703",
        "tables",
        "| `quantity` | `integer` |",
        "| `quantity` | `text` |",
        ((QUANTITY + "\n", ""),),
    ),
    Change("uuid to text", "AC703", "tables", "| `id` | `uuid` |", "| `id` | `text` |"),
    Change("item type", "AC703", "tables", "| `labels` | `text[]` |", "| `labels` | `integer[]` |"),
    Change(
        "array to scalar",
        "AC703",
        "tables",
        "| `labels` | `text[]` | no | `'{}'` |",
        "| `labels` | `text` | no | `''` |",
    ),
    Change(
        "format",
        "AC703",
        "contract",
        "placed_at: { type: string, format: date-time,",
        "placed_at: { type: string, format: date,",
    ),
    Change(
        "int64 of an integer",
        "AC703",
        "contract",
        "quantity: { type: integer, x-db",
        "quantity: { type: integer, format: int64, x-db",
    ),
    Change(
        "whole numbers of a fraction",
        "AC703",
        "contract",
        "weight: { type: number, x-db",
        "weight: { type: integer, x-db",
    ),
    Change(
        "type of a parameter",
        "AC703",
        "contract",
        "schema: { type: string, format: uuid } }\n    get:",
        "schema: { type: string, x-db-column: shop.orders.id } }\n    get:",
    ),
    Change(
        "mapped parameter",
        "AC703",
        "contract",
        "schema: { type: string, format: uuid } }\n    get:",
        "schema: { type: string, format: uuid }, x-db-column: shop.orders.id }\n    get:",
        benign=True,
    ),
    Change(
        "int4 against integer",
        "AC703",
        "tables",
        "| `quantity` | `integer` |",
        "| `quantity` | `int4` |",
        benign=True,
    ),
    Change(
        "jsonb for an array",
        "AC703",
        "tables",
        "| `labels` | `text[]` | no | `'{}'` |",
        "| `labels` | `jsonb` | no | `'[]'` |",
        benign=True,
    ),
    Change(
        "money as text",
        "AC703",
        "contract",
        "price: { type: string, format: decimal,",
        "price: { type: number,",
        benign=True,
    ),
    Change(
        "nullable column in a non-null response",
        "AC704",
        "tables",
        "| `placed_at` | `timestamptz` | no |",
        "| `placed_at` | `timestamptz` | yes |",
    ),
    Change(
        "null for a column that is not",
        "AC704",
        "contract",
        "        code:\n",
        "        code:\n          nullable: true\n",
    ),
    Change(
        "null that clears a column",
        "AC704",
        "contract",
        f"{CHANGE}      properties:\n",
        f"{CHANGE}      properties:\n"
        "        code: { type: string, nullable: true, maxLength: 9, x-db-column: orders.code }\n",
    ),
    Change(
        "null for a column with a default",
        "AC704",
        "contract",
        "due_at: { type: string,",
        "due_at: { type: string, nullable: true,",
        benign=True,
    ),
    Change(
        "nullable column in an optional property",
        "AC704",
        "contract",
        "required: [id, state, note,",
        "required: [id, state,",
        (("note: { type: string, nullable: true, x-db", "note: { type: string, x-db"),),
        benign=True,
    ),
    Change("default", "AC705", "contract", "default: open", "default: paid"),
    Change("default of the column", "AC705", "tables", "| `'open'` |", "| `'paid'` |"),
    Change(
        "default with a cast",
        "AC705",
        "tables",
        "| `'open'` |",
        "| `'open'::shop.state` |",
        benign=True,
    ),
    Change(
        "default by a function",
        "AC705",
        "contract",
        "due_at: { type: string,",
        "due_at: { type: string, default: now,",
        benign=True,
    ),
    Change(
        "mapping dropped",
        "AC706",
        "contract",
        "placed_at: { type: string, format: date-time, x-db-column: shop.orders.placed_at }",
        "placed_at: { type: string, format: date-time }",
    ),
    Change(
        "said to be derived",
        "AC706",
        "contract",
        "placed_at: { type: string, format: date-time, x-db-column: shop.orders.placed_at }",
        "placed_at: { type: string, format: date-time, x-db-column: null }",
        benign=True,
    ),
    Change(
        "no column of that name",
        "AC706",
        "contract",
        "        id: { type: string, format: uuid, x-db-column: shop.orders.id }",
        "        id: { type: string, format: uuid, x-db-column: shop.orders.id }\n"
        "        url: { type: string }",
        benign=True,
    ),
    Change("mapping without a table", "AC707", "contract", "shop.lines.price", "price"),
    Change(
        "mapping to a list",
        "AC707",
        "contract",
        "x-db-column: shop.lines.price",
        "x-db-column: [shop.lines.price]",
    ),
    Change(
        "mapping in quotes",
        "AC707",
        "contract",
        "x-db-column: shop.lines.price",
        "x-db-column: 'shop.lines.price'",
        benign=True,
    ),
    Change("maxLength above varchar", "AC708", "contract", "maxLength: 12", "maxLength: 13"),
    Change("maxLength dropped", "AC708", "contract", "          maxLength: 12\n", ""),
    Change(
        "maxLength above CHECK",
        "AC708",
        "tables",
        "char_length(note) <= 200",
        "char_length(note) < 200",
    ),
    Change("maxLength above the domain", "AC708", "tables", "BETWEEN 0 AND 40", "BETWEEN 0 AND 39"),
    Change(
        "maxLength below varchar",
        "AC708",
        "contract",
        "maxLength: 12",
        "maxLength: 11",
        benign=True,
    ),
    Change(
        "BETWEEN against two comparisons",
        "AC708",
        "tables",
        "char_length(note) <= 200",
        "length(note) >= 0 AND 200 >= length(note)",
        benign=True,
    ),
    Change(
        "CHECK that admits null",
        "AC708",
        "tables",
        NOTE,
        NOTE.replace("char_length", "note IS NULL OR char_length"),
        benign=True,
    ),
    Change("varchar widened", "AC708", "tables", "`varchar(12)`", "`varchar(80)`", benign=True),
    Change("maximum above CHECK", "AC709", "contract", "maximum: 99", "maximum: 100"),
    Change("minimum below CHECK", "AC709", "tables", "BETWEEN 1 AND 99", "BETWEEN 2 AND 99"),
    Change(
        "minimum dropped",
        "AC709",
        "contract",
        "quantity: { type: integer, minimum: 1, maximum: 99,",
        "quantity: { type: integer, maximum: 99,",
    ),
    Change(
        "exclusive against inclusive", "AC709", "contract", "          exclusiveMinimum: true\n", ""
    ),
    Change("minLength below CHECK", "AC709", "tables", "BETWEEN 0 AND 40", "BETWEEN 1 AND 40"),
    Change(
        "whole number above 0",
        "AC709",
        "tables",
        "quantity BETWEEN 1 AND 99",
        "quantity > 0 AND quantity < 100",
        benign=True,
    ),
    Change("bounds inside CHECK", "AC709", "contract", "maximum: 99", "maximum: 98.0", benign=True),
    Change(
        "CHECK of two columns",
        "AC709",
        "tables",
        "CHECK (weight > 0)",
        "CHECK (weight > 0 AND quantity > weight)",
        benign=True,
    ),
    Change(
        "private column exposed",
        "AC710",
        "contract",
        "        quantity: { type: integer, x-db",
        "        card: { type: string, nullable: true, x-db-column: shop.orders.card_hash }\n"
        "        quantity: { type: integer, x-db",
    ),
    Change(
        "private column written",
        "AC710",
        "contract",
        "        extra:\n          type: object",
        "        card: { type: string, x-db-column: shop.orders.card_hash }\n"
        "        extra:\n          type: object",
        benign=True,
    ),
    Change(
        "request enum outside the column's",
        "AC711",
        "contract",
        "enum: [open, paid]\n",
        "enum: [open, lost]\n",
    ),
    Change(
        "column enum outside the response's",
        "AC711",
        "tables",
        "'open', 'paid', 'closed'",
        "'open', 'paid', 'closed', 'lost'",
    ),
    Change("request enum dropped", "AC711", "contract", "          enum: [open, paid]\n", ""),
    Change(
        "enum as CHECK",
        "AC711",
        "tables",
        "| `state` | `shop.state` |",
        "| `state` | `text` |",
        (
            (
                QUANTITY,
                "- `orders_state_check`:"
                f" `CHECK (state = ANY (ARRAY['closed', 'open', 'paid']))`\n{QUANTITY}",
            ),
        ),
        benign=True,
    ),
    Change(
        "CHECK that lacks a value",
        "AC711",
        "tables",
        "| `state` | `shop.state` |",
        "| `state` | `text` |",
        ((QUANTITY, f"- `orders_state_check`: `CHECK (state IN ('closed', 'open'))`\n{QUANTITY}"),),
    ),
    Change(
        "elements of an array",
        "AC711",
        "tables",
        QUANTITY,
        f"- `orders_labels_check`: `CHECK (labels <@ ARRAY['red', 'blue'])`\n{QUANTITY}",
        benign=True,
    ),
    Change(
        "elements outside a response",
        "AC711",
        "contract",
        LABELS,
        LABELS.replace("type: string", "type: string, enum: [red]"),
        benign=True,
    ),
)
COVERED = covered(CHANGES)


def findings(change: Change) -> list[Finding]:
    return check_columns(change.contract(), change.tables(), ApiRules(), "shop")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_code(change: Change) -> None:
    assert {f.code for f in findings(change)} == (set() if change.benign else {change.code})


def test_an_operation_waits_for_the_table_it_needs() -> None:
    change = Change("", "AC701", "tables", "## `shop.lines`", "## `shop.order_lines`")
    (found,) = findings(change)
    assert found.heading == (
        "BLOCKED: datamodel incomplete - listOrders, createOrder, getOrder, updateOrder,"
        " importOrders, streamOrders needs shop.lines with sku, price"
    )


def test_two_documents_that_disagree_are_named_with_both_values_and_lines() -> None:
    (found,) = findings(Change("", "AC708", "contract", "maxLength: 12", "maxLength: 13"))
    assert found.heading == (
        "MISMATCH: [NewOrder.code] - openapi.yaml says maxLength 13, datamodel.md says at most 12"
    )
    assert str(found.location) == "docs/openapi.yaml:188"
    assert found.message == (
        "request says maxLength 13, column code says at most 12 (datamodel.md:9)"
    )


def test_private_columns_are_a_list_of_globs() -> None:
    change = Change("", "AC710", "contract", "", "")
    rules = ApiRules(private_columns=("shop.orders.n*",))
    found = check_columns(change.contract(), change.tables(), rules, "shop")
    assert [(f.code, f.subject) for f in found] == [("AC710", "Order.note")]


def test_a_column_of_a_managed_schema_is_believed() -> None:
    change = Change("", "AC701", "contract", "shop.lines.price", "auth.users.price")
    contract, tables = change.contract(), change.tables()
    assert [f.code for f in check_columns(contract, tables, ApiRules(), "shop")] == ["AC701"]
    assert check_columns(contract, tables, ApiRules(), "shop", {"auth"}) == []


def test_items_of_a_list_are_mapped_like_properties() -> None:
    change = Change(
        "", "AC703", "contract", LABELS, LABELS.replace("string", "string, x-db-column: orders.id")
    )
    assert [(f.code, f.subject) for f in findings(change)] == [("AC703", "Order.labels[] response")]


def test_a_count_of_a_check_bounds_a_request() -> None:
    change = Change(
        "",
        "AC708",
        "contract",
        "        extra:\n",
        "        labels: { type: array, maxItems: 9, items: { type: string },"
        " x-db-column: orders.labels }\n        extra:\n",
    )
    check = f"- `orders_labels_check`: `CHECK (cardinality(labels) < 9)`\n{QUANTITY}"
    tables = schema_of_text(TABLES.replace(QUANTITY, check))
    found = check_columns(change.contract(), tables, ApiRules(), "shop")
    assert [(f.code, f.expected, f.actual) for f in found] == [("AC708", "at most 8", "maxItems 9")]


def test_a_view_feeds_responses_by_type() -> None:
    view = "\n## Views\n- `shop.prices`: `(sku shop.sku, price boolean)`\n"
    contract = Change("", "AC703", "contract", "shop.lines.price", "prices.price").contract()
    (found,) = check_columns(contract, schema_of_text(TABLES + view), ApiRules(), "shop")
    assert found.heading == (
        "MISMATCH: [Line.price] - openapi.yaml says string decimal, datamodel.md says boolean"
    )
