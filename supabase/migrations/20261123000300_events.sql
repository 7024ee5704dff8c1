-- The event log: what happened (events), and in which order everybody sees it (pending -> log).

set role annex_owner;

-- No foreign key to workspaces: one would lock the workspace's row for every event, and an audit trail outlives its subject.
create table annex.events (
  event_id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  user_id uuid,
  type text not null,
  source text not null,
  key text,
  subject text,
  topics text[] not null default '{}',
  actor text not null,
  visibility text not null default 'feed',
  data jsonb not null default '{}',
  context jsonb not null default '{}',
  occurred_at timestamptz not null default now(),
  recorded_at timestamptz not null default clock_timestamp(),
  constraint events_pkey primary key (event_id),
  constraint events_type_check check (
    char_length(type) <= 200 and type ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'
  ),
  constraint events_source_check check (char_length(source) between 1 and 500),
  constraint events_key_check check (char_length(key) between 1 and 200),
  constraint events_subject_check check (char_length(subject) between 1 and 500),
  constraint events_topics_check check (
    cardinality(topics) <= 20 and array_position(topics, null) is null and array_position(topics, '') is null
    and array_to_string(topics, '') !~ ',' and char_length(array_to_string(topics, '')) <= 4000
  ),
  constraint events_actor_check check (char_length(actor) between 1 and 200),
  constraint events_visibility_check check (visibility in ('feed', 'audit')),
  -- The API allows 64 KiB as sent; jsonb prints with more spaces than many a sender writes.
  constraint events_data_check check (octet_length(data::text) <= 131072),
  constraint events_context_check check (
    jsonb_typeof(context) = 'object' and octet_length(context::text) <= 16384
  ),
  -- RFC 3339 has four digits for the year, and so have most clients' dates: a reader could not go past any other.
  constraint events_occurred_at_check check (
    extract(year from occurred_at at time zone 'UTC') between 1 and 9999
  )
) partition by range (event_id);
create index events_workspace_id_idx on annex.events (workspace_id, event_id desc);
create index events_user_id_idx on annex.events (user_id, event_id desc) where user_id is not null;

-- One event for one (source, key) of a workspace, however often and by however many writers it is published.
create table annex.event_keys (
  workspace_id uuid not null,
  source text not null,
  key text not null,
  event_id uuid not null,
  constraint event_keys_pkey primary key (workspace_id, source, key)
);

-- Written beside the event by its writer, emptied by the sequencer; CACHE 1, so that ids follow the order of inserts.
create table annex.pending (
  id bigint not null generated always as identity (cache 1),
  event_id uuid not null,
  workspace_id uuid not null,
  user_id uuid,
  constraint pending_pkey primary key (id)
) with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- The order in which everybody reads: dense, without gaps; a position is visible as soon as all before it are.
create table annex.log (
  pos bigint not null,
  event_id uuid not null,
  workspace_id uuid not null,
  user_id uuid,
  constraint log_pkey primary key (pos)
);
create index log_workspace_id_idx on annex.log (workspace_id, pos) where user_id is null;
create index log_user_id_idx on annex.log (user_id, pos) where user_id is not null;

-- One row. The identity of server and database tells a restored or failed-over copy from the one that gave the positions.
create table annex.log_state (
  id smallint not null default 1,
  epoch integer not null default 1,
  system_identifier bigint not null,
  timeline integer not null,
  database_oid bigint not null,
  head bigint not null default 0,
  retained_from bigint not null default 1,
  constraint log_state_pkey primary key (id),
  constraint log_state_id_check check (id = 1)
);

insert into annex.log_state (system_identifier, timeline, database_oid)
select s.system_identifier, c.timeline_id, d.oid
from pg_control_system() s, pg_control_checkpoint() c, pg_database d
where d.datname = current_database();

alter table annex.events enable row level security, force row level security;
alter table annex.event_keys enable row level security, force row level security;
alter table annex.pending enable row level security, force row level security;
alter table annex.log enable row level security, force row level security;
alter table annex.log_state enable row level security, force row level security;

create policy events_owner on annex.events to annex_owner using (true) with check (true);
create policy event_keys_owner on annex.event_keys to annex_owner using (true) with check (true);
create policy pending_owner on annex.pending to annex_owner using (true) with check (true);
create policy log_owner on annex.log to annex_owner using (true) with check (true);
create policy log_state_owner on annex.log_state to annex_owner using (true) with check (true);

