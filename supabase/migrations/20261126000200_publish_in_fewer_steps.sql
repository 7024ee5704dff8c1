-- Publishing once more, with fewer steps: one expression finds the usual case, and its insert looks the workspace up.

set role annex_owner;

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
  new_id uuid := annex.uuid7();
  claims jsonb;
  author text;
  kept uuid;
begin
  -- One expression for all that is not the usual: plpgsql prepares each anew in every transaction.
  if coalesce(current_setting('request.jwt.claims', true), '') <> '' or session_user in ('annex_api', 'authenticator')
    or publish.workspace_id is null or publish.type like 'annex.%' or array_ndims(topics) > 1 or key is not null
  then
    -- A session of your own without claims is as trusted as the right to connect and call; so is service_role. Any
    -- other request speaks for its principal.
    claims := annex.claims();
    if (claims = '{}' and session_user not in ('annex_api', 'authenticator'))
      or (claims ->> 'role' = 'service_role' and session_user <> 'annex_api')
    then
      author := 'system';
      -- Before the key is looked at, which outlives its workspace.
      if not exists (select from annex.workspaces w where w.id = publish.workspace_id and w.deleted_at is null) then
        raise exception 'workspace does not exist' using errcode = 'foreign_key_violation';
      end if;
    elsif not annex.has_permission(publish.workspace_id, 'events:publish') then
      raise exception 'permission events:publish is needed' using errcode = 'insufficient_privilege';
    elsif claims ->> 'role' = 'authenticated' then
      -- As annex.principal() would say it, which reads the claims anew for each part of its answer.
      author := 'user:' || (claims ->> 'sub')::uuid;
    else
      author := annex.principal();
    end if;
    if publish.type like 'annex.%' then
      raise exception 'types that begin with annex. are drawn by Annex itself'
        using errcode = 'check_violation', constraint = 'events_type_reserved';
    elsif array_ndims(topics) > 1 then
      raise exception 'topics are a list' using errcode = 'check_violation', constraint = 'events_topics_check';
    end if;
    while key is not null loop
      insert into annex.event_keys (workspace_id, source, key, event_id)
      values (publish.workspace_id, publish.source, publish.key, new_id)
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
  with queued as (
    insert into annex.pending (event_id, workspace_id) values (new_id, publish.workspace_id)
  )
  insert into annex.events
    (event_id, workspace_id, type, source, key, subject, topics, actor, visibility, data, occurred_at)
  select new_id, w.id, publish.type, publish.source, publish.key, publish.subject, coalesce(publish.topics, '{}'),
    coalesce(author, 'system'), coalesce(publish.visibility, 'feed'), coalesce(publish.data, '{}'),
    coalesce(publish.occurred_at, now())
  from annex.workspaces w where w.id = publish.workspace_id and w.deleted_at is null;
  if not found then
    raise exception 'workspace does not exist' using errcode = 'foreign_key_violation';
  end if;
  return new_id;
end
$$;

reset role;
