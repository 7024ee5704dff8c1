from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

import db_models as m
from tests.conftest import TestDatabase

OWNER = select(m.Role).where(m.Role.key == "owner", m.Role.workspace_id.is_(None))
DDL = [
    "create table annex.made ()",
    "create table public.made ()",
    "create schema made",
    "create view annex.made as select 1",
    "create function annex.made() returns int language sql as 'select 1'",
    "create index made on annex.events (type)",
    "create policy made on annex.events using (true)",
    "create trigger made after insert on annex.events execute function annex.touch()",
    "alter table annex.events add column made int",
    "alter table annex.events disable row level security",
    "alter table annex.events owner to {role}",
    "alter function annex.claims() volatile",
    "alter role {role} bypassrls",
    "grant select on annex.api_keys to {role}",
    "truncate annex.events",
    "drop table annex.log",
    "drop schema annex cascade",
]


@pytest.fixture
async def superuser(database: TestDatabase) -> AsyncIterator[AsyncConnection]:
    """A connection that the server would let do anything, so that only the mapping refuses."""
    url = make_url(database.url("postgres")).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        yield connection


@pytest.fixture
async def session(superuser: AsyncConnection) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(superuser, expire_on_commit=False) as session:
        yield session


async def tables(connection: AsyncConnection) -> int:
    """Count the tables that there are."""
    count: int = await connection.scalar(
        text("select count(*) from pg_class where relkind in ('r', 'p')")
    )
    return count


async def test_create_all_is_refused(superuser: AsyncConnection) -> None:
    with pytest.raises(m.ReadOnlyMapping):
        await superuser.run_sync(m.Base.metadata.create_all)


async def test_drop_all_is_refused(superuser: AsyncConnection) -> None:
    before = await tables(superuser)
    with pytest.raises(m.ReadOnlyMapping):
        await superuser.run_sync(m.Base.metadata.drop_all)
    assert await tables(superuser) == before > 0


@pytest.mark.parametrize("name", sorted(m.Base.metadata.tables))
@pytest.mark.parametrize("verb", ["create", "drop"])
async def test_ddl_of_a_single_table_is_refused(
    verb: str, name: str, superuser: AsyncConnection
) -> None:
    table = m.Base.metadata.tables[name]
    with pytest.raises(m.ReadOnlyMapping):
        await superuser.run_sync(getattr(table, verb), checkfirst=False)


async def test_a_flush_of_something_new_is_refused(session: AsyncSession) -> None:
    session.add(m.Role(key="new", name="New", permissions=[], workspace_id=uuid4()))
    with pytest.raises(m.ReadOnlyMapping):
        await session.flush()


async def test_a_flush_of_something_changed_is_refused(session: AsyncSession) -> None:
    role = (await session.scalars(OWNER)).one()
    role.name = "Changed"
    with pytest.raises(m.ReadOnlyMapping):
        await session.flush()


async def test_a_flush_of_something_deleted_is_refused(session: AsyncSession) -> None:
    role = (await session.scalars(OWNER)).one()
    await session.delete(role)
    with pytest.raises(m.ReadOnlyMapping):
        await session.commit()


async def test_what_was_only_read_flushes(session: AsyncSession) -> None:
    role = (await session.scalars(OWNER)).one()
    await session.commit()
    assert role.key == "owner"


@pytest.mark.parametrize("role", ["annex_api", "annex_worker"])
@pytest.mark.parametrize("statement", DDL)
async def test_the_server_refuses_ddl(statement: str, role: str, database: TestDatabase) -> None:
    async with database.connect(role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(role=role))
