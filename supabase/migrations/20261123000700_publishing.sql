-- Publishing: events of the caller's own, and one for every change to Annex's rows.

set role annex_owner;

-- Add one of Annex's own events and put it in line for the log. For Annex's functions and triggers; nobody else may call
-- it. With a user_id it is personal to that user. rights_of says whose rights the event changes: a principal's name, '*'
-- for everybody's in the workspace, null for nobody's. What is the workspace's own counts to its audit trail, unless it
-- ends something.
create function annex.append_event(
  workspace_id uuid,
  type text,
  subject text,
  data jsonb,
  permission text default null,
  rights_of text default null,
  user_id uuid default null,
  is_end boolean default false
) returns uuid
language plpgsql as $$
declare
  new_id uuid := annex.uuid7();
  caller text := annex.principal();
begin
  if append_event.user_id is null and not is_end then
    perform annex.spend_trail(append_event.workspace_id, append_event.data);
  end if;
  insert into annex.events (event_id, workspace_id, user_id, type, source, subject, topics, actor, principal, permission, data)
  values (new_id, append_event.workspace_id, append_event.user_id, append_event.type, 'annex', append_event.subject,
    array[append_event.subject], caller, caller, append_event.permission, append_event.data);
  insert into annex.pending (event_id, workspace_id, user_id, rights_of, is_personal)
  values (new_id, append_event.workspace_id, append_event.user_id, append_event.rights_of,
    append_event.user_id is not null);
  return new_id;
end
$$;

-- Refuse what no publisher may say; for annex.publish and annex.publish_events.
create function annex.check_event(type text, source text, topics text[], actor text) returns void
language plpgsql as $$
begin
  if type like 'annex.%' then
    raise exception 'Types that begin with `annex.` are drawn by Annex itself; choose another name.'
      using errcode = 'check_violation', constraint = 'events_type_reserved';
  elsif source = 'annex' then
    raise exception 'The source `annex` is Annex itself; choose another name.'
      using errcode = 'check_violation', constraint = 'events_source_reserved';
  elsif array_ndims(topics) > 1 then
    raise exception 'topics are a list' using errcode = 'check_violation', constraint = 'events_topics_check';
  elsif actor is not null and annex.user_id() is not null then
    -- A user who could name another actor could write somebody else into the audit trail.
    raise exception 'A user publishes as themselves; only keys and operators may name an actor.'
      using errcode = 'insufficient_privilege', constraint = 'forbidden';
  end if;
end
$$;

-- Say who publishes, as verified, if they may. A session of your own without claims is as trusted as the right to
-- connect and call; so is service_role, by the session's role and not by a claim. Any other request speaks for its
-- principal and needs the permission.
create function annex.check_publisher(workspace_id uuid) returns text
language plpgsql stable as $$
begin
  if (annex.claims() = '{}' and session_user not in ('annex_api', 'authenticator'))
    or (current_setting('role') = 'service_role' and session_user <> 'annex_api')
  then
    if not exists (
      select from annex.workspaces w where w.id = check_publisher.workspace_id and w.deleted_at is null
    ) then
      raise exception 'There is no such workspace.' using errcode = 'insufficient_privilege', constraint = 'not_found';
    end if;
    return 'system';
  end if;
  perform annex.require(check_publisher.workspace_id, 'events:publish');
  return annex.principal();
end
$$;

-- Say who publishes, as check_publisher does, if one look finds what is usual: a user or a key that holds the permission, and
-- few events of the tenant that wait for fan-out. Null otherwise: the caller then asks check_publisher and check_fanouts, which
-- raise what is wrong, if anything is. Planned once a session, for tables of any size.
create function annex.usual_publisher(workspace_id uuid) returns text
language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
  author text;
begin
  if claims ->> 'role' = 'authenticated' and not claims ? 'annex_key' and current_setting('role') <> 'service_role' then
    select 'user:' || (claims ->> 'sub')::uuid into author
    from annex.grants_of_user((claims ->> 'sub')::uuid, claims ->> 'aal' is not distinct from 'aal2') g,
      annex.find_short_queue(g.tenant)
    where g.workspace_id = usual_publisher.workspace_id and 'events:publish' = any (g.permissions);
  elsif claims is not null and current_setting('role') <> 'service_role' then
    select 'api_key:' || annex.key_id() into author
    from annex.grants_of_key(annex.key_id()) g, annex.find_short_queue(g.tenant)
    where g.workspace_id = usual_publisher.workspace_id and 'events:publish' = any (g.permissions);
  end if;
  return author;
