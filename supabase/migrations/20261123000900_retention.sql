-- Retention: events expire by the workspace's own limit, and by the installation's, which no workspace can exceed. The audit
-- trail (what Annex drew itself, and what takes events:audit to see) has a minimum that no workspace can go below. What is
-- personal goes sooner, and with its user.

set role annex_owner;

-- How far the events of a feed have expired (a workspace's, by its id, or a user's, by theirs), moved in the transaction
-- that deletes them: what reads a page and this in one snapshot knows whether the page is whole. No foreign key, as the
-- log has none: events outlive their workspace.
create table annex.retentions (
  feed_id uuid not null,
  retained_from bigint not null,
  -- Of a workspace: up to here only its audit trail is left.
  swept_until bigint not null default 0,
  constraint retentions_pkey primary key (feed_id)
);
alter table annex.retentions enable row level security, force row level security;
create policy retentions_owner on annex.retentions to annex_owner using (true) with check (true);
create policy retentions_select on annex.retentions for select to annex_api
  using (
    feed_id = any (array(select annex.workspace_ids('events:read'))) or feed_id = (select annex.user_id())
  );
create policy retentions_operator on annex.retentions for select to annex_api
  using ((select annex.is_operator()));
grant select on annex.retentions to annex_api;

-- Delete entries of the log with their events and keys, and move what their feeds retain. For Annex's own functions.
create function annex.delete_entries(positions bigint[], event_ids uuid[]) returns void
language plpgsql as $$
begin
  with deleted as (
    delete from annex.log l where l.pos = any (positions) returning l.pos, coalesce(l.user_id, l.workspace_id) as feed_id
  )
  insert into annex.retentions as r (feed_id, retained_from)
  select d.feed_id, max(d.pos) + 1 from deleted d group by d.feed_id
  on conflict (feed_id) do update set retained_from = greatest(r.retained_from, excluded.retained_from);
  with deleted as (
    delete from annex.events e where e.event_id = any (event_ids)
    returning e.event_id, e.workspace_id, e.source, e.key
  )
  delete from annex.event_keys k using deleted d
  where k.workspace_id = d.workspace_id and k.source = d.source and k.key = d.key and k.event_id = d.event_id;
end
$$;

-- A workspace's entries after a position that are of before a cutoff, oldest first, up to the first that is not or that a reader
-- has not read: nothing is read in vain. Personal ones, or all others. For Annex's own functions.
create function annex.find_expired(
  workspace_id uuid, is_personal boolean, after_pos bigint, cutoff uuid, read_until bigint, max_rows integer
) returns table (positions bigint[], event_ids uuid[])
language plpgsql stable as $$
declare
  entry record;
begin
  positions := '{}';
  event_ids := '{}';
  for entry in execute format(
    'select l.pos, l.event_id from annex.log l where l.workspace_id = $1 and l.user_id %s and l.pos > $3
      order by l.pos limit $2',
    case when is_personal then 'is not null' else 'is null' end
  ) using workspace_id, max_rows, after_pos loop
    exit when entry.event_id >= cutoff or entry.pos > read_until;
    positions := positions || entry.pos;
    event_ids := event_ids || entry.event_id;
  end loop;
  return next;
end
$$;

