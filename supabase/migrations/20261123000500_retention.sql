-- Events expire: by the workspace's own limit, and by the installation's, which no workspace can exceed.

set role annex_owner;

alter table annex.workspaces
  add column event_retention_days integer,
  add constraint workspaces_event_retention_days_check check (event_retention_days between 1 and 3650);
grant update (event_retention_days) on annex.workspaces to annex_api;
grant select (event_retention_days) on annex.workspaces to authenticated;

drop function annex.create_workspace(text, text, text, jsonb, boolean);

-- Create a workspace whose owner is the calling user. A definer function, as the caller is no member before it.
-- Without a slug one is made from the name; a taken one gets a random ending.
create function annex.create_workspace(
  name text,
  slug text default null,
  external_id text default null,
  metadata jsonb default '{}',
  require_aal2 boolean default false,
  event_retention_days integer default null
) returns uuid
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
  stem text := nullif(trim(both '-' from left(
    regexp_replace(lower(create_workspace.name), '[^a-z0-9]+', '-', 'g'), 50)), '');
  made text := coalesce(create_workspace.slug, stem, 'workspace');
  created uuid;
begin
  if caller is null then
    raise exception 'only a signed-in user creates a workspace' using errcode = 'insufficient_privilege';
  end if;
  if create_workspace.slug is null and made ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    made := 'workspace-' || made;  -- a slug is never shaped like an id
  end if;
  insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
  on conflict (user_id) do nothing;
  loop
    insert into annex.workspaces (slug, name, external_id, metadata, require_aal2, event_retention_days, created_by)
    values (
      made, create_workspace.name, create_workspace.external_id, create_workspace.metadata,
      create_workspace.require_aal2, create_workspace.event_retention_days, caller
    )
    on conflict (slug) where deleted_at is null do nothing
    returning id into created;
    exit when created is not null;
    if create_workspace.slug is not null then
      raise exception 'slug is taken' using errcode = 'unique_violation', constraint = 'workspaces_slug_key';
    end if;
    made := coalesce(stem, 'workspace') || '-' || substring(replace(gen_random_uuid()::text, '-', '') for 8);
  end loop;
  insert into annex.members (workspace_id, user_id, role) values (created, caller, 'owner');
  return created;
end
$$;
grant execute on function annex.create_workspace(text, text, text, jsonb, boolean, integer)
  to annex_api, authenticated;

-- How far a workspace's events have expired, moved in the transaction that deletes them: what reads a page and this in
-- one snapshot knows whether the page is whole. No foreign key, as the log has none: events outlive their workspace.
create table annex.retentions (
  workspace_id uuid not null,
  retained_from bigint not null,
  constraint retentions_pkey primary key (workspace_id)
);
alter table annex.retentions enable row level security, force row level security;
create policy retentions_owner on annex.retentions to annex_owner using (true) with check (true);
create policy retentions_select on annex.retentions for select to annex_api
  using (workspace_id = any (array(select annex.workspace_ids('events:read'))));
create policy retentions_operator on annex.retentions for select to annex_api
  using ((select annex.is_operator()));
grant select on annex.retentions to annex_api;

-- A workspace's personal entries, oldest first. Written by the sequencer, so no publisher waits for it.
create index log_personal_idx on annex.log (workspace_id, pos) where user_id is not null;

-- Delete one batch of expired events with their log rows and keys. Goes through the workspaces of the log in the order
-- of their ids; returns after which to go on, whether that was the last, and how many events went. No row while another
-- one is at it. A workspace's entries go oldest first, up to the first that has not expired: nothing is read in vain.
create function annex.expire_events(after_workspace uuid, max_days integer, max_rows integer default 1000)
returns table (workspace_id uuid, is_last boolean, expired integer)
language plpgsql security definer set search_path = '' set enable_seqscan = off as $$
#variable_conflict use_column
declare
  done uuid := coalesce(after_workspace, '00000000-0000-0000-0000-000000000000');
  at uuid;
  cutoff uuid;
  condition text;
  entry record;
  positions bigint[];
  ids uuid[];
  gone integer := 0;
  head bigint;
