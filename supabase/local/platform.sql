-- What hosted Supabase gives a project and a bare Postgres lacks: roles, `auth`, `extensions`, the publication, event
-- triggers, default privileges. For the embedded server, tests and scratch databases; never a migration, and never run on
-- a Supabase project. Read off supabase/postgres and supabase/auth in November 2026; left out is what needs libraries
-- that no package carries (supautils, safeupdate, pg_graphql, pg_net, pg_cron, vault) and the other tables of `auth`.
-- Run as a superuser, who stands in for supabase_admin. The file can be run again, also in another database of the server.

do $$
begin
  if not exists (select from pg_roles where rolname = 'anon') then
    create role anon nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'authenticated') then
    create role authenticated nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'service_role') then
    create role service_role nologin bypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'authenticator') then
    create role authenticator login noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'supabase_auth_admin') then
    create role supabase_auth_admin login noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'dashboard_user') then
    create role dashboard_user nologin createdb createrole replication;
  end if;
  -- Stands in for Supabase's `postgres`, whose name the superuser of other servers has. Migrations run as this role: no
  -- superuser and no member of supabase_auth_admin, but CREATEROLE and BYPASSRLS.
  if not exists (select from pg_roles where rolname = 'supabase_postgres') then
    create role supabase_postgres login createdb createrole replication bypassrls;
  end if;
end
$$;

alter role supabase_auth_admin set search_path = auth;
alter role supabase_auth_admin set idle_in_transaction_session_timeout = 60000;
alter role supabase_postgres set search_path = "$user", public, extensions;
-- PostgREST applies the settings of the role that it switches to.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';

grant anon, authenticated, service_role to authenticator;

-- From Postgres 16 on CREATEROLE alone is no right to grant roles that others made.
grant anon, authenticated, service_role to supabase_postgres with admin option;

do $$
begin
  execute format('grant all on database %I to supabase_postgres, dashboard_user', current_database());
  execute format('grant create on database %I to supabase_auth_admin', current_database());
end
$$;

-- Everything that the project makes in `public` is open to the API's roles, unless row level security closes it.
grant usage on schema public to anon, authenticated, service_role;
grant all on schema public to supabase_postgres;
alter default privileges in schema public
  grant all on tables to supabase_postgres, anon, authenticated, service_role;
alter default privileges in schema public
  grant all on functions to supabase_postgres, anon, authenticated, service_role;
alter default privileges in schema public
  grant all on sequences to supabase_postgres, anon, authenticated, service_role;
alter default privileges for role supabase_postgres in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role supabase_postgres in schema public
  grant all on functions to anon, authenticated, service_role;
alter default privileges for role supabase_postgres in schema public
  grant all on sequences to anon, authenticated, service_role;

create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;
grant all on schema extensions to supabase_postgres, dashboard_user;

-- A small build of Postgres, such as the one of `annex dev`, comes without them.
do $$
declare
  extension text;
begin
  foreach extension in array array['pgcrypto', 'uuid-ossp'] loop
    if exists (select from pg_available_extensions where name = extension) then
      execute format('create extension if not exists %I with schema extensions', extension);
    end if;
  end loop;
end
$$;
grant all on all routines in schema extensions to supabase_postgres, dashboard_user;

do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;  -- empty until the project adds tables
    alter publication supabase_realtime owner to supabase_postgres;
  end if;
end
$$;

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role, supabase_postgres;
grant all on schema auth to supabase_auth_admin, dashboard_user;

create table if not exists auth.users (
  instance_id uuid,
  id uuid primary key,
  aud varchar(255),
  role varchar(255),
  email varchar(255),
  encrypted_password varchar(255),
  email_confirmed_at timestamptz,
  invited_at timestamptz,
  confirmation_token varchar(255),
  confirmation_sent_at timestamptz,
  recovery_token varchar(255),
  recovery_sent_at timestamptz,
  email_change_token_new varchar(255),
  email_change varchar(255),
  email_change_sent_at timestamptz,
  last_sign_in_at timestamptz,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_super_admin boolean,
  created_at timestamptz,
  updated_at timestamptz,
  phone text unique,
  phone_confirmed_at timestamptz,
  phone_change text default '',
  phone_change_token varchar(255) default '',
  phone_change_sent_at timestamptz,
  confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255) default '',
  email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz,
  reauthentication_token varchar(255) default '',
  reauthentication_sent_at timestamptz,
  is_sso_user boolean not null default false,
  deleted_at timestamptz,
  is_anonymous boolean not null default false
);
alter table auth.users owner to supabase_auth_admin;
alter table auth.users enable row level security;
create unique index if not exists users_email_partial_key on auth.users (email) where not is_sso_user;

create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
alter function auth.uid() owner to supabase_auth_admin;

create or replace function auth.role() returns text language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
  )
$$;
alter function auth.role() owner to supabase_auth_admin;

create or replace function auth.email() returns text language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.email', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email')
  )
$$;
alter function auth.email() owner to supabase_auth_admin;

create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;
alter function auth.jwt() owner to supabase_auth_admin;

-- Only SELECT comes with the right to pass it on: Supabase's `postgres` may reference auth.users, and nobody it names may.
grant all on auth.users to supabase_postgres, dashboard_user;
grant select on auth.users to supabase_postgres with grant option;
grant all on all routines in schema auth to supabase_postgres, dashboard_user;
alter default privileges for role supabase_auth_admin in schema auth
  grant all on tables to supabase_postgres, dashboard_user;

-- PostgREST reads its schema anew when one of these tells it to. They fire inside every transaction with DDL, the worker's
-- new partitions included, and run as whoever issued it.
create or replace function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql as $$
declare
  changed record;
begin
  for changed in select schema_name from pg_event_trigger_ddl_commands() loop
    if coalesce(changed.schema_name, '') not in ('pg_temp', 'auth', 'realtime', '_realtime', 'storage') then
      notify pgrst, 'reload schema';
    end if;
  end loop;
end
$$;

create or replace function extensions.pgrst_drop_watch() returns event_trigger language plpgsql as $$
declare
  dropped record;
begin
  for dropped in select schema_name, is_temporary from pg_event_trigger_dropped_objects() loop
    if not dropped.is_temporary and coalesce(dropped.schema_name, '') not in ('auth', 'realtime', '_realtime', 'storage') then
      notify pgrst, 'reload schema';
    end if;
  end loop;
end
$$;

do $$
begin
  if not exists (select from pg_event_trigger where evtname = 'pgrst_ddl_watch') then
    create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
  end if;
  if not exists (select from pg_event_trigger where evtname = 'pgrst_drop_watch') then
    create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_drop_watch();
  end if;
end
$$;