end
$$;

-- Claim a publisher's own id of an event; returns whose event has it: new_id, or the one that was published before. `author`
-- is what annex.check_publisher said.
create function annex.claim_key(workspace_id uuid, source text, key text, author text, new_id uuid) returns uuid
language plpgsql as $$
#variable_conflict use_column
declare
  claimed_by text := case when author like 'user:%' then author else '' end;
  kept uuid;
begin
  loop
    insert into annex.event_keys (workspace_id, source, key, publisher, event_id)
    values (claim_key.workspace_id, claim_key.source, claim_key.key, claimed_by, new_id)
    on conflict do nothing;
    if found then
      return new_id;
    end if;
    select k.event_id into kept from annex.event_keys k
    where k.workspace_id = claim_key.workspace_id and k.source = claim_key.source and k.key = claim_key.key
      and k.publisher = claimed_by;
    if found then
      return kept;
    end if;
    -- It expired in between: the key is free again.
  end loop;
end
$$;

-- Publish one event in the caller's own transaction: it is seen if, and only after, that commits. Call it after the
-- statement that locks what the event is about, or two transactions' events may be read in the other order.
create function annex.publish(
  workspace_id uuid,
  type text,
  data jsonb default '{}',
  topics text[] default '{}',
  subject text default null,
  source text default 'sql',
  key text default null,
  permission text default null,
  occurred_at timestamptz default null,
  actor text default null,
  context jsonb default '{}',
  recipients uuid[] default null,
  group_key text default null,
  url text default null
) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  new_id uuid := annex.uuid7();
  author text := 'system';
  is_usual boolean;
  kept uuid;
begin
  -- One expression for all that is not the usual: plpgsql prepares each anew in every transaction.
  if coalesce(current_setting('request.jwt.claims', true), '') <> '' or session_user in ('annex_api', 'authenticator')
    or publish.workspace_id is null or publish.type like 'annex.%' or array_ndims(topics) > 1 or key is not null
    or publish.source = 'annex' or actor is not null
  then
    author := annex.usual_publisher(publish.workspace_id);
    if author is null or publish.type like 'annex.%' or array_ndims(topics) > 1 or key is not null
      or publish.source = 'annex' or actor is not null
    then
      is_usual := author is not null;
      -- Before the key is looked at, which outlives its workspace.
      author := coalesce(author, annex.check_publisher(publish.workspace_id));
      perform annex.check_event(publish.type, publish.source, publish.topics, publish.actor);
      if key is not null then
        kept := annex.claim_key(publish.workspace_id, publish.source, publish.key, author, new_id);
        if kept <> new_id then
          return kept;
        end if;
      end if;
      if not is_usual and author <> 'system' and (publish.recipients is not null or publish.topics <> '{}') then
        perform annex.check_fanouts(
          publish.workspace_id,
          jsonb_build_array(jsonb_build_object('topics', publish.topics, 'recipients', publish.recipients)), '{true}'
        );
      end if;
    end if;
  end if;
  with queued as (
    insert into annex.pending (event_id, workspace_id) values (new_id, publish.workspace_id)
  )
  insert into annex.events (
    event_id, workspace_id, type, source, key, subject, topics, actor, principal, permission, recipients, group_key, url,
    data, context, occurred_at
  )
  select new_id, w.id, publish.type, publish.source, publish.key, publish.subject, coalesce(publish.topics, '{}'),
    coalesce(publish.actor, author), author, publish.permission, nullif(publish.recipients, '{}'),
    publish.group_key, publish.url, coalesce(publish.data, '{}'),
    coalesce(publish.context, '{}'), coalesce(publish.occurred_at, now())
  from annex.workspaces w left join annex.event_types t on t.name = publish.type
  where w.id = publish.workspace_id and w.deleted_at is null
    and case when t.data_schema is not null or (t.name is null and w.strict_event_types)
      then annex.check_type(publish.type, t.name is not null, t.data_schema, coalesce(publish.data, '{}'), '')
      else true end;
  if not found then
    raise exception 'There is no such workspace.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  return new_id;
