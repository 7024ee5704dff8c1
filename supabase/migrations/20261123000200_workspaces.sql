-- Profiles, workspaces, roles, members and API keys, and the functions that say what the caller may do in them.

set role annex_owner;

create table annex.profiles (
  user_id uuid not null,
  email text,
  display_name text not null default '',
  avatar_url text,
  locale text,
  time_zone text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint profiles_pkey primary key (user_id),
  constraint profiles_email_check check (char_length(email) between 1 and 320),
  constraint profiles_display_name_check check (char_length(display_name) <= 200),
  constraint profiles_avatar_url_check check (char_length(avatar_url) between 1 and 2048),
  constraint profiles_locale_check check (char_length(locale) between 2 and 35),
  constraint profiles_time_zone_check check (char_length(time_zone) between 1 and 64)
);

create table annex.workspaces (
  id uuid not null default annex.uuid7(),
  slug text not null,
  name text not null,
  external_id text,
  metadata jsonb not null default '{}',
  require_aal2 boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  deleted_at timestamptz,
  constraint workspaces_pkey primary key (id),
  constraint workspaces_created_by_fkey foreign key (created_by) references annex.profiles (user_id) on delete set null,
  constraint workspaces_slug_check check (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  -- A path names a workspace by id or slug; a slug that looks like an id could shadow another workspace.
  constraint workspaces_slug_not_uuid_check check (
    slug !~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
  ),
  constraint workspaces_name_check check (char_length(name) between 1 and 200),
  constraint workspaces_external_id_check check (char_length(external_id) between 1 and 200),
  constraint workspaces_metadata_check check (
    jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384
  )
);
create unique index workspaces_slug_key on annex.workspaces (slug) where deleted_at is null;

-- Every permission there is; checks and the built-in roles draw on this one list.
create function annex.permissions() returns text[] language sql immutable parallel safe as $$
  select array[
    'workspace:read', 'workspace:update', 'workspace:delete',
    'members:read', 'members:manage', 'roles:read', 'roles:manage',
    'invitations:read', 'invitations:manage', 'keys:read', 'keys:manage',
    'events:read', 'events:publish', 'events:audit',
    'subscriptions:manage', 'preferences:manage'
  ]
$$;
grant execute on function annex.permissions() to annex_api, authenticated, service_role;

create table annex.roles (
  id uuid not null default annex.uuid7(),
  workspace_id uuid,
  key text not null,
  name text not null,
  permissions text[] not null,
  grantable text[] not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint roles_pkey primary key (id),
  constraint roles_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint roles_workspace_id_key_key unique nulls not distinct (workspace_id, key),
  constraint roles_key_check check (key ~ '^[a-z][a-z0-9_-]{0,62}$'),
  -- A workspace's own role never takes a built-in one's name.
  constraint roles_builtin_check check (
    (workspace_id is null) = (key in ('owner', 'admin', 'member', 'viewer'))
  ),
  constraint roles_name_check check (char_length(name) between 1 and 100),
  constraint roles_permissions_check check (permissions <@ annex.permissions())
);

insert into annex.roles (key, name, permissions, grantable) values
  ('viewer', 'Viewer', array['workspace:read', 'members:read', 'roles:read', 'events:read'], '{}'),
  ('member', 'Member', array['workspace:read', 'members:read', 'roles:read', 'events:read', 'events:publish'], '{}'),
  ('admin', 'Admin', array_remove(annex.permissions(), 'workspace:delete'), array['admin', 'member', 'viewer']),
  ('owner', 'Owner', annex.permissions(), array['owner', 'admin', 'member', 'viewer']);

create table annex.members (
  workspace_id uuid not null,
  user_id uuid not null,
  role text not null,
  status text not null default 'active',
  metadata jsonb not null default '{}',
  joined_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint members_pkey primary key (workspace_id, user_id),
  constraint members_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint members_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint members_role_check check (role ~ '^[a-z][a-z0-9_-]{0,62}$'),
  constraint members_status_check check (status in ('active', 'suspended')),
  constraint members_metadata_check check (
    jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16384
  )
);
create index members_user_id_idx on annex.members (user_id, workspace_id);
create index members_joined_at_idx on annex.members (workspace_id, joined_at desc, user_id desc);

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
  constraint api_keys_name_check check (char_length(name) between 1 and 100),
  constraint api_keys_prefix_check check (prefix ~ '^[0-9A-Za-z]{12}$'),
  constraint api_keys_secret_hash_check check (octet_length(secret_hash) = 32),
  constraint api_keys_permissions_check check (permissions <@ annex.permissions())
);
create index api_keys_workspace_id_idx on annex.api_keys (workspace_id, id desc);

create trigger profiles_touch before update on annex.profiles for each row execute function annex.touch();
create trigger workspaces_touch before update on annex.workspaces for each row execute function annex.touch();
create trigger roles_touch before update on annex.roles for each row execute function annex.touch();
create trigger members_touch before update on annex.members for each row execute function annex.touch();
create trigger api_keys_touch before update on annex.api_keys for each row execute function annex.touch();

