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