begin
  if not pg_try_advisory_xact_lock(hashtext('annex.expire_events')) then
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
    cutoff := annex.uuid7_floor(now() - make_interval(days => least(
      max_days, (select w.event_retention_days from annex.workspaces w where w.id = at))));
    foreach condition in array array['is null', 'is not null'] loop
      exit when cutoff is null;
      positions := '{}';
      ids := '{}';
      for entry in execute format(
        'select l.pos, l.event_id from annex.log l where l.workspace_id = $1 and l.user_id %s order by l.pos limit $2',
        condition
      ) using at, max_rows - gone loop
        exit when entry.event_id >= cutoff;
        positions := positions || entry.pos;
        ids := ids || entry.event_id;
      end loop;
      continue when positions = '{}';
      delete from annex.log l where l.pos = any (positions);
      with deleted as (
        delete from annex.events e where e.event_id = any (ids)
        returning e.event_id, e.workspace_id, e.source, e.key
      )
      delete from annex.event_keys k using deleted d
      where k.workspace_id = d.workspace_id and k.source = d.source and k.key = d.key and k.event_id = d.event_id;
      insert into annex.retentions as r (workspace_id, retained_from)
      values (at, positions[cardinality(positions)] + 1)
      on conflict (workspace_id) do update set retained_from = greatest(r.retained_from, excluded.retained_from);
      gone := gone + cardinality(positions);
    end loop;
    if gone >= max_rows then
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

-- Make the partitions from last month to some months ahead that are not there yet; returns how many were made.
-- A partition is made by itself and closed (row level security forced, no policy, no grant) before it is attached. That
-- leaves the writers waiting for one short lock, on the default partition; if they keep us from it, there is a next time.
create or replace function annex.roll_partitions(months_ahead integer default 3) returns integer
language plpgsql security definer set search_path = '' set lock_timeout = '250ms' as $$
declare
  first_month timestamptz := date_trunc('month', now() at time zone 'UTC') at time zone 'UTC';
  month timestamptz;
  partition text;
  from_id uuid;
  to_id uuid;
  made integer := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('annex.roll_partitions')) then
    return 0;
  end if;
  for i in -1 .. least(greatest(months_ahead, 0), 24) loop
    month := (first_month at time zone 'UTC' + make_interval(months => i)) at time zone 'UTC';
    partition := 'events_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    continue when to_regclass(format('annex.%I', partition)) is not null;
    from_id := annex.uuid7_floor(month);
    to_id := annex.uuid7_floor((month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
    -- Events that came before their partition stay in the default one: making theirs would fail, now and ever after.
    continue when exists (select from annex.events e where e.event_id >= from_id and e.event_id < to_id);
    execute format('create table annex.%I (like annex.events including defaults including constraints including indexes)',
      partition);
    execute format('alter table annex.%I enable row level security, force row level security', partition);
    execute format(
      'alter table annex.events attach partition annex.%I for values from (%L) to (%L)', partition, from_id, to_id
    );
    made := made + 1;
  end loop;
  return made;
end
$$;

-- Drop the partitions of the months before the last one in which nothing is left: to delete gives no space back to the
-- disk. Returns how many. Writers wait for a short lock; if they keep us from it, there is a next time.
create function annex.drop_partitions() returns integer
language plpgsql security definer set search_path = '' set lock_timeout = '250ms' as $$
declare
  last_month text := to_char(now() at time zone 'UTC' - interval '1 month', 'YYYY_MM');
  partition regclass;
  is_used boolean;
  dropped integer := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('annex.roll_partitions')) then
    return 0;
  end if;
  for partition in
    select c.oid from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'annex.events'::regclass and c.relname ~ '^events_\d{4}_\d{2}$'
      and c.relname < 'events_' || last_month
    order by c.relname
  loop
    -- A table full of dead rows takes long to find empty; vacuum makes it small first.
    continue when pg_relation_size(partition) > 16 * 1024 * 1024;
    execute format('select exists (select from %s)', partition) into is_used;
    continue when is_used;
    -- Looked at once more when nobody can write: a transaction that was open may have.
    lock table only annex.events in access exclusive mode;
    execute format('select exists (select from %s)', partition) into is_used;
    continue when is_used;
    execute format('drop table %s', partition);
    dropped := dropped + 1;
  end loop;
  return dropped;
end
$$;
grant execute on function annex.drop_partitions() to annex_worker;

reset role;
