import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from sqlalchemy import literal

import db_models as m
from app.database.pools import Pool
from app.database.statements import Compiled
from app.errors import InvalidRequest
from app.filters import Filter
from app.permissions import Permission
from app.realtime.feeds import Sight
from app.realtime.frames import Frame, as_event
from app.schemas.events import Event
from tests.conftest import Callers, Tenant, TestDatabase
from tests.factories import make
from tests.realtime.reader import follow, number

TYPES = ["invoice", "invoice.paid", "invoice.paid.late", "invoices.paid", "project_x.made", "a.b-c"]
WANTED_TYPES = [*TYPES, "*", "invoice.*", "invoice.paid.*", "invoic.*", "project_.*", "a.*", "none"]
TOPICS = ["project:42", "project:4", "a b", "%", "Überweisung", "'", '"', "\\", "{}", "null"]
NAMES = ["a", "b", "0", "1", "-1", "-0", "00", "0000000000001", "9" * 20, "-", "x_y"]
# As JSON, in the many ways in which one value can be written.
SCALARS = [
    *("null", "true", "false", "0", "-0", "0.0", "1", "1.0", "1e0", "10E-1", "0.1", "0.10", "-1.5"),
    *("1e300", "1e-300", "1e308", "123456789012345678901234567890", "18446744073709551616"),
    *("9007199254740993", "9007199254740992", "9007199254740993.0"),
    *(json.dumps(t) for t in ("", "1", "1.0", "true", "null", "é", "a:b", "\n", "😀", " ", "NaN")),
    *(json.dumps(t) for t in ("[1]", "{}", '"', "\\", "01", "Infinity", "\t1")),
]
VALUES = [
    *SCALARS,
    *(json.loads(t) for t in SCALARS if t.startswith('"')),
    *("1e400", "1e-400", "1e1000"),
    *("1e2000", "-1e999999999", "1e" + "9" * 30, "1e-20000", "[1]", '{"a": 1}', " 1", "1 ", "+1"),
    *(".5", "5.", "0x1", "TRUE", "None", "\v1", "\u00a01", "9" * 400, "1" + "0" * 400, "\\u0041"),
]


def draw(random: random.Random, depth: int = 3) -> str:
    """Write random JSON of few names and many kinds of scalars."""
    kind = random.random()
    if depth == 0 or kind < 0.4:
        return random.choice(SCALARS)
    if kind < 0.75:
        names = random.sample(NAMES, random.randint(0, 4))
        return "{" + ", ".join(f'"{n}": {draw(random, depth - 1)}' for n in names) + "}"
    return "[" + ", ".join(draw(random, depth - 1) for _ in range(random.randint(0, 4))) + "]"


class Log(NamedTuple):
    """A workspace full of random events: as Postgres holds them, and as a stream does."""

    pool: Pool
    workspace_id: UUID
    frames: dict[UUID, Frame]
    """By the id of the event."""

    def __repr__(self) -> str:
        return f"{len(self.frames)} events"

    async def selected(self, wanted: Filter) -> set[UUID]:
        """Filter in SQL."""
        events = m.Event.of(literal(self.workspace_id)).with_only_columns(m.Event.id)
        statement = Compiled(events.where(*wanted.shape.conditions(m.Event)))
        async with self.pool.lend() as driver:
            rows = await driver.fetch(statement.sql, *statement.arguments(wanted.values))
        return {row["event_id"] for row in rows}

    def passed(self, wanted: Filter) -> set[UUID]:
        """Filter in Python."""
        return {id for id, f in self.frames.items() if f.passes(wanted, sight_of(f))}


@pytest.fixture(scope="module")
async def log(database: TestDatabase) -> AsyncIterator[Log]:
    """Write 600 random events once."""
    drawn, workspace_id = random.Random(4), uuid4()
    events = [
        (workspace_id, drawn.choice(TYPES), drawn.sample(TOPICS, drawn.randint(0, 3)), draw(drawn))
        for _ in range(600)
    ]
    async with database.connect("postgres") as connection:
        await connection.executemany(
            "insert into annex.events (workspace_id, type, topics, data, source, actor)"
            " values ($1, $2, $3, $4, 'test', 'test')",
            events,
        )
    with contextlib.closing(Pool("DATABASE_URL", database.url("postgres"), 1)) as pool:
        async with pool.lend() as driver:
            rows = await driver.fetch(
                "select * from annex.events where workspace_id = $1", workspace_id
            )
        frames = {row["event_id"]: Frame(0, str, as_event(row)) for row in rows}
        yield Log(pool, workspace_id, frames)


def sight_of(frame: Frame) -> Sight:
    """See everything in a frame's workspace."""
    return Sight({frame.workspace_id: frozenset(Permission)})


def passes(frame: Frame, wanted: Filter) -> bool:
    """Say whether a reader who sees everything gets a frame."""
    return frame.passes(wanted, sight_of(frame))


def lists(of: list[str]) -> st.SearchStrategy[str | None]:
    """Draw a comma-separated parameter, or none."""
    return st.none() | st.lists(st.sampled_from(of), min_size=1, max_size=3).map(",".join)


PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join)
TEXTS = st.sampled_from(VALUES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CLAUSES = st.builds("data.{}:{}".format, PATHS, TEXTS).filter(lambda c: "\0" not in c)


@settings(max_examples=250)
@given(lists(WANTED_TYPES), lists(TOPICS), st.lists(CLAUSES, max_size=2))
async def test_a_filter_means_the_same_in_sql_and_in_python(
    log: Log, types: str | None, topics: str | None, where: list[str]
) -> None:
    wanted = Filter.read(types, topics, where)
    assert log.passed(wanted) == await log.selected(wanted)


async def test_most_filters_of_that_test_find_something_and_not_everything(log: Log) -> None:
    found = [
        len(log.passed(Filter.read(None, None, [f"data.{path}:{value}"])))
        for path in ("a", "b", "1", "a.b", "a.0")
        for value in ("1", "true", "null", "0.1")
    ]
    assert sum(0 < n < len(log.frames) for n in found) > len(found) / 2


def frame(data: str, type: str = "invoice.paid", topics: tuple[str, ...] = ()) -> Frame:
    """Make a frame of an event."""
    event = make(Event, type=type, topics=list(topics), data=Raw(data.encode()))
    return Frame(1, lambda: "cursor", event)


@pytest.mark.parametrize(
    ("clause", "data", "is_match"),
    [
        ("data.a:1", '{"a": 1}', True),
        ("data.a:1", '{"a": "1"}', True),
        ("data.a:1", '{"a": 1.00}', True),
        ("data.a:1", '{"a": true}', False),
        ("data.a:true", '{"a": true}', True),
        ("data.a:True", '{"a": true}', False),
        ("data.a:null", '{"a": null}', True),
        ("data.a:null", "{}", False),
        ("data.a:", '{"a": ""}', True),
        ("data.a.b:x:y", '{"a": {"b": "x:y"}}', True),
        ("data.a.0:x", '{"a": ["x", "y"]}', True),
        ("data.a.-1:y", '{"a": ["x", "y"]}', True),
        ("data.a.2:y", '{"a": ["x", "y"]}', False),
        ("data.a.b:x", '{"a": "b"}', False),
        ("data.a:x", '"x"', False),
        ("data.0:x", '["x"]', True),
        ('data.a:{"b": 1}', '{"a": {"b": 1}}', False),
        ("data.a:9007199254740993", '{"a": 9007199254740992}', False),
        ("data.a:1e99999999999999999999", '{"a": 1}', False),
    ],
)
def test_a_clause_compares_scalars_at_a_path(clause: str, data: str, is_match: bool) -> None:
    assert passes(frame(data), Filter.read(None, None, [clause])) is is_match


@pytest.mark.parametrize(
    ("types", "type", "is_match"),
    [
        ("invoice.paid", "invoice.paid", True),
        ("invoice", "invoice.paid", False),
        ("invoice.*", "invoice.paid.late", True),
        ("invoice.*", "invoice", False),
        ("invoice.*", "invoices.paid", False),
        ("*", "anything", True),
        ("a.b, invoice.paid", "invoice.paid", True),
    ],
)
def test_a_type_is_matched_whole_or_by_what_comes_before_a_dot(
    types: str, type: str, is_match: bool
) -> None:
    wanted = Filter.read(types, None, None)
    assert passes(frame("{}", type), wanted) is is_match


def test_every_part_of_a_filter_has_to_match() -> None:
    made = frame('{"a": 1, "b": 2}', "invoice.paid", ("x", "y"))
    for types, topics, where, is_match in (
        ("invoice.*", "y,z", ["data.a:1", "data.b:2"], True),
        ("project.*", "y,z", ["data.a:1", "data.b:2"], False),
        ("invoice.*", "z", ["data.a:1", "data.b:2"], False),
        ("invoice.*", "y,z", ["data.a:1", "data.b:1"], False),
    ):
        wanted = Filter.read(types, topics, where)
        assert passes(made, wanted) is is_match


@pytest.mark.parametrize(
    ("types", "topics", "where"),
    [
        ("", None, None),
        ("a,,b", None, None),
        ("in*", None, None),
        ("*.paid", None, None),
        ("a.*.*", None, None),
        (None, ",", None),
        (None, "a\0", None),
        (",".join(["a.b"] * 21), None, None),
        (None, ",".join(["a"] * 21), None),
        (None, None, ["a:1"]),
        (None, None, ["data:1"]),
        (None, None, ["data.a"]),
        (None, None, ["data..a:1"]),
        (None, None, ["data.a b:1"]),
        (None, None, ["data.a:\0"]),
        (None, None, ["data" + ".a" * 9 + ":1"]),
        (None, None, ["data.a:" + "x" * 500]),
    ],
)
def test_a_malformed_filter_is_refused(
    types: str | None, topics: str | None, where: list[str] | None
) -> None:
    with pytest.raises(InvalidRequest):
        Filter.read(types, topics, where)


@pytest.mark.parametrize("data", ["[" * 2000 + "]" * 2000])
async def test_data_that_python_cannot_decode_stops_no_filtered_stream(
    callers: Callers, tenant: Tenant, data: str
) -> None:
    client, path = tenant.owner.client, f"{tenant.path}/stream"
    async with follow(client, path, where="data.n:after") as reader:
        await reader.message()
        async with callers.server.database.connect("postgres") as sql:
            await sql.execute(
                "select annex.publish($1, 'test.made', $2::jsonb)", UUID(tenant.id), data
            )
        await number(tenant, "after")
        assert await reader.names(1) == ["after"]
