"""What can be wrong with a deployment: planted, found and cured by test_faults.py."""

from dataclasses import dataclass, field
from typing import Any

OLD_EVENT = "annex.uuid7_floor(now() - interval '9 days')"
DUE_MAIL = """
insert into annex.workspaces (slug, name) values ('old', 'Old');
insert into annex.invitations (workspace_id, email, role, expires_at)
  select id, 'a@b.example', 'member', now() + interval '1 day' from annex.workspaces;
insert into annex.mails (workspace_id, invitation_id, recipient, next_attempt_at)
  select workspace_id, id, email, now() - interval '9 hours' from annex.invitations
"""


@dataclass(frozen=True)
class Fault:
    """Something that is planted: SQL, settings, or both; and what has to be said of it.

    What is said to be run, is run; then all must be well, as if nothing had been planted.
    """

    check: str
    wrong: str
    cure: str
    sql: str = ""
    undo: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    level: str = "error"
    cured_by: str = "sql"
    """`sql` that is printed; `settings` without what was planted; `worker` and `migrate` of the
    command; `anew`: removed and migrated again; `hand`: what a test cannot do."""
    healer: str = "supabase_postgres"
    """Who runs the SQL: the role that migrated, unless the cure says otherwise."""


FAULTS = [
    Fault(
        "partitions",
        "There is no partition events_",
        "annex worker",
        "do $$ declare t text; begin for t in select c.oid::regclass from pg_class c where"
        " c.relispartition and c.relkind = 'r' and c.relname > to_char(now(), '\"events_\"YYYY_MM')"
        " and c.relname ~ '^events_[0-9]' and c.relnamespace = 'annex'::regnamespace"
        " loop execute 'drop table ' || t; end loop; end $$",
        level="warning",
    ),
    Fault(
        "default partition",
        "annex.events_default holds events",
        "Keep `annex worker` running",
        "insert into annex.events (event_id, workspace_id, type, source, actor, principal)"
        " values (annex.uuid7_floor('2001-01-01'), gen_random_uuid(), 'a.b', 'x', '{}', 'system')",
        level="warning",
        cured_by="hand",
    ),
    Fault(
        "fan-out",
        "An event has waited 9 hours for its notifications",
        "Start `annex worker`",
        "insert into annex.fanouts (event_id, due_at)"
        " values (gen_random_uuid(), now() - interval '9 hours')",
        "delete from annex.fanouts",
        cured_by="worker",
    ),
    Fault(
        "fan-out",
        "An event has waited 9 days for its notifications",
        "Start `annex worker`",
        "insert into annex.log (pos, event_id, workspace_id)"
        f" values (1, {OLD_EVENT}, gen_random_uuid())",
        "delete from annex.log",
        cured_by="worker",
    ),
    Fault(
        "fan-out",
        "The fan-out of 1 event(s) was given up",
        "set attempts = 0, failed_at = null",
        "insert into annex.fanouts (event_id, failed_at) values (gen_random_uuid(), now())",
        "delete from annex.fanouts",
        level="warning",
        cured_by="sql",
    ),
    Fault(
        "housekeeping",
        "Answers that expired 9 hours ago",
        "Start `annex worker`",
        "insert into annex.idempotency_keys values ('user:x', 'POST /', 'k',"
        " decode(repeat('00', 32), 'hex'), 201, '{}', '', now() - interval '9 hours')",
        level="warning",
        cured_by="worker",
    ),
    Fault(
        "housekeeping",
        "Of a user who was erased 9 hours ago",
        "Start `annex worker`",
        "insert into annex.erasures values (gen_random_uuid(), now() - interval '9 hours')",
        level="warning",
        cured_by="worker",
    ),
    Fault(
        "notifications",
        "Notifications of 9 days ago are still stored, and ANNEX_NOTIFICATION_RETENTION_DAYS is 5",
        "the same ANNEX_NOTIFICATION_RETENTION_DAYS",
        "insert into auth.users (id) select gen_random_uuid();"
        "insert into annex.profiles (user_id) select id from auth.users;"
        "insert into annex.workspaces (slug, name) values ('old', 'Old');"
        "insert into annex.notifications (id, workspace_id, user_id, event_id, type, actor,"
        f" category, reason, title, arrived_at) select {OLD_EVENT}, w.id, p.user_id,"
        " gen_random_uuid(), 'a.b', 'x', 'x',"
        " 'recipient', 'x', now() - interval '9 days' from annex.workspaces w, annex.profiles p"
        " where w.slug = 'old' limit 1",
        settings={"notification_retention_days": 5},
        level="warning",
        cured_by="worker",
    ),
    Fault(
        "mails",
        "A mail has been due for 9 hours and no worker takes it",
        "Set ANNEX_SMTP_URL, ANNEX_MAIL_FROM and ANNEX_APP_URL",
        DUE_MAIL,
        level="warning",
        cured_by="hand",
    ),
    Fault(
        "readers",
        "The reader slow is at 3 of 10 and has not moved for 2 hours",
        "delete from annex.readers where name = 'slow'",
        "update annex.log_state set head = 10; insert into annex.readers"
        " values ('slow', 3, now() - interval '2 hours')",
    ),
    Fault(
        "sequencer",
        "An event has waited 9 days",
        "each of them sequences the log",
        "insert into annex.pending (event_id, workspace_id)"
        f" values ({OLD_EVENT}, gen_random_uuid())",
        cured_by="worker",
    ),
    Fault(
        "retention",
        "The log begins 9 days ago, and ANNEX_EVENT_RETENTION_DAYS is 5",
        "the same ANNEX_EVENT_RETENTION_DAYS",
        "insert into annex.log (pos, event_id, workspace_id)"
        f" values (1, {OLD_EVENT}, gen_random_uuid());"
        "insert into annex.readers values ('projector', 1)",
        settings={"event_retention_days": 5},
        level="warning",
        cured_by="hand",
    ),
    Fault(
        "time limits of the roles",
        "annex_api has lost its statement_timeout",
        "alter role annex_api set statement_timeout = '5s'",
        "alter role annex_api reset statement_timeout",
        "alter role annex_api set statement_timeout = '5s'",
        level="warning",
    ),
    # What a dump of the database alone leaves: settings of roles are in none.
    Fault(
        "time limits of the roles",
        "annex_api has lost its statement_timeout and lock_timeout; The role annex_worker has lost",
        "alter role annex_worker set idle_in_transaction_session_timeout = '60s'",
        "alter role annex_api reset statement_timeout; alter role annex_api reset lock_timeout;"
        "alter role annex_worker reset idle_in_transaction_session_timeout",
        "alter role annex_api set statement_timeout = '5s';"
        "alter role annex_api set lock_timeout = '2s';"
        "alter role annex_worker set idle_in_transaction_session_timeout = '60s'",
        level="warning",
    ),
    # A setting in one database goes before the role's own, which is there.
    Fault(
        "time limits of the roles",
        "annex_api has lost its statement_timeout",
        " reset statement_timeout",
        "do $$ begin execute format('alter role annex_api in database %I set"
        " statement_timeout = 0', current_database()); end $$",
        level="warning",
    ),
    Fault(
        "plans of the roles",
        "annex_api has lost its plan_cache_mode and enable_bitmapscan; requests and lists may",
        "alter role annex_api set plan_cache_mode = force_generic_plan",
        "alter role annex_api reset plan_cache_mode;"
        "alter role annex_api set enable_bitmapscan = on",
        "alter role annex_api set plan_cache_mode = force_generic_plan;"
        "alter role annex_api set enable_bitmapscan = off",
        level="warning",
    ),
    Fault(
        "connections of the server",
        "this database may have 12",
        "alter database … connection limit -1",
        "do $$ begin execute format('alter database %I connection limit 12', current_database()); "
        "end $$",
        level="error",
        cured_by="hand",
    ),
    Fault(
        "search_path of the roles",
        "annex_worker has lost its search_path",
        "alter role annex_worker set search_path = pg_catalog, pg_temp",
        "alter role annex_worker reset search_path",
        "alter role annex_worker set search_path = pg_catalog, pg_temp",
        level="warning",
    ),
    Fault(
        "connections of a role",
        "annex_api may have 60 connections; 1 process of `annex serve` and a worker: up to 71",
        "alter role annex_api connection limit -1",
        "alter role annex_api connection limit 60",
        "alter role annex_api connection limit -1",
        settings={"pool_size": 70},
    ),
    Fault(
        "connections of a role",
        "annex_worker may have 15 connections; 2 processes of `annex serve` and a worker: up to 16",
        "alter role annex_worker connection limit -1",
        "alter role annex_worker connection limit 15",
        "alter role annex_worker connection limit -1",
        settings={"processes": 2},
    ),
    Fault(
        "connections of the server",
        "take up to 213 connections",
        "Lower ANNEX_POOL_SIZE",
        settings={"pool_size": 200},
        cured_by="settings",
    ),
    Fault(
        "time zone",
        "time zone is Asia/Kolkata",
        "alter role annex_worker set timezone = 'UTC'",
        "alter role annex_worker set timezone = 'Asia/Kolkata'",
        "alter role annex_worker reset timezone",
        level="advice",
    ),
    Fault(
        "pooler",
        "no pooler stands before this Postgres",
        "Take the setting out",
        settings={"transaction_pooler": True},
        level="advice",
        cured_by="settings",
    ),
    Fault(
        "key set",
        "cannot be reached (ConnectError)",
        "Set ANNEX_SUPABASE_URL",
        settings={"supabase_url": "http://127.0.0.1:9", "signing_key": None},
        cured_by="settings",
    ),
    Fault(
        "SMTP",
        "cannot be used (SMTPConnectError)",
        "smtps:// is 465",
        settings={"smtp_url": "smtp://127.0.0.1:9", "mail_from": "a@b.example"},
        cured_by="settings",
    ),
    Fault(
        "trusted proxies",
        "trusts 0.0.0.0/0: any client can claim any address",
        "Name the addresses",
        settings={"trusted_proxies": ["0.0.0.0/0"]},
        cured_by="settings",
    ),
    Fault(
        "trusted proxies",
        "all clients behind it count as one",
        "Name the addresses from which the proxy connects",
        settings={"trusted_proxies": []},
        level="advice",
        cured_by="settings",
    ),
    Fault(
        "trusted proxies",
        "ANNEX_CLIENT_ADDRESS_HEADER is X-Real-IP, and without ANNEX_TRUSTED_PROXIES nobody's",
        "Name the addresses from which the proxy connects",
        settings={"trusted_proxies": [], "client_address_header": "X-Real-IP"},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "CORS",
        "also behind your proxies",
        "Name the origins",
        settings={"trusted_proxies": ["10.0.0.0/8"], "cors_origins": ["*"]},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "environment",
        "ANNEX_ENVIRONMENT is development",
        "Take the setting out",
        settings={"environment": "development"},
        level="advice",
        cured_by="settings",
    ),
    Fault(
        "limits",
        "ANNEX_MAX_STREAMS_PER_PRINCIPAL (1000) is above ANNEX_MAX_STREAMS (100)",
        "well below",
        settings={"max_streams_per_principal": 1000},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "limits",
        "(5000) is above ANNEX_MAX_STREAMS (100) of all 2 processes, 200: one of them can take all",
        "well below that number",
        settings={"max_streams_per_workspace": 5000, "processes": 2},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "limits",
        "ANNEX_MAX_CONNECTIONS_PER_ADDRESS (40) is below ANNEX_MAX_STREAMS_PER_ADDRESS (50)",
        "Set it above",
        settings={"max_connections_per_address": 40},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "limits",
        "ANNEX_MAX_HELD_BYTES_PER_ADDRESS (8388608) is not below ANNEX_MAX_HELD_BYTES (4194304)",
        "well below",
        settings={"max_held_bytes_per_address": 8_388_608, "max_held_bytes": 4_194_304},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "limits",
        "leaves none of the 10 connections",
        "below ANNEX_POOL_SIZE",
        settings={"max_statements_per_principal": 10},
        level="warning",
        cured_by="settings",
    ),
    Fault(
        "operator",
        "/metrics refuses everybody",
        "annex operator-key",
        settings={"operator_key_hashes": []},
        level="advice",
        cured_by="settings",
    ),
]