create policy events_select on annex.events for select to annex_api, authenticated
  using (
    workspace_id = any (array(select annex.workspace_ids('events:read')))
    and (user_id is null or user_id = (select annex.user_id()))
    and (visibility = 'feed' or workspace_id = any (array(select annex.workspace_ids('events:audit'))))
  );
create policy events_operator on annex.events for select to annex_api
  using (user_id is null and (select annex.is_operator()));
create policy log_select on annex.log for select to annex_api
  using (
    workspace_id = any (array(select annex.workspace_ids('events:read')))
    and (user_id is null or user_id = (select annex.user_id()))
  );
create policy log_operator on annex.log for select to annex_api
  using (user_id is null and (select annex.is_operator()));

grant select on annex.events, annex.log to annex_api;
grant select on annex.events to authenticated;

-- Make the partitions from last month to some months ahead that are not there yet; returns how many were made.
-- The running code has no DDL right: this is the one place where a table comes to be. A new partition starts closed
-- (row level security forced, no policy, no grant), so it can be read through its parent only.
create function annex.roll_partitions(months_ahead integer default 3) returns integer
language plpgsql security definer set search_path = '' as $$
declare
  first_month timestamptz := date_trunc('month', now() at time zone 'UTC') at time zone 'UTC';
  month timestamptz;
  partition text;
  from_id uuid;
  to_id uuid;
  made integer := 0;
