-- Retention: events expire by the workspace's own limit, and by the installation's, which no workspace can exceed. The audit
-- trail (what Annex drew itself, and what takes events:audit to see) has a minimum that no workspace can go below.

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

-- Delete one batch of expired events with their log rows and keys. Goes through the workspaces of the log in the order
-- of their ids; returns after which to go on, whether that was the last, and how many events went. No row while another
-- one is at it. A workspace's entries go oldest first, up to the first that has not expired: nothing is read in vain.
create function annex.expire_events(after_workspace uuid, max_days integer, max_rows integer default 1000)
returns table (workspace_id uuid, is_last boolean, expired integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
#variable_conflict use_column
declare
  done uuid := coalesce(after_workspace, '00000000-0000-0000-0000-000000000000');
  at uuid;
  own_days integer;
  trail_days integer := (select l.value from annex.limits l where l.name = 'audit_retention_days');
  cutoff uuid;
  trail_cutoff uuid;
  step text;
  entry record;
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
  if not pg_try_advisory_xact_lock(annex.lock_class('expiry'), 0) then
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
    cutoff := annex.uuid7_floor(now() - make_interval(days => least(max_days, own_days)));
    trail_cutoff := annex.uuid7_floor(now() - make_interval(days => least(
      max_days, case when own_days is not null then greatest(own_days, trail_days) end)));
    swept := coalesce((select r.swept_until from annex.retentions r where r.feed_id = at), 0);
    -- All of the workspace's own that is older than the trail's limit; then what is not of the trail, from where the last
    -- sweep came to; then what is personal.
    foreach step in array array['trail', 'others', 'personal'] loop
      exit when cutoff is null;
      continue when step = 'others' and trail_cutoff = cutoff;
      positions := '{}';
      ids := '{}';
      for entry in execute format(
        'select l.pos, l.event_id from annex.log l where l.workspace_id = $1 and l.user_id %s and l.pos > $3
          order by l.pos limit $2',
        case step when 'personal' then 'is not null' else 'is null' end
      ) using at, max_rows - seen, case step when 'others' then swept else 0 end loop
        exit when entry.event_id >= case step when 'trail' then trail_cutoff else cutoff end or entry.pos > read_until;
        positions := positions || entry.pos;
        ids := ids || entry.event_id;
      end loop;
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
      with deleted as (
        delete from annex.log l where l.pos = any (positions) returning l.pos, coalesce(l.user_id, l.workspace_id) as feed_id
      )
      insert into annex.retentions as r (feed_id, retained_from)
      select d.feed_id, max(d.pos) + 1 from deleted d group by d.feed_id
      on conflict (feed_id) do update set retained_from = greatest(r.retained_from, excluded.retained_from);
      with deleted as (
        delete from annex.events e where e.event_id = any (ids)
        returning e.event_id, e.workspace_id, e.source, e.key
      )
      delete from annex.event_keys k using deleted d
      where k.workspace_id = d.workspace_id and k.source = d.source and k.key = d.key and k.event_id = d.event_id;
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

reset role;

insert into annex.migrations (name) values ('09_retention');
