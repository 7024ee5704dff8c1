-- Notifications: from events to people. The projector fans events out into items, a page of recipients a transaction; every
-- change of an item is a personal event as well, with the counts of its inbox.
-- Whoever changes an item holds the lock of its user's inboxes (annex.lock_inboxes_of, and annex.deliver for a page). So items
-- arrive in the order in which they are seen, and counts never drift. Those locks and changes are the next migration's.

set role annex_owner;

-- An event that is being fanned out, and how far: a page of recipients and the cursor after it are one transaction. One that
-- failed waits for its next try, the longer the more have failed; one that was given up stays for people to look at.
create table annex.fanouts (
  event_id uuid not null,
  tenant uuid not null default '00000000-0000-0000-0000-000000000000',
  turn bigint not null default 0,
  after_user uuid not null default '00000000-0000-0000-0000-000000000000',
  is_begun boolean not null default false,
  due_at timestamptz not null default clock_timestamp(),
  attempts integer not null default 0,
  error text,
  failed_at timestamptz,
  constraint fanouts_pkey primary key (event_id),
  constraint fanouts_error_check check (char_length(error) <= 200)
);
-- By whose turn it is: new events have a lane of their own, and so have those that failed, which wait for a time.
create index fanouts_turn_idx on annex.fanouts (is_begun, turn, event_id) where failed_at is null and attempts = 0;
create index fanouts_tenant_idx on annex.fanouts (tenant, is_begun, turn) where failed_at is null and attempts = 0;
create index fanouts_aside_idx on annex.fanouts (due_at) where failed_at is null and attempts > 0;
create index fanouts_due_at_idx on annex.fanouts (due_at) where failed_at is null;
-- How many a tenant has, whatever became of them so far.
create index fanouts_queued_idx on annex.fanouts (tenant) where failed_at is null;
create index fanouts_failed_at_idx on annex.fanouts (failed_at) where failed_at is not null;

create table annex.notifications (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  user_id uuid not null,
  event_id uuid not null,
  type text not null,
  subject text,
  actor text not null,
  permission text not null default 'events:read',
  category text not null,
  is_critical boolean not null default false,
  reason text not null,
  topic text,
  title text not null,
  body text not null default '',
  url text,
  group_key text,
  group_count integer not null default 1,
  arrived_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz,
  read_at timestamptz,
  archived_at timestamptz,
  snoozed_until timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint notifications_pkey primary key (id),
  constraint notifications_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint notifications_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint notifications_category_check check (char_length(category) between 1 and 63),
  constraint notifications_reason_check check (reason in ('recipient', 'subscription')),
  constraint notifications_title_check check (char_length(title) <= 200),
  constraint notifications_body_check check (char_length(body) <= 2000),
  constraint notifications_snoozed_until_check check (annex.is_rfc3339(snoozed_until)),
  -- What is read has been seen, and what is archived does not come back by itself.
  constraint notifications_state_check check (
    (read_at is null or seen_at is not null) and (archived_at is null or snoozed_until is null)
  )
);
-- One for each list that there is: in its order, and of nothing else.
create index notifications_active_idx on annex.notifications (user_id, arrived_at desc, id desc)
  where archived_at is null and snoozed_until is null;
create index notifications_unread_idx on annex.notifications (user_id, arrived_at desc, id desc)
  where archived_at is null and snoozed_until is null and read_at is null;
create index notifications_archived_idx on annex.notifications (user_id, arrived_at desc, id desc)
  where archived_at is not null;
create index notifications_snoozed_idx on annex.notifications (user_id, arrived_at desc, id desc)
  where snoozed_until is not null;
create index notifications_workspace_id_idx on annex.notifications (workspace_id, user_id, arrived_at desc, id desc);
create index notifications_group_key_idx on annex.notifications (user_id, workspace_id, group_key)
  where group_key is not null and read_at is null and archived_at is null;
create index notifications_snoozed_until_idx on annex.notifications (snoozed_until) where snoozed_until is not null;
create trigger notifications_touch before update on annex.notifications for each row execute function annex.touch();

-- How many of a user's items there are, by what it takes to see them: so counts never tell of an item that is out of sight.
create table annex.inboxes (
  user_id uuid not null,
  workspace_id uuid not null,
  permission text not null,
  active integer not null default 0,
  unseen integer not null default 0,
  unread integer not null default 0,
  snoozed integer not null default 0,
  archived integer not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint inboxes_pkey primary key (user_id, workspace_id, permission),
  constraint inboxes_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint inboxes_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint inboxes_counts_check check (
    active >= 0 and unseen between 0 and active and unread between 0 and active and snoozed >= 0 and archived >= 0
  )
);
-- With both, so that whichever index is taken for an inbox reads that one alone.
create index inboxes_workspace_id_idx on annex.inboxes (workspace_id, user_id);
create trigger inboxes_touch before update on annex.inboxes for each row execute function annex.touch();

