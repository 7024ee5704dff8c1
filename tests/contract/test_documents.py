"""datamodel.md by itself (DM0xx) and against the models (DM1xx): one change at a time."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Side
from alembic_readonly_check.findings import CannotCheck, Finding
from alembic_readonly_check.sources import models
from alembic_readonly_check.sources.document import datamodel
from alembic_readonly_check.sources.document.datamodel import Document
from alembic_readonly_check.sources.models import Models

ROOT = Path(__file__).parent / "foreign"
TEXT = (ROOT / "handbook/tables.md").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Change:
    """Replace a piece of the document: drift of exactly these codes, or a benign twin of them."""

    id: str
    codes: str
    old: str
    new: str
    benign: bool = False


CUSTOMER = "| `name` | `varchar(50)` | no | | | What to call them. |"
TOTAL = (
    "| `total` | `numeric(14, 2)` | yes | generated: `price * quantity` | | Price of all pieces. |"
)
SENSOR = "| `sensor` | `integer` | no | | PK | Which scale. |"
DAY = "| `taken_on` | `date` | no | | PK | On which day. |"
QUANTITY = "- `orders_quantity_check`: `CHECK (quantity >= 1 AND quantity <= 1000)`"
OPEN = "`btree (customer_id, placed_at DESC) INCLUDE (total) WHERE (status <> 'sent')`"

CHANGES = (
    Change(
        "table without columns", "DM001", "## `measures`", "## `empty`\nProse.\n\n## `measures`"
    ),
    Change(
        "table twice",
        "DM001",
        "## Enums",
        "## `measures`\n| Column | Type | Null | Default | Key | Description |\n"
        "|---|---|---|---|---|---|\n| `a` | `int` | no | | | A. |\n\n## Enums",
    ),
    Change(
        "grant that is none", "DM001", "`SELECT (id, status, total), UPDATE (status)`", "`LOOK AT`"
    ),
    Change("line without a definition", "DM001", "- `orders_own`: `FOR", "- `orders_own`: FOR"),
    Change(
        "unknown word for row level security",
        "DM001",
        "Row level security: enabled.",
        "Row level security: mostly.",
    ),
    Change(
        "prose between",
        "DM001 DM014",
        "## Enums",
        "## About\n- a list of `words`\n\n## Enums",
        True,
    ),
    Change(
        "table in a fence",
        "DM001 DM002",
        "## Enums",
        "```\n## `example`\n| Column |\n|---|\n```\n\n## Enums",
        True,
    ),
    Change("cell missing", "DM002", CUSTOMER, "| `name` | `varchar(50)` | no | | What. |"),
    Change("cell too many", "DM002", CUSTOMER, f"{CUSTOMER} more |"),
    Change("raw pipe", "DM002", "One of a, b \\| c.", "One of a, b | c."),
    Change("column twice", "DM002", CUSTOMER, f"{CUSTOMER}\n{CUSTOMER}"),
    Change("other titles", "DM002", "| Null | Default |", "| Nullable | Default |"),
    Change("escaped pipe", "DM002", "What to call them.", "What \\| whom to call.", True),
    Change("padding", "DM002", CUSTOMER, "|`name`|`varchar(50)`|no|||What to call them.", True),
    Change("CRLF", "DM002 DM014", "\n", "\r\n", True),
    Change("type typo", "DM003", "| `float8` |", "| `flaot8` |"),
    Change("type that does not parse", "DM003", "| `float8` |", "| `numeric(1` |"),
    Change(
        "type of an extension",
        "DM003",
        "`int` | no | | | Pieces.",
        "`int4` | no | | | Pieces.",
        True,
    ),
    Change("null word", "DM004", "| `float8` | no |", "| `float8` | nope |"),
    Change("null word padded", "DM004", "| `float8` | no |", "| `float8` |   no   |", True),
    Change("default not SQL", "DM005", "| `'new'` |", "| `'new` |"),
    Change("default not code", "DM005", "| `'new'` |", "| 'new' |"),
    Change("default in double backticks", "DM005", "| `'new'` |", "| `` 'new' `` |", True),
    Change(
        "key word",
        "DM006",
        "| `number` | `bigint` | no | `nextval('order_number')` | UQ |",
        "| `number` | `bigint` | no | `nextval('order_number')` | UNIQUE |",
    ),
    Change(
        "key words in another order",
        "DM006",
        "| `sensor` | `integer` | no | | PK |",
        "| `sensor` | `integer` | no | |  PK  |",
        True,
    ),
    Change(
        "foreign key to nowhere",
        "DM007",
        "REFERENCES customers(id)",
        "REFERENCES clients(id)",
    ),
    Change(
        "foreign key to no column",
        "DM007",
        "REFERENCES customers(id)",
        "REFERENCES customers(no)",
    ),
    Change(
        "FK without a line",
        "DM007",
        "| `status` | `order_status` | no | `'new'` | |",
        "| `status` | `order_status` | no | `'new'` | FK |",
    ),
    Change(
        "foreign key into a managed schema",
        "DM007",
        "Prose may",
        "Prose of `auth.users(id)` may",
        True,
    ),
    Change("unique of no column", "DM008", "`UNIQUE (number)`", "`UNIQUE (numbr)`"),
    Change(
        "UQ without a line",
        "DM008",
        "| `quantity` | `int` | no | | |",
        "| `quantity` | `int` | no | | UQ |",
    ),
    Change(
        "unique in small letters", "DM008 DM108", "`UNIQUE (number)`", "`unique ( number )`", True
    ),
    Change("check that does not parse", "DM009", "quantity <= 1000)`", "quantity <=)`"),
    Change(
        "check with prose", "DM009 DM109", "as the till does.", "whatever `the till` does.", True
    ),
    Change("index without a method", "DM010", "`gin (tags)`", "`(tags)`"),
    Change("index in capitals", "DM010 DM110", "`gin (tags)`", "`GIN (tags)`", True),
    Change("enum without quotes", "DM011", "`'new', 'paid', 'sent'`", "`new, paid`"),
    Change(
        "enum spelled out",
        "DM011 DM111",
        "`'new', 'paid', 'sent'`",
        "`ENUM ('new', 'paid', 'sent')`",
        True,
    ),
    Change("no description", "DM012", "| What to call them. |", "| |"),
    Change("other description", "DM012 DM112", "What to call them.", "Their name.", True),
    Change("identity kind unknown", "DM013", "identity: `ALWAYS`", "identity: `SOMETIMES`"),
    Change(
        "identity in small letters", "DM013 DM113", "identity: `ALWAYS`", "identity: `always`", True
    ),
    Change("unknown subsection", "DM014", "### Policies", "### Rules of rows\n\n### Policies"),
    Change("subsection twice", "DM014", "### Policies", "### Checks\n\n### Policies"),
    Change("section twice", "DM014", "## Domains", "## Enums\n\n## Domains"),
    # Against the models.
    Change("table dropped", "DM101", "## `measures`", "## The measures"),
    Change(
        "table added",
        "DM101",
        "## Enums",
        "## `more`\n| Column | Type | Null | Default | Key | Description |\n"
        "|---|---|---|---|---|---|\n| `a` | `int` | no | | | A. |\n\n## Enums",
    ),
    Change("partition key", "DM101", "`RANGE (taken_on)`", "`LIST (taken_on)`"),
    Change("table with its schema", "DM101", "## `measures`", "## `public.measures`", True),
    Change("column dropped", "DM102", f"{CUSTOMER}\n", ""),
    Change("column added", "DM102", CUSTOMER, f"{CUSTOMER}\n| `more` | `int` | no | | | More. |"),
    Change("column quoted", "DM102", "| `nickname` |", "| `` nickname `` |", True),
    Change("length", "DM103", "| `varchar(50)` |", "| `varchar(80)` |"),
    Change("length removed", "DM103", "| `varchar(50)` |", "| `varchar` |"),
    Change("int to bigint", "DM103", "| `quantity` | `int` |", "| `quantity` | `bigint` |"),
    Change("array", "DM103", "| `text[]` | yes |", "| `text` | yes |"),
    Change("collation", "DM103", '`text COLLATE "C"`', "`text`"),
    Change(
        "time zone", "DM103", "| `updated_at` | `timestamptz` |", "| `updated_at` | `timestamp` |"
    ),
    Change("domain", "DM103", "VALUE LIKE '%@%'", "VALUE LIKE '%.%'"),
    Change(
        "types spelled otherwise",
        "DM103",
        "| `varchar(50)` |",
        "| `character varying ( 50 )` |",
        True,
    ),
    Change("nullable", "DM104", "| `float8` | no |", "| `float8` | yes |"),
    Change(
        "key columns are not null",
        "DM104",
        "| `taken_on` | `date` | no |",
        "| `taken_on` | `DATE` | no |",
        True,
    ),
    Change("default changed", "DM105", "| `'new'` |", "| `'paid'` |"),
    Change("default dropped", "DM105", "| `'new'` |", "| |"),
    Change("other sequence", "DM105", "nextval('order_number')", "nextval('other_number')"),
    Change(
        "default spelled otherwise",
        "DM105",
        "| `now()` | | When it was",
        "| `CURRENT_TIMESTAMP` | | When it was",
        True,
    ),
    Change(
        "default cast",
        "DM105",
        "| `jsonb` | no | `'{}'` |",
        "| `jsonb` | no | `'{}'::jsonb` |",
        True,
    ),
    Change(
        "primary key",
        "DM106",
        "| `taken_on` | `date` | no | | PK |",
        "| `taken_on` | `date` | no | | |",
    ),
    Change(
        "rows of the key swapped",
        "DM106",
        f"{SENSOR}\n{DAY}",
        f"{SENSOR}\n{DAY.replace('which', 'that')}",
        True,
    ),
    Change("on delete", "DM107", " ON DELETE CASCADE", " ON DELETE SET NULL"),
    Change(
        "foreign key dropped",
        "DM007 DM107",
        "- `orders_customer_fkey`: `FOREIGN KEY (customer_id) REFERENCES customers(id)"
        " ON DELETE CASCADE`",
        "",
    ),
    Change(
        "no action stated",
        "DM107",
        " ON DELETE CASCADE",
        " ON DELETE CASCADE ON UPDATE NO ACTION",
        True,
    ),
    Change("unique of more", "DM108", "`UNIQUE (number)`", "`UNIQUE (number, id)`"),
    Change("check text", "DM109", "quantity <= 1000)`", "quantity < 1000)`"),
    Change("check dropped", "DM109", QUANTITY, "-"[:0]),
    Change(
        "exclusion",
        "DM109",
        "`EXCLUDE USING btree (code WITH =)`",
        "`EXCLUDE USING gist (code WITH =)`",
    ),
    Change(
        "BETWEEN",
        "DM109",
        "quantity >= 1 AND quantity <= 1000",
        "quantity BETWEEN 1 AND 1000",
        True,
    ),
    Change(
        "ANY", "DM109", "code IN ('a', 'b', 'c')", "code = ANY (ARRAY['a'::text, 'b', 'c'])", True
    ),
    Change("predicate", "DM110", "WHERE (status <> 'sent')", "WHERE (status <> 'new')"),
    Change("include", "DM110", "INCLUDE (total)", "INCLUDE (price)"),
    Change("operator class", "DM110", " text_pattern_ops", ""),
    Change(
        "index spelled otherwise",
        "DM110",
        OPEN,
        "`btree (customer_id ASC, placed_at DESC NULLS FIRST) INCLUDE (total)"
        " WHERE status != 'sent'`",
        True,
    ),
    Change("enum value", "DM111", "`'new', 'paid', 'sent'`", "`'new', 'paid', 'sent', 'lost'`"),
    Change("enum order", "DM111", "`'new', 'paid', 'sent'`", "`'paid', 'new', 'sent'`"),
    Change("comment that the model states", "DM112", "Price of one piece.", "Net."),
    Change("identity kind", "DM113", "identity: `ALWAYS`", "identity: `BY DEFAULT`"),
    Change("generated", "DM113", "generated: `price * quantity`", "generated: `price + quantity`"),
    Change(
        "generated with brackets",
        "DM113",
        "generated: `price * quantity`",
        "generated: `((price) * quantity)`",
        True,
    ),
    Change("order of columns", "DM114", f"{TOTAL}\n", ""),
    Change(
        "order of lines",
        "DM114",
        "- `orders_tags_idx`: `gin (tags)`",
        "- `orders_tags_idx`:   `gin (tags)`",
        True,
    ),
)
# Columns that trade places keep everything else.
SWAPPED = {"order of columns": ("| `tags` |", f"{TOTAL}\n| `tags` |")}

COVERED: dict[str, tuple[list[str], list[str]]] = {}
for _change in CHANGES:
    for _code in _change.codes.split():
        COVERED.setdefault(_code, ([], []))[_change.benign].append(_change.id)


@pytest.fixture(scope="module")
def mapped() -> Models:
    return models.read("shop.tables:metadata", ROOT, "public", lambda schema: schema == "public")


def read(text: str, folder: Path) -> Document:
    path = folder / "tables.md"
    path.write_bytes(text.encode())
    return datamodel.read(path, folder, rls="off")


def findings(document: Document, mapped: Models) -> list[Finding]:
    lead = Side(document.schema, "document", is_unreadable=document.is_unreadable)
    follow = Side(mapped.schema, "model", mapped.locate)
    return document.findings + Comparison("DM", lead, follow).run()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.id)
def test_a_change_gives_exactly_its_codes(change: Change, mapped: Models, tmp_path: Path) -> None:
    assert change.old in TEXT
    text = TEXT.replace(change.old, change.new, -1 if change.old == "\n" else 1)
    if change.id in SWAPPED:
        text = text.replace(*SWAPPED[change.id], 1)
    found = {finding.code for finding in findings(read(text, tmp_path), mapped)}
    assert found == (set() if change.benign else set(change.codes.split()))


def test_the_document_as_it_stands_agrees_with_the_models(mapped: Models, tmp_path: Path) -> None:
    assert findings(read(TEXT, tmp_path), mapped) == []


def test_a_finding_names_both_values_and_both_places(mapped: Models, tmp_path: Path) -> None:
    text = TEXT.replace("`numeric(12,2)`", "`numeric(10,2)`")
    (found,) = findings(read(text, tmp_path), mapped)
    line = text[: text.index("| `price`")].count("\n") + 1
    price = (ROOT / "shop/tables.py").read_text("utf-8").split("    price:")[0].count("\n") + 1
    assert (found.code, found.severity, found.subject) == ("DM103", "error", "public.orders.price")
    assert str(found.location) == f"tables.md:{line}"
    assert found.message == (
        "type differs: document numeric(10,2), model NUMERIC(12, 2)" f" (shop/tables.py:{price})"
    )
    assert found.fix == "models must follow the document; write numeric(10,2)"


def test_facts_under_an_unknown_heading_are_no_prose(tmp_path: Path) -> None:
    held = TEXT.replace("### Policies", "#### Policies", 1)
    held += "\n### More\n- `a`: `'b'`\n"
    found = [(f.code, f.actual) for f in read(held, tmp_path).findings]
    assert found == [("DM014", "Policies"), ("DM014", "More")]


def test_a_form_feed_shifts_no_row(mapped: Models, tmp_path: Path) -> None:
    assert findings(read(TEXT.replace("Prose", "One\x0cPro", 1), tmp_path), mapped) == []


def test_a_document_without_tables_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="no section of a table"):
        read("# Data model\n\nNothing yet.\n", tmp_path)