begin
  perform pg_advisory_xact_lock(hashtext('annex.roll_partitions'));
  for i in -1 .. least(greatest(months_ahead, 0), 24) loop
    month := (first_month at time zone 'UTC' + make_interval(months => i)) at time zone 'UTC';
    partition := 'events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    continue when to_regclass(format('annex.%I', partition)) is not null;
    from_id := annex.uuid7_floor(month);
    to_id := annex.uuid7_floor((month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
    -- Events that came before their partition stay in the default one: making theirs would fail, now and ever after.
    continue when exists (select from annex.events e where e.event_id >= from_id and e.event_id < to_id);
    execute format(
      'create table annex.%I partition of annex.events for values from (%L) to (%L)', partition, from_id, to_id
    );
    execute format('alter table annex.%I enable row level security, force row level security', partition);
    made := made + 1;
  end loop;
  return made;
end
$$;
grant execute on function annex.roll_partitions(integer) to annex_worker;
select annex.roll_partitions();

-- Catches events if nobody rolled in time: nothing is lost, only a month cannot be dropped in one piece.
create table annex.events_default partition of annex.events default;
alter table annex.events_default enable row level security, force row level security;

-- Add one event and put it in line for the log. For Annex's own functions and triggers; nobody else may call it.
create function annex.append_event(
  workspace_id uuid,
  type text,
  source text,
  key text,
  subject text,
  topics text[],
  actor text,
  visibility text,
  data jsonb,
  context jsonb,
  occurred_at timestamptz
) returns uuid
language plpgsql set search_path = '' as $$
declare
  id uuid := annex.uuid7();
begin
  insert into annex.events
    (event_id, workspace_id, type, source, key, subject, topics, actor, visibility, data, context, occurred_at)
  values (id, append_event.workspace_id, append_event.type, append_event.source, append_event.key,
    append_event.subject, coalesce(append_event.topics, '{}'), coalesce(append_event.actor, annex.principal()),
    coalesce(append_event.visibility, 'feed'), coalesce(append_event.data, '{}'),
    coalesce(append_event.context, '{}'), coalesce(append_event.occurred_at, now()));
  insert into annex.pending (event_id, workspace_id) values (id, append_event.workspace_id);
  return id;
end
$$;

-- Publish a batch: an array of objects with the columns of events. Returns a row for each, in the array's order.
-- Keys are claimed in sorted order, so that two batches with the same keys wait for each other and never deadlock.
create function annex.publish_events(workspace_id uuid, batch jsonb)
returns table (ordinal integer, event_id uuid, is_duplicate boolean)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  item record;
  claimed jsonb := '{}';
  mine uuid;
  kept uuid;
begin
  -- A request speaks for its principal. A session of your own without claims is as trusted as the right to connect and call.
  if not (
    annex.has_permission(publish_events.workspace_id, 'events:publish')
    or (coalesce(annex.claims() ->> 'role' = 'service_role', false) and session_user <> 'annex_api')
    or (annex.claims() = '{}' and session_user not in ('annex_api', 'authenticator'))
  ) then
    raise exception 'permission events:publish is needed' using errcode = 'insufficient_privilege';
  end if;
  if jsonb_array_length(batch) not between 1 and 500 then
    raise exception 'a batch has 1 to 500 events' using errcode = 'program_limit_exceeded';
  end if;
  if exists (select from jsonb_array_elements(batch) e where e ->> 'type' like 'annex.%') then
    raise exception 'types that begin with annex. are drawn by Annex itself'
      using errcode = 'check_violation', constraint = 'events_type_reserved';
  end if;
  -- A user who could name another actor could write somebody else into the audit trail.
  if annex.user_id() is not null and exists (select from jsonb_array_elements(batch) e where e ->> 'actor' is not null) then
    raise exception 'a user publishes as themselves' using errcode = 'insufficient_privilege';
  end if;
  if not exists (
    select from annex.workspaces w where w.id = publish_events.workspace_id and w.deleted_at is null
  ) then
    raise exception 'workspace does not exist' using errcode = 'foreign_key_violation';
  end if;
  for item in
    select e.n, e.value ->> 'source' as source, e.value ->> 'key' as key
    from jsonb_array_elements(batch) with ordinality as e (value, n)
    where e.value ->> 'key' is not null
    order by 2, 3, 1
  loop
    mine := annex.uuid7();
    insert into annex.event_keys (workspace_id, source, key, event_id)
    values (publish_events.workspace_id, item.source, item.key, mine)
    on conflict do nothing;
    if not found then
      select k.event_id into strict kept from annex.event_keys k
      where k.workspace_id = publish_events.workspace_id and k.source = item.source and k.key = item.key;
    end if;
    claimed := claimed || jsonb_build_object(
      item.n::text, jsonb_build_object('id', coalesce(kept, mine), 'known', kept is not null));
    kept := null;
  end loop;
  return query
    with items as (
      select e.n::integer as n, e.value,
        coalesce((claimed -> e.n::text ->> 'id')::uuid, annex.uuid7()) as id,
        coalesce((claimed -> e.n::text ->> 'known')::boolean, false) as known
      from jsonb_array_elements(batch) with ordinality as e (value, n)
    ), added as (
      insert into annex.events (
        event_id, workspace_id, type, source, key, subject, topics, actor, visibility, data, context, occurred_at
      )
      select i.id, publish_events.workspace_id, i.value ->> 'type', i.value ->> 'source', i.value ->> 'key',
        i.value ->> 'subject',
        array(select jsonb_array_elements_text(coalesce(i.value -> 'topics', '[]'))),
        coalesce(i.value ->> 'actor', annex.principal()),
        coalesce(i.value ->> 'visibility', 'feed'),
        coalesce(i.value -> 'data', '{}'), coalesce(i.value -> 'context', '{}'),
        coalesce((i.value ->> 'occurred_at')::timestamptz, now())
      from items i where not i.known
      order by i.n
    ), queued as (
      insert into annex.pending (event_id, workspace_id)
      select i.id, publish_events.workspace_id from items i where not i.known order by i.n
    )
    select i.n, i.id, i.known from items i order by i.n;
end
$$;
grant execute on function annex.publish_events(uuid, jsonb) to annex_api;

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
  visibility text default 'feed',
  occurred_at timestamptz default null
) returns uuid
language sql security definer set search_path = '' as $$
  select p.event_id
  from annex.publish_events(workspace_id, jsonb_build_array(
    jsonb_strip_nulls(jsonb_build_object(
      'type', type, 'topics', to_jsonb(topics), 'subject', subject, 'source', source, 'key', key,
      'visibility', visibility, 'occurred_at', occurred_at
    )) || jsonb_build_object('data', coalesce(data, '{}'))
  )) p
$$;
grant execute on function annex.publish(uuid, text, jsonb, text[], text, text, text, text, timestamptz)
  to authenticated, service_role;

-- AFTER trigger of Annex's own tables: every change is an event, whoever writes, after the row's lock was taken.
-- Arguments: the noun, then the words for insert, update and delete. Columns that end in _hash are never told.
create function annex.record_change() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  noun text := tg_argv[0];
  verb text;
  was jsonb := '{}';
  row_now jsonb;
  ws uuid;
  id text;
begin
  if tg_op = 'UPDATE' and new is not distinct from old then
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
    when tg_op = 'INSERT' then tg_argv[1]
    when tg_op = 'DELETE' or (was ? 'deleted_at' and row_now ->> 'deleted_at' is not null) then tg_argv[3]
    else tg_argv[2]
  end;
  id := case noun when 'member' then row_now ->> 'user_id' else row_now ->> 'id' end;
  perform annex.append_event(
    ws, 'annex.' || noun || '.' || verb, 'annex', null, noun || ':' || id, array[noun || ':' || id], null,
    case noun when 'api_key' then 'audit' else 'feed' end,
    jsonb_build_object('record', row_now, 'previous', was), '{}', null
  );
  return null;
end
$$;

create trigger workspaces_record after insert or update or delete on annex.workspaces
  for each row execute function annex.record_change('workspace', 'created', 'updated', 'deleted');
create trigger members_record after insert or update or delete on annex.members
  for each row execute function annex.record_change('member', 'added', 'updated', 'removed');
create trigger roles_record after insert or update or delete on annex.roles
  for each row execute function annex.record_change('role', 'created', 'updated', 'deleted');
create trigger api_keys_record after insert or update or delete on annex.api_keys
  for each row execute function annex.record_change('api_key', 'created', 'updated', 'deleted');

-- Where the log stands, for a process that begins to follow it. A server or database other than the one that gave the
-- positions (a restore, a failover to a lagging copy) opens a new epoch, so that cursors of the old one are refused. So
-- does a head behind what the process has seen in this epoch: the same server was set back to an earlier state.
create function annex.open_log(seen_epoch integer, seen_head bigint)
returns table (epoch integer, head bigint, retained_from bigint)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
begin
  update annex.log_state l
  set epoch = l.epoch + 1, system_identifier = s.system_identifier, timeline = c.timeline_id, database_oid = d.oid
  from pg_control_system() s, pg_control_checkpoint() c, pg_database d
  where d.datname = current_database()
    and ((l.system_identifier, l.timeline, l.database_oid)
        is distinct from (s.system_identifier, c.timeline_id, d.oid::bigint)
      or l.epoch = seen_epoch and l.head < seen_head);
  return query select l.epoch, l.head, l.retained_from from annex.log_state l;
end
$$;
grant execute on function annex.open_log(integer, bigint) to annex_worker;

-- Give positions to what is pending, then return what follows a position: one round trip of a tail.
-- Whoever gets the lock is the sequencer; everybody else only reads. Must run by itself in autocommit: a position that
-- was handed out before its COMMIT could be seen and then be lost.
create function annex.tail(after_pos bigint, max_rows integer default 1000)
returns table (
  pos bigint, event_id uuid, workspace_id uuid, user_id uuid, type text, source text, key text, subject text,
  topics text[], actor text, visibility text, data jsonb, context jsonb, occurred_at timestamptz,
  recorded_at timestamptz
)
language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
  moved integer;
  was bigint;
begin
  -- Each statement below needs a snapshot of its own, taken after the lock.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'annex.tail needs READ COMMITTED' using errcode = 'invalid_transaction_state';
  end if;
  if exists (select from annex.pending) and pg_try_advisory_xact_lock(hashtext('annex.sequencer')) then
    -- A position must not be handed out and then be lost in a crash.
    perform set_config('synchronous_commit', 'on', true);
    select l.head into was from annex.log_state l for update;
    with batch as (
      delete from annex.pending p
      where p.id in (select q.id from annex.pending q order by q.id limit max_rows)
      returning p.id, p.event_id, p.workspace_id, p.user_id
    )
    insert into annex.log (pos, event_id, workspace_id, user_id)
    select was + row_number() over (order by b.id), b.event_id, b.workspace_id, b.user_id from batch b;
    get diagnostics moved = row_count;
    update annex.log_state l set head = was + moved where moved > 0;
  end if;
  return query
    select l.pos, l.event_id, l.workspace_id, l.user_id, e.type, e.source, e.key, e.subject, e.topics, e.actor,
      e.visibility, e.data, e.context, e.occurred_at, e.recorded_at
    from (select * from annex.log where pos > after_pos order by pos limit max_rows) l
    -- Left: an event that was deleted leaves its position, or the tail would wait for it for ever.
    left join annex.events e on e.event_id = l.event_id
    order by l.pos;
end
$$;
grant execute on function annex.tail(bigint, integer) to annex_worker;

reset role;