-- Why somebody was not notified of an event; for its trace.
create table annex.suppressions (
  event_id uuid not null,
  user_id uuid not null,
  workspace_id uuid not null,
  reason text not null,
  created_at timestamptz not null default now(),
  constraint suppressions_pkey primary key (event_id, user_id),
  constraint suppressions_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint suppressions_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint suppressions_reason_check check (
    reason in ('actor', 'not_a_member', 'suspended', 'not_permitted', 'muted', 'preference', 'collapsed')
  )
);
create index suppressions_user_id_idx on annex.suppressions (user_id);
create index suppressions_workspace_id_idx on annex.suppressions (workspace_id);
create index suppressions_created_at_idx on annex.suppressions (created_at);

-- What the caller may see of events and all that comes of them: pairs of a workspace and a permission, where events:read
-- is held too. Policies ask it once a statement.
create function annex.sight(only_id uuid default null) returns table (workspace_id uuid, permission text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select g.workspace_id, p from annex.grants(only_id) g, unnest(g.permissions) p where 'events:read' = any (g.permissions);
end
$$;
grant execute on function annex.sight(uuid) to annex_api, authenticated;

alter table annex.fanouts enable row level security, force row level security;
alter table annex.notifications enable row level security, force row level security;
alter table annex.inboxes enable row level security, force row level security;
alter table annex.suppressions enable row level security, force row level security;

create policy fanouts_owner on annex.fanouts to annex_owner using (true) with check (true);
create policy notifications_owner on annex.notifications to annex_owner using (true) with check (true);
create policy inboxes_owner on annex.inboxes to annex_owner using (true) with check (true);
create policy suppressions_owner on annex.suppressions to annex_owner using (true) with check (true);

create policy notifications_select on annex.notifications for select to annex_api, authenticated
  using (
    user_id = (select annex.user_id())
    and (workspace_id, permission) in (select s.workspace_id, s.permission from annex.sight() s)
  );
create policy inboxes_select on annex.inboxes for select to annex_api, authenticated
  using (
    user_id = (select annex.user_id())
    and (workspace_id, permission) in (select s.workspace_id, s.permission from annex.sight() s)
  );
grant select on annex.notifications, annex.inboxes to annex_api;
grant select on annex.notifications, annex.inboxes to authenticated;

-- The roles whose members may see what takes a permission in a workspace; null if there is no such workspace. One expression, so
-- that a statement takes it in.
create function annex.admission(workspace_id uuid, permission text) returns table (roles text[])
language sql stable rows 1 as $$
  select case
    when exists (select from annex.workspaces w where w.id = admission.workspace_id and w.deleted_at is null) then array(
      select r.key from annex.roles r
      where r.workspace_id = admission.workspace_id
        and r.permissions @> array['events:read', coalesce(admission.permission, 'events:read')]
      union all
      select r.key from annex.roles r
      where r.workspace_id is null
        and r.permissions @> array['events:read', coalesce(admission.permission, 'events:read')]
    )
  end
$$;

-- Say why somebody with a membership's status and role, or nulls for none, is not among those whom annex.admission lets in.
create function annex.refusal(status text, role text, roles text[]) returns text language sql immutable as $$
  select case
    when roles is null or status is null then 'not_a_member'
    when status <> 'active' then 'suspended'
    when role <> all (roles) then 'not_permitted'
  end
$$;

-- Says of users why each may not see what takes a permission in a workspace; null for those who may. The rule of annex.grants,
-- for a set of users who have passed every factor. Whatever sends something to somebody asks here, at the time it sends.
create function annex.refusals(workspace_id uuid, permission text, user_ids uuid[])
returns table (user_id uuid, refusal text)
language sql stable as $$
  select u.id, annex.refusal(m.status, m.role, a.roles)
  from annex.admission(refusals.workspace_id, refusals.permission) a
  cross join unnest(user_ids) u (id)
  left join annex.members m on m.workspace_id = refusals.workspace_id and m.user_id = u.id
$$;

-- A time as the API writes it.
create function annex.json_time(moment timestamptz) returns text language sql stable parallel safe as $$
  select to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- An item and an inbox as the API shows them, for personal events. What is text comes as one array: jsonb_build_object looks up
-- the type of each value anew.
create function annex.notification_json(item annex.notifications) returns jsonb language sql stable as $$
  select jsonb_object(
    array[
      'id', 'workspace_id', 'event_id', 'type', 'subject', 'actor', 'permission', 'category', 'reason', 'topic', 'title', 'body',
      'url', 'group_key', 'arrived_at', 'seen_at', 'read_at', 'archived_at', 'snoozed_until'
    ],
    array[
      item.id::text, item.workspace_id::text, item.event_id::text, item.type, item.subject, item.actor, item.permission,
      item.category, item.reason, item.topic, item.title, item.body, item.url, item.group_key,
      annex.json_time(item.arrived_at), annex.json_time(item.seen_at), annex.json_time(item.read_at),
      annex.json_time(item.archived_at), annex.json_time(item.snoozed_until)
    ]
  ) || jsonb_build_object('is_critical', item.is_critical, 'group_count', item.group_count, 'version', item.version)
$$;
create function annex.inbox_json(inbox annex.inboxes) returns jsonb language sql stable as $$
  select jsonb_build_object(
    'workspace_id', inbox.workspace_id, 'permission', inbox.permission, 'active', inbox.active, 'unseen', inbox.unseen,
    'unread', inbox.unread, 'snoozed', inbox.snoozed, 'archived', inbox.archived, 'version', inbox.version
  )
$$;

-- What an item counts for: active, unseen, unread, snoozed, archived. One expression, so that a statement takes it in.
create function annex.counts_of(item annex.notifications) returns integer[] language sql immutable as $$
  select array[
    (item.archived_at is null and item.snoozed_until is null)::integer,
    (item.archived_at is null and item.snoozed_until is null and item.seen_at is null)::integer,
    (item.archived_at is null and item.snoozed_until is null and item.read_at is null)::integer,
    (item.snoozed_until is not null)::integer, (item.archived_at is not null)::integer
  ]
$$;

-- The number of a tenant's next turn in the lane of new events or of begun ones: after the turns that the tenant still has, or
-- where the lane is now (start-time fair queuing). So who has much queued waits for themselves alone. For Annex's own functions.
create function annex.next_turn(tenant uuid, is_begun boolean) returns bigint
language sql stable as $$
  select greatest(
    (
      select f.turn from annex.fanouts f
      where f.failed_at is null and f.attempts = 0 and f.is_begun = next_turn.is_begun order by f.turn, f.event_id limit 1
    ),
    (
      select f.turn + 1 from annex.fanouts f
      where f.failed_at is null and f.attempts = 0 and f.tenant = next_turn.tenant and f.is_begun = next_turn.is_begun
      order by f.turn desc limit 1
    ),
    0
  )
$$;

-- Queue events for fan-out: those with recipients, or with a topic that somebody follows. Not of a workspace that
-- was purged: its events stay, and there is nothing that a word on them could refer to. What the projector does with a batch
-- of the log, in the transaction that moves its cursor; an event's content cannot make it fail or take long. All workspaces of
-- one creator are one tenant and share its turns.
create function annex.queue_fanouts(event_ids uuid[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- As in annex.sequence: planned once a session, for tables of any size.
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
  insert into annex.fanouts (event_id, tenant, turn)
  select u.event_id, t.tenant, t.turn + u.place - 1
  from (
    select q.tenant, q.ids, annex.next_turn(q.tenant, false) as turn
    from (
      select coalesce(w.created_by, w.id) as tenant, array_agg(e.event_id order by e.event_id) as ids
      from unnest(event_ids) i join annex.events e on e.event_id = i join annex.workspaces w on w.id = e.workspace_id
      where e.user_id is null and (
        e.recipients is not null
        or exists (
          select from unnest(e.topics) t (topic)
          join annex.subscriptions s on s.workspace_id = e.workspace_id and s.topic = t.topic
        )
      )
      group by coalesce(w.created_by, w.id)
    ) q
  ) t, unnest(t.ids) with ordinality u (event_id, place)
  order by u.event_id
  on conflict do nothing;
end
$$;
grant execute on function annex.queue_fanouts(uuid[]) to annex_worker;

-- A row if so few events of a tenant wait for fan-out that no more need be asked: under 100, and under the limit of annex.limits.
-- For annex.usual_publisher. Inlined where it stands in FROM.
create function annex.find_short_queue(tenant uuid) returns setof boolean language sql stable rows 1 as $$
  select true where not exists (
    select from annex.fanouts f where f.failed_at is null and f.tenant = find_short_queue.tenant
    offset (select greatest(least(l.value, 100) - 1, 0) from annex.limits l where l.name = 'waiting_fanouts')
  )
$$;

-- Raise too_many_events while as many events of a workspace's tenant wait for fan-out as annex.limits says, if a new one of a
-- batch would be queued as well: by a recipient, or a topic that somebody follows. With the seconds after which to try again as
-- hint. Turns keep a tenant's queue from holding up others, and this keeps it from growing as long as the projector reads the
-- log. What it has not read yet is not counted: which of those events are to be queued takes a look at each of them, at every
-- request, and a worker that is down would stop publishers. For annex.publish and annex.publish_events.
create function annex.check_fanouts(workspace_id uuid, batch jsonb, are_new boolean[]) returns void
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  most integer := (select l.value from annex.limits l where l.name = 'waiting_fanouts');
begin
  if exists (
    select from annex.fanouts f
    where f.failed_at is null and f.tenant = (
      select coalesce(w.created_by, w.id) from annex.workspaces w where w.id = check_fanouts.workspace_id
    )
    offset greatest(most - 1, 0)
  ) and exists (
    select from jsonb_array_elements(batch) with ordinality e (value, place)
    where are_new[e.place] and (
      coalesce(e.value -> 'recipients', '[]') not in ('[]', 'null')
      or exists (
        select from jsonb_array_elements_text(coalesce(nullif(e.value -> 'topics', 'null'), '[]')) t (topic)
        join annex.subscriptions s on s.workspace_id = check_fanouts.workspace_id and s.topic = t.topic
      )
    )
  ) then
    raise exception 'So many events wait to be fanned out that no more may; publish again in a moment.'
      using errcode = 'program_limit_exceeded', constraint = 'too_many_events', hint = '10';
  end if;
end
$$;

-- The events whose turn it is, at most 50: new ones, or those that had a turn before, of which half may be such as failed. They
-- are locked, so that another worker that asks in the same moment gets others: for use within the statement that delivers them.
create function annex.due_fanouts(is_begun boolean, max_events integer default 50) returns uuid[]
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  most integer := least(max_events, 50);
  aside uuid[] := '{}';
begin
  if is_begun then
    -- Of the first 1,000, tenant by tenant.
    aside := array(
      select a.event_id from (
        select f.event_id, f.due_at, row_number() over (partition by f.tenant order by f.due_at) as nth
        from (
          select f.event_id, f.tenant, f.due_at from annex.fanouts f
          where f.failed_at is null and f.attempts > 0 and f.due_at <= clock_timestamp() order by f.due_at limit 1000
        ) f
      ) a
      order by a.nth, a.due_at limit (most + 1) / 2
    );
    aside := array(select f.event_id from annex.fanouts f where f.event_id = any (aside) for update skip locked);
  end if;
  return aside || array(
    select f.event_id from annex.fanouts f
    where f.failed_at is null and f.attempts = 0 and f.is_begun = due_fanouts.is_begun
    order by f.turn, f.event_id limit most - cardinality(aside) for update skip locked
  );
end
$$;
grant execute on function annex.due_fanouts(boolean, integer) to annex_worker;

-- Put an event aside whose fan-out failed, with the reason: it is tried again after a quarter of a second, because an inbox that
-- was in use mostly is free by then, after 1 s, 4 s and so on up to an hour, and given up after so many tries. Returns how many
-- have failed, and if it was given up; no row if it is not queued.
create function annex.put_fanout_aside(event_id uuid, reason text, max_attempts integer default 12)
returns table (attempts integer, is_given_up boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  return query
    update annex.fanouts f
    set is_begun = true, attempts = f.attempts + 1, error = left(reason, 200),
      due_at = clock_timestamp() + least(power(4, least(f.attempts, 7) - 1), 3600) * interval '1 second',
      failed_at = case when f.attempts + 1 >= max_attempts then clock_timestamp() end
    where f.event_id = put_fanout_aside.event_id and f.failed_at is null
    returning f.attempts, f.failed_at is not null;
end
$$;
grant execute on function annex.put_fanout_aside(uuid, text, integer) to annex_worker;

-- Delete at most a number of fan-outs that were given up 30 days ago; returns how many.
create function annex.purge_fanouts(max_rows integer default 10000) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with gone as (
    delete from annex.fanouts f
    where f.event_id in (
      select o.event_id from annex.fanouts o
      where o.failed_at < now() - interval '30 days' order by o.failed_at limit max_rows
    )
    returning 1
  )
  select count(*) from gone
$$;
grant execute on function annex.purge_fanouts(integer) to annex_worker;

-- Since when an event has been due for fan-out or has waited for the projector to read it, null if none does, and how many were
-- given up. For metrics and `annex doctor`.
create function annex.fanout_health() returns table (due_since timestamptz, given_up bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select least(
      (select min(f.due_at) from annex.fanouts f where f.failed_at is null and f.due_at <= clock_timestamp()),
      -- Without a worker nothing is queued: what waits is in the log.
      (
        select annex.uuid7_time(l.event_id) from annex.log l
        where l.pos > coalesce((select r.pos from annex.readers r where r.name = 'projector'), 0) order by l.pos limit 1
      )
    ),
    (select count(*) from annex.fanouts f where f.failed_at is not null)
$$;
grant execute on function annex.fanout_health() to annex_worker;

-- Fan a run of events out to candidates, by one statement for all of them: no two events of a run are of one group, and so
-- none touches an item of another. A candidate names its event by the place in event_ids; `locked` says whose inboxes are, and
-- nobody else gets anything. A user's items and personal events come in the order of the events, and each of those events has
-- the counts that the whole run left. Nothing is joined here but by an index: the planner knows nothing of the sizes.
create function annex.deliver_events(
  event_ids uuid[], places bigint[], user_ids uuid[], reasons text[], via text[], muted boolean[], locked boolean[]
) returns void
language plpgsql as $$
#variable_conflict use_column
declare
  moment timestamptz := clock_timestamp();
  micros bigint := extract(epoch from moment) * 1000000;
  seed text := gen_random_uuid();
  made record;
begin
  with source as materialized (
    select q.place, e.event_id, e.workspace_id, e.type, e.subject, e.actor, e.principal, e.permission, e.group_key,
      coalesce(e.permission, 'events:read') as seen_by, coalesce(e.url, d.link) as url, d.category, d.is_critical, d.title, d.body,
      -- Once for the event: of its candidates, most have one of a few roles, and chose nothing.
      a.roles, exists (
        select from annex.preferences p where p.user_id is null and p.workspace_id = e.workspace_id
      ) as is_chosen,
      -- A time of its own, which orders the items of a user as the events are.
      moment + q.place * interval '1 microsecond' as arrived_at
    from unnest(event_ids) with ordinality q (event_id, place)
    -- `offset 0` here and below: by its key, whatever the planner thinks of a table that was empty a moment ago.
    cross join lateral (select e.* from annex.events e where e.event_id = q.event_id offset 0) e
    cross join lateral (select d.* from annex.describe(e.type, e.data) d offset 0) d
    cross join lateral (select a.* from annex.admission(e.workspace_id, e.permission) a offset 0) a
  ), judged as materialized (
    select s.*, g.user_id, g.reason, g.topic,
      case
        when f.refusal is not null then f.refusal
        when s.principal = 'user:' || g.user_id or s.actor = 'user:' || g.user_id then 'actor'
        when not g.is_locked then 'not_a_member'  -- who came, or came back, this very moment
        when s.is_critical then null
        when g.is_muted then 'muted'
        when (s.is_chosen or g.user_id = any (array(
          select distinct p.user_id from annex.preferences p where p.user_id = any (deliver_events.user_ids)
        ))) and not exists (
          select from annex.wanting(array[g.user_id], s.workspace_id, s.category, s.is_critical, 'in_app')
        ) then 'preference'
      end as refusal
    from unnest(places, user_ids, reasons, via, muted, locked) g (place, user_id, reason, topic, is_muted, is_locked)
    join source s on s.place = g.place
    left join lateral (
      select m.status, m.role from annex.members m where m.workspace_id = s.workspace_id and m.user_id = g.user_id offset 0
    ) m on true
    cross join lateral (select annex.refusal(m.status, m.role, s.roles) as refusal offset 0) f
    -- Users who are known, as recipients may name anybody; a member has a profile.
    where f.refusal is null or exists (select from annex.profiles p where p.user_id = g.user_id offset 0)
  ), withheld as (
    insert into annex.suppressions (event_id, user_id, workspace_id, reason)
    select j.event_id, j.user_id, j.workspace_id, j.refusal from judged j
    where j.refusal is not null and (
      j.refusal <> 'not_a_member'
      -- No row of a stranger: nobody may read it, and it would grow what is theirs.
      or exists (select from annex.members m where m.workspace_id = j.workspace_id and m.user_id = j.user_id offset 0)
      or exists (select from annex.removals r where r.workspace_id = j.workspace_id and r.user_id = j.user_id offset 0)
    )
    on conflict do nothing
  ), due as materialized (
    select j.*, row_number() over () as nth, o.id as open_id, o.unseen
    from judged j
    left join lateral (
      -- An open item counts as active and unread already, unless it is snoozed.
      select n.id, (n.seen_at is not null and n.snoozed_until is null)::integer as unseen from annex.notifications n
      where n.user_id = j.user_id and n.workspace_id = j.workspace_id and n.group_key = j.group_key
        and n.permission = j.seen_by and n.read_at is null and n.archived_at is null and not n.is_critical
        -- What is critical is an item of its own: it neither hides in an older one nor is hidden by a newer one.
        and j.group_key is not null and not j.is_critical
      order by (n.arrived_at, n.id) desc limit 1
    ) o on true
    where j.refusal is null
  ), collapsed as (
    update annex.notifications n
    set event_id = d.event_id, type = d.type, subject = d.subject, actor = d.actor, reason = d.reason, topic = d.topic,
      category = d.category, is_critical = d.is_critical, title = d.title, body = d.body, url = d.url,
      group_count = n.group_count + 1, arrived_at = d.arrived_at, seen_at = null
    -- Twice, so that no plan reads the whole table for what is not there.
    from due d where n.id = d.open_id and n.id = any (array(select x.open_id from due x where x.open_id is not null))
    returning n.id, n.user_id, n.workspace_id, n.permission, n.arrived_at, d.unseen
  ), added as (
    insert into annex.notifications as n (
      id, workspace_id, user_id, event_id, type, subject, actor, permission, category, is_critical, reason, topic, title, body,
      url, group_key, arrived_at
    )
    select annex.uuid7_of(micros, seed, d.nth), d.workspace_id, d.user_id, d.event_id, d.type, d.subject, d.actor, d.seen_by,
      d.category, d.is_critical, d.reason, d.topic, d.title, d.body, d.url, d.group_key, d.arrived_at
    from due d where d.open_id is null
    returning n.id, n.user_id, n.workspace_id, n.permission, n.arrived_at
  ), items as (
    select a.*, 'annex.notification.created' as type, 1 as active, 1 as unseen, 1 as unread from added a
    union all
    select c.id, c.user_id, c.workspace_id, c.permission, c.arrived_at, 'annex.notification.changed', 0, c.unseen, 0
    from collapsed c
  ), counted as (
    insert into annex.inboxes as i (user_id, workspace_id, permission, active, unseen, unread)
    select t.user_id, t.workspace_id, t.permission, sum(t.active), sum(t.unseen), sum(t.unread)
    from items t group by t.user_id, t.workspace_id, t.permission
    on conflict (user_id, workspace_id, permission) do update
      set active = i.active + excluded.active, unseen = i.unseen + excluded.unseen, unread = i.unread + excluded.unread
  )
  select array_agg(t.id order by t.arrived_at, t.user_id) as ids, array_agg(t.type order by t.arrived_at, t.user_id) as types
  into made
  from items t;
  -- By a statement of its own, which sees the counts that the first one left.
  with told as (
    insert into annex.events (event_id, workspace_id, user_id, type, source, subject, actor, principal, permission, data)
    select annex.uuid7_of(micros, seed || '.', t.place), (n.item).workspace_id, (n.item).user_id, t.type, 'annex',
      'notification:' || t.id, 'system', 'system', nullif((n.item).permission, 'events:read'),
      jsonb_build_object('notification', annex.notification_json(n.item), 'inbox', annex.inbox_json(b.inbox))
    from unnest(made.ids, made.types) with ordinality t (id, type, place)
    cross join lateral (select n as item from annex.notifications n where n.id = t.id offset 0) n
    cross join lateral (
      select i as inbox from annex.inboxes i
      where i.user_id = (n.item).user_id and i.workspace_id = (n.item).workspace_id
        and i.permission = (n.item).permission offset 0
    ) b
    order by t.place
    returning event_id, workspace_id, user_id
  )
  insert into annex.pending (event_id, workspace_id, user_id, is_personal)
  select t.event_id, t.workspace_id, t.user_id, true from told t;
end
$$;

-- Fan out a page of these queued events, at most 50, in the order of their turns: each gets an equal part of it, and one that
-- has more takes its tenant's next turn, so that a small one never waits for a large one. Those that another worker is at are left to it, and after a
-- second the rest waits for the next call. Recipients come in the order of their ids, each once. Items, counts, personal
-- events and the cursor are one transaction. Returns how many events had their turn, how many of these have more recipients than
-- their part, and those that had none because an inbox is in use; a moment is waited for one, and the others never.
create function annex.deliver(event_ids uuid[], max_rows integer default 500)
returns table (served integer, begun integer, held uuid[])
language plpgsql security definer set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms' set jit = off
set plan_cache_mode = force_generic_plan set enable_material = off set enable_memoize = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  began timestamptz := clock_timestamp();
  queued uuid[];
  starts uuid[];
  share integer;
  page record;
  part record;
  wanted uuid[];
  locked uuid[];
  missing uuid[];
  waiting bigint[];
begin
  served := 0;
  begun := 0;
  held := '{}';
  -- The commit waits for no disk: a crash loses it with its cursor, and a position, which makes a personal event visible, is
  -- committed after it and does wait.
  perform set_config('synchronous_commit', 'off', true);
  select array_agg(f.event_id order by f.turn, f.event_id), array_agg(f.after_user order by f.turn, f.event_id)
  into queued, starts
  from (
    select f.event_id, f.after_user, f.turn from annex.fanouts f
    where f.event_id = any (event_ids) and f.failed_at is null
    order by f.turn, f.event_id limit 50 for update skip locked
  ) f;
  if queued is null then
    return next;
    return;
  end if;
  share := greatest(max_rows / cardinality(queued), 10);
  -- Who comes next, event by event: direct recipients and the subscribers of its topics, and one more, which says that there
  -- are more. The first of each list are enough to know the first of them all.
  with queue as materialized (
    select q.place, q.after_user, e.workspace_id, e.recipients, e.topics, e.type, e.group_key,
      -- Unpacked here once, not for every subscriber's filter.
      case when e.topics <> '{}' then e.data || '{}' end as data
    from unnest(queued, starts) with ordinality q (event_id, after_user, place)
    cross join lateral (select e.* from annex.events e where e.event_id = q.event_id offset 0) e
    where exists (select from annex.workspaces w where w.id = e.workspace_id offset 0)
  ), candidates as materialized (
    select q.place, d.*, row_number() over (partition by q.place order by d.user_id) as nth,
      -- Whoever names strangers must not hold up their inboxes.
      d.is_wanted and exists (
        select from annex.members m
        where m.workspace_id = q.workspace_id and m.user_id = d.user_id and m.status = 'active' offset 0
      ) as is_locked
    from queue q
    cross join lateral (
      select u.user_id,
        case when bool_or(u.topic is null) then 'recipient' else 'subscription' end as reason,
        case when not bool_or(u.topic is null) then min(u.topic) filter (where u.is_wanted) end as topic,
        bool_or(u.is_muted) and not bool_or(u.topic is null) as is_muted,
        bool_or(u.is_wanted) as is_wanted
      from (
        (
          select distinct r.user_id, null::text as topic, false as is_muted, true as is_wanted
          from unnest(q.recipients) r (user_id) where r.user_id > q.after_user order by r.user_id limit share + 1
        )
        union all
        select s.* from unnest(q.topics) t (topic)
        cross join lateral (
          select s.user_id, s.topic, s.is_muted and f.is_match, f.is_match
          from annex.subscriptions s,
          -- Most have no filter, and to call for one costs more than all the rest of this.
          lateral (
            select s.types = '{}' and s.clauses = '{}' or annex.matches(s.types, s.clauses, q.type, q.data) as is_match
          ) f
          where s.workspace_id = q.workspace_id and s.topic = t.topic and s.user_id > q.after_user
          order by s.user_id limit share + 1
        ) s
      ) u
      group by u.user_id order by u.user_id limit share + 1
    ) d
  )
  select coalesce(array_agg(c.place order by c.place, c.user_id), '{}') as places,
    coalesce(array_agg(c.user_id order by c.place, c.user_id), '{}') as user_ids,
    array_agg(c.reason order by c.place, c.user_id) as reasons, array_agg(c.topic order by c.place, c.user_id) as topics,
    array_agg(c.is_muted order by c.place, c.user_id) as muted, array_agg(c.is_locked order by c.place, c.user_id) as locked,
    array(
      select q.workspace_id || ' ' || q.group_key
      from generate_subscripts(queued, 1) p (place) left join queue q on q.place = p.place order by p.place
    ) as groups,
    array(select c.place from candidates c where c.nth > share order by c.place) as longer,
    array(
      select c.user_id from candidates c
      where c.nth = share and c.place in (select l.place from candidates l where l.nth > share) order by c.place
    ) as ends
  into page
  from candidates c where c.is_wanted and c.nth <= share;
  wanted := array(
    select distinct c.user_id from unnest(page.user_ids, page.locked) c (user_id, is_locked) where c.is_locked
  );
  for attempt in 1 .. 5 loop
    waiting := '{}';
    locked := array(
      select p.user_id from annex.profiles p where p.user_id = any (wanted)
      order by p.user_id for no key update skip locked
    );
    exit when cardinality(locked) = cardinality(wanted);
    missing := array(
      select w.id from unnest(wanted) w (id)
      where w.id <> all (locked) and exists (select from annex.profiles p where p.user_id = w.id offset 0)
    );
    exit when missing = '{}';
    waiting := array(
      select distinct c.place from unnest(page.places, page.user_ids, page.locked) c (place, user_id, is_locked)
      where c.is_locked and c.user_id = any (missing)
    );
    -- Whoever changes an item holds the inbox for a few milliseconds.
    perform pg_sleep(0.01) where attempt < 5;
  end loop;
  -- One who changes items without a pause is met at each try. In line, Annex has its turn behind those that came before.
  if waiting <> '{}' then
    perform set_config('lock_timeout', '100ms', true);
    begin
      locked := locked || array(
        select p.user_id from annex.profiles p where p.user_id = any (missing[1:5]) order by p.user_id for no key update
      );
      waiting := array(
        select distinct c.place from unnest(page.places, page.user_ids, page.locked) c (place, user_id, is_locked)
        where c.is_locked and c.user_id = any (missing) and c.user_id <> all (locked)
      );
    exception when lock_not_available then
      null;
    end;
    perform set_config('lock_timeout', '500ms', true);
  end if;
  for ahead in 1 .. cardinality(queued) + 1 loop
    -- A run ends before an event that may join an item of the run.
    continue when ahead <= cardinality(queued)
      and coalesce(page.groups[ahead] <> all (array_remove(page.groups[served + 1 : ahead - 1], null)), true);
    perform annex.deliver_events(
      queued[served + 1 : ahead - 1], array_agg(c.place - served order by c.n), array_agg(c.user_id order by c.n),
      array_agg(c.reason order by c.n), array_agg(c.topic order by c.n), array_agg(c.is_muted order by c.n),
      array_agg(c.is_locked order by c.n)
    )
    from unnest(page.places, page.user_ids, page.reasons, page.topics, page.muted, page.locked) with ordinality
      c (place, user_id, reason, topic, is_muted, is_locked, n)
    where c.place > served and c.place < ahead and c.place <> all (waiting)
    having count(*) > 0;
    served := ahead - 1;
    exit when clock_timestamp() > began + interval '1 second';
  end loop;
  for part in
    select l.place, l.user_id from unnest(page.longer, page.ends) l (place, user_id)
    where l.place <= served and l.place <> all (waiting)
  loop
    update annex.fanouts f
    set after_user = part.user_id, is_begun = true, turn = annex.next_turn(f.tenant, true), due_at = clock_timestamp(),
      attempts = 0, error = null
    where f.event_id = queued[part.place];
    begun := begun + 1;
  end loop;
  delete from annex.fanouts f
  where f.event_id = any (queued[1 : served])
    and f.event_id <> all (array(select queued[l.place] from unnest(page.longer || waiting) l (place)));
  held := array(select queued[w.place] from unnest(waiting) w (place) where w.place <= served order by w.place);
  served := served - cardinality(held);
  return next;
end
$$;
grant execute on function annex.deliver(uuid[], integer) to annex_worker;

-- Says if the log tells, after a position, that what the calling user sees may have changed: their own membership, or
-- something in a workspace of which they have items. A reader of the user's feed who comes back begins anew then. Looks at the
-- entries of this user and of their workspaces alone, however many others there are.
create function annex.sight_changed(after_pos bigint) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select exists (
    select from annex.log l where l.rights_of = 'user:' || annex.user_id() and l.pos > after_pos
  ) or exists (
    select from annex.inboxes i join annex.log l on l.workspace_id = i.workspace_id
    where i.user_id = annex.user_id() and l.rights_of = '*' and l.pos > after_pos
  ) or exists (
    select from annex.pending p where p.rights_of = 'user:' || annex.user_id()
  ) or exists (
    select from annex.inboxes i join annex.pending p on p.workspace_id = i.workspace_id
    where i.user_id = annex.user_id() and p.rights_of = '*'
  )
$$;
grant execute on function annex.sight_changed(bigint) to annex_api;

reset role;

insert into annex.migrations (name) values ('14_notifications');
