"""What a run with databases reports of what it compared: no finding hides another."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic_readonly_check.command.check import Check
from alembic_readonly_check.command.databases import DatabaseCheck, Live
from alembic_readonly_check.config import Config, Ignore, Scratch
from alembic_readonly_check.db.scratch import Databases
from alembic_readonly_check.facts import Column, Schema, Table
from alembic_readonly_check.sources.document.datamodel import Document
from alembic_readonly_check.sources.migrations import Migration
from alembic_readonly_check.sources.models import Models
from sqlalchemy import MetaData
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
    assert "only migrations in a folder of SQL are compared with a history" in work.check.notes
