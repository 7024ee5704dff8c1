"""Write a project of any size: models, datamodel.md, migration, openapi.yaml and app that agree."""

from pathlib import Path

TABLES, OPERATIONS = 100, 150

_HEAD = "| Column | Type | Null | Default | Key | Description |\n|---|---|---|---|---|---|\n"


def write(folder: Path, tables: int = TABLES, operations: int = OPERATIONS) -> None:
    """Write the project; every table has keys, checks, indexes, a policy and a grant."""
    for name in ("docs", "migrations", "big"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "big/__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        "[tool.alembic-readonly-check]\n"
        'metadata = "big.tables:Base.metadata"\napp = "big.web:app"\nmigrations = "migrations"\n'
        'url-env = "BIG_DATABASE_URL"\nscratch = { url-env = "BIG_SCRATCH_URL" }\n'
    )
    (folder / "docs/datamodel.md").write_text(
        "# Data model\n\n" + "".join(_section(number) for number in range(tables))
    )
    (folder / "migrations/0001_all.sql").write_text(
        "DO $$ BEGIN CREATE ROLE big_reader NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL;"
        " END $$;\nCREATE SCHEMA big;\n" + "".join(_ddl(number) for number in range(tables))
    )
    (folder / "big/tables.py").write_text(
        _MODELS + "".join(_model(number) for number in range(tables))
    )
    (folder / "docs/openapi.yaml").write_text(_contract(tables, operations))
    (folder / "big/web.py").write_text(_app(tables, operations))


def _section(n: int) -> str:
    key = f"t{(n - 1) % TABLES}" if n else "t0"
    return (
        f"## `big.t{n}`\nTable number {n}.\n\n{_HEAD}"
        "| `id` | `uuid` | no | `gen_random_uuid()` | PK | Its name. |\n"
        "| `parent_id` | `uuid` | yes | | FK | What it belongs to. |\n"
        "| `name` | `varchar(80)` | no | | | What to call it. |\n"
        "| `kind` | `text` | no | `'plain'` | | Which kind it is. |\n"
        "| `amount` | `numeric(12,2)` | no | `0` | | How much. |\n"
        "| `tags` | `text[]` | no | `'{}'` | | Free words. |\n"
        "| `data` | `jsonb` | no | `'{}'` | | Anything else. |\n"
        "| `created_at` | `timestamptz` | no | `now()` | | When it was made. |\n"
        "| `updated_at` | `timestamptz` | yes | | | When it changed. |\n\n"
        f"### Foreign keys\n- `t{n}_parent_fkey`: `FOREIGN KEY (parent_id) REFERENCES big.{key}(id)"
        " ON DELETE CASCADE`\n"
        f"### Unique\n- `t{n}_name_key`: `UNIQUE (parent_id, name)`\n"
        f"### Checks\n- `t{n}_kind_check`: `CHECK (kind IN ('plain', 'fancy'))`\n"
        f"- `t{n}_amount_check`: `CHECK (amount >= 0 AND amount <= 1000000)`\n"
        f"### Indexes\n- `t{n}_created_idx`: `btree (created_at DESC) WHERE (kind <> 'plain')`\n"
        f"- `t{n}_tags_idx`: `gin (tags)`\n"
        f"### Policies\n- `t{n}_read`: `FOR SELECT TO big_reader USING (kind = 'plain')`\n"
        f"### Grants\n- `big_reader`: `SELECT (id, name, kind), UPDATE (name)`\n\n"
    )


def _ddl(n: int) -> str:
    return f"""
CREATE TABLE big.t{n} (
  id uuid NOT NULL DEFAULT gen_random_uuid(), parent_id uuid, name varchar(80) NOT NULL,
  kind text NOT NULL DEFAULT 'plain', amount numeric(12, 2) NOT NULL DEFAULT 0,
  tags text[] NOT NULL DEFAULT '{{}}', data jsonb NOT NULL DEFAULT '{{}}',
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz,
  CONSTRAINT t{n}_pkey PRIMARY KEY (id), CONSTRAINT t{n}_name_key UNIQUE (parent_id, name),
  CONSTRAINT t{n}_kind_check CHECK (kind IN ('plain', 'fancy')),
  CONSTRAINT t{n}_amount_check CHECK (amount BETWEEN 0 AND 1000000),
  CONSTRAINT t{n}_parent_fkey FOREIGN KEY (parent_id) REFERENCES big.t{max(n - 1, 0)} (id)
    ON DELETE CASCADE);
CREATE INDEX t{n}_created_idx ON big.t{n} (created_at DESC) WHERE kind <> 'plain';
CREATE INDEX t{n}_tags_idx ON big.t{n} USING gin (tags);
ALTER TABLE big.t{n} ENABLE ROW LEVEL SECURITY; ALTER TABLE big.t{n} FORCE ROW LEVEL SECURITY;
CREATE POLICY t{n}_read ON big.t{n} FOR SELECT TO big_reader USING (kind = 'plain');
GRANT SELECT (id, name, kind), UPDATE (name) ON big.t{n} TO big_reader;
"""