-- The workspaces in which the caller holds a permission. Policies call it once a statement:
--   workspace_id = any(array(select annex.workspace_ids('events:read')))
-- Reading the workspace itself never asks for a second factor, so that a client can see that one is needed.
create function annex.workspace_ids(permission text) returns setof uuid
language sql stable security definer set search_path = '' as $$
  select m.workspace_id
  from annex.members m
  join annex.workspaces w on w.id = m.workspace_id and w.deleted_at is null
  join annex.roles r on r.key = m.role and (r.workspace_id is null or r.workspace_id = m.workspace_id)
  where m.user_id = annex.user_id()
    and m.status = 'active'
    and permission = any (r.permissions)
    and (not w.require_aal2 or permission = 'workspace:read' or annex.claims() ->> 'aal' = 'aal2')
  union all
  select w.id
  from annex.workspaces w
  -- A user's token may carry a claim of the same name that is no UUID: even the planner may not cast that one.
  where annex.is_key()
    and w.id = case when annex.is_key() then (annex.claims() ->> 'workspace_id')::uuid end
    and w.deleted_at is null
    and annex.claims() -> 'permissions' ? permission
$$;
grant execute on function annex.workspace_ids(text) to annex_api, authenticated, service_role;

-- Says whether the caller is an active member of a workspace; for policies on your own tables.
create function annex.is_member(workspace_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
  select exists (
    select from annex.members m
    join annex.workspaces w on w.id = m.workspace_id and w.deleted_at is null
    where m.workspace_id = is_member.workspace_id and m.user_id = annex.user_id() and m.status = 'active'
  )
$$;
grant execute on function annex.is_member(uuid) to annex_api, authenticated, service_role;

-- Says whether the caller holds a permission in a workspace; for single checks. In a policy prefer workspace_ids.
create function annex.has_permission(workspace_id uuid, permission text) returns boolean
language sql stable security definer set search_path = '' as $$
  select has_permission.workspace_id in (select annex.workspace_ids(has_permission.permission))
    or (
      annex.is_operator()
      and exists (select from annex.workspaces w where w.id = has_permission.workspace_id and w.deleted_at is null)
    )
$$;
grant execute on function annex.has_permission(uuid, text) to annex_api, authenticated, service_role;

-- What the caller may do in the workspace that a path names by id or slug; no row where it is out of their sight.
-- One round trip at the start of a request: it makes the name canonical, too.
create function annex.access(ws text)
returns table (workspace_id uuid, permissions text[], needs_aal2 boolean)
language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
  found_id uuid;
  aal2 boolean;
begin
  if ws ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
    select w.id, w.require_aal2 into found_id, aal2
    from annex.workspaces w where w.id = ws::uuid and w.deleted_at is null;
  else
    select w.id, w.require_aal2 into found_id, aal2
    from annex.workspaces w where w.slug = ws and w.deleted_at is null;
  end if;
  if found_id is null then
    return;
  elsif annex.is_operator() then
    return query select found_id, annex.permissions(), false;
  elsif annex.is_key() then
    return query
      select found_id, array(select jsonb_array_elements_text(annex.claims() -> 'permissions')), false
      where found_id = (annex.claims() ->> 'workspace_id')::uuid;
  else
    return query
      select found_id, r.permissions, aal2 and coalesce(annex.claims() ->> 'aal', '') <> 'aal2'
      from annex.members m
      join annex.roles r on r.key = m.role and (r.workspace_id is null or r.workspace_id = found_id)
      where m.workspace_id = found_id and m.user_id = annex.user_id() and m.status = 'active';
  end if;
end
$$;
grant execute on function annex.access(text) to annex_api;

-- A key by its public prefix. The caller compares the hash; nothing else of the table is readable.
create function annex.find_api_key(prefix text)
returns table (id uuid, workspace_id uuid, secret_hash bytea, permissions text[], expires_at timestamptz)
language sql stable security definer set search_path = '' as $$
  select k.id, k.workspace_id, k.secret_hash, k.permissions, k.expires_at
  from annex.api_keys k
  join annex.workspaces w on w.id = k.workspace_id and w.deleted_at is null
  where k.prefix = find_api_key.prefix
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
$$;
grant execute on function annex.find_api_key(text) to annex_api;

-- Create a workspace whose owner is the calling user. A definer function, as the caller is no member before it.
-- Without a slug one is made from the name; a taken one gets a random ending.
create function annex.create_workspace(
  name text,
  slug text default null,
  external_id text default null,
  metadata jsonb default '{}',
  require_aal2 boolean default false
) returns uuid
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
  stem text := nullif(trim(both '-' from left(
    regexp_replace(lower(create_workspace.name), '[^a-z0-9]+', '-', 'g'), 50)), '');
  made text := coalesce(create_workspace.slug, stem, 'workspace');
  created uuid;
begin
  if caller is null then
    raise exception 'only a signed-in user creates a workspace' using errcode = 'insufficient_privilege';
  end if;
  if create_workspace.slug is null and made ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    made := 'workspace-' || made;  -- a slug is never shaped like an id
  end if;
  insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
  on conflict (user_id) do nothing;
  loop
    insert into annex.workspaces (slug, name, external_id, metadata, require_aal2, created_by)
    values (
      made, create_workspace.name, create_workspace.external_id, create_workspace.metadata,
      create_workspace.require_aal2, caller
    )
    on conflict (slug) where deleted_at is null do nothing
    returning id into created;
    exit when created is not null;
    if create_workspace.slug is not null then
      raise exception 'slug is taken' using errcode = 'unique_violation', constraint = 'workspaces_slug_key';
    end if;
    made := coalesce(stem, 'workspace') || '-' || substring(replace(gen_random_uuid()::text, '-', '') for 8);
  end loop;
  insert into annex.members (workspace_id, user_id, role) values (created, caller, 'owner');
  return created;
end
$$;
grant execute on function annex.create_workspace(text, text, text, jsonb, boolean) to annex_api, authenticated;

-- Soft-delete a workspace: a definer function, as the row leaves the caller's sight while being written.
-- With expected_version, only that version is deleted. Returns whether a row was.
create function annex.delete_workspace(workspace_id uuid, expected_version integer default null) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  if not annex.has_permission(delete_workspace.workspace_id, 'workspace:delete') then
    raise exception 'permission workspace:delete is needed' using errcode = 'insufficient_privilege';
  end if;
  update annex.workspaces w set deleted_at = now()
  where w.id = delete_workspace.workspace_id and w.deleted_at is null
    and (expected_version is null or w.version = expected_version);
  return found;
end
$$;
grant execute on function annex.delete_workspace(uuid, integer) to annex_api, authenticated;

alter table annex.profiles enable row level security, force row level security;
alter table annex.workspaces enable row level security, force row level security;
alter table annex.roles enable row level security, force row level security;
alter table annex.members enable row level security, force row level security;
alter table annex.api_keys enable row level security, force row level security;

-- Definer functions run as annex_owner, which has no BYPASSRLS: without these, forced RLS would recurse into itself.
create policy profiles_owner on annex.profiles to annex_owner using (true) with check (true);
create policy workspaces_owner on annex.workspaces to annex_owner using (true) with check (true);
create policy roles_owner on annex.roles to annex_owner using (true) with check (true);
create policy members_owner on annex.members to annex_owner using (true) with check (true);
create policy api_keys_owner on annex.api_keys to annex_owner using (true) with check (true);

create policy members_select on annex.members for select to annex_api, authenticated
  using (workspace_id = any (array(select annex.workspace_ids('members:read'))));
create policy members_operator on annex.members for select to annex_api
  using ((select annex.is_operator()));

-- A profile shows to its user and to whoever may see one of its memberships: the subquery runs under members' policies.
create policy profiles_select on annex.profiles for select to annex_api, authenticated
  using (
    user_id = (select annex.user_id())
    or exists (select from annex.members m where m.user_id = profiles.user_id)
  );
create policy profiles_insert on annex.profiles for insert to annex_api
  with check (user_id = (select annex.user_id()));
create policy profiles_update on annex.profiles for update to annex_api
  using (user_id = (select annex.user_id()));

create policy workspaces_select on annex.workspaces for select to annex_api, authenticated
  using (deleted_at is null and id = any (array(select annex.workspace_ids('workspace:read'))));
create policy workspaces_update on annex.workspaces for update to annex_api
  using (deleted_at is null and id = any (array(select annex.workspace_ids('workspace:update'))));
create policy workspaces_operator on annex.workspaces to annex_api
  using (deleted_at is null and (select annex.is_operator()));

create policy roles_select on annex.roles for select to annex_api, authenticated
  using (workspace_id is null or workspace_id = any (array(select annex.workspace_ids('roles:read'))));
create policy roles_operator on annex.roles for select to annex_api
  using ((select annex.is_operator()));

grant select, insert (user_id, email), update (email, display_name, avatar_url, locale, time_zone)
  on annex.profiles to annex_api;
grant select, update (slug, name, external_id, metadata, require_aal2) on annex.workspaces to annex_api;
grant select on annex.roles, annex.members to annex_api;

grant select (user_id, email, display_name, avatar_url) on annex.profiles to authenticated;
grant select (id, slug, name, external_id, metadata, require_aal2, created_at, updated_at, version)
  on annex.workspaces to authenticated;
grant select (workspace_id, key, name, permissions, grantable) on annex.roles to authenticated;
grant select (workspace_id, user_id, role, status, joined_at, updated_at, version)
  on annex.members to authenticated;

reset role;

-- As the migrating role: it may reference auth.users, which annex_owner may not, and perhaps may not be allowed to.
alter table annex.profiles
  add constraint profiles_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade;
