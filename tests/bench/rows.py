"""The rows that every server reads: users in workspaces with a long log."""

from uuid import UUID

import asyncpg

from app.dev.migrations import apply
from app.dev.postgres import EmbeddedPostgres
from app.dev.server import MIGRATING_ROLE, SUPABASE

WORKSPACES = 8


def user_id(n: int) -> UUID:
    """The user of the nth connection; their workspace is number n modulo WORKSPACES."""
    return UUID(int=0x0190B000_0000_7000_8000_000000000000 + n)


def slug(n: int, workspaces: int = WORKSPACES) -> str:
    """The nth user's workspace."""
    return f"bench-{n % workspaces}"


async def migrate(postgres: EmbeddedPostgres, database: str) -> asyncpg.Connection:
    """Make a migrated database; returns a superuser's connection to it."""
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"create database {database}")
    await admin.close()
    url = postgres.url("postgres", database)
    admin = await asyncpg.connect(url)
    await admin.execute((SUPABASE / "local" / "platform.sql").read_text())
    await apply(url, SUPABASE / "migrations", MIGRATING_ROLE)
    return admin


async def fill(
    postgres: EmbeddedPostgres,
    database: str,
    events: int,
    users: int,
    workspaces: int = WORKSPACES,
    notifications: int = 0,
) -> None:
    """Migrate a new database, and fill it; users are members of the workspaces in turn.

    Each user has so many notifications.
    """
    admin = await migrate(postgres, database)
    await admin.executemany(
        "insert into auth.users (id, email) values ($1, $2)",
        [(user_id(n), f"user{n}@example.com") for n in range(users)],
    )
    await admin.execute(
        "insert into annex.profiles (user_id, email) select id, email from auth.users"
    )
    await admin.executemany(
        "insert into annex.workspaces (slug, name) values ($1, $1)",
        [(slug(n, workspaces),) for n in range(workspaces)],
    )
    await admin.executemany(
        "insert into annex.members (workspace_id, user_id, role)"
        " select id, $2, 'member' from annex.workspaces where slug = $1",
        [(slug(n, workspaces), user_id(n)) for n in range(users)],
    )
    # What the triggers recorded is in the way of round numbers.
    await admin.execute("truncate annex.events, annex.pending, annex.log")
    await admin.fetch(EVENTS, events)
    await admin.execute(LOG)
    await admin.execute(NOTIFICATIONS, notifications)
    await admin.execute(INBOXES)
    await admin.execute("vacuum analyze")
    await admin.close()


# Spread over the last four weeks, in the order of their ids.
EVENTS = """
with moments as (
  select n, now() - (1 - n::float8 / $1::int) * interval '28 days' as at
  from generate_series(1, $1::int) n
), places as (
  select id, (row_number() over (order by slug))::int - 1 as place from annex.workspaces
)
insert into annex.events (
  event_id, workspace_id, type, source, key, subject, topics, actor, principal, data,
  occurred_at, recorded_at
)
select
  encode(
    substring(uuid_send(annex.uuid7_floor(m.at)) for 6) || int2send((28672 + m.n % 4096)::int2)
      || substring(uuid_send(gen_random_uuid()) from 9), 'hex'
  )::uuid,
  p.id, (array['invoice.paid', 'invoice.sent', 'project.updated', 'comment.added'])[1 + m.n % 4],
  'billing', 'row-' || m.n, 'invoice:' || m.n, array['project:' || m.n % 100, 'billing'],
  'user:' || gen_random_uuid(), 'system',
  jsonb_build_object(
    'number', m.n, 'total', round((m.n % 100000) / 100.0, 2), 'currency', 'EUR',
    'customer', jsonb_build_object('name', 'Customer ' || m.n % 1000, 'vip', m.n % 7 = 0),
    'lines', jsonb_build_array('one', 'two', 'three')
  ),
  m.at, m.at
from moments m join places p on p.place = m.n % (select count(*) from places)
"""
LOG = """
insert into annex.log (pos, event_id, workspace_id, user_id)
select row_number() over (order by event_id), event_id, workspace_id, user_id from annex.events;
update annex.log_state set head = (select max(pos) from annex.log);
"""
# A sixth of them is archived or snoozed: what a page of active ones is read among.
NOTIFICATIONS = """
insert into annex.notifications (workspace_id, user_id, event_id, type, subject, actor,
  category, reason, topic, title, body, url, arrived_at, seen_at, read_at, archived_at,
  snoozed_until)
select m.workspace_id, m.user_id, gen_random_uuid(), 'invoice.paid', 'invoice:' || n,
  'user:' || gen_random_uuid(), 'billing', 'subscription', 'billing',
  'Invoice ' || n || ' was paid', 'By customer ' || n, '/invoices/' || n,
  now() - n * interval '1 minute',
  case when n % 3 > 0 then now() end, case when n % 3 = 2 then now() end,
  case when n % 11 = 0 then now() end, case when n % 11 = 1 then now() + interval '1 hour' end
from annex.members m, generate_series(1, $1::int) n
"""
INBOXES = """
insert into annex.inboxes
  (user_id, workspace_id, permission, active, unseen, unread, snoozed, archived)
select n.user_id, n.workspace_id, n.permission,
  sum(c[1]), sum(c[2]), sum(c[3]), sum(c[4]), sum(c[5])
from annex.notifications n, annex.counts_of(n) c group by 1, 2, 3
"""
