-- A tail learns every position, but reads only the events that somebody follows in its process.

set role annex_owner;

-- The writer says the lane: Postgres parses a generated column's expression anew with every insert.
alter table annex.pending
  alter column is_personal drop expression,
  alter column is_personal set default false;

drop function annex.tail(bigint, integer);

-- Give positions to what is pending, then return those after a position, and whom they concern: one round trip of a tail.
-- Whoever gets the lock is the sequencer; everybody else only reads. Must run by itself in autocommit: a position that
-- was handed out before its COMMIT could be seen and then be lost.
-- Each lane, personal events and all others, fills at least half a batch if it can. A reader follows either a workspace
-- or a user, and so one lane: within it, positions follow the ids, and what was written under an entity's lock is read in
-- that order. Between the lanes there is no order but that of a batch.
create function annex.tail(after_pos bigint, max_rows integer default 1000)
returns table (pos bigint, event_id uuid, workspace_id uuid, user_id uuid)
language plpgsql volatile security definer set search_path = ''
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
    raise exception 'annex.tail needs READ COMMITTED' using errcode = 'invalid_transaction_state';
  end if;
  -- Who has a whole batch to read yet adds no other: several tails would fill the log faster than one of them reads it,
  -- and what is new would wait behind all of that.
  if exists (select from annex.pending)
    and not exists (select from annex.log l where l.pos > after_pos offset max_rows - 1)
    and pg_try_advisory_xact_lock(hashtext('annex.sequencer'))
  then
    -- A position must not be handed out and then be lost in a crash.
    perform set_config('synchronous_commit', 'on', true);
    select l.head into was from annex.log_state l for update;
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
      returning p.id, p.event_id, p.workspace_id, p.user_id
    )
    insert into annex.log (pos, event_id, workspace_id, user_id)
    select was + row_number() over (order by b.id), b.event_id, b.workspace_id, b.user_id from batch b;
    get diagnostics moved = row_count;
    update annex.log_state l set head = was + moved where moved > 0;
  end if;
  return query
    select l.pos, l.event_id, l.workspace_id, l.user_id
    from annex.log l where l.pos > after_pos order by l.pos limit max_rows;
end
$$;
grant execute on function annex.tail(bigint, integer) to annex_worker;

-- The events of these ids, in no order; one that was deleted is not among them.
create function annex.read_events(event_ids uuid[]) returns setof annex.events
language sql stable security definer set search_path = ''
-- As above. An id at a time, so that only its own partition is looked into.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select e.* from unnest(event_ids) i join annex.events e on e.event_id = i
$$;
grant execute on function annex.read_events(uuid[]) to annex_worker;

reset role;
