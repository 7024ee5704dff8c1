-- The schema, its three roles, and who the caller of a transaction is.
-- Runs as a role with CREATEROLE that need not be a superuser (Supabase's `postgres`).

do $$
begin
  if not exists (select from pg_roles where rolname = 'annex_owner') then
    create role annex_owner nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'annex_api') then
    create role annex_api login;
  end if;
  if not exists (select from pg_roles where rolname = 'annex_worker') then
    create role annex_worker login;
  end if;
end
$$;

-- Everything below is made as annex_owner, so the migrating role must be able to act as it.
grant annex_owner to current_user;

-- Each login role's own limits: a setting of the role reaches every connection, through every pooler. To plan a statement
-- under row level security over every partition takes longer than to run it, so a connection plans each once.
alter role annex_api set plan_cache_mode = force_generic_plan;
-- Planned for any parameters, a feed's past looks large: a page must come from the index, in its order, and stop.
alter role annex_api set enable_bitmapscan = off;
alter role annex_api set jit = off;
alter role annex_api set statement_timeout = '5s';
alter role annex_api set lock_timeout = '2s';
alter role annex_api set idle_in_transaction_session_timeout = '5s';
-- Statements name what is Annex's in full. Everything else is Postgres' own, whatever a database's path or others' functions,
-- operators, casts and types in public offer.
alter role annex_api set search_path = pg_catalog, pg_temp;
alter role annex_worker set search_path = pg_catalog, pg_temp;
alter role annex_worker set jit = off;
alter role annex_worker set statement_timeout = '60s';
alter role annex_worker set lock_timeout = '10s';
alter role annex_worker set idle_in_transaction_session_timeout = '60s';

create schema annex authorization annex_owner;

set role annex_owner;

-- Whatever a later migration adds starts closed: a grant is always written down next to the thing that it opens.
alter default privileges for role annex_owner revoke execute on functions from public;
alter default privileges for role annex_owner in schema annex
  revoke all on tables from anon, authenticated, service_role;
alter default privileges for role annex_owner in schema annex
  revoke all on functions from anon, authenticated, service_role;

grant usage on schema annex to annex_api, annex_worker, authenticated, service_role;