-- Delete one batch of expired events with their log rows and keys. Goes through the workspaces of the log in the order
-- of their ids; returns after which to go on, whether that was the last, and how many events went. No row while another
-- one is at it. What is personal tells of items that are there to be read: after 30 days it has served.
create function annex.expire_events(after_workspace uuid, max_days integer, max_rows integer default 1000)
returns table (workspace_id uuid, is_last boolean, expired integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
#variable_conflict use_column
declare
  done uuid := coalesce(after_workspace, '00000000-0000-0000-0000-000000000000');
  at uuid;
  own_days integer;
  trail_days integer := (select l.value from annex.limits l where l.name = 'audit_retention_days');
  cutoffs jsonb;
  step text;
  swept bigint;
  positions bigint[];
  ids uuid[];
  kept uuid[];
  seen integer := 0;
  gone integer := 0;
  head bigint;
  -- The worker's readers must have read what goes; one that has not moved for a week is waited for no longer.
  read_until bigint := (select min(r.pos) from annex.readers r where r.updated_at > now() - interval '7 days');
begin
  if not annex.try_lock('expiry') then
    return;
  end if;
  -- So many workspaces at most, that a transaction stays short where nothing expires, too.
  for looked_at in 1 .. 1000 loop
    select found.workspace_id into at
    from (
      (select l.workspace_id from annex.log l where l.user_id is null and l.workspace_id > done
        order by l.workspace_id limit 1)
      union all
      (select l.workspace_id from annex.log l where l.user_id is not null and l.workspace_id > done
        order by l.workspace_id limit 1)
    ) found
    order by 1 limit 1;
    exit when at is null;
    -- Of a workspace that is gone, only the installation's limit is left.
    own_days := (select w.event_retention_days from annex.workspaces w where w.id = at);
    select jsonb_object_agg(c.step, annex.uuid7_floor(now() - make_interval(days => c.days))) into cutoffs
    from (
      values ('trail', least(max_days, case when own_days is not null then greatest(own_days, trail_days) end)),
        ('others', least(max_days, own_days)),
        ('personal', least(max_days, own_days, 30))
    ) c (step, days);
    swept := coalesce((select r.swept_until from annex.retentions r where r.feed_id = at), 0);
    -- All of the workspace's own that is older than the trail's limit; then what is not of the trail, from where the last
    -- sweep came to; then what is personal.
    foreach step in array array['trail', 'others', 'personal'] loop
      continue when cutoffs ->> step is null or step = 'others' and cutoffs -> 'trail' = cutoffs -> 'others';
      select e.positions, e.event_ids into positions, ids
      from annex.find_expired(
        at, step = 'personal', case step when 'others' then swept else 0 end, (cutoffs ->> step)::uuid, read_until,
        max_rows - seen
      ) e;
      continue when positions = '{}';
      seen := seen + cardinality(positions);
      if step = 'others' then
        insert into annex.retentions as r (feed_id, retained_from, swept_until)
        values (at, 1, positions[cardinality(positions)])
        on conflict (feed_id) do update set swept_until = excluded.swept_until;
        kept := array(select e.event_id from annex.events e
          where e.event_id = any (ids) and (e.source = 'annex' or e.permission = 'events:audit'));
        select coalesce(array_agg(u.pos), '{}'), coalesce(array_agg(u.id), '{}') into positions, ids
        from unnest(positions, ids) u (pos, id) where u.id <> all (kept);
        continue when positions = '{}';
      end if;
      perform annex.delete_entries(positions, ids);
      gone := gone + cardinality(positions);
    end loop;
    if seen >= max_rows then
      return query select done, false, gone;
      return;
    end if;
    done := at;
  end loop;
  if at is null then
    -- Before the log's first entry nothing is left of any workspace. Under the lock under which positions are given.
    select l.head into head from annex.log_state l for update;
    update annex.log_state s set retained_from = f.first
    from (select coalesce((select l.pos from annex.log l order by l.pos limit 1), head + 1) as first) f
    where s.retained_from < f.first;
  end if;
  return query select done, at is null, gone;
end
$$;
grant execute on function annex.expire_events(uuid, integer, integer) to annex_worker;

-- Delete one batch of a workspace that was deleted so many days ago: the rows that refer to it first, from the table made
-- last to the first, then its own. Its events stay for as long as the installation keeps them. Returns how many rows went, 0
-- if there is nothing left.
create function annex.purge_workspaces(grace_days integer, max_rows integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  old uuid;
  referring text;
  batch integer;
  gone integer := 0;
begin
  select w.id into old from annex.workspaces w
  where w.deleted_at < now() - make_interval(days => greatest(grace_days, 0))
  order by w.deleted_at limit 1 for update skip locked;
  if old is null then
    return 0;
  end if;
  for referring in
    select format('%s t where t.%I', c.conrelid::regclass, a.attname)
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.confrelid = 'annex.workspaces'::regclass and c.contype = 'f' and c.confdeltype = 'c'
    order by c.conrelid desc
  loop
    execute format('delete from %1$s = $1 and t.ctid = any (array(select t.ctid from %1$s = $1 limit $2))', referring)
    using old, max_rows - gone;
    get diagnostics batch = row_count;
    gone := gone + batch;
    if gone >= max_rows then
      return gone;
    end if;
  end loop;
  delete from annex.workspaces w where w.id = old;
  return gone + 1;
end
$$;
grant execute on function annex.purge_workspaces(integer, integer) to annex_worker;

-- Delete one batch of the invitations and keys that have been over for so many days. Returns how many rows went.
create function annex.purge_closed(days integer, max_rows integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  before timestamptz := now() - make_interval(days => greatest(days, 0));
  keys integer;
  invitations integer;
begin
  delete from annex.api_keys k
  where k.id = any (array(select o.id from annex.api_keys o where least(o.revoked_at, o.expires_at) < before limit max_rows));
  get diagnostics keys = row_count;
  delete from annex.invitations i
  where i.id = any (array(
    select o.id from annex.invitations o
    where o.status not in ('pending', 'requested') and o.updated_at < before limit max_rows
  ));
  get diagnostics invitations = row_count;
  return keys + invitations;
end
$$;
grant execute on function annex.purge_closed(integer, integer) to annex_worker;

-- Users who were erased, until nothing of theirs is left in events and log. `erased_at` is of a time at which nobody could
-- write to them any more.
create table annex.erasures (
  user_id uuid not null,
  erased_at timestamptz not null default clock_timestamp(),
  constraint erasures_pkey primary key (user_id)
);
alter table annex.erasures enable row level security, force row level security;
create policy erasures_owner on annex.erasures to annex_owner using (true) with check (true);

-- Delete at most a number of a user's personal events, newest first; returns how many went. For Annex's own functions.
create function annex.erase_events(user_id uuid, max_rows integer) returns integer
language plpgsql as $$
#variable_conflict use_column
declare
  gone integer;
begin
  delete from annex.events e
  where e.user_id = erase_events.user_id and e.event_id >= coalesce(
    (
      select p.event_id from annex.events p where p.user_id = erase_events.user_id
      order by p.event_id desc offset greatest(max_rows, 1) - 1 limit 1
    ),
    '00000000-0000-0000-0000-000000000000'
  );
  get diagnostics gone = row_count;
  return gone;
end
$$;

-- AFTER DELETE on profiles: what Annex told a user goes with them, and what it answered them. So many events at once, that the
-- deletion of a user stays short; annex.finish_erasures takes the rest. Whatever writes to a user locks their profile, and so
-- is seen here or finds none.
create function annex.erase_user() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
  insert into annex.erasures (user_id) values (old.user_id) on conflict do nothing;
  perform annex.erase_events(old.user_id, 10000);
  delete from annex.idempotency_keys k where k.principal = 'user:' || old.user_id;
  return null;
end
$$;
create trigger profiles_erase after delete on annex.profiles for each row execute function annex.erase_user();

-- Go on with erasures, a batch: the rest of the events; after an hour the entries of the log, which hold ids alone, as a tail
-- that found a hole sooner would take it for a loss. Returns how many rows went, 0 if there is nothing left to do now.
create function annex.finish_erasures(max_rows integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  erasure annex.erasures;
  batch integer;
  gone integer := 0;
begin
  for erasure in select e.* from annex.erasures e order by e.erased_at limit 1000 for update skip locked loop
    gone := gone + annex.erase_events(erasure.user_id, max_rows - gone);
    exit when gone >= max_rows;
    continue when erasure.erased_at > now() - interval '1 hour'
      -- A lane goes by the order in which events were made.
      or (select p.event_id from annex.pending p where p.is_personal order by p.id limit 1)
        < annex.uuid7_floor(erasure.erased_at);
    delete from annex.log l where l.pos = any (array(
      select o.pos from annex.log o where o.user_id = erasure.user_id order by o.pos limit max_rows - gone
    ));
    get diagnostics batch = row_count;
    gone := gone + batch;
    exit when gone >= max_rows;
    -- Of the workspaces' own entries: streams have ended long ago, and the events still say whom they were about.
    update annex.log l set rights_of = null where l.rights_of = 'user:' || erasure.user_id;
    delete from annex.retentions r where r.feed_id = erasure.user_id;
    delete from annex.erasures e where e.user_id = erasure.user_id;
  end loop;
  return gone;
end
$$;
grant execute on function annex.finish_erasures(integer) to annex_worker;

reset role;

insert into annex.migrations (name) values ('09_retention');
