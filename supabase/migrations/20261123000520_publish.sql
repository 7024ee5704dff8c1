-- What a publisher's transaction pays: one event in one step, permissions looked up without listing workspaces.

set role annex_owner;

-- RFC 9562, section 5.7: 48 bits of Unix milliseconds, then 12 bits of the millisecond's fraction (section 6.2,
-- method 3), so that ids made one after the other sort in that order; 62 random bits follow.
-- Microseconds * 4096 / 1000 are both in one number. One expression, so that the planner puts it in the call's place.
create or replace function annex.uuid7() returns uuid language sql volatile parallel safe as $$
  select (
    overlay(
      lpad(to_hex((extract(epoch from clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0')
      placing '7' from 13 for 0
    ) || right(gen_random_uuid()::text, 18)
  )::uuid
$$;

-- Says whether the caller holds a permission in a workspace; for single checks. In a policy prefer workspace_ids.
create or replace function annex.has_permission(workspace_id uuid, permission text) returns boolean
language plpgsql stable security definer set search_path = '' as $$
declare
  claims jsonb := annex.claims();
begin
  if claims ->> 'role' = 'authenticated' then
    return exists (
      select from annex.members m
      join annex.workspaces w on w.id = m.workspace_id and w.deleted_at is null
      join annex.roles r on r.key = m.role and (r.workspace_id is null or r.workspace_id = m.workspace_id)
      where m.workspace_id = has_permission.workspace_id
        and m.user_id = (claims ->> 'sub')::uuid
        and m.status = 'active'
        and has_permission.permission = any (r.permissions)
        and (not w.require_aal2 or has_permission.permission = 'workspace:read' or claims ->> 'aal' = 'aal2')
    );
  elsif annex.is_key() then
    if has_permission.workspace_id is distinct from (claims ->> 'workspace_id')::uuid
      or not coalesce(claims -> 'permissions' ? has_permission.permission, false)
    then
      return false;
    end if;
  elsif not annex.is_operator() then
    return false;
  end if;
  return exists (
    select from annex.workspaces w where w.id = has_permission.workspace_id and w.deleted_at is null
  );
end
$$;

-- Publish one event in the caller's own transaction: it is seen if, and only after, that commits. Call it after the
-- statement that locks what the event is about, or two transactions' events may be read in the other order.
-- The rules are those of publish_events; this is the way of a single event, without JSON in between.
create or replace function annex.publish(
  workspace_id uuid,
  type text,
  data jsonb default '{}',
  topics text[] default '{}',
  subject text default null,
  source text default 'sql',
  key text default null,
  visibility text default 'feed',
  occurred_at timestamptz default null
) returns uuid
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  id uuid := annex.uuid7();
  kept uuid;
begin
  -- A request speaks for its principal. A session of your own without claims is as trusted as the right to connect and call.
  if not annex.has_permission(publish.workspace_id, 'events:publish') then
    if not (
      (coalesce(annex.claims() ->> 'role' = 'service_role', false) and session_user <> 'annex_api')
      or (annex.claims() = '{}' and session_user not in ('annex_api', 'authenticator'))
    ) then
      raise exception 'permission events:publish is needed' using errcode = 'insufficient_privilege';
    end if;
    if not exists (select from annex.workspaces w where w.id = publish.workspace_id and w.deleted_at is null) then
      raise exception 'workspace does not exist' using errcode = 'foreign_key_violation';
    end if;
  end if;
  if publish.type like 'annex.%' then
    raise exception 'types that begin with annex. are drawn by Annex itself'
      using errcode = 'check_violation', constraint = 'events_type_reserved';
  end if;
  if array_ndims(topics) > 1 then
    raise exception 'topics are a list' using errcode = 'check_violation', constraint = 'events_topics_check';
  end if;
  if key is not null then
    loop
      insert into annex.event_keys (workspace_id, source, key, event_id)
      values (publish.workspace_id, publish.source, publish.key, id)
      on conflict do nothing;
      exit when found;
      select k.event_id into kept from annex.event_keys k
      where k.workspace_id = publish.workspace_id and k.source = publish.source and k.key = publish.key;
      if found then
        return kept;
      end if;
      -- It expired in between: the key is free again.
    end loop;
  end if;
  insert into annex.events
    (event_id, workspace_id, type, source, key, subject, topics, actor, visibility, data, occurred_at)
  values (id, publish.workspace_id, publish.type, publish.source, publish.key, publish.subject,
    coalesce(publish.topics, '{}'), annex.principal(), coalesce(publish.visibility, 'feed'),
    coalesce(publish.data, '{}'), coalesce(publish.occurred_at, now()));
  insert into annex.pending (event_id, workspace_id) values (id, publish.workspace_id);
  return id;
end
$$;

reset role;
