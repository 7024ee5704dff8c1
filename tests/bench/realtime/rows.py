"""The workspaces and users whose streams are opened."""

from uuid import UUID

import asyncpg

from app.auth.keys import Key
from app.dev.migrations import apply
from app.dev.postgres import EmbeddedPostgres
from app.dev.server import MIGRATING_ROLE, SUPABASE
from tests.bench.rows import user_id

EVERYONE = UUID("0190c000-0000-7000-8000-000000000000")
"""The workspace of all users, whose slug is `everyone`."""
READERS = 5
"""Members of each team."""


def team_id(n: int) -> UUID:
    """The nth team's workspace; user n is in team n // READERS."""
    return UUID(int=0x0190C001_0000_7000_8000_000000000000 + n)


async def fill(postgres: EmbeddedPostgres, database: str, users: int, teams: int, key: Key) -> None:
    """Migrate a new database; add users, workspaces and a key that publishes to `everyone`."""
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"create database {database}")
    await admin.close()
    url = postgres.url("postgres", database)
    admin = await asyncpg.connect(url)
    await admin.execute((SUPABASE / "local" / "platform.sql").read_text())
    await apply(url, SUPABASE / "migrations", MIGRATING_ROLE)
    await admin.executemany(
        "insert into auth.users (id, email) values ($1, $2)",
        [(user_id(n), f"user{n}@example.com") for n in range(users)],
    )
    await admin.execute(
        "insert into annex.profiles (user_id, email) select id, email from auth.users"
    )
    workspaces = [(EVERYONE, "everyone"), *((team_id(n), f"team-{n}") for n in range(teams))]
    members = [(EVERYONE, user_id(n)) for n in range(users)]
    members += [(team_id(n // READERS), user_id(n)) for n in range(teams * READERS)]
    await admin.executemany(
        "insert into annex.workspaces (id, slug, name) values ($1, $2, $2)", workspaces
    )
    await admin.executemany(
        "insert into annex.members (workspace_id, user_id, role) values ($1, $2, 'member')", members
    )
    await admin.execute(
        "insert into annex.api_keys (workspace_id, name, prefix, secret_hash, permissions)"
        " values ($1, 'Bench', $2, $3, array['events:publish'])",
        EVERYONE,
        key.prefix,
        key.hash,
    )
    # What the triggers recorded is no part of what is measured.
    await admin.execute("truncate annex.events, annex.pending, annex.log")
    await admin.execute("vacuum analyze")
    await admin.close()