_MODELS = '''"""The mapped tables."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Numeric, String, Text
from sqlalchemy import UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass
'''


def _model(n: int) -> str:
    return f"""

class T{n}(Base):
    __tablename__ = "t{n}"
    __table_args__ = (
        UniqueConstraint("parent_id", "name", name="t{n}_name_key"),
        CheckConstraint("kind IN ('plain', 'fancy')", name="t{n}_kind_check"),
        CheckConstraint("amount BETWEEN 0 AND 1000000", name="t{n}_amount_check"),
        Index("t{n}_created_idx", text("created_at DESC"),
              postgresql_where=text("kind <> 'plain'")),
        Index("t{n}_tags_idx", "tags", postgresql_using="gin"),
        {{"schema": "big"}},
    )
    id: Mapped[uuid.UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("big.t{max(n - 1, 0)}.id", name="t{n}_parent_fkey", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(Text, server_default="plain")
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2), server_default=text("0"))
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{{}}")
    data: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{{}}")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("now()"))
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
"""


def _contract(tables: int, operations: int) -> str:
    lines = ["openapi: 3.0.3", "info: { title: Big, version: '1' }", "paths:"]
    for n in range(operations):
        lines += [
            f"  /things{n}/{{id}}:",
            "    get:" if n % 2 else "    put:",
            f"      operationId: doThing{n}",
            "      security: []",
            "      parameters:",
            "        - { name: id, in: path, required: true,"
            " schema: { type: string, format: uuid } }",
        ]
        if not n % 2:
            lines += [
                "      requestBody:",
                "        required: true",
                "        content: { application/json: { schema:"
                f" {{ $ref: '#/components/schemas/Thing{n % tables}' }} }} }}",
            ]
        lines += [
            "      responses:",
            "        '200':",
            "          description: The thing.",
            "          content: { application/json: { schema:"
            f" {{ $ref: '#/components/schemas/Thing{n % tables}' }} }} }}",
        ]
    lines += ["components:", "  schemas:"]
    for n in range(tables):
        column = f"x-db-column: big.t{n}"
        lines += [
            f"    Thing{n}:",
            "      type: object",
            "      required: [id, name, kind, tags]",
            "      properties:",
            f"        id: {{ type: string, format: uuid, {column}.id }}",
            f"        name: {{ type: string, maxLength: 80, {column}.name }}",
            f"        kind: {{ type: string, enum: [plain, fancy], {column}.kind }}",
            f"        tags: {{ type: array, items: {{ type: string }}, {column}.tags }}",
        ]
    return "\n".join(lines) + "\n"


def _app(tables: int, operations: int) -> str:
    structs = "".join(f"""

class Thing{n}(Struct):
    id: UUID
    name: Annotated[str, Meta(max_length=80)]
    kind: Literal["plain", "fancy"]
    tags: list[str]
""" for n in range(tables))
    handlers = "".join(f"""

@{"get" if n % 2 else "put"}("/things{n}/{{id:uuid}}", operation_id="doThing{n}")
async def do_thing{n}(
    id: FromPath[UUID],{"" if n % 2 else f" data: JSONBody[Thing{n % tables}],"}
) -> Thing{n % tables}:
    raise NotImplementedError
""" for n in range(operations))
    names = ", ".join(f"do_thing{n}" for n in range(operations))
    return (
        '"""The app."""\n\nfrom typing import Annotated, Literal\nfrom uuid import UUID\n\n'
        "from litestar import Litestar, get, put\nfrom litestar.params import FromPath, JSONBody\n"
        f"from msgspec import Meta, Struct\n{structs}{handlers}\n\n"
        f"app = Litestar([{names}], openapi_config=None)\n"
    )
