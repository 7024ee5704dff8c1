"""What a run with databases reports of what it compared: no finding hides another."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic_readonly_check.command.check import Check
from alembic_readonly_check.command.databases import DatabaseCheck, Live
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Family, Side
from alembic_readonly_check.config import Config, Ignore, Scratch
from alembic_readonly_check.db.scratch import Databases
from alembic_readonly_check.facts import Column, Enum, Grant, Publication, Schema, Table, View
from alembic_readonly_check.sources import models
from alembic_readonly_check.sources.document.datamodel import Document
from alembic_readonly_check.sources.migrations import Migration
from alembic_readonly_check.sources.models import Models
from sqlalchemy import Integer, MetaData, String
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.engine import make_url

CONFIG = Config(schemas=("one",), datamodel=None)
URL = make_url("postgresql://nowhere/scratch")
BY_DOCUMENT = Ignore("DC305", "*", "the document waits", dt.date(2999, 1, 1))
MIGRATIONS = [Migration(Path("1_a.sql"), "1"), Migration(Path("2_b.sql"), "2")]
HISTORY: dict[str, Any] = {"1": {"version": "1", "name": "a", "statements": None}}


def side(default: str, source: str = "database") -> Schema:
    column = Column("x", "integer", True, default=default)
    return Schema(source, {"one.a": Table("one.a", (column,))})


def checking(config: Config, document: str, model: str | None = None) -> DatabaseCheck:
    check = Check(config, document=Document("d.md", side(document, "document")))
    if model is not None:
        check.models = Models(MetaData(), side(model, "models"), Path("."))
    return DatabaseCheck(check)


def codes(work: DatabaseCheck) -> list[str]:
    return [found.code for found in work.check.report().findings]


@pytest.mark.parametrize(("ignored", "told"), [((), ["DC305"]), ((BY_DOCUMENT,), ["DB205"])])
def test_an_ignored_finding_hides_no_other(ignored: tuple[Ignore, ...], told: list[str]) -> None:
    work = checking(replace(CONFIG, ignore=ignored), document="1", model="2")
    work.check.findings += work.against(side("3"), "database", None, side("2"))
    assert codes(work) == told


@pytest.mark.parametrize(("live", "told"), [("1", []), ("3", ["DC305"])])
def test_a_waiting_migration_hides_no_change_by_hand(
    monkeypatch: pytest.MonkeyPatch, live: str, told: list[str]
) -> None:
    @contextmanager
    def made(*_: object) -> Iterator[Databases]:
        yield Databases(URL, None)

    def read(self: DatabaseCheck, *_: object) -> Any:
        return side("1"), self.against(side("1"), "migrations", None, None)

    monkeypatch.setattr(DatabaseCheck, "made", made)
    monkeypatch.setattr(DatabaseCheck, "read_scratch", read)
    work = checking(CONFIG, document="2")
    facts = frozenset({"facts"})
    work.with_live(Live(side(live), HISTORY, None), only=facts, held=MIGRATIONS, server=URL)
    assert codes(work) == told


def test_migrations_outside_a_folder_are_not_said_to_be_gone() -> None:
    work = checking(replace(CONFIG, scratch=Scratch(command=("migrate",))), document="1")
    applied = {"1": HISTORY["1"] | {"statements": ["select 1"]}}
    only = frozenset({"facts", "migrations"})
    work.with_live(Live(side("1"), applied, None), only=only, held=[])
    assert codes(work) == []
    assert (
        "migrations outside a folder of SQL are not compared with a live database"
        in work.check.notes
    )


@pytest.mark.parametrize(("platform", "told"), [(None, ["DB201"]), ("supabase", [])])
def test_only_a_platform_has_schemas_of_its_own(platform: Any, told: list[str]) -> None:
    work = checking(replace(CONFIG, schemas=(), platform=platform), document="1")
    metadata = MetaData()
    sqlalchemy.Table("a", metadata, sqlalchemy.Column("x", Integer), schema="one")
    sqlalchemy.Table("accounts", metadata, sqlalchemy.Column("id", Integer), schema="auth")
    model = models.describe(metadata, "public", work.check.is_compared)
    work.check.models = Models(metadata, model, Path("."))
    work.check.findings += work.against(side("1"), "database", None, model)
    assert [c for c in codes(work) if c == "DB201"] == told


def test_what_the_document_says_of_other_schemas_is_not_compared() -> None:
    work = checking(CONFIG, document="1")
    assert work.check.document is not None
    schema = work.check.document.schema
    schema.tables["two.b"] = Table("two.b", (Column("x", "integer", True),))
    work.check.document.schema = replace(
        schema, publications={"p": Publication("p", ("one.a", "two.b"))}
    )
    held = replace(side("1"), publications={"p": Publication("p", ("one.a",))})
    work.check.findings += work.against(held, "database", None, None)
    assert codes(work) == []
    assert "the document's tables of schema two are not compared" in work.check.notes


ALL = "DELETE INSERT REFERENCES SELECT TRIGGER TRUNCATE UPDATE"


@pytest.mark.parametrize(
    ("wanted", "held", "same"),
    [
        (ALL, f"{ALL} MAINTAIN", True),
        (ALL, ALL, True),
        ("SELECT", "SELECT MAINTAIN", False),
        ("", "MAINTAIN", False),
        (f"{ALL} MAINTAIN", ALL, False),
    ],
)
@pytest.mark.parametrize("family", ["DC", "MG"])
def test_maintain_is_a_right_where_not_all_are_granted(
    family: Family, wanted: str, held: str, same: bool
) -> None:
    def of(words: str) -> Side:
        granted = frozenset((word, None) for word in words.split())
        grants = (Grant("anon", granted),) if granted else ()
        return Side(Schema("s", {"one.a": Table("one.a", (), grants=grants)}), "side")

    assert (Comparison(family, of(wanted), of(held)).run() == []) == same


def test_a_model_of_a_view_is_compared_with_its_columns() -> None:
    model = Side(side("1"), "model")
    columns = Column("y", "text", True), Column("x", "integer", True)
    wider = Side(Schema("m", {"one.a": Table("one.a", columns)}), "model")
    view = Side(Schema("d", views={"one.a": View("one.a", (("x", "integer"),))}), "database")
    assert Comparison("DB", model, view).run() == []
    (found,) = Comparison("DB", wider, view).run()
    assert (found.code, found.subject) == ("DB202", "one.a.y")
    assert Comparison("DM", view, model).run() == []


def test_the_values_of_an_enum_in_a_variant_are_compared() -> None:
    metadata = MetaData()
    type_ = String(5).with_variant(ENUM("a", "b", name="kind"), "postgresql")
    sqlalchemy.Table("t", metadata, sqlalchemy.Column("k", type_))
    enums = models.describe(metadata, "public", lambda _: True).enums
    assert enums == {"public.kind": Enum("public.kind", ("a", "b"))}
