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
  member_limit integer,
  allowed_email_domains text[],
  strict_event_types boolean not null default false,
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
  constraint workspaces_member_limit_check check (member_limit between 1 and 1000000),
  constraint workspaces_allowed_email_domains_check check (
    array_ndims(allowed_email_domains) = 1 and cardinality(allowed_email_domains) <= 100
    and array_position(allowed_email_domains, null) is null
    and array_to_string(allowed_email_domains, ',') ~ '^[a-z0-9-]+([.][a-z0-9-]+)+(,[a-z0-9-]+([.][a-z0-9-]+)+)*$'
    and char_length(array_to_string(allowed_email_domains, ',')) <= 10000
  ),
  constraint workspaces_external_id_check check (char_length(external_id) between 1 and 200),
  constraint workspaces_metadata_check check (
    jsonb_typeof(metadata) = 'object' and annex.json_bytes(metadata) <= 16384
  )
);
create unique index workspaces_slug_key on annex.workspaces (slug) where deleted_at is null;
create index workspaces_deleted_at_idx on annex.workspaces (deleted_at) where deleted_at is not null;

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
  constraint roles_permissions_check check (permissions <@ annex.permissions()),
  -- A star stands for every role of the workspace's own.
  constraint roles_grantable_check check (
    cardinality(grantable) <= 101 and array_position(grantable, null) is null
    and array_to_string(grantable, ',') ~ '^(([*]|[a-z][a-z0-9_-]{0,62})(,([*]|[a-z][a-z0-9_-]{0,62}))*)?$'
  )
);

insert into annex.roles (key, name, permissions, grantable) values
  ('viewer', 'Viewer', array['workspace:read', 'members:read', 'roles:read', 'events:read'], '{}'),
  ('member', 'Member', array['workspace:read', 'members:read', 'roles:read', 'events:read', 'events:publish'], '{}'),
  ('admin', 'Admin', array_remove(annex.permissions(), 'workspace:delete'), array['admin', 'member', 'viewer', '*']),
  ('owner', 'Owner', annex.permissions(), array['owner', 'admin', 'member', 'viewer', '*']);

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

-- BEFORE trigger of a table with workspace_id and role: refuse a role that the workspace does not have. A foreign key could
-- not lead to built-in roles and to the workspace's own at once. Built-in roles never go; one of the workspace's own is
-- written as it is: who deletes it waits for that, then sees who holds it, or fails in a snapshot of before.
create function annex.check_role() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.role in ('owner', 'admin', 'member', 'viewer') then
    return new;
  end if;
  update annex.roles r set name = r.name where r.workspace_id = new.workspace_id and r.key = new.role;
  if not found then
    raise exception 'There is no role % in this workspace.', new.role
      using errcode = 'foreign_key_violation', constraint = 'unknown_role';
  end if;
  return new;
end
$$;
create trigger members_role before insert or update of workspace_id, role on annex.members
  for each row execute function annex.check_role();

-- BEFORE trigger of roles: a role that a member holds stays, under its name. The row is locked by now, so that nobody can
-- be given it meanwhile. With its workspace it goes all the same.
create function annex.keep_role() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from annex.workspaces w where w.id = old.workspace_id)
    and exists (select from annex.members m where m.workspace_id = old.workspace_id and m.role = old.key)
  then
    raise exception 'A member holds this role; give them another one first.'
      using errcode = 'foreign_key_violation', constraint = 'role_in_use';
  end if;
  return case when tg_op = 'DELETE' then old else new end;
end
$$;
create trigger roles_keep before delete or update of workspace_id, key on annex.roles
  for each row execute function annex.keep_role();

-- BEFORE trigger of members: the last active owner stays. A deleted user or workspace takes its memberships along all the
-- same; an operator gives a workspace without an owner a new one. The workspace is written as it is: a second transaction
-- that takes an owner away waits for that, then sees what the first left, or fails in a snapshot of before.
create function annex.keep_owner() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if old.role = 'owner' and old.status = 'active' and (
    tg_op = 'DELETE' or (new.workspace_id, new.user_id, new.role, new.status)
      is distinct from (old.workspace_id, old.user_id, old.role, old.status)
  ) then
    update annex.workspaces w set deleted_at = w.deleted_at where w.id = old.workspace_id and w.deleted_at is null;
    if found
      and exists (select from annex.profiles p where p.user_id = old.user_id)
      and not exists (
        select from annex.members m
        where m.workspace_id = old.workspace_id and m.user_id <> old.user_id and m.role = 'owner' and m.status = 'active'
      )
    then
      raise exception 'This is the last owner; make somebody else an owner first.'
        using errcode = 'check_violation', constraint = 'last_owner';
    end if;
  end if;
  return case when tg_op = 'DELETE' then old else new end;
