-- What Supabase's platform gives a project and a bare Postgres lacks: just what Annex's migrations, policies and tests
-- lean on. For the embedded server, tests and scratch databases; never a migration, never run on a Supabase project.
-- Run as a superuser. Roles are per cluster, so the file can be run again in another database of the same server.

do $$
begin
  if not exists (select from pg_roles where rolname = 'anon') then
    create role anon nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'authenticated') then
    create role authenticated nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'service_role') then
    create role service_role nologin noinherit bypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'authenticator') then
    create role authenticator login noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'supabase_auth_admin') then
    create role supabase_auth_admin nologin noinherit createrole;
  end if;
  -- Stands in for Supabase's `postgres`: no superuser, but CREATEROLE and BYPASSRLS. Migrations run as this role.
  if not exists (select from pg_roles where rolname = 'supabase_postgres') then
    create role supabase_postgres login createdb createrole bypassrls;
  end if;
end
$$;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to supabase_postgres;

do $$
begin
  execute format('grant create on database %I to supabase_postgres', current_database());
end
$$;

create schema if not exists auth authorization supabase_auth_admin;

create table if not exists auth.users (
  id uuid primary key,
  email varchar(255),
  email_confirmed_at timestamptz,
  raw_app_meta_data jsonb,
  is_anonymous boolean not null default false,
  created_at timestamptz not null default now()
);
alter table auth.users owner to supabase_auth_admin;

create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
alter function auth.uid() owner to supabase_auth_admin;

create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;
alter function auth.jwt() owner to supabase_auth_admin;

grant usage on schema auth to anon, authenticated, service_role, supabase_postgres;
-- Without the grant option: Supabase's `postgres` may reference auth.users, and may not pass that on.
grant select, insert, update, delete, references on auth.users to supabase_postgres;
