-- The log: the order in which everybody reads events (pending -> log), and who reads it.

set role annex_owner;

-- Written beside the event by its writer, emptied by the sequencer; CACHE 1, so that ids follow the order of inserts.
-- In the order in which the sequencer takes them: each lane (personal events, all others) by id. The writer says the
-- lane: Postgres parses a generated column's expression anew with every insert.
create table annex.pending (
  id bigint not null generated always as identity (cache 1),
  event_id uuid not null,
  workspace_id uuid not null,
  user_id uuid,
  rights_of text,
  is_personal boolean not null default false,
  constraint pending_pkey primary key (is_personal, id)
) with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

create index pending_rights_of_idx on annex.pending (rights_of, workspace_id) where rights_of is not null;

-- The order in which everybody reads: dense, without gaps; a position is visible as soon as all before it are.
create table annex.log (
  pos bigint not null,
  event_id uuid not null,
  workspace_id uuid not null,
  user_id uuid,
  rights_of text,
  constraint log_pkey primary key (pos)
);
create index log_workspace_id_idx on annex.log (workspace_id, pos) where user_id is null;
create index log_user_id_idx on annex.log (user_id, pos) where user_id is not null;
create index log_personal_idx on annex.log (workspace_id, pos) where user_id is not null;
create index log_rights_of_idx on annex.log (rights_of, workspace_id, pos) where rights_of is not null;

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

-- How far each of the worker's readers has come: its rows and its position are written in one transaction.
create table annex.readers (
  name text not null,
  pos bigint not null default 0,
  updated_at timestamptz not null default now(),
  constraint readers_pkey primary key (name),
  constraint readers_name_check check (name ~ '^[a-z][a-z0-9_-]{0,62}$')
);

alter table annex.pending enable row level security, force row level security;
alter table annex.log enable row level security, force row level security;
alter table annex.log_state enable row level security, force row level security;
alter table annex.readers enable row level security, force row level security;

create policy pending_owner on annex.pending to annex_owner using (true) with check (true);
create policy log_owner on annex.log to annex_owner using (true) with check (true);
create policy log_state_owner on annex.log_state to annex_owner using (true) with check (true);
create policy readers_owner on annex.readers to annex_owner using (true) with check (true);
create policy readers_worker on annex.readers to annex_worker using (true) with check (true);
create policy log_select on annex.log for select to annex_api
  using (
    workspace_id = any (array(select annex.workspace_ids('events:read')))
    and (user_id is null or user_id = (select annex.user_id()))
  );
create policy log_operator on annex.log for select to annex_api
  using (user_id is null and (select annex.is_operator()));


grant select on annex.log to annex_api;
grant select, insert, update on annex.readers to annex_worker;

-- Where the log stands, for a process that begins to follow it. A server or database other than the one that gave the
-- positions (a restore, a failover to a lagging copy) opens a new epoch, so that cursors of the old one are refused. So
-- does a head behind what the process has seen in this epoch: the same server was set back to an earlier state.
create function annex.open_log(seen_epoch integer, seen_head bigint)
returns table (epoch integer, head bigint, retained_from bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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

-- Give positions to what is pending, oldest first; returns to how many. Whoever locks the log's state is the sequencer,
-- everybody else is told 0: a row's lock, as every session may take an advisory one, and so could stop the log. Must run by
-- itself in autocommit: a position that was handed out before its COMMIT could be seen and then be lost.
-- Each lane, personal events and all others, fills at least half a batch if it can. A reader follows either a workspace
-- or a user, and so one lane: within it, positions follow the ids, and what was written under an entity's lock is read in
-- that order. Between the lanes there is no order but that of a batch.
create function annex.sequence(max_rows integer default 1000) returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
-- Planned once a session, when the tables may still be empty, and run for days: never by reading a table from its start.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  moved integer;
  was bigint;
begin
  -- Each statement below needs a snapshot of its own, taken after the lock.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'annex.sequence needs READ COMMITTED' using errcode = 'invalid_transaction_state';
  end if;
  if not exists (select from annex.pending) then
    return 0;
  end if;
  select l.head into was from annex.log_state l for update skip locked;
  if not found then
    return 0;
  end if;
  -- A position must not be handed out and then be lost in a crash.
  perform set_config('synchronous_commit', 'on', true);
  with lanes as (
    (select p.ctid, p.is_personal, row_number() over (order by p.id) as place
      from annex.pending p where not p.is_personal order by p.id limit max_rows)
    union all
    (select p.ctid, p.is_personal, row_number() over (order by p.id)
      from annex.pending p where p.is_personal order by p.id limit max_rows)
  ), batch as (
    delete from annex.pending p
    -- By turns: what one lane leaves, the other one gets. Rows are never updated, so that their place is good.
    where p.ctid = any (array(select l.ctid from lanes l order by l.place, l.is_personal limit max_rows))
    returning p.id, p.event_id, p.workspace_id, p.user_id, p.rights_of
  )
  insert into annex.log (pos, event_id, workspace_id, user_id, rights_of)
  select was + row_number() over (order by b.id), b.event_id, b.workspace_id, b.user_id, b.rights_of from batch b;
  get diagnostics moved = row_count;
  update annex.log_state l set head = was + moved where moved > 0;
  return moved;
end
$$;
grant execute on function annex.sequence(integer) to annex_worker;

-- What follows a position in the log, and whom it concerns.
create function annex.read_log(after_pos bigint, max_rows integer default 1000)
returns table (pos bigint, event_id uuid, workspace_id uuid, user_id uuid, rights_of text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  return query
    select l.pos, l.event_id, l.workspace_id, l.user_id, l.rights_of
    from annex.log l where l.pos > after_pos order by l.pos limit max_rows;
end
$$;
grant execute on function annex.read_log(bigint, integer) to annex_worker;

-- annex.sequence and annex.read_log in one round trip, for a tail. A tail that is a full batch behind does not sequence
-- more: several tails would fill the log faster than one of them reads it, and what is new would wait behind all of that.
create function annex.tail(after_pos bigint, max_rows integer default 1000)
returns table (pos bigint, event_id uuid, workspace_id uuid, user_id uuid, rights_of text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
  if exists (select from annex.pending)
    and not exists (select from annex.log l where l.pos > after_pos offset max_rows - 1)
  then
    perform annex.sequence(max_rows);
  end if;
  return query
    select l.pos, l.event_id, l.workspace_id, l.user_id, l.rights_of
    from annex.log l where l.pos > after_pos order by l.pos limit max_rows;
end
$$;
grant execute on function annex.tail(bigint, integer) to annex_worker;

-- The events of these ids, in no order; one that was deleted is not among them.
create function annex.read_events(event_ids uuid[]) returns setof annex.events
language sql stable security definer set search_path = pg_catalog, pg_temp
-- As above. An id at a time, so that only its own partition is looked into.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select e.* from unnest(event_ids) i join annex.events e on e.event_id = i
$$;
grant execute on function annex.read_events(uuid[]) to annex_worker;

reset role;

insert into annex.migrations (name) values ('06_log');