end
$$;
create trigger members_owner before delete or update of workspace_id, user_id, role, status on annex.members
  for each row execute function annex.keep_owner();

-- BEFORE trigger of members: no more than the workspace's limit, suspended ones included. Counted under the workspace's
-- lock, written as above; without a limit nobody waits.
create function annex.keep_member_limit() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  seats integer;
begin
  if exists (select from annex.workspaces w where w.id = new.workspace_id and w.member_limit is not null) then
    update annex.workspaces w set member_limit = w.member_limit where w.id = new.workspace_id
    returning w.member_limit into seats;
    if (select count(*) from annex.members m where m.workspace_id = new.workspace_id and m.user_id <> new.user_id) >= seats
    then
      raise exception 'The workspace has as many members as it may have: %.', seats
        using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
    end if;
  end if;
  return new;
end
$$;
create trigger members_limit before insert or update of workspace_id on annex.members
  for each row execute function annex.keep_member_limit();

-- BEFORE trigger of workspaces: how many members one may have is what its operator sells, so its owners do not decide it.
create function annex.keep_operators_own() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.member_limit is distinct from old.member_limit
    and not (annex.is_operator() or annex.claims() = '{}' and session_user not in ('annex_api', 'authenticator'))
  then
    raise exception 'Only an operator sets member_limit; send an operator''s key.'
      using errcode = 'insufficient_privilege', constraint = 'operator_required';
  end if;
  return new;
end
$$;
create trigger workspaces_operators_own before update of member_limit on annex.workspaces
  for each row execute function annex.keep_operators_own();

-- A role of a workspace, or a built-in one, by its key; no row where there is none. Two looks into the index, as with "or"
-- the roles of all workspaces are read. Inlined where it stands in FROM.
create function annex.find_role(workspace_id uuid, key text) returns setof annex.roles language sql stable rows 1 as $$
  select r.* from annex.roles r where r.workspace_id = find_role.workspace_id and r.key = find_role.key
  union all
  select r.* from annex.roles r where r.workspace_id is null and r.key = find_role.key
$$;

-- What a user is granted: a row for each workspace in which they are active, with its tenant. Without the second factor that a
-- workspace demands, only workspace:read is left, so that a client can see that one is needed.
-- For annex.grants and annex.usual_publisher. Inlined where it stands in FROM.
create function annex.grants_of_user(user_id uuid, has_aal2 boolean)
returns table (workspace_id uuid, tenant uuid, permissions text[], needs_aal2 boolean, role text, grantable text[])
language sql stable rows 20 as $$
  select m.workspace_id, coalesce(w.created_by, w.id),
    case when not n.aal2 then r.permissions when 'workspace:read' = any (r.permissions) then '{workspace:read}' else '{}' end,
    n.aal2, r.key, case when n.aal2 then '{}' else r.grantable end
  from annex.members m
  join annex.workspaces w on w.id = m.workspace_id and w.deleted_at is null
  cross join annex.find_role(m.workspace_id, m.role) r,
  lateral (select w.require_aal2 and not has_aal2 as aal2) n
  where m.user_id = grants_of_user.user_id and m.status = 'active'
$$;

-- What the caller is granted: a row for each workspace in their sight, or for one alone. The one place that grants, with the
-- two rules that it calls; all that checks a permission asks here. A key's row is looked up each time, so no token gives more
-- than the key has now. An operator is granted everything, a workspace at a time.
-- With of_user or of_key, what that user is granted once they have passed every factor, or that key.
-- For Annex's own functions, which run as the owner with a search_path of their own; nobody else may call it.
create function annex.grants(only_id uuid default null, of_user uuid default null, of_key uuid default null)
returns table (workspace_id uuid, permissions text[], needs_aal2 boolean, role text, grantable text[])
language plpgsql stable rows 20 as $$
#variable_conflict use_column
declare
  claims jsonb := annex.claims();
  caller text := claims ->> 'role';
