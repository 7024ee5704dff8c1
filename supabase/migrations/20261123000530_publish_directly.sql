-- Publishing again, with fewer steps: plpgsql prepares each expression anew in every transaction.

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
  claims jsonb := annex.claims();
  id uuid := annex.uuid7();
  author text := 'system';
begin
  -- A session of your own without claims is as trusted as the right to connect and call; so is service_role. Any other
  -- request speaks for its principal.
  if (claims = '{}' and session_user not in ('annex_api', 'authenticator'))
    or (claims ->> 'role' = 'service_role' and session_user <> 'annex_api')
  then
    if not exists (select from annex.workspaces w where w.id = publish.workspace_id and w.deleted_at is null) then
      raise exception 'workspace does not exist' using errcode = 'foreign_key_violation';
    end if;
  elsif annex.has_permission(publish.workspace_id, 'events:publish') then
    author := annex.principal();
  else
    raise exception 'permission events:publish is needed' using errcode = 'insufficient_privilege';
  end if;
  if publish.type like 'annex.%' or array_ndims(topics) > 1 then
    if publish.type like 'annex.%' then
      raise exception 'types that begin with annex. are drawn by Annex itself'
        using errcode = 'check_violation', constraint = 'events_type_reserved';
    end if;
    raise exception 'topics are a list' using errcode = 'check_violation', constraint = 'events_topics_check';
  end if;
  if key is not null then
    loop
      insert into annex.event_keys (workspace_id, source, key, event_id)
      values (publish.workspace_id, publish.source, publish.key, id)
      on conflict do nothing;
      exit when found;
      declare
        kept uuid;
      begin
        select k.event_id into kept from annex.event_keys k
        where k.workspace_id = publish.workspace_id and k.source = publish.source and k.key = publish.key;
        if found then
          return kept;
        end if;
      end;
      -- It expired in between: the key is free again.
    end loop;
  end if;
  with added as (
    insert into annex.events
      (event_id, workspace_id, type, source, key, subject, topics, actor, visibility, data, occurred_at)
    values (id, publish.workspace_id, publish.type, publish.source, publish.key, publish.subject,
      coalesce(publish.topics, '{}'), author, coalesce(publish.visibility, 'feed'),
      coalesce(publish.data, '{}'), coalesce(publish.occurred_at, now()))
  )
  insert into annex.pending (event_id, workspace_id) values (id, publish.workspace_id);
  return id;
end
$$;

reset role;
