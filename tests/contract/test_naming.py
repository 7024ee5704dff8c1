"""Models are compiled in a schema beside the migrated one, and keep every name that they have."""

from typing import Any

import pytest
from alembic_readonly_check.db.scratch import statements
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

COLUMN = "column_{}name column_{}label column_{}key".split()
REFERRED = "referred_column_{}name"
OF_COLUMNS = [
    "table_name",
    *(form.format(number) for number in ("0_", "0N_", "0_N_") for form in COLUMN),
]
OF_KEYS = [
    *("referred_table_name", "letters"),
    *(REFERRED.format(number) for number in ("0_", "1_", "0N_", "0_N_")),
]


def letters(constraint: Any, _: Table) -> str:
    """Give a token of the project's own."""
    return "".join(column.name[0] for column in constraint.columns)


def metadata(schema: str, convention: dict[str, Any]) -> MetaData:
    held = MetaData(schema=schema, naming_convention=convention)
    Table(
        "Part",
        held,
        Column("Id", Integer, primary_key=True, key="ident"),
        Column("box", Integer, index=True),
        Column("name", String(9), index=True, unique=True),
        UniqueConstraint("box", "name"),
    )
    Table(
        "use",
        held,
        Column("part", Integer, primary_key=True),
        Column("box", Integer, primary_key=True),
        Column("note", String),
        CheckConstraint("note <> ''", name="note"),
        ForeignKeyConstraint(["part", "box"], ["Part.ident", "Part.box"]),
    )
    return held


def names(convention: dict[str, str], shadows: dict[str, str]) -> list[str]:
    """Write the models down, and call what lies in a schema beside the migrated one as it is."""
    held = {"letters": letters, "ix": "ix_%(column_0_label)s"} | convention
    told = statements(metadata("Goods", held), "public", shadows)
    return sorted(statement.replace("Goods_beside", "Goods") for statement in told)


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        *((kind, token) for kind in ("pk", "uq", "ix", "fk") for token in OF_COLUMNS),
        *(("fk", token) for token in OF_KEYS),
        ("ck", "constraint_name"),
    ],
)
def test_a_name_by_a_convention_keeps_its_schema(kind: str, token: str) -> None:
    convention = {kind: f"{kind}_of_%({token})s_x"}
    told = names(convention, {"Goods": "Goods_beside"})
    assert told == names(convention, {})
    assert any(f"{kind}_of_" in statement for statement in told)


def test_names_left_to_sqlalchemy_keep_their_schema() -> None:
    told = names({}, {"Goods": "Goods_beside"})
    assert told == names({}, {})
    assert any('"ix_Goods_Part_box"' in statement for statement in told)