begin
  if of_user is not null or (of_key is null and caller = 'authenticated' and not claims ? 'annex_key') then
    return query
      select g.workspace_id, g.permissions, g.needs_aal2, g.role, g.grantable
      from annex.grants_of_user(
        coalesce(of_user, (claims ->> 'sub')::uuid), of_user is not null or claims ->> 'aal' is not distinct from 'aal2'
      ) g
      where g.workspace_id = coalesce(only_id, g.workspace_id);
  elsif of_key is not null or caller = 'authenticated' or (caller = 'annex_key' and session_user = 'annex_api') then
    return query
      select g.workspace_id, g.permissions, false, null::text, g.grantable
      from annex.grants_of_key(coalesce(of_key, annex.key_id())) g
      where g.workspace_id = coalesce(only_id, g.workspace_id);
  elsif caller = 'annex_operator' and session_user = 'annex_api' and only_id is not null then
    return query
      select w.id, annex.permissions(), false, null::text, array['owner', 'admin', 'member', 'viewer', '*']
      from annex.workspaces w where w.id = only_id and w.deleted_at is null;
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

-- The caller's role and permissions in each workspace, or in one, so that a client knows what to show. A key has no role;
-- an operator is told a workspace at a time.
create function annex.held(only_id uuid default null) returns table (workspace_id uuid, role text, permissions text[])
language plpgsql stable security definer rows 20 set search_path = pg_catalog, pg_temp as $$
begin
  return query select g.workspace_id, g.role, g.permissions from annex.grants(only_id) g;
end
$$;
grant execute on function annex.held(uuid) to annex_api, authenticated;

