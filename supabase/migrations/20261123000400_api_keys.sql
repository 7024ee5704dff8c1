-- API keys: a server's credential for one workspace.

set role annex_owner;

create table annex.api_keys (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  name text not null,
  prefix text not null,
  secret_hash bytea not null,
  permissions text[] not null,
  expires_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint api_keys_pkey primary key (id),
  constraint api_keys_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint api_keys_prefix_key unique (prefix),
  constraint api_keys_expires_at_check check (annex.is_rfc3339(expires_at)),
  constraint api_keys_revoked_at_check check (annex.is_rfc3339(revoked_at)),
  constraint api_keys_name_check check (char_length(name) between 1 and 100),
  constraint api_keys_prefix_check check (prefix ~ '^[0-9A-Za-z]{12}$'),
  constraint api_keys_secret_hash_check check (octet_length(secret_hash) = 32),
  constraint api_keys_permissions_check check (permissions <@ annex.permissions())
);
create index api_keys_workspace_id_idx on annex.api_keys (workspace_id, id desc);

create trigger api_keys_touch before update on annex.api_keys for each row execute function annex.touch();

-- A key by its public prefix. The caller compares the hash; nothing else of the table is readable.
create function annex.find_api_key(prefix text)
returns table (id uuid, workspace_id uuid, secret_hash bytea, permissions text[], expires_at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select k.id, k.workspace_id, k.secret_hash, k.permissions, k.expires_at
  from annex.api_keys k
  join annex.workspaces w on w.id = k.workspace_id and w.deleted_at is null
  where k.prefix = find_api_key.prefix
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
$$;
grant execute on function annex.find_api_key(text) to annex_api;

alter table annex.api_keys enable row level security, force row level security;
create policy api_keys_owner on annex.api_keys to annex_owner using (true) with check (true);

reset role;
