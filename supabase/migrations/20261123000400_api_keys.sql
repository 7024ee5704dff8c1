-- API keys: a server's credential for one workspace.

set role annex_owner;

create table annex.api_keys (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  name text not null,
  prefix text not null,
  secret_hash bytea not null,
  permissions text[] not null,
  grantable text[] not null default '{}',
  metadata jsonb not null default '{}',
  allowed_addresses text[] not null default '{}',
  rate_limit_per_minute integer,
  expires_at timestamptz,
  last_used_at timestamptz,
  replaced_by uuid,
  revoked_at timestamptz,
  -- A principal and no reference: a key is the workspace's, and outlives who made it.
  created_by text not null default annex.principal(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint api_keys_pkey primary key (id),
  constraint api_keys_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint api_keys_replaced_by_fkey foreign key (replaced_by) references annex.api_keys (id) on delete set null,
  constraint api_keys_prefix_key unique (prefix),
  constraint api_keys_replaced_by_key unique (replaced_by),
  constraint api_keys_expires_at_check check (annex.is_rfc3339(expires_at)),
  constraint api_keys_revoked_at_check check (annex.is_rfc3339(revoked_at)),
  constraint api_keys_name_check check (char_length(name) between 1 and 100),
  constraint api_keys_prefix_check check (prefix ~ '^[0-9A-Za-z]{12}$'),
  constraint api_keys_secret_hash_check check (octet_length(secret_hash) = 32),
  constraint api_keys_permissions_check check (permissions <@ annex.permissions()),
  constraint api_keys_grantable_check check (
    cardinality(grantable) <= 101 and array_position(grantable, null) is null
    and array_to_string(grantable, ',') ~ '^(([*]|[a-z][a-z0-9_-]{0,62})(,([*]|[a-z][a-z0-9_-]{0,62}))*)?$'
  ),
  constraint api_keys_metadata_check check (
    jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384
  ),
  constraint api_keys_allowed_addresses_check check (
    cardinality(allowed_addresses) <= 50 and array_position(allowed_addresses, null) is null
    and array_to_string(allowed_addresses, ',') ~ '^[0-9a-f.:/,]*$'
  ),
  constraint api_keys_rate_limit_per_minute_check check (rate_limit_per_minute between 1 and 1000000)
);
create index api_keys_workspace_id_idx on annex.api_keys (workspace_id, id desc);

-- Not of last_used_at: that a key is used is no change of it.
create trigger api_keys_touch before update of name, secret_hash, permissions, grantable, metadata, allowed_addresses,
  rate_limit_per_minute, expires_at, replaced_by, revoked_at
  on annex.api_keys for each row execute function annex.touch();

-- What a key is granted while it lives, with its workspace's tenant. For annex.grants and annex.usual_publisher. Inlined where
-- it stands in FROM.
create function annex.grants_of_key(id uuid)
returns table (workspace_id uuid, tenant uuid, permissions text[], grantable text[])
language sql stable rows 1 as $$
  select w.id, coalesce(w.created_by, w.id), k.permissions, k.grantable
  from annex.api_keys k
  join annex.workspaces w on w.id = k.workspace_id and w.deleted_at is null
  where k.id = grants_of_key.id
    and k.revoked_at is null and (k.expires_at is null or k.expires_at > statement_timestamp())
$$;

-- A key by its public prefix. The caller compares the hash.
create function annex.find_api_key(prefix text)
returns table (
  id uuid, workspace_id uuid, secret_hash bytea, expires_at timestamptz, allowed_addresses text[],
  rate_limit_per_minute integer, used_lately boolean
)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select k.id, k.workspace_id, k.secret_hash, k.expires_at, k.allowed_addresses, k.rate_limit_per_minute,
    coalesce(k.last_used_at > now() - interval '1 minute', false)
  from annex.api_keys k
  join annex.workspaces w on w.id = k.workspace_id and w.deleted_at is null
  where k.prefix = find_api_key.prefix
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
$$;
grant execute on function annex.find_api_key(text) to annex_api;

-- Note that a key was used, at most once a minute; whoever finds its row locked lets it be.
create function annex.use_api_key(id uuid) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
  update annex.api_keys k set last_used_at = now()
  where k.id = (
    select u.id from annex.api_keys u
    where u.id = use_api_key.id and (u.last_used_at is null or u.last_used_at <= now() - interval '1 minute')
    for no key update skip locked
  )
$$;
grant execute on function annex.use_api_key(uuid) to annex_api;

-- A key of any state by its public prefix, for who may read the keys of its workspace: to tell their server what is wrong
-- with one that it was sent. The caller compares the hash.
create function annex.inspect_api_key(prefix text) returns setof annex.api_keys
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select k.* from annex.api_keys k
    where k.prefix = inspect_api_key.prefix and annex.has_permission(k.workspace_id, 'keys:read');
end
$$;
grant execute on function annex.inspect_api_key(text) to annex_api;

-- Lock a key of a workspace for who may manage them. For Annex's own functions.
create function annex.lock_api_key(workspace_id uuid, id uuid, versions integer[]) returns annex.api_keys
language plpgsql as $$
declare
  locked annex.api_keys;
begin
  perform annex.require(lock_api_key.workspace_id, 'keys:manage');
  perform annex.lock_workspace(lock_api_key.workspace_id);
  select k.* into locked from annex.api_keys k
  where k.workspace_id = lock_api_key.workspace_id and k.id = lock_api_key.id for update;
  if not found then
    raise exception 'There is no such key here.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_version(locked.version, versions);
  return locked;
end
$$;

-- Write a key that is never above its maker: no permission, no role to give that the maker has not; of a key that makes
-- another one, no later end, no more requests and no other addresses, either. For Annex's own functions.
create function annex.add_api_key(made annex.api_keys) returns annex.api_keys
language plpgsql as $$
declare
  maker annex.api_keys;
begin
  perform annex.require_within(made.workspace_id, made.permissions, made.grantable);
  -- Or a stolen token would outlive the key that it was exchanged for.
  if annex.claims() ->> 'is_exchanged' = 'true' then
    raise exception 'A token that was exchanged for a key makes no keys; send the key itself.'
      using errcode = 'insufficient_privilege', constraint = 'key_required';
  end if;
  -- Those that are over count as well: their rows stay for a while. The workspace is locked.
  if (
    select count(*) from annex.api_keys k
    where k.workspace_id = made.workspace_id and k.id >= annex.uuid7_floor(now() - interval '24 hours')
  ) >= 1000 then
    raise exception 'The workspace has made 1,000 keys within 24 hours; rotate less often.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  select k.* into maker from annex.api_keys k where k.id = annex.key_id();
  if found and (
    coalesce(made.expires_at, 'infinity') > coalesce(maker.expires_at, 'infinity')
    or coalesce(made.rate_limit_per_minute, 1000001) > coalesce(maker.rate_limit_per_minute, 1000001)
    or maker.allowed_addresses <> '{}' and (made.allowed_addresses = '{}' or exists (
      select from unnest(made.allowed_addresses) a
      where not exists (select from unnest(maker.allowed_addresses) b where a::inet <<= b::inet)
    ))
  ) then
    raise exception 'A key makes none that lasts longer, does more or may be used elsewhere than itself.'
      using errcode = 'insufficient_privilege', constraint = 'not_grantable';
  elsif made.expires_at <= now() then
    raise exception 'The key would have expired already; choose a later expires_at.'
      using errcode = 'check_violation', constraint = 'api_key_expires_at';
  end if;
  insert into annex.api_keys (
    workspace_id, name, prefix, secret_hash, permissions, grantable, metadata, allowed_addresses, rate_limit_per_minute,
    expires_at
  )
  values (
    made.workspace_id, made.name, made.prefix, made.secret_hash,
    array(select p from unnest(annex.permissions()) p where p = any (made.permissions)),
    array(select distinct g from unnest(made.grantable) g order by 1),
    coalesce(made.metadata, '{}'), coalesce(made.allowed_addresses, '{}'), made.rate_limit_per_minute, made.expires_at
  )
  returning * into made;
  return made;
end
$$;

-- Make an API key, whose secret only its maker knows. Raises forbidden, not_grantable, unknown_role, limit_reached.
create function annex.create_api_key(
  workspace_id uuid,
  name text,
  prefix text,
  secret_hash bytea,
  permissions text[],
  grantable text[] default '{}',
  metadata jsonb default '{}',
  allowed_addresses text[] default '{}',
  rate_limit_per_minute integer default null,
  expires_at timestamptz default null
) returns annex.api_keys
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  made annex.api_keys;
begin
  perform annex.require(create_api_key.workspace_id, 'keys:manage');
  perform annex.lock_workspace(create_api_key.workspace_id);
  if (
    select count(*) from annex.api_keys k
    where k.workspace_id = create_api_key.workspace_id and k.revoked_at is null and k.replaced_by is null
      and (k.expires_at is null or k.expires_at > now())
  ) >= 200 then
    raise exception 'A workspace has at most 200 keys in use; revoke one.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  made.workspace_id := create_api_key.workspace_id;
  made.name := create_api_key.name;
  made.prefix := create_api_key.prefix;
  made.secret_hash := create_api_key.secret_hash;
  made.permissions := create_api_key.permissions;
  made.grantable := coalesce(create_api_key.grantable, '{}');
  made.metadata := create_api_key.metadata;
  made.allowed_addresses := coalesce(create_api_key.allowed_addresses, '{}');
  made.rate_limit_per_minute := create_api_key.rate_limit_per_minute;
  made.expires_at := create_api_key.expires_at;
  return annex.add_api_key(made);
end
$$;
grant execute on function
  annex.create_api_key(uuid, text, text, bytea, text[], text[], jsonb, text[], integer, timestamptz) to annex_api;

-- Replace a key by a new one with the same rights, and let the old one live on for an overlap. Without expires_at the new one
-- lives as long as the old one was made to. At most two live: the one that the old key replaced ends at once. The maker
-- holds all that the key holds, as if they had made it. Raises not_found, forbidden, not_grantable, precondition_failed, and
-- conflict for a key that is replaced, revoked or expired already.
create function annex.rotate_api_key(
  workspace_id uuid,
  id uuid,
  prefix text,
  secret_hash bytea,
  overlap_seconds integer,
  expires_at timestamptz default null,
  versions integer[] default null
) returns annex.api_keys
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  old annex.api_keys := annex.lock_api_key(rotate_api_key.workspace_id, rotate_api_key.id, versions);
  made annex.api_keys := old;
begin
  if old.replaced_by is not null or old.revoked_at is not null or old.expires_at <= now() then
    raise exception 'The key is replaced, revoked or expired already; make a new one.'
      using errcode = 'check_violation', constraint = 'conflict';
  end if;
  made.prefix := rotate_api_key.prefix;
  made.secret_hash := rotate_api_key.secret_hash;
  -- Or as long as the calendar allows.
  made.expires_at := coalesce(rotate_api_key.expires_at, least(
    now() + (old.expires_at - old.created_at), timestamptz '9999-12-31 23:59:59+00'
  ));
  made := annex.add_api_key(made);
  update annex.api_keys k
  set expires_at = least(k.expires_at, now() + make_interval(secs => greatest(overlap_seconds, 0))), replaced_by = made.id
  where k.id = old.id;
  update annex.api_keys k set expires_at = now()
  where k.replaced_by = old.id and (k.expires_at is null or k.expires_at > now());
  return made;
end
$$;
grant execute on function annex.rotate_api_key(uuid, uuid, text, bytea, integer, timestamptz, integer[]) to annex_api;

-- Revoke a key, and the one that it replaced if that lives on; one that is revoked stays so. Raises not_found, forbidden,
-- precondition_failed.
create function annex.revoke_api_key(workspace_id uuid, id uuid, versions integer[] default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  old annex.api_keys := annex.lock_api_key(revoke_api_key.workspace_id, revoke_api_key.id, versions);
begin
  update annex.api_keys k set revoked_at = now() where old.id in (k.id, k.replaced_by) and k.revoked_at is null;
end
$$;
grant execute on function annex.revoke_api_key(uuid, uuid, integer[]) to annex_api;

alter table annex.api_keys enable row level security, force row level security;
create policy api_keys_owner on annex.api_keys to annex_owner using (true) with check (true);
create policy api_keys_select on annex.api_keys for select to annex_api
  using (workspace_id = any (array(select annex.workspace_ids('keys:read'))));
create policy api_keys_operator on annex.api_keys for select to annex_api
  using ((select annex.is_operator()));
grant select (
  id, workspace_id, name, prefix, permissions, grantable, metadata, allowed_addresses, rate_limit_per_minute, expires_at,
  last_used_at, replaced_by, revoked_at, created_by, created_at, updated_at, version
) on annex.api_keys to annex_api;

reset role;

insert into annex.migrations (name) values ('04_api_keys');
