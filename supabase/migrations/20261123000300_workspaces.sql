-- Workspaces, roles and members, and the functions that say what the caller may do in them.

set role annex_owner;

create table annex.workspaces (
  id uuid not null default annex.uuid7(),
  slug text not null,
  name text not null,
  external_id text,
  metadata jsonb not null default '{}',
  require_aal2 boolean not null default false,
  event_retention_days integer,
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
  constraint workspaces_event_retention_days_check check (event_retention_days between 1 and 3650),
  constraint workspaces_external_id_check check (char_length(external_id) between 1 and 200),
  constraint workspaces_metadata_check check (
    jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384
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
  constraint members_joined_at_check check (annex.is_rfc3339(joined_at)),
  constraint members_status_check check (status in ('active', 'suspended')),
  constraint members_metadata_check check (
    jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384
  )
);
create index members_user_id_idx on annex.members (user_id, workspace_id);
create index members_joined_at_idx on annex.members (workspace_id, joined_at desc, user_id desc);

create trigger workspaces_touch before update on annex.workspaces for each row execute function annex.touch();
create trigger roles_touch before update on annex.roles for each row execute function annex.touch();
create trigger members_touch before update on annex.members for each row execute function annex.touch();

-- What the caller is granted: a row for each workspace in their sight, or for one alone. The one place that grants; all
-- that checks a permission asks here. Without the second factor that a workspace demands, only workspace:read is left,
-- so that a client can see that one is needed. An operator is granted everything, a workspace at a time.
-- For Annex's own functions, which run as the owner with a search_path of their own; nobody else may call it.
create function annex.grants(only_id uuid default null)
returns table (workspace_id uuid, permissions text[], needs_aal2 boolean)
language plpgsql stable as $$
#variable_conflict use_column
declare
  claims jsonb := annex.claims();
  caller text := claims ->> 'role';
begin
  if caller = 'authenticated' then
    return query
      select m.workspace_id,
        case when n.aal2 then array(select 'workspace:read' where 'workspace:read' = any (r.permissions))
          else r.permissions end,
        n.aal2
      from annex.members m
      join annex.workspaces w on w.id = m.workspace_id and w.deleted_at is null
      join annex.roles r on r.key = m.role and (r.workspace_id is null or r.workspace_id = m.workspace_id),
      lateral (select w.require_aal2 and claims ->> 'aal' is distinct from 'aal2' as aal2) n
      where m.user_id = (claims ->> 'sub')::uuid and m.workspace_id = coalesce(only_id, m.workspace_id)
        and m.status = 'active';
  elsif caller = 'annex_key' and session_user = 'annex_api' and jsonb_typeof(claims -> 'permissions') = 'array' then
    return query
      select w.id, array(select jsonb_array_elements_text(claims -> 'permissions')), false
      from annex.workspaces w
      where w.id = (claims ->> 'workspace_id')::uuid and w.deleted_at is null and w.id = coalesce(only_id, w.id);
  elsif caller = 'annex_operator' and session_user = 'annex_api' and only_id is not null then
    return query
      select w.id, annex.permissions(), false from annex.workspaces w where w.id = only_id and w.deleted_at is null;
  end if;
end
$$;

-- The workspaces in which the caller holds a permission. Policies call it once a statement:
--   workspace_id = any (array(select annex.workspace_ids('events:read')))
create function annex.workspace_ids(permission text) returns setof uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query select g.workspace_id from annex.grants() g where permission = any (g.permissions);
end
$$;
grant execute on function annex.workspace_ids(text) to annex_api, authenticated, service_role;

-- Every permission of the caller in every workspace: for a policy on rows that each name the permission to see them.
create function annex.granted() returns table (workspace_id uuid, permission text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query select g.workspace_id, p from annex.grants() g, unnest(g.permissions) p;
end
$$;
grant execute on function annex.granted() to annex_api, authenticated;

-- Says whether the caller is an active member of a workspace; for policies on your own tables.
create function annex.is_member(workspace_id uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return annex.user_id() is not null and exists (select from annex.grants(is_member.workspace_id));
end
$$;
grant execute on function annex.is_member(uuid) to annex_api, authenticated, service_role;

-- Says whether the caller holds a permission in a workspace; for single checks. In a policy prefer workspace_ids.
create function annex.has_permission(workspace_id uuid, permission text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from annex.grants(has_permission.workspace_id) g where has_permission.permission = any (g.permissions)
  );
end
$$;
grant execute on function annex.has_permission(uuid, text) to annex_api, authenticated, service_role;

-- Raise what the caller lacks: sight of the workspace, the second factor, or the permission. For Annex's own functions.
create function annex.require(workspace_id uuid, permission text) returns void
language plpgsql stable as $$
declare
  held record;
begin
  select g.permissions, g.needs_aal2 into held from annex.grants(require.workspace_id) g;
  if held.permissions is null then
    raise exception 'There is no such workspace, or it is not yours to see.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  elsif require.permission = any (held.permissions) then
    return;
  elsif held.needs_aal2 then
    raise exception 'This workspace asks for a second factor; raise the session to aal2.'
      using errcode = 'insufficient_privilege', constraint = 'second_factor_required';
  end if;
  raise exception 'The caller lacks the permission % in this workspace.', require.permission
    using errcode = 'insufficient_privilege', constraint = 'forbidden';
end
$$;

-- What the caller may do in the workspace that a path names by id or slug; no row where it is out of their sight.
create function annex.access(ws text)
returns table (workspace_id uuid, permissions text[], needs_aal2 boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  found_id uuid;
begin
  if ws ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then
    found_id := ws;
  else
    select w.id into found_id from annex.workspaces w where w.slug = ws and w.deleted_at is null;
  end if;
  if found_id is not null then
    return query select g.workspace_id, g.permissions, g.needs_aal2 from annex.grants(found_id) g;
  end if;
end
$$;
grant execute on function annex.access(text) to annex_api;

-- Create a workspace whose owner is the calling user. A definer function, as the caller is no member before it.
-- Without a slug one is made from the name: its Latin letters without their marks. A taken one gets a random ending.
create function annex.create_workspace(
  name text,
  slug text default null,
  external_id text default null,
  metadata jsonb default '{}',
  require_aal2 boolean default false,
  event_retention_days integer default null
) returns annex.workspaces
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
  plain text := regexp_replace(normalize(create_workspace.name, NFKD), '[\u0300-\u036f]', '', 'g');
  stem text := nullif(trim(both '-' from left(regexp_replace(lower(plain), '[^a-z0-9]+', '-', 'g'), 50)), '');
  made text := coalesce(create_workspace.slug, stem, 'workspace');
  created annex.workspaces;
begin
  if caller is null then
    raise exception 'Only a signed-in user can do this; send a user''s access token.'
      using errcode = 'insufficient_privilege', constraint = 'user_required';
  end if;
  if coalesce(create_workspace.require_aal2, false) and annex.claims() ->> 'aal' is distinct from 'aal2' then
    raise exception 'Raise your own session to aal2 before you demand it of others.'
      using errcode = 'insufficient_privilege', constraint = 'second_factor_required';
  end if;
  if create_workspace.slug is null and made ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    made := 'workspace-' || made;  -- a slug is never shaped like an id
  end if;
  insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
  on conflict (user_id) do nothing;
  loop
    insert into annex.workspaces (slug, name, external_id, metadata, require_aal2, event_retention_days, created_by)
    values (
      made, create_workspace.name, create_workspace.external_id, coalesce(create_workspace.metadata, '{}'),
      coalesce(create_workspace.require_aal2, false), create_workspace.event_retention_days, caller
    )
    on conflict (slug) where deleted_at is null do nothing
    returning * into created;
    exit when created.id is not null;
    if create_workspace.slug is not null then
      raise exception 'Another workspace has this slug; choose another one.'
        using errcode = 'unique_violation', constraint = 'slug_taken';
    end if;
    made := coalesce(stem, 'workspace') || '-' || substring(replace(gen_random_uuid()::text, '-', '') for 8);
  end loop;
  insert into annex.members (workspace_id, user_id, role) values (created.id, caller, 'owner');
  return created;
end
$$;
grant execute on function annex.create_workspace(text, text, text, jsonb, boolean, integer)
  to annex_api, authenticated;

-- Soft-delete a workspace: a definer function, as the row leaves the caller's sight while being written. With versions,
-- only one of those is deleted. Raises precondition_failed when the workspace has another version by now.
create function annex.delete_workspace(workspace_id uuid, versions integer[] default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform annex.require(delete_workspace.workspace_id, 'workspace:delete');
  update annex.workspaces w set deleted_at = now()
  where w.id = delete_workspace.workspace_id and w.deleted_at is null
    and (versions is null or w.version = any (versions));
  if not found then
    -- Looked at once more: another request may have deleted it meanwhile.
    perform annex.require(delete_workspace.workspace_id, 'workspace:delete');
    raise exception 'The resource has changed since; read it again and repeat the change.'
      using errcode = 'check_violation', constraint = 'precondition_failed';
  end if;
end
$$;
grant execute on function annex.delete_workspace(uuid, integer[]) to annex_api, authenticated;

alter table annex.workspaces enable row level security, force row level security;
alter table annex.roles enable row level security, force row level security;
alter table annex.members enable row level security, force row level security;

create policy workspaces_owner on annex.workspaces to annex_owner using (true) with check (true);
create policy roles_owner on annex.roles to annex_owner using (true) with check (true);
create policy members_owner on annex.members to annex_owner using (true) with check (true);

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

grant select, update (slug, name, external_id, metadata, require_aal2, event_retention_days)
  on annex.workspaces to annex_api;
grant select on annex.roles, annex.members to annex_api;

grant select (
  id, slug, name, external_id, metadata, require_aal2, event_retention_days, created_at, updated_at, version
) on annex.workspaces to authenticated;
grant select (workspace_id, key, name, permissions, grantable) on annex.roles to authenticated;
grant select (workspace_id, user_id, role, status, joined_at, updated_at, version)
  on annex.members to authenticated;

reset role;