-- Says whether the caller is an active member of a workspace; for policies on your own tables.
create function annex.is_member(workspace_id uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- Without an id, grants says what the caller holds anywhere: a row of no workspace is nobody's.
  return annex.user_id() is not null and workspace_id is not null
    and exists (select from annex.grants(is_member.workspace_id));
end
$$;
grant execute on function annex.is_member(uuid) to annex_api, authenticated, service_role;

-- Says whether the caller holds a permission in a workspace; for single checks. In a policy prefer workspace_ids.
create function annex.has_permission(workspace_id uuid, permission text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return workspace_id is not null and exists (
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
  if workspace_id is null or held.permissions is null then
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

-- Raise if a list is longer than a number of items. For Annex's own functions.
create function annex.require_few(items text[], most integer) returns void
language plpgsql immutable as $$
begin
  if cardinality(items) > most then
    raise exception 'A list has more than % items.', most
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
end
$$;

-- Lock a workspace, so that one at a time joins it, invites into it, makes its keys, or changes its roles or rules; every
-- such function takes this lock before any other. Returns its row; null where it has been deleted.
create function annex.lock_workspace(workspace_id uuid) returns annex.workspaces
language sql volatile as $$
  select w.* from annex.workspaces w
  where w.id = lock_workspace.workspace_id and w.deleted_at is null for no key update
$$;

-- Say whether one who holds these permissions and may give these roles may give a role: their list names it, or has a star
-- and the role is the workspace's own, and they hold all that it holds.
create function annex.is_grantable(given annex.roles, permissions text[], grantable text[]) returns boolean
language sql immutable as $$
  select given.permissions <@ permissions
    and (given.key = any (grantable) or (given.workspace_id is not null and '*' = any (grantable)))
$$;

-- Raise what keeps the caller from giving a role: that there is none of this name, that the caller's own role or key does
-- not name it among those to give, or that it holds a permission that the caller lacks. To take a role away, or to act on
-- somebody who holds it, asks the same. For Annex's own functions, wherever a role is given.
create function annex.require_grantable(workspace_id uuid, role text) returns void
language plpgsql stable as $$
declare
  given annex.roles := (select r from annex.find_role(require_grantable.workspace_id, require_grantable.role) r);
begin
  if given.id is null then
    raise exception 'There is no role % in this workspace.', require_grantable.role
      using errcode = 'foreign_key_violation', constraint = 'unknown_role';
  elsif not exists (
    select from annex.grants(require_grantable.workspace_id) g where annex.is_grantable(given, g.permissions, g.grantable)
  ) then
    raise exception 'The role % is not the caller''s to give or to take.', require_grantable.role
      using errcode = 'insufficient_privilege', constraint = 'not_grantable';
  end if;
end
$$;

-- Raise not_grantable for permissions that the caller lacks, and what require_grantable raises for each of the roles; a star
-- only if the caller may give every role of the workspace's own. For Annex's own functions, wherever rights are written down
-- for later: in a role or a key.
create function annex.require_within(workspace_id uuid, permissions text[], grantable text[]) returns void
language plpgsql stable as $$
declare
  held record;
  named text;
begin
  -- Before each item costs a look-up: their callers hold the workspace's lock.
  perform annex.require_few(require_within.permissions, 100), annex.require_few(require_within.grantable, 101);
  select g.permissions, g.grantable into held from annex.grants(require_within.workspace_id) g;
  if not coalesce(require_within.permissions <@ held.permissions, false)
    or ('*' = any (require_within.grantable) and not '*' = any (held.grantable))
  then
    raise exception 'Nobody gives more than they hold.'
      using errcode = 'insufficient_privilege', constraint = 'not_grantable';
  end if;
  foreach named in array array_remove(require_within.grantable, '*') loop
    perform annex.require_grantable(require_within.workspace_id, named);
  end loop;
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

-- Refuse a demand for a second factor by a user without one, because they would lock themselves out. For Annex's own functions.
create function annex.require_own_factor(require_aal2 boolean) returns void
language plpgsql stable as $$
begin
  if require_aal2 and annex.user_id() is not null and annex.claims() ->> 'aal' is distinct from 'aal2' then
    raise exception 'Raise your own session to aal2 before you demand it of others.'
      using errcode = 'insufficient_privilege', constraint = 'second_factor_required';
  end if;
end
$$;

-- Create a workspace whose owner is the calling user. A definer function, as the caller is no member before it.
-- Without a slug one is made from the name: its Latin letters without their marks. A taken one gets a random ending.
create function annex.create_workspace(
  name text,
  slug text default null,
  external_id text default null,
  metadata jsonb default '{}',
  require_aal2 boolean default false,
  event_retention_days integer default null,
  allowed_email_domains text[] default null
) returns annex.workspaces
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.require_user();
  plain text := regexp_replace(normalize(left(create_workspace.name, 200), NFKD), '[\u0300-\u036f]', '', 'g');
  stem text := nullif(trim(both '-' from left(regexp_replace(lower(plain), '[^a-z0-9]+', '-', 'g'), 50)), '');
  made text := coalesce(create_workspace.slug, stem, 'workspace');
  created annex.workspaces;
begin
  perform annex.require_own_factor(create_workspace.require_aal2);
  if create_workspace.slug is null and made ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    made := 'workspace-' || made;  -- a slug is never shaped like an id
  end if;
  insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
  on conflict (user_id) do nothing;
  loop
    insert into annex.workspaces (
      slug, name, external_id, metadata, require_aal2, event_retention_days, allowed_email_domains, created_by
    )
    values (
      made, create_workspace.name, create_workspace.external_id, coalesce(create_workspace.metadata, '{}'),
      coalesce(create_workspace.require_aal2, false), create_workspace.event_retention_days,
      create_workspace.allowed_email_domains, caller
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
grant execute on function annex.create_workspace(text, text, text, jsonb, boolean, integer, text[])
  to annex_api, authenticated;

-- Change a workspace by a merge patch (RFC 7396) of its settings; takes workspace:update, and workspace:read for the answer.
-- With versions, only one of those is changed. Returns its row. Raises not_found, forbidden, second_factor_required,
-- invalid_request, operator_required for another member_limit, precondition_failed, and the constraints of the table.
create function annex.update_workspace(workspace_id uuid, patch jsonb, versions integer[] default null)
returns annex.workspaces
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  workspace annex.workspaces;
  changed annex.workspaces;
begin
  perform annex.require(update_workspace.workspace_id, 'workspace:update');
  perform annex.require(update_workspace.workspace_id, 'workspace:read');
  perform annex.require_members(patch, array[
    'name', 'slug', 'external_id', 'metadata', 'require_aal2', 'event_retention_days', 'member_limit',
    'allowed_email_domains', 'strict_event_types'
  ]);
  perform annex.require_own_factor((patch ->> 'require_aal2')::boolean);
  workspace := annex.lock_workspace(update_workspace.workspace_id);
  if workspace.id is null then
    -- Deleted meanwhile, and so out of sight by now.
    perform annex.require(update_workspace.workspace_id, 'workspace:update');
  end if;
  perform annex.require_version(workspace.version, versions);
  if patch = '{}' then
    return workspace;
  end if;
  changed := jsonb_populate_record(workspace, patch - 'metadata');
  update annex.workspaces w
  set name = changed.name, slug = changed.slug, external_id = changed.external_id, require_aal2 = changed.require_aal2,
    event_retention_days = changed.event_retention_days, member_limit = changed.member_limit,
    allowed_email_domains = changed.allowed_email_domains, strict_event_types = changed.strict_event_types,
    metadata = case patch -> 'metadata' when 'null' then '{}'
      else annex.merge_patch(w.metadata, coalesce(patch -> 'metadata', '{}')) end
  where w.id = workspace.id
  returning w.* into changed;
  return changed;
end
$$;
grant execute on function annex.update_workspace(uuid, jsonb, integer[]) to annex_api, authenticated;

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
    perform annex.require_version(null, coalesce(versions, '{}'));
  end if;
end
$$;
grant execute on function annex.delete_workspace(uuid, integer[]) to annex_api, authenticated;

-- Lock a member's row for who holds a permission, or, without one, for who sees the workspace. For Annex's own functions.
create function annex.lock_member(workspace_id uuid, member_id uuid, permission text, versions integer[])
returns annex.members
language plpgsql as $$
declare
  locked annex.members;
begin
  if permission is not null then
    perform annex.require(lock_member.workspace_id, permission);
  elsif not exists (select from annex.grants(lock_member.workspace_id)) then
    perform annex.require(lock_member.workspace_id, 'workspace:read');
  end if;
  select m.* into locked from annex.members m
  where m.workspace_id = lock_member.workspace_id and m.user_id = member_id for update;
  if not found then
    raise exception 'There is no such member here.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_version(locked.version, versions);
  return locked;
end
$$;

-- Lock a workspace's own role, and all writing of its roles, for who may manage them and does not hold it. Its id is null if
-- it is not there. For Annex's own functions.
create function annex.lock_role(workspace_id uuid, key text) returns annex.roles
language plpgsql as $$
declare
  locked annex.roles;
begin
  perform annex.require(lock_role.workspace_id, 'roles:manage');
  if key in ('owner', 'admin', 'member', 'viewer') then
    raise exception 'Built-in roles stay as they are; make one of the workspace''s own.'
      using errcode = 'insufficient_privilege', constraint = 'forbidden';
  elsif exists (select from annex.grants(lock_role.workspace_id) g where g.role = lock_role.key) then
    raise exception 'Nobody changes the role that they hold.'
      using errcode = 'insufficient_privilege', constraint = 'forbidden';
  end if;
  perform annex.lock_workspace(lock_role.workspace_id);
  select r.* into locked from annex.roles r
  where r.workspace_id = lock_role.workspace_id and r.key = lock_role.key for update;
  return locked;
end
$$;

-- Change a member: their role, their status or their metadata (a merge patch); null leaves. Who acts on a member must be
-- able to give the role that the member has, and the new one. Of oneself nobody changes the status, and the role only to
-- one that the own role may give, so that it never gains anything: an owner steps down so. Returns the member as others
-- see them. Raises not_found, forbidden, not_grantable, unknown_role, last_owner, and precondition_failed for a version
-- that is none of those given.
create function annex.update_member(
  workspace_id uuid,
  member_id uuid,
  new_role text default null,
  new_status text default null,
  metadata_patch jsonb default null,
  versions integer[] default null
) returns table (
  user_id uuid, email text, display_name text, avatar_url text, role text, status text, metadata jsonb,
  joined_at timestamptz, updated_at timestamptz, version integer
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  before annex.members := annex.lock_member(update_member.workspace_id, member_id, 'members:manage', versions);
begin
  perform annex.refuse_size(metadata_patch);
  if member_id is distinct from annex.user_id() then
    perform annex.require_grantable(update_member.workspace_id, before.role);
  elsif new_status <> before.status then
    raise exception 'Nobody suspends themselves; leave the workspace instead.'
      using errcode = 'insufficient_privilege', constraint = 'forbidden';
  end if;
  if new_role <> before.role then
    perform annex.require_grantable(update_member.workspace_id, new_role);
  end if;
  return query
    with changed as (
      update annex.members m
      set role = coalesce(new_role, m.role), status = coalesce(new_status, m.status),
        metadata = case
          when metadata_patch is null then m.metadata
          when metadata_patch = 'null' then '{}'
          else annex.merge_patch(m.metadata, metadata_patch)
        end
      where m.workspace_id = update_member.workspace_id and m.user_id = member_id
      returning m.*
    )
    select c.user_id, p.email, p.display_name, p.avatar_url, c.role, c.status, c.metadata, c.joined_at, c.updated_at,
      c.version
    from changed c join annex.profiles p on p.user_id = c.user_id;
end
$$;
grant execute on function annex.update_member(uuid, uuid, text, text, jsonb, integer[]) to annex_api, authenticated;

-- Remove a member, or leave: that takes no permission, and no second factor. Raises what update_member raises.
create function annex.remove_member(workspace_id uuid, member_id uuid, versions integer[] default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  leaves boolean := coalesce(member_id = annex.user_id(), false);
  before annex.members := annex.lock_member(
    remove_member.workspace_id, member_id, case when leaves then null else 'members:manage' end, versions
  );
begin
  if not leaves then
    perform annex.require_grantable(remove_member.workspace_id, before.role);
  end if;
  delete from annex.members m where m.workspace_id = remove_member.workspace_id and m.user_id = member_id;
end
$$;
grant execute on function annex.remove_member(uuid, uuid, integer[]) to annex_api, authenticated;

-- Create a workspace's own role, or replace it. With versions, only one of those is replaced; is_new only creates, or, if
-- false, only replaces.
-- Permissions and roles to give are never above the author's, before as after; nobody replaces the role that they hold.
-- Returns the role; its created_at is now() if it is new. Raises forbidden, not_grantable, unknown_role,
-- role_without_sight, limit_reached, precondition_failed.
create function annex.put_role(
  workspace_id uuid,
  key text,
  name text,
  permissions text[],
  grantable text[] default '{}',
  versions integer[] default null,
  is_new boolean default null
) returns annex.roles
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  before annex.roles := annex.lock_role(put_role.workspace_id, put_role.key);
  others text[] := array_remove(coalesce(put_role.grantable, '{}'), put_role.key);
  written annex.roles;
begin
  if before.id is not null then
    perform annex.require_grantable(put_role.workspace_id, put_role.key);
  elsif (select count(*) from annex.roles r where r.workspace_id = put_role.workspace_id) >= 100 then
    raise exception 'A workspace has at most 100 roles of its own.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  -- Where it is there and should be new, or the other way round, no version will do.
  perform annex.require_version(before.version, case when is_new = (before.id is not null) then '{}' else versions end);
  if not 'workspace:read' = any (put_role.permissions) then
    raise exception 'Every role holds workspace:read.'
      using errcode = 'check_violation', constraint = 'role_without_sight';
  end if;
  perform annex.require_within(put_role.workspace_id, put_role.permissions, others);
  -- To let a role give itself gives no more than it holds, but its author must be one who may give it.
  if before.id is null and put_role.key = any (put_role.grantable) and not exists (
    select from annex.grants(put_role.workspace_id) g where g.grantable && array['*', put_role.key]
  ) then
    raise exception 'The role % is not the caller''s to give.', put_role.key
      using errcode = 'insufficient_privilege', constraint = 'not_grantable';
  end if;
  insert into annex.roles as r (workspace_id, key, name, permissions, grantable)
  values (
    put_role.workspace_id, put_role.key, put_role.name,
    -- Each once, in the list's order.
    array(select p from unnest(annex.permissions()) p where p = any (put_role.permissions))
      || array(select p from unnest(put_role.permissions) p where p <> all (annex.permissions())),
    array(select distinct g from unnest(put_role.grantable) g order by 1)
  )
  on conflict (workspace_id, key) do update
    set name = excluded.name, permissions = excluded.permissions, grantable = excluded.grantable
  returning r.* into written;
  return written;
end
$$;
grant execute on function annex.put_role(uuid, text, text, text[], text[], integer[], boolean) to annex_api, authenticated;

-- Delete a workspace's own role, which nobody holds. Whoever might give it has one less to give, and what offers it ends:
-- joining rules and open invitations name it by its key, and so would offer another role of that key later. Raises
-- forbidden, not_grantable, not_found, role_in_use, precondition_failed.
create function annex.delete_role(workspace_id uuid, key text, versions integer[] default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  before annex.roles := annex.lock_role(delete_role.workspace_id, delete_role.key);
begin
  if before.id is null then
    raise exception 'There is no such role here.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_grantable(delete_role.workspace_id, delete_role.key);
  perform annex.require_version(before.version, versions);
  delete from annex.join_rules j where j.workspace_id = delete_role.workspace_id and j.role = before.key;
  update annex.invitations i set status = 'revoked', token_hash = null
  where i.workspace_id = delete_role.workspace_id and i.role = before.key and i.status in ('requested', 'pending');
  delete from annex.roles r where r.id = before.id;
  update annex.roles r set grantable = array_remove(r.grantable, before.key)
  where r.workspace_id = delete_role.workspace_id and before.key = any (r.grantable);
  update annex.api_keys k set grantable = array_remove(k.grantable, before.key)
  where k.workspace_id = delete_role.workspace_id and before.key = any (k.grantable);
end
$$;
grant execute on function annex.delete_role(uuid, text, integer[]) to annex_api, authenticated;

-- Answer questions about permissions: an array of objects with `permission`, and `user_id` for another than the caller. A row
-- for each, in the array's order, with the reason. To ask about others takes members:read; they are taken to have passed
-- every factor, as nobody knows the session in which they would act.
create function annex.check_permissions(workspace_id uuid, questions jsonb)
returns table (ordinal integer, user_id uuid, allowed boolean, reason text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
  question record;
  held record;
  asked uuid;
  status text;
begin
  perform annex.require(check_permissions.workspace_id, 'workspace:read');
  if jsonb_array_length(questions) not between 1 and 20 then
    raise exception '1 to 20 questions at once.'
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
  if exists (
    select from jsonb_array_elements(questions) q where (q.value ->> 'user_id')::uuid is distinct from caller
      and q.value ->> 'user_id' is not null
  ) then
    perform annex.require(check_permissions.workspace_id, 'members:read');
  end if;
  for question in
    select q.n::integer as n, q.value ->> 'permission' as permission,
      nullif((q.value ->> 'user_id')::uuid, caller) as other
    from jsonb_array_elements(questions) with ordinality as q (value, n)
  loop
    -- Looked up once for all questions about one and the same that follow each other.
    if question.n = 1 or question.other is distinct from asked then
      select g.permissions, g.needs_aal2 into held from annex.grants(check_permissions.workspace_id, question.other) g;
      asked := question.other;
    end if;
    ordinal := question.n;
    user_id := coalesce(question.other, caller);
    allowed := coalesce(question.permission = any (held.permissions), false);
    if allowed then
      reason := 'granted';
    elsif held.needs_aal2 then
      reason := 'second_factor_required';
    elsif held.permissions is not null then
      reason := 'missing_permission';
    else
      select m.status into status from annex.members m
      where m.workspace_id = check_permissions.workspace_id and m.user_id = question.other;
      reason := case status when 'suspended' then 'suspended' else 'not_a_member' end;
    end if;
    return next;
  end loop;
end
$$;
grant execute on function annex.check_permissions(uuid, jsonb) to annex_api;

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
create policy workspaces_operator on annex.workspaces for select to annex_api
  using (deleted_at is null and (select annex.is_operator()));

create policy roles_select on annex.roles for select to annex_api, authenticated
  using (workspace_id is null or workspace_id = any (array(select annex.workspace_ids('roles:read'))));
create policy roles_operator on annex.roles for select to annex_api
  using ((select annex.is_operator()));

grant select on annex.workspaces, annex.roles, annex.members to annex_api;

grant select (
  id, slug, name, external_id, metadata, require_aal2, event_retention_days, member_limit, allowed_email_domains,
  strict_event_types, created_at, updated_at, version
) on annex.workspaces to authenticated;
grant select (workspace_id, key, name, permissions, grantable) on annex.roles to authenticated;
grant select (workspace_id, user_id, role, status, joined_at, updated_at, version)
  on annex.members to authenticated;

reset role;

insert into annex.migrations (name) values ('03_workspaces');
