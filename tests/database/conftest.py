"""Rows made straight in SQL, and sessions as the API and PostgREST open them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.dev.postgres import EmbeddedPostgres
from tests.conftest import TestDatabase, encode, new_database

Connection: TypeAlias = "asyncpg.Connection[Any]"
Claims: TypeAlias = dict[str, Any]
OPERATOR: Claims = {"role": "annex_operator", "sub": "oooooooooooo"}


def user(user_id: UUID, **others: Any) -> Claims:
    """Claims of a signed-in user."""
    return {"role": "authenticated", "sub": str(user_id), "aal": "aal1", **others}


async def key(admin: Connection, workspace_id: UUID, *permissions: str, **columns: Any) -> Claims:
    """Make an API key, and return the claims by which the API vouches for it."""
    made = await new_key(admin, workspace_id, permissions=list(permissions), **columns)
    return {"role": "annex_key", "sub": str(made)}


def exchanged(claims: Claims) -> Claims:
    """Claims of the token that a key is exchanged for."""
    return {"role": "authenticated", "sub": claims["sub"], "annex_key": {"id": claims["sub"]}}


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[TestDatabase]:
    """A database that no server shares, so that its log may be filled by hand."""
    async with new_database(postgres, template) as made:
        yield made


@pytest.fixture
async def admin(database: TestDatabase) -> AsyncIterator[Connection]:
    """A superuser: makes what a test needs, and looks behind every policy."""
    async with database.admin() as connection:
        yield connection


@contextlib.asynccontextmanager
async def postgrest(
    database: TestDatabase, claims: Claims, role: str = "authenticated"
) -> AsyncIterator[Connection]:
    """Open a transaction as PostgREST does: log in as itself, then set role and claims locally."""
    async with database.connect("authenticator") as connection, connection.transaction():
        await connection.execute(f"set local role {role}")
        await claim(connection, encode(claims))
        yield connection


async def claim(connection: Connection, claims: str) -> None:
    """Set claims for the rest of the transaction."""
    await connection.execute("select set_config('request.jwt.claims', $1, true)", claims)


async def insert(admin: Connection, table: str, returning: str = "id", **columns: Any) -> UUID:
    """Insert a row of schema annex and return its id."""
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    made: UUID = await admin.fetchval(
        f"insert into annex.{table} ({', '.join(columns)}) values ({places}) returning {returning}",
        *columns.values(),
    )
    return made


async def new_user(admin: Connection) -> UUID:
    """Make a Supabase user with a profile."""
    user_id = uuid4()
    await admin.execute("insert into auth.users (id) values ($1)", user_id)
    return await insert(admin, "profiles", "user_id", user_id=user_id)


async def new_workspace(admin: Connection, owner: UUID, **columns: Any) -> UUID:
    """Make a workspace with an owner."""
    columns = {"slug": f"w-{uuid4().hex[:12]}", "name": "Test", "created_by": owner, **columns}
    workspace = await insert(admin, "workspaces", **columns)
    await join(admin, workspace, owner, "owner")
    return workspace


async def join(
    admin: Connection, workspace: UUID, member: UUID, role: str, status: str = "active"
) -> None:
    """Make a user a member."""
    await insert(
        admin,
        "members",
        "user_id",
        workspace_id=workspace,
        user_id=member,
        role=role,
        status=status,
    )


async def new_key(admin: Connection, workspace: UUID, **columns: Any) -> UUID:
    """Make an API key's row."""
    values = {
        "workspace_id": workspace,
        "name": "Key",
        "prefix": uuid4().hex[:12],
        "secret_hash": bytes(32),
        "permissions": ["events:read"],
        **columns,
    }
    return await insert(admin, "api_keys", **values)


async def new_event(admin: Connection, workspace: UUID, **columns: Any) -> UUID:
    """Write an event, past all functions."""
    columns = {"type": "test.made", "source": "test", "actor": "system", **columns}
    return await insert(admin, "events", "event_id", workspace_id=workspace, **columns)


async def new_invitation(admin: Connection, workspace: UUID) -> None:
    """Make an invitation in the outbox, a removed user and a joining rule."""
    address = f"{uuid4().hex[:12]}@example.org"
    owned: dict[str, Any] = {"workspace_id": workspace}
    invited = await insert(
        admin,
        "invitations",
        email=address,
        role="viewer",
        token_hash=uuid4().bytes * 2,
        expires_at=await admin.fetchval("select now() + interval '1 day'"),
        **owned,
    )
    await insert(admin, "mails", invitation_id=invited, recipient=address, **owned)
    await insert(admin, "removals", "user_id", user_id=await new_user(admin), **owned)
    await insert(admin, "join_rules", kind="sso", value=str(uuid4()), role="viewer", **owned)


async def new_preferences(admin: Connection, workspace: UUID, member: UUID) -> None:
    """Make what a workspace's members get, what one of them wants, and a mail's way to end it."""
    for user_id in (None, member):
        await insert(admin, "preferences", workspace_id=workspace, user_id=user_id)
    token: dict[str, Any] = {"token_hash": uuid4().bytes * 2, "category": "news"}
    await insert(
        admin, "unsubscribe_tokens", "user_id", workspace_id=workspace, user_id=member, **token
    )
    await admin.execute(
        "insert into annex.mail_state (after_id) values (annex.uuid7()) on conflict do nothing"
    )
    await admin.execute(
        "insert into annex.mail_backlogs (tenant, after_id, until_id)"
        " values ($1, annex.uuid7_floor(now()), annex.uuid7_floor(now())) on conflict do nothing",
        workspace,
    )
    await admin.execute(
        "insert into annex.mail_retries (notification_id, attempts, next_attempt_at, error)"
        " values ($1, 1, now(), 'XX000') on conflict do nothing",
        workspace,
    )


async def new_items(admin: Connection, workspace: UUID, member: UUID, event: UUID) -> UUID:
    """Make a subscription, an item in an inbox, an event that is fanned out and one withheld.

    Returns the item's id.
    """
    owned: dict[str, Any] = {"workspace_id": workspace, "user_id": member}
    await insert(admin, "subscriptions", "topic", topic="t:1", reason="added", **owned)
    await insert(admin, "inboxes", "user_id", permission="events:read", **owned)
    told = {"type": "test.made", "actor": "system", "category": "general", "title": "Made"}
    item = await insert(
        admin, "notifications", event_id=event, reason="recipient", body="", **told, **owned
    )
    await insert(admin, "suppressions", "event_id", event_id=event, reason="actor", **owned)
    await insert(admin, "fanouts", "event_id", event_id=event)
    return item


async def fan_out(connection: Connection, *events: UUID, rows: int = 500) -> None:
    """Queue events and fan them out to the end, as the worker does."""
    await connection.execute("select annex.queue_fanouts($1)", [*events])
    for begun in (False, True):
        while due := await connection.fetchval("select annex.due_fanouts($1)", begun):
            await connection.execute("select annex.deliver($1, $2)", due, rows)