-- RFC 9562, section 5.7: 48 bits of Unix milliseconds, then 12 bits of the millisecond's fraction (section 6.2,
-- method 3), so that ids made one after the other sort in that order; 62 random bits follow.
-- Microseconds * 4096 / 1000 are both in one number. One expression, so that the planner puts it in the call's place.
create function annex.uuid7() returns uuid language sql volatile parallel safe as $$
  select (
    overlay(
      lpad(to_hex((extract(epoch from clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0')
      placing '7' from 13 for 0
    ) || right(gen_random_uuid()::text, 18)
  )::uuid
$$;
grant execute on function annex.uuid7() to annex_api, annex_worker;

-- The nth of many ids that are made at one moment, in the order of n: a seed's hash takes the place of random bits, so that the
-- server's source of these is asked once for all. The seed must be random, and the moment in microseconds. One expression, and
-- each part immutable, so that the planner puts it in the call's place if n is a column.
create function annex.uuid7_of(moment bigint, seed text, n bigint) returns uuid language sql immutable parallel safe as $$
  select (
    overlay(lpad(to_hex((moment + n) * 512 / 125), 15, '0') placing '7' from 13 for 0) || '8' || left(md5(seed || n::text), 15)
  )::uuid
$$;

-- The lowest id that uuid7() can give at a moment: the bound of a partition.
create function annex.uuid7_floor(moment timestamptz) returns uuid language sql immutable parallel safe as $$
  select encode(
    substring(int8send(floor(extract(epoch from moment) * 1000)::bigint) from 3 for 6)
      || '\x70008000000000000000'::bytea,
    'hex'
  )::uuid
$$;

-- The moment that an id of uuid7() carries, to the millisecond.
create function annex.uuid7_time(id uuid) returns timestamptz language sql immutable parallel safe as $$
  select to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
$$;

-- PostgREST and the API both leave the verified token's claims here, for one transaction.
create function annex.claims() returns jsonb language sql stable parallel safe as $$
  select coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}'::jsonb)
$$;
grant execute on function annex.claims() to annex_api, annex_worker, authenticated, service_role;

-- The same as auth.uid(), without needing a right on Supabase's schema `auth`. A token that was exchanged for a key is no
-- user's, whatever its sub.
create function annex.user_id() returns uuid language sql stable parallel safe as $$
  select case
    when annex.claims() ->> 'role' = 'authenticated' and not annex.claims() ? 'annex_key'
      then (annex.claims() ->> 'sub')::uuid
  end
$$;
grant execute on function annex.user_id() to annex_api, annex_worker, authenticated, service_role;

-- The calling API key. The API vouches for one by the role annex_key; anybody who verified a token that was exchanged for
-- one, by the claim annex_key. session_user, because inside a definer function current_user is the owner, and because
-- nobody can SET a session_user without being a superuser.
create function annex.key_id() returns uuid language sql stable parallel safe as $$
  select case annex.claims() ->> 'role'
    when 'authenticated' then (annex.claims() #>> '{annex_key,id}')::uuid
    when 'annex_key' then case when session_user = 'annex_api' then (annex.claims() ->> 'sub')::uuid end
  end
$$;
grant execute on function annex.key_id() to annex_api, annex_worker, authenticated, service_role;

-- An operator is a principal that only the API vouches for.
create function annex.is_operator() returns boolean language sql stable parallel safe as $$
  select session_user = 'annex_api' and coalesce(annex.claims() ->> 'role' = 'annex_operator', false)
$$;
grant execute on function annex.is_operator() to annex_api, annex_worker, authenticated, service_role;

-- The calling user; raises for every other caller. For Annex's own functions.
create function annex.require_user() returns uuid
language plpgsql stable as $$
declare
  caller uuid := annex.user_id();
begin
  if caller is null then
    raise exception 'Only a signed-in user can do this; send a user''s access token.'
      using errcode = 'insufficient_privilege', constraint = 'user_required';
  end if;
  return caller;
end
$$;

-- Names the caller for the audit trail and for idempotency: user:<id>, api_key:<id>, operator:<id> or system.
-- PL/pgSQL, which reads the claims once: as one expression of the functions above, it was prepared at 0.1 ms in each transaction.
-- A variable's type keeps its schema: it is looked up once a session, and the first to call may have a search_path of their own.
create function annex.principal() returns text language plpgsql stable parallel safe as $$
declare
  claims pg_catalog.jsonb := annex.claims();
begin
  return coalesce(
    case claims ->> 'role'
      when 'authenticated' then
        case when claims ? 'annex_key' then 'api_key:' || (claims #>> '{annex_key,id}')::uuid
          else 'user:' || (claims ->> 'sub')::uuid end
      when 'annex_key' then case when session_user = 'annex_api' then 'api_key:' || (claims ->> 'sub')::uuid end
      when 'annex_operator' then case when session_user = 'annex_api' then concat('operator:', claims ->> 'sub') end
    end,
    'system'
  );
end
$$;
grant execute on function annex.principal() to annex_api, annex_worker, authenticated, service_role;

-- The user whom a principal names; null for all others. As a value of its own, so that an index on users serves it.
create function annex.user_of(principal text) returns uuid language sql immutable parallel safe as $$
  select case when principal like 'user:%' then substr(principal, 6)::uuid end
$$;

-- What one transaction at a time does, by the lock of a row: every session may take an advisory lock, and so could hold up
-- the worker.
create table annex.locks (
  name text not null,
  constraint locks_pkey primary key (name),
  constraint locks_name_check check (name ~ '^[a-z][a-z_]{0,62}$')
);
alter table annex.locks enable row level security, force row level security;
create policy locks_owner on annex.locks to annex_owner using (true) with check (true);
insert into annex.locks (name) values ('partitions'), ('expiry'), ('mails'), ('mails_of_items'), ('leases_of_items');

-- Take a lock until the transaction ends, unless another one holds it; says whether. For Annex's own functions.
create function annex.try_lock(name text) returns boolean
language plpgsql as $$
begin
  perform from annex.locks l where l.name = try_lock.name for update skip locked;
  return found;
end
$$;

-- Refuse numbers outside a double's range (RFC 7493, section 2.2), and a zero with more than 400 decimal places. A few bytes
-- of such numbers print as gigabytes, so nothing is printed here. Returns true.
create function annex.check_numbers(document jsonb) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if exists (
    select from jsonb_path_query(document, 'strict $.** ? (@ > 1e300 || @ < 1e-300 && (@ > -1e-300 || @ < -1e300))') n
    where abs(n::numeric) > 1.7976931348623158e308 or (n::numeric <> 0 and abs(n::numeric) < 4.9e-324)
      or (n::numeric = 0 and scale(n::numeric) > 400)
  ) then
    raise exception 'A number is outside the range of a double (RFC 7493, section 2.2).'
      using errcode = 'numeric_value_out_of_range', constraint = 'number_out_of_range';
  end if;
  return true;
end
$$;
grant execute on function annex.check_numbers(jsonb) to annex_api;

-- Refuse a document of more than 1 MiB as it is stored, which no check allows as text: to print it, or to search its
-- numbers, takes a multiple of its size. Says nothing of a smaller one: a planner may ask before the size was compared.
create function annex.refuse_size(document jsonb) returns integer
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if pg_column_size(document #> '{}') > 1048576 then
    raise exception 'A document is larger than 1 MiB.'
      using errcode = 'program_limit_exceeded', constraint = 'too_large';
  end if;
  return null;
end
$$;
grant execute on function annex.refuse_size(jsonb) to annex_api;

-- How long a document is as text, for checks. Its size and its numbers are looked at before it is printed. One expression, so
-- that a check takes it in, and stable, as pg_column_size is: Postgres would call an immutable one instead, at 20 us a row.
-- The exact look is taken only where a number is zero, tiny or huge. #> unpacks what is compressed.
create function annex.json_bytes(document jsonb) returns integer language sql stable parallel safe
return case
  when pg_column_size(document #> '{}') > 1048576 then annex.refuse_size(document)
  when not document @? 'strict $.** ? (@ > 1e300 || @ < 1e-300 && (@ > -1e-300 || @ < -1e300))'
    or annex.check_numbers(document) then octet_length(document::text)
end;
grant execute on function annex.json_bytes(jsonb) to annex_api;

-- Says if a time has four digits for the year (RFC 3339), as clients read it: not infinite, not BC. Nor the very first and last
-- microsecond, which drivers in Python take for infinity.
create function annex.is_rfc3339(moment timestamptz) returns boolean language sql immutable parallel safe
return moment > timestamptz '0001-01-01 00:00:00+00' and moment < timestamptz '9999-12-31 23:59:59.999999+00';
grant execute on function annex.is_rfc3339(timestamptz) to annex_api;

-- BEFORE UPDATE on every mutable table: a write that changes nothing leaves version, and so the ETag, alone.
create function annex.touch() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if new is distinct from old then
    new.updated_at := now();
    new.version := old.version + 1;
  end if;
  return new;
end
$$;

-- Raise unless a row has one of the versions that the caller knows; with none given, any will do. For Annex's own functions.
create function annex.require_version(version integer, versions integer[]) returns void
language plpgsql immutable as $$
begin
  if versions is not null and not coalesce(version = any (versions), false) then
    raise exception 'The resource has changed since; read it again and repeat the change.'
      using errcode = 'check_violation', constraint = 'precondition_failed';
  end if;
end
$$;

-- What has been applied, whoever did it: `annex migrate`, the Supabase CLI, psql. The last statement of each migration adds
-- its row, and a process refuses to start where one is missing that it needs. `annex install` and `annex migrate` add the
-- checksum of the file, so that a migration which was edited after it had been applied is told, too.
create table annex.migrations (
  name text not null,
  checksum text,
  applied_at timestamptz not null default now(),
  constraint migrations_pkey primary key (name),
  constraint migrations_name_check check (name ~ '^[0-9]{2,3}_[a-z0-9_]{1,60}$'),
  constraint migrations_checksum_check check (checksum ~ '^[0-9a-f]{64}$')
);
alter table annex.migrations enable row level security, force row level security;
create policy migrations_owner on annex.migrations to annex_owner using (true) with check (true);

-- Returns the applied migrations and their checksums, for a process that starts.
create function annex.applied_migrations() returns table (name text, checksum text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select m.name, m.checksum from annex.migrations m
$$;
grant execute on function annex.applied_migrations() to annex_api, annex_worker;

-- The installation's limits that also hold in plain SQL, where no setting of the API reaches. Operators change them.
create table annex.limits (
  name text not null,
  value integer not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint limits_pkey primary key (name),
  constraint limits_name_check check (
    name in ('workspaces_per_user', 'audit_retention_days', 'subscriptions_per_member', 'notifications_per_inbox',
      'audit_kib_per_hour', 'snoozed_per_user', 'waiting_fanouts')
  ),
  constraint limits_value_check check (value between 0 and 1000000)
);
insert into annex.limits (name, value) values ('workspaces_per_user', 20), ('audit_retention_days', 365),
  ('subscriptions_per_member', 1000), ('notifications_per_inbox', 10000), ('audit_kib_per_hour', 16384), ('snoozed_per_user', 1000),
  ('waiting_fanouts', 10000);
create trigger limits_touch before update on annex.limits for each row execute function annex.touch();
alter table annex.limits enable row level security, force row level security;
create policy limits_owner on annex.limits to annex_owner using (true) with check (true);

-- Apply a JSON merge patch (RFC 7396, section 2).
create function annex.merge_patch(target jsonb, patch jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if jsonb_typeof(patch) <> 'object' then
    return patch;
  end if;
  -- All members at once: one after the other would copy the object for each.
  return (
    select coalesce(jsonb_object_agg(m.key, m.value), '{}') from (
      select t.key, t.value from jsonb_each(case when jsonb_typeof(target) = 'object' then target else '{}' end) t
      where not patch ? t.key
      union all
      select p.key, annex.merge_patch(
        case when jsonb_typeof(target) = 'object' then target -> p.key end, p.value)
      from jsonb_each(patch) p where p.value <> 'null'
    ) m
  );
end
$$;

-- Raise unless a merge patch is an object that names nothing but these members. For Annex's own functions.
create function annex.require_members(patch jsonb, members text[]) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  perform annex.refuse_size(patch);
  if (case jsonb_typeof(patch) when 'object' then patch - members <> '{}' else true end) then
    raise exception 'A patch is an object with some of these members: %.', array_to_string(members, ', ')
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
end
$$;

reset role;

insert into annex.migrations (name) values ('01_roles_and_claims');