end
$$;
grant execute on function
  annex.publish(uuid, text, jsonb, text[], text, text, text, text, timestamptz, text, jsonb, uuid[], text, text)
  to annex_api, authenticated, service_role;

-- Publish a batch: an array of objects with the columns of events. Returns a row for each, in the array's order, which
-- is the order of the ids as well. Keys are claimed in sorted order, so that two batches with the same keys wait for each
-- other and never deadlock. Refusals name the place in the batch, or, where it is no list but the one event that was sent,
-- the place in that.
create function annex.publish_events(workspace_id uuid, batch jsonb, is_list boolean default true)
returns table (ordinal integer, event_id uuid, is_duplicate boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  usual text := annex.usual_publisher(publish_events.workspace_id);
  author text := coalesce(usual, annex.check_publisher(publish_events.workspace_id));
  micros bigint := extract(epoch from clock_timestamp()) * 1000000;
  seed text := gen_random_uuid();
  item record;
  drawn uuid[];
  kept uuid[];
begin
  if jsonb_array_length(batch) not between 1 and 500 then
    raise exception 'A batch has 1 to 500 events.'
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
  perform annex.check_event(e.value ->> 'type', e.value ->> 'source', '{}', e.value ->> 'actor')
  from jsonb_array_elements(batch) e (value)
  where e.value ->> 'type' like 'annex.%' or e.value ->> 'source' = 'annex' or e.value ->> 'actor' is not null;
  -- The server's source of random bits is asked once for all.
  drawn := array(select annex.uuid7_of(micros, seed, n) from generate_series(1, jsonb_array_length(batch)) n order by n);
  kept := drawn;
  for item in
    select e.n, e.value ->> 'source' as source, e.value ->> 'key' as key
    from jsonb_array_elements(batch) with ordinality as e (value, n)
    where e.value ->> 'key' is not null
    order by 2, 3, 1
  loop
    kept[item.n] := annex.claim_key(publish_events.workspace_id, item.source, item.key, author, drawn[item.n]);
  end loop;
  -- What is known already adds nothing to what waits.
  if usual is null and author <> 'system' and (batch @? '$[*].topics[*]' or batch @? '$[*].recipients[*]') then
    perform annex.check_fanouts(
      publish_events.workspace_id, batch, array(select k.id = k.new from unnest(kept, drawn) k (id, new))
    );
  end if;
  return query
    with items as (
      select e.n::integer as n, e.value, kept[e.n] as id, kept[e.n] <> drawn[e.n] as known
      from jsonb_array_elements(batch) with ordinality as e (value, n)
    ), added as (
      insert into annex.events (
        event_id, workspace_id, type, source, key, subject, topics, actor, principal, permission, recipients, group_key,
        url, data, context, occurred_at
      )
      select i.id, publish_events.workspace_id, i.value ->> 'type', i.value ->> 'source', i.value ->> 'key',
        i.value ->> 'subject',
        array(select jsonb_array_elements_text(coalesce(i.value -> 'topics', '[]'))),
        coalesce(i.value ->> 'actor', author), author, i.value ->> 'permission',
        nullif(array(select jsonb_array_elements_text(coalesce(i.value -> 'recipients', '[]'))::uuid), '{}'),
        i.value ->> 'group_key', i.value ->> 'url',
        coalesce(i.value -> 'data', '{}'), coalesce(i.value -> 'context', '{}'),
        coalesce((i.value ->> 'occurred_at')::timestamptz, now())
      from items i
      left join annex.event_types t on t.name = i.value ->> 'type'
      where not i.known
        and case when t.data_schema is not null
            or (t.name is null
              and (select w.strict_event_types from annex.workspaces w where w.id = publish_events.workspace_id))
          then annex.check_type(
            i.value ->> 'type', t.name is not null, t.data_schema, coalesce(i.value -> 'data', '{}'),
            case when is_list then '/' || (i.n - 1) else '' end
          )
          else true end
      order by i.n
    ), queued as (
      insert into annex.pending (event_id, workspace_id)
      select i.id, publish_events.workspace_id from items i where not i.known order by i.n
    )
    select i.n, i.id, i.known from items i order by i.n;
end
$$;
grant execute on function annex.publish_events(uuid, jsonb, boolean) to annex_api;

-- A row as its event tells it: documents (metadata, preferences) of more than 2 KiB by their size and hash, in `digests`.
-- They say nothing of rights, and a trail that no workspace can shorten would grow by both versions with each change.
create function annex.digest_documents(record jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  digests jsonb;
begin
  select jsonb_object_agg(c.key, jsonb_build_object(
    'bytes', octet_length(c.value::text), 'sha256', encode(sha256(convert_to(c.value::text, 'UTF8')), 'hex')
  )) into digests
  from jsonb_each(record) c where jsonb_typeof(c.value) = 'object' and octet_length(c.value::text) > 2048;
  if digests is null then
    return record;
  end if;
  return record - array(select jsonb_object_keys(digests)) || jsonb_build_object('digests', digests);
end
$$;

-- How many bytes a workspace added to its audit trail in an hour: several rows where several transactions wrote at once, as
-- none waits for another one's.
create table annex.trails (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  hour timestamptz not null,
  bytes bigint not null,
  constraint trails_pkey primary key (id),
  constraint trails_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade
);
create index trails_workspace_id_idx on annex.trails (workspace_id, hour);
alter table annex.trails enable row level security, force row level security;
create policy trails_owner on annex.trails to annex_owner using (true) with check (true);

-- Count what users and keys add to a workspace's audit trail, which no workspace can shorten; raises too_many_changes when
-- the hour's bytes are spent, with the seconds until the next as hint. For Annex's own functions.
create function annex.spend_trail(workspace_id uuid, data jsonb) returns void
language plpgsql as $$
#variable_conflict use_column
declare
  this_hour timestamptz := date_trunc('hour', now(), 'UTC');
  -- The event's other columns, its entries in log and indexes.
  size bigint := octet_length(data::text) + 512;
  most bigint := (select l.value * 1024::bigint from annex.limits l where l.name = 'audit_kib_per_hour');
begin
  if annex.user_id() is null and annex.key_id() is null then
    return;
  end if;
  if size + coalesce((
    select sum(t.bytes) from annex.trails t where t.workspace_id = spend_trail.workspace_id and t.hour = this_hour
  ), 0) > most then
    raise exception 'The workspace changed more within this hour than its audit trail takes.'
      using errcode = 'program_limit_exceeded', constraint = 'too_many_changes',
        hint = ceil(extract(epoch from this_hour + interval '1 hour' - now()))::text;
  end if;
  -- In another isolation level a row that was written meanwhile would fail the change.
  if current_setting('transaction_isolation') = 'read committed' then
    update annex.trails t set bytes = t.bytes + size
    where t.id = (
      select f.id from annex.trails f where f.workspace_id = spend_trail.workspace_id and f.hour = this_hour
      limit 1 for update skip locked
    );
    if found then
      return;
    end if;
    delete from annex.trails t
    where t.id in (
      select o.id from annex.trails o where o.workspace_id = spend_trail.workspace_id and o.hour < this_hour
      for update skip locked
    );
  end if;
  insert into annex.trails (workspace_id, hour, bytes) values (spend_trail.workspace_id, this_hour, size);
end
$$;

-- AFTER trigger of Annex's own tables: every change is an event, whoever writes, after the row's lock was taken.
-- Arguments: the noun, the words for insert, update and delete, the permission that seeing it takes, and the columns of
-- which a change is one of rights. Columns that end in _hash are never told.
create function annex.record_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  noun text := tg_argv[0];
  verb text;
  was jsonb := '{}';
  row_now jsonb;
  ws uuid;
  subject text;
begin
  if tg_op = 'UPDATE' and new is not distinct from old then
    return null;
  end if;
  -- Housekeeping deletes only what was over already.
  if tg_op = 'DELETE' and session_user = 'annex_worker' then
    return null;
  end if;
  row_now := case when tg_op = 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
  row_now := row_now - array(select c from jsonb_object_keys(row_now) c where c like '%\_hash');
  ws := (row_now ->> case noun when 'workspace' then 'id' else 'workspace_id' end)::uuid;
  if ws is null then
    return null;  -- a built-in role belongs to no workspace
  end if;
  if tg_op = 'UPDATE' then
    select coalesce(jsonb_object_agg(o.key, o.value), '{}') into was
    from jsonb_each(to_jsonb(old)) o
    where o.key not in ('version', 'updated_at') and row_now ? o.key
      and o.value is distinct from row_now -> o.key;
  end if;
  verb := case
    -- An invitation is pending, and then accepted, declined, revoked or expired: that is what happened to it.
    when tg_op = 'UPDATE' and noun = 'invitation' and was ? 'status' and row_now ->> 'status' <> 'pending'
      then row_now ->> 'status'
    when tg_op = 'INSERT' then tg_argv[1]
    when tg_op = 'DELETE' or (was ? 'deleted_at' and row_now ->> 'deleted_at' is not null) then tg_argv[3]
    else tg_argv[2]
  end;
  subject := noun || ':' || (row_now ->> case noun when 'member' then 'user_id' else 'id' end);
  perform annex.append_event(
    ws, 'annex.' || noun || '.' || verb, subject,
    jsonb_build_object('record', annex.digest_documents(row_now), 'previous', annex.digest_documents(was)),
    permission => tg_argv[4],
    rights_of => case when tg_op <> 'UPDATE' or was ?| string_to_array(tg_argv[5], ' ') then
      case noun
        when 'member' then 'user:' || (row_now ->> 'user_id')
        when 'api_key' then 'api_key:' || (row_now ->> 'id')
        when 'workspace' then '*'
        when 'role' then '*'
      end
    end,
    -- Never refused, or who spends the hour's bytes could not be put out. It needs no count: what ends was made or begun.
    is_end => verb in ('deleted', 'removed', 'accepted', 'declined', 'revoked', 'expired') or coalesce(
      was ? 'revoked_at' or was ? 'status' and row_now ->> 'status' = 'suspended', false
    )
  );
  return null;
end
$$;

create index workspaces_created_by_idx on annex.workspaces (created_by);

-- BEFORE INSERT on workspaces: a user has so many, an anonymous one none. Those deleted within the last hour count too, or
-- making and deleting them would have no bound. What SQL of your own makes for users is not counted against anybody.
create function annex.check_workspace_budget() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  caller uuid := annex.user_id();
  most integer := (select l.value from annex.limits l where l.name = 'workspaces_per_user');
begin
  if caller is null then
    return new;
  end if;
  if (annex.claims() -> 'is_anonymous') = 'true' then
    raise exception 'An anonymous user cannot create workspaces; link an identity to the account first.'
      using errcode = 'insufficient_privilege', constraint = 'user_required';
  end if;
  -- Locked, so that two requests of one user cannot both take the last place.
  perform from annex.profiles p where p.user_id = caller for no key update;
  if (select count(*) from annex.workspaces w
    where w.created_by = caller and (w.deleted_at is null or w.deleted_at > now() - interval '1 hour')) >= most
  then
    raise exception 'A user has at most % workspaces; delete one that is not needed.', most
      using errcode = 'program_limit_exceeded', constraint = 'too_many_workspaces';
  end if;
  return new;
end
$$;

create trigger workspaces_budget before insert on annex.workspaces
  for each row execute function annex.check_workspace_budget();
create trigger workspaces_record after insert or update or delete on annex.workspaces
  for each row execute function
  annex.record_change('workspace', 'created', 'updated', 'deleted', 'workspace:read', 'require_aal2 deleted_at');
create trigger members_record after insert or update or delete on annex.members
  for each row execute function
  annex.record_change('member', 'added', 'updated', 'removed', 'members:read', 'role status');
create trigger roles_record after insert or update or delete on annex.roles
  for each row execute function
  annex.record_change('role', 'created', 'updated', 'deleted', 'roles:read', 'key permissions workspace_id');
create trigger api_keys_record after insert or delete or update of name, secret_hash, permissions, grantable, metadata,
  allowed_addresses, rate_limit_per_minute, expires_at, replaced_by, revoked_at
  on annex.api_keys for each row execute function annex.record_change(
    'api_key', 'created', 'updated', 'deleted', 'keys:read', 'permissions allowed_addresses expires_at revoked_at'
  );

reset role;

insert into annex.migrations (name) values ('07_publishing');
