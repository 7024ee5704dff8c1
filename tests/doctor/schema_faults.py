"""What can be wrong with the schema and with who may do what in it."""

from tests.doctor.faults import Fault

SCHEMA_FAULTS = [
    Fault(
        "rights in the schema",
        "annex_api has CREATE of annex.",
        "revoke create on schema annex from annex_api",
        "grant create on schema annex to annex_api",
    ),
    Fault(
        "rights of the roles",
        "annex_worker, which bypasses row level security",
        "alter role annex_worker nobypassrls",
        "alter role annex_worker bypassrls",
        "alter role annex_worker nobypassrls",
        healer="postgres",
    ),
    Fault(
        "rights of the roles",
        "annex_api may act as service_role, which",
        "revoke service_role from annex_api",
        "grant service_role to annex_api",
        "revoke service_role from annex_api",
        healer="postgres",
    ),
    Fault(
        "rights of the roles",
        "annex_worker may act as annex_owner, which",
        "revoke annex_owner from annex_worker",
        "grant annex_owner to annex_worker",
        "revoke annex_owner from annex_worker",
        healer="postgres",
    ),
    Fault(
        "migrations",
        "lacks the migrations 19_health",
        "annex migrate",
        "drop function annex.health(), annex.refresh_statistics();"
        " delete from annex.migrations where name = '19_health'",
        cured_by="migrate",
    ),
    Fault(
        "newer migrations",
        "does not know: 99_later",
        "Upgrade Annex",
        "insert into annex.migrations (name) values ('99_later')",
        level="warning",
        cured_by="hand",
    ),
    Fault(
        "edited migrations",
        "after the database had applied it: 03_workspaces; calls may fail",
        "annex uninstall",
        "update annex.migrations set checksum = repeat('0', 64) where name = '03_workspaces'",
        cured_by="anew",
    ),
    Fault(
        "edited migrations",
        "Without a checksum: 03_workspaces.",
        "`annex install` or `annex migrate`",
        "update annex.migrations set checksum = null where name = '03_workspaces'",
        level="advice",
        cured_by="hand",
    ),
    Fault(
        "row level security",
        "annex.api_keys",
        "alter table annex.api_keys enable row level security, force",
        "alter table annex.api_keys disable row level security",
    ),
    Fault(
        "row level security",
        "not forced, on annex.members",
        "force row level security",
        "alter table annex.members no force row level security",
    ),
    Fault(
        "policies",
        "lost: limits_owner on annex.limits",
        "create policy limits_owner on annex.limits",
        "drop policy limits_owner on annex.limits",
    ),
    Fault(
        "policies",
        "lost: roles_owner on annex.roles, lost: roles_select on annex.roles, not of a mig",
        'drop policy "all" on annex."api_keys"',
        "drop policy roles_owner on annex.roles; drop policy roles_select on annex.roles;"
        'create policy "all" on annex.api_keys for select to authenticated using (true)',
    ),
    Fault(
        "rights in the schema",
        "anon has SELECT of annex.api_keys. PostgREST",
        "revoke select on table annex.api_keys from anon",
        "grant select on annex.api_keys to anon",
    ),
    Fault(
        "rights in the schema",
        "anon has SELECT on columns of annex.api_keys.",
        "revoke select on table annex.api_keys from anon",
        "grant select (secret_hash) on annex.api_keys to anon",
    ),
    # What a revocation for the table takes along: grants of columns, and the whole table's own.
    Fault(
        "rights in the schema",
        "authenticated has SELECT of annex.members, annex.roles",
        "grant select (grantable, key, name, permissions, workspace_id) on table annex.roles",
        "grant select on annex.roles, annex.members to authenticated;"
        "grant insert on annex.roles, annex.notifications to authenticated;"
        "grant select on annex.notifications to authenticated with grant option",
    ),
    Fault(
        "rights in the schema",
        "authenticated has EXECUTE of annex.lease_mails",
        "revoke execute on function annex.lease_mails(integer, integer, integer) from",
        "grant execute on function annex.lease_mails to authenticated, service_role, public",
    ),
    # What a page on custom schemas says.
    Fault(
        "rights in the schema",
        "anon has EXECUTE of annex.access, annex.add_api_key, annex.",
        "revoke execute on function annex.",
        "grant usage on schema annex to anon, authenticated, service_role;"
        "grant all on all tables in schema annex to anon, authenticated, service_role;"
        "grant all on all routines in schema annex to anon, authenticated, service_role;"
        "grant all on all sequences in schema annex to anon, authenticated, service_role",
    ),
    # What is left after pg_dump --no-privileges.
    Fault(
        "rights in the schema",
        "annex_api lacks EXECUTE of annex.",
        "grant usage on schema annex to annex_api, annex_worker, authenticated, service_role",
        "revoke all on all tables in schema annex"
        " from annex_api, annex_worker, authenticated, service_role;"
        "revoke all on all routines in schema annex"
        " from annex_api, annex_worker, authenticated, service_role;"
        "revoke usage on schema annex from annex_api, annex_worker, authenticated, service_role",
    ),
    Fault(
        "owners",
        "Owned by annex_api, under whose rights Annex's functions then run or fail: table annex.ro",
        "alter table annex.roles owner to annex_owner",
        "alter table annex.roles owner to annex_api",
    ),
    # What pg_dump --no-owner leaves.
    Fault(
        "owners",
        "Owned by annex_owner and supabase_postgres, under whose rights Annex's functions then run",
        "alter function annex.lease_mails(integer, integer, integer) owner to annex_owner",
        "alter schema annex owner to supabase_postgres;"
        "alter table annex.roles owner to supabase_postgres;"
        "alter function annex.lease_mails owner to supabase_postgres;"
        "alter function annex.find_user owner to annex_owner",
    ),
    Fault(
        "default privileges",
        "the next migration makes: functions to public.",
        "for role annex_owner revoke all on functions from public",
        "alter default privileges for role annex_owner grant execute on functions to public",
    ),
    # What a page on custom schemas says, for whoever runs it.
    Fault(
        "default privileges",
        "tables to anon, authenticated; functions to service_role; sequences to anon.",
        "for role supabase_postgres in schema annex revoke all on functions from service_role",
        "alter default privileges for role annex_owner in schema annex"
        " grant all on tables to anon, authenticated;"
        "alter default privileges for role supabase_postgres in schema annex"
        " grant all on functions to service_role;"
        "alter default privileges for role supabase_postgres in schema annex"
        " grant select on sequences to anon with grant option",
    ),
    Fault(
        "default privileges",
        "would open what supabase_postgres makes in the schema annex: tables to anon.",
        "for role supabase_postgres in schema annex revoke all on tables from anon",
        "alter default privileges for role supabase_postgres in schema annex"
        " grant all on tables to anon",
        level="advice",
    ),
    Fault(
        "default privileges",
        "would open what supabase_auth_admin makes in the schema annex: tables to anon.",
        "Leave it, or let that role or a superuser take it back.",
        "alter default privileges for role supabase_auth_admin in schema annex grant all on tables"
        " to anon",
        level="advice",
        cured_by="hand",
    ),
    Fault(
        "triggers",
        "members_owner on annex.members",
        "enable trigger members_owner",
        "alter table annex.members disable trigger members_owner",
    ),
    # As a restore of rows alone leaves them (pg_dump --disable-triggers).
    Fault(
        "triggers",
        "foreign keys of annex.members",
        "alter table annex.members enable trigger all",
        "alter table annex.members disable trigger all",
        healer="postgres",
    ),
    Fault(
        "objects of the schema",
        "constraint members_user_id_fkey",
        "a constraint is made valid",
        "alter table annex.members drop constraint members_user_id_fkey",
        cured_by="hand",
    ),
    Fault(
        "columns",
        "Columns were dropped: annex.profiles.locale; what was in them is lost.",
        "Restore a backup of before",
        "alter table annex.profiles drop column locale;"
        "alter table annex.profiles add constraint profiles_locale_check check (true)",
        cured_by="hand",
    ),
    Fault(
        "columns",
        "Columns have lost their NOT NULL: annex.members.role.",
        "alter table annex.members alter column role set not null",
        "alter table annex.members alter column role drop not null",
    ),
    Fault(
        "functions",
        "Functions are not what the migrations make: annex.is_operator, annex.require_user.",
        "create or replace function annex.is_operator() returns boolean",
        "create or replace function annex.is_operator() returns boolean language sql stable"
        " parallel safe as $$ select true $$;"
        "create or replace function annex.require_user() returns uuid language plpgsql stable"
        " as $$ begin return null; end $$",
    ),
    Fault(
        "functions",
        "make: annex.find_user, annex.lease_mails.",
        "set role annex_owner",
        "alter function annex.lease_mails security invoker;"
        "alter function annex.find_user reset search_path",
    ),
    Fault(
        "text of the policies",
        "members_select on annex.members, roles_select on annex.roles, workspaces_operator on",
        "create policy members_select on annex.members for select to annex_api, authenticated",
        "alter policy members_select on annex.members using (true);"
        "alter policy roles_select on annex.roles to public;"
        "alter policy workspaces_operator on annex.workspaces using (annex.is_operator());",
    ),
    Fault(
        "crash safety",
        "Not logged: annex.idempotency_keys and trails",
        "alter table annex.trails set logged",
        "alter table annex.trails set unlogged; alter table annex.idempotency_keys set unlogged",
    ),
    Fault(
        "autovacuum",
        "autovacuum is off for annex.log and pending, which grow",
        "alter table annex.log reset (autovacuum_enabled)",
        "alter table annex.log set (autovacuum_enabled = off);"
        "alter table annex.pending set (autovacuum_enabled = false, fillfactor = 90)",
        level="warning",
    ),
    Fault(
        "detached partitions",
        "No partition of annex.events any more: annex.events_",
        "alter table annex.events attach partition annex.events_",
        "do $$ declare t text; begin t := 'annex.events_' || to_char(now(), 'YYYY_MM');"
        " execute 'alter table annex.events detach partition ' || t; end $$",
    ),
    Fault(
        "plans in PostgREST",
        "PostgREST shows plans",
        "alter role authenticator reset pgrst.db_plan_enabled",
        "alter role authenticator set pgrst.db_schemas = 'public, annex';"
        "alter role authenticator set pgrst.db_plan_enabled = 'true'",
        "alter role authenticator reset pgrst.db_schemas;"
        "alter role authenticator reset pgrst.db_plan_enabled",
        level="warning",
        healer="postgres",
    ),
    Fault(
        "attributes of the roles",
        "annex_api has the attribute createrole and replication. annex_worker has the",
        "alter role annex_api nocreaterole noreplication",
        "alter role annex_api createrole replication; alter role annex_worker createdb",
        "alter role annex_api nocreaterole noreplication; alter role annex_worker nocreatedb",
        healer="postgres",
    ),
    Fault(
        "passwords of the roles",
        "Passwords end: of annex_worker on 2",
        "alter role annex_worker valid until 'infinity'",
        "do $$ begin execute format('alter role annex_worker valid until %L',"
        " now() + interval '3 days'); end $$",
        "alter role annex_worker valid until 'infinity'",
        level="warning",
    ),
    Fault(
        "publications",
        "published by everything, hashes",
        "create publication everything for table auth.users",
        "create publication everything for all tables",
        level="warning",
        healer="postgres",
    ),
    Fault(
        "publications",
        "published by everything and two_tables, hashes",
        "alter publication everything drop tables in schema annex",
        "create publication everything for tables in schema annex, auth;"
        "create publication two_tables for table annex.roles, annex.members, auth.users",
        level="warning",
        healer="postgres",
    ),
    Fault(
        "exposure in PostgREST",
        "PostgREST serves public, storage and not annex",
        "set pgrst.db_schemas = 'public, storage, annex'",
        "alter role authenticator set pgrst.db_schemas = 'public, storage'",
        "alter role authenticator reset pgrst.db_schemas",
        level="advice",
        healer="postgres",
    ),
]
