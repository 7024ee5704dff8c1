-- What becomes of notifications once they are in an inbox: their users change them, snoozed ones come back, old ones expire.
-- All of it holds the lock of the inboxes that it changes, keeps their counts and tells their users by personal events.

set role annex_owner;

-- Lock all inboxes of users, in the order of their ids so that two calls never wait for each other in a circle; the lock is
-- that of their profiles. Returns whose are locked: without waiting, those that nobody else holds. For Annex's own functions.
create function annex.lock_inboxes_of(user_ids uuid[], is_waiting boolean default true) returns uuid[]
language plpgsql as $$
declare
  locked uuid[];
begin
  if is_waiting then
    locked := array(
      select p.user_id from annex.profiles p where p.user_id = any (user_ids) order by p.user_id for no key update
    );
  else
    locked := array(
      select p.user_id from annex.profiles p where p.user_id = any (user_ids)
      order by p.user_id for no key update skip locked
    );
  end if;
  return locked;
end
$$;

-- Lock the calling user's inboxes; returns the user. For Annex's own functions.
create function annex.lock_inboxes() returns uuid
language plpgsql as $$
declare
  caller uuid := annex.require_user();
begin
  perform annex.lock_inboxes_of(array[caller]);
  return caller;
end
$$;

-- Add to the counts of an inbox that is locked, and tell its user what was changed; of an inbox that a purge took there is
-- nothing to tell. For Annex's own functions.
create function annex.tell_inbox(
  user_id uuid, workspace_id uuid, permission text, delta integer[], type text, subject text, data jsonb
) returns void
language plpgsql as $$
#variable_conflict use_column
declare
  inbox annex.inboxes;
begin
  update annex.inboxes i
  set active = i.active + delta[1], unseen = i.unseen + delta[2], unread = i.unread + delta[3],
    snoozed = i.snoozed + delta[4], archived = i.archived + delta[5]
  where i.user_id = tell_inbox.user_id and i.workspace_id = tell_inbox.workspace_id
    and i.permission = tell_inbox.permission
  returning i.* into inbox;
  if not found then
    return;
  end if;
  perform annex.append_event(
    tell_inbox.workspace_id, tell_inbox.type, tell_inbox.subject,
    tell_inbox.data || jsonb_build_object('inbox', annex.inbox_json(inbox)),
    permission => nullif(tell_inbox.permission, 'events:read'), user_id => tell_inbox.user_id
  );
end
$$;

-- Change one of the calling user's items; null leaves. What is read was seen; an archived item is not snoozed, and to snooze
-- one takes it out of the archive. Returns the item. Raises not_found, user_required or precondition_failed,
-- snoozed_until_passed for a time that has passed or is over a year away, and limit_reached if the user has snoozed as many as
-- annex.limits allows, in all workspaces.
create function annex.change_notification(
  id uuid,
  is_seen boolean default null,
  is_read boolean default null,
  is_archived boolean default null,
  snoozed_until timestamptz default null,
  is_snooze_given boolean default false,
  versions integer[] default null
) returns annex.notifications
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.lock_inboxes();
  before annex.notifications;
  item annex.notifications;
begin
  select n.* into before from annex.notifications n
  where n.id = change_notification.id and n.user_id = caller
    and exists (select from annex.sight(n.workspace_id) s where s.permission = n.permission);
  if not found then
    raise exception 'There is no such notification, or it is not yours to see.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_version(before.version, versions);
  if change_notification.snoozed_until not between now() and now() + interval '1 year' then
    raise exception 'Snooze until a time within the next year.'
      using errcode = 'check_violation', constraint = 'snoozed_until_passed';
  end if;
  if before.snoozed_until is null and change_notification.snoozed_until is not null and is_snooze_given
    and (select coalesce(sum(i.snoozed), 0) from annex.inboxes i where i.user_id = caller)
      >= (select l.value from annex.limits l where l.name = 'snoozed_per_user')
  then
    raise exception 'So many notifications are snoozed that no more may be.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  item := before;
  if is_snooze_given then
    item.snoozed_until := change_notification.snoozed_until;
    if item.snoozed_until is not null then
      item.archived_at := null;
    end if;
  end if;
  if is_archived is not null then
    item.archived_at := case when is_archived then coalesce(before.archived_at, now()) end;
    if is_archived then
      item.snoozed_until := null;
    end if;
  end if;
  if is_seen is not null then
    item.seen_at := case when is_seen then coalesce(before.seen_at, now()) end;
    if not is_seen then
      item.read_at := null;
    end if;
  end if;
  if is_read is not null then
    item.read_at := case when is_read then coalesce(before.read_at, now()) end;
    if is_read then
      item.seen_at := coalesce(item.seen_at, now());
    end if;
  end if;
  if item is not distinct from before then
    return before;
  end if;
  update annex.notifications n
  set seen_at = item.seen_at, read_at = item.read_at, archived_at = item.archived_at, snoozed_until = item.snoozed_until
  where n.id = before.id returning n.* into item;
  perform annex.tell_inbox(
    caller, item.workspace_id, item.permission,
    array(select x - y from unnest(annex.counts_of(item), annex.counts_of(before)) u (x, y)),
    'annex.notification.changed', 'notification:' || item.id,
    jsonb_build_object('notification', annex.notification_json(item))
  );
  return item;
end
$$;
grant execute on function
  annex.change_notification(uuid, boolean, boolean, boolean, timestamptz, boolean, integer[])
  to annex_api, authenticated;

-- Mark the calling user's active items seen or read, or archive them: those that arrived until a moment, in one workspace or
-- in all, at most 10,000, newest first. What arrives meanwhile arrives after that moment. Returns how many were changed, and
-- if there were no more. One personal event an inbox says which: those between the first and the last, as a moment that is still to
-- come would tell of items that arrive until then.
create function annex.mark_notifications(
  action text, arrived_until timestamptz, workspace_id uuid default null, category text default null
) returns table (changed integer, is_complete boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.lock_inboxes();
  most constant integer := 10000;
  target record;
  done record;
begin
  if coalesce(action not in ('seen', 'read', 'archived'), true) then
    raise exception 'An action is seen, read or archived.'
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  elsif workspace_id is not null and not exists (select from annex.sight(mark_notifications.workspace_id)) then
    perform annex.require(mark_notifications.workspace_id, 'events:read');
  end if;
  select coalesce(array_agg(t.id), '{}') as ids, min(t.arrived_at) as first, max(t.arrived_at) as last,
    count(*) as size
  into target
  from (
    select n.id, n.arrived_at from annex.notifications n
    where n.user_id = caller and n.archived_at is null and n.snoozed_until is null
      and n.arrived_at <= arrived_until
      and n.workspace_id = coalesce(mark_notifications.workspace_id, n.workspace_id)
      and n.category = coalesce(mark_notifications.category, n.category)
      and case action when 'seen' then n.seen_at is null when 'read' then n.read_at is null else true end
      and (n.workspace_id, n.permission) in (select s.workspace_id, s.permission from annex.sight() s)
    order by n.arrived_at desc, n.id desc limit most
  ) t;
  changed := target.size;
  is_complete := target.size < most;
  for done in
    with old as materialized (
      select n.id, annex.counts_of(n) as counted from annex.notifications n where n.id = any (target.ids)
    ), marked as (
      update annex.notifications n
      set seen_at = case when action = 'archived' then n.seen_at else coalesce(n.seen_at, now()) end,
        read_at = case when action = 'read' then coalesce(n.read_at, now()) else n.read_at end,
        archived_at = case when action = 'archived' then now() end
      from old o where n.id = o.id
      returning n.workspace_id, n.permission, annex.counts_of(n) as counts, o.counted
    )
    select m.workspace_id, m.permission, array[
      sum(m.counts[1] - m.counted[1]), sum(m.counts[2] - m.counted[2]), sum(m.counts[3] - m.counted[3]),
      sum(m.counts[4] - m.counted[4]), sum(m.counts[5] - m.counted[5])
    ]::integer[] as delta
    from marked m group by m.workspace_id, m.permission
  loop
    perform annex.tell_inbox(
      caller, done.workspace_id, done.permission, done.delta, 'annex.notification.marked', 'user:' || caller,
      jsonb_build_object('mark', jsonb_build_object(
        'action', action, 'category', mark_notifications.category, 'at', annex.json_time(now()),
        'arrived_from', annex.json_time(target.first), 'arrived_until', annex.json_time(target.last)
      ))
    );
  end loop;
  return next;
end
$$;
grant execute on function annex.mark_notifications(text, timestamptz, uuid, text) to annex_api, authenticated;

-- Bring back snoozed items whose time has come, as new ones; returns how many, and those that could not be: they stay away for
-- ten minutes more, and stop no other. Users take turns, item by item, and at most 50 of one user come back in a call; 100,000
-- that are due are looked at. Users whose inbox is in use come next time.
create function annex.wake_notifications(max_rows integer default 500)
returns table (woken integer, put_off uuid[])
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  due uuid[];
  owners uuid[];
  before annex.notifications;
  item annex.notifications;
begin
  woken := 0;
  put_off := '{}';
  select array_agg(d.id), array_agg(distinct d.user_id) into due, owners
  from (
    select t.id, t.user_id from (
      select n.*, row_number() over (partition by n.user_id order by n.snoozed_until, n.id) as nth
      from (
        select n.id, n.user_id, n.snoozed_until from annex.notifications n
        where n.snoozed_until <= now() order by n.snoozed_until limit 100000
      ) n
    ) t
    where t.nth <= 50 order by t.nth, t.snoozed_until, t.id limit max_rows
  ) d;
  owners := annex.lock_inboxes_of(owners, is_waiting => false);
  for before in
    select n.* from annex.notifications n
    where n.id = any (due) and n.user_id = any (owners) and n.snoozed_until <= now() order by n.snoozed_until, n.id
  loop
    begin
      update annex.notifications n
      set snoozed_until = null, arrived_at = clock_timestamp(), seen_at = null, read_at = null
      where n.id = before.id returning n.* into item;
      perform annex.tell_inbox(
        item.user_id, item.workspace_id, item.permission,
        array(select x - y from unnest(annex.counts_of(item), annex.counts_of(before)) u (x, y)),
        'annex.notification.changed', 'notification:' || item.id,
        jsonb_build_object('notification', annex.notification_json(item))
      );
      woken := woken + 1;
    exception when others then
      put_off := put_off || before.id;
      begin
        update annex.notifications n set snoozed_until = now() + interval '10 minutes' where n.id = before.id;
      exception when others then
        null;  -- it is tried again at once, and takes no more than its user's share
      end;
    end;
  end loop;
  return next;
end
$$;
grant execute on function annex.wake_notifications(integer) to annex_worker;

-- Delete at most a number of suppressions that are 30 days old; returns how many.
create function annex.purge_suppressions(max_rows integer default 10000) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with gone as (
    delete from annex.suppressions s
    where (s.event_id, s.user_id) in (
      select o.event_id, o.user_id from annex.suppressions o
      where o.created_at < now() - interval '30 days' order by o.created_at limit max_rows
    )
    returning 1
  )
  select count(*) from gone
$$;
grant execute on function annex.purge_suppressions(integer) to annex_worker;

-- Delete items of inboxes that are locked, with their counts; one personal event an inbox says which. Returns how many went.
-- For Annex's own functions.
create function annex.delete_notifications(ids uuid[]) returns integer
language plpgsql as $$
declare
  done record;
  gone integer := 0;
begin
  for done in
    with deleted as (
      delete from annex.notifications n where n.id = any (ids)
      returning n.id, n.user_id, n.workspace_id, n.permission, annex.counts_of(n) as counts
    )
    select d.user_id, d.workspace_id, d.permission, array_agg(d.id order by d.id) as ids, array[
      -sum(d.counts[1]), -sum(d.counts[2]), -sum(d.counts[3]), -sum(d.counts[4]), -sum(d.counts[5])
    ]::integer[] as delta
    from deleted d group by d.user_id, d.workspace_id, d.permission order by d.user_id, d.workspace_id, d.permission
  loop
    perform annex.tell_inbox(
      done.user_id, done.workspace_id, done.permission, done.delta, 'annex.notification.deleted',
      'user:' || done.user_id, jsonb_build_object('deleted', done.ids)
    );
    gone := gone + cardinality(done.ids);
  end loop;
  return gone;
end
$$;

-- Delete one batch of the items that arrived so many days ago, whatever their state, but none that is snoozed. Looks at items
-- in the order of their ids; returns after which to go on, whether that was the last, how many went, and the users whose items
-- could not go, who stop no other. Users whose inbox is in use come next time.
create function annex.expire_notifications(after_id uuid, max_days integer, max_rows integer default 1000)
returns table (last_id uuid, is_last boolean, expired integer, failed uuid[])
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  cutoff timestamptz := now() - make_interval(days => max_days);
  old uuid[];
  owners uuid[];
  owner uuid;
begin
  failed := '{}';
  select coalesce(array_agg(o.id order by o.id), '{}'), array_agg(distinct o.user_id) into old, owners
  from (
    select n.id, n.user_id from annex.notifications n
    where n.id > coalesce(after_id, '00000000-0000-0000-0000-000000000000') and n.id < annex.uuid7_floor(cutoff)
    order by n.id limit max_rows
  ) o;
  owners := annex.lock_inboxes_of(owners, is_waiting => false);
  last_id := coalesce(old[cardinality(old)], after_id);
  is_last := cardinality(old) < max_rows;
  -- Asked again under the lock: an item may have come back, or been snoozed.
  old := array(
    select n.id from annex.notifications n
    where n.id = any (old) and n.user_id = any (owners) and n.arrived_at < cutoff and n.snoozed_until is null
  );
  begin
    expired := annex.delete_notifications(old);
  exception when others then
    -- User by user: one whose items cannot go, such as by counts that are wrong in a restored database, is passed over.
    expired := 0;
    foreach owner in array owners loop
      begin
        expired := expired + annex.delete_notifications(
          array(select n.id from annex.notifications n where n.id = any (old) and n.user_id = owner)
        );
      exception when others then
        failed := failed || owner;
      end;
    end loop;
  end;
  return next;
end
$$;
grant execute on function annex.expire_notifications(uuid, integer, integer) to annex_worker;

-- Inboxes that hold more than annex.limits allows, in the order of their users, workspaces and permissions, after one of them.
-- Items that are snoozed do not count: annex.change_notification bounds them.
create function annex.full_inboxes(
  after_user uuid default null, after_workspace uuid default null, after_permission text default null,
  max_rows integer default 1000
) returns table (user_id uuid, workspace_id uuid, permission text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select i.user_id, i.workspace_id, i.permission from annex.inboxes i
  where i.active + i.archived > (select l.value from annex.limits l where l.name = 'notifications_per_inbox')
    and (after_user is null or (i.user_id, i.workspace_id, i.permission) > (after_user, after_workspace, after_permission))
  order by i.user_id, i.workspace_id, i.permission limit max_rows
$$;
grant execute on function annex.full_inboxes(uuid, uuid, text, integer) to annex_worker;

-- Delete one batch of what an inbox holds over its limit, oldest first: what is archived, then what is active. Returns how many
-- went, 0 if there is nothing over it or the inbox stays in use for a second: a full one mostly is, for moments.
create function annex.trim_inbox(user_id uuid, workspace_id uuid, permission text, max_rows integer default 1000)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
  most integer := (select l.value from annex.limits l where l.name = 'notifications_per_inbox');
  archived integer;
  excess integer;
begin
  begin
    perform annex.lock_inboxes_of(array[trim_inbox.user_id]);
  exception when lock_not_available then
    return 0;
  end;
  select least(i.active + i.archived - most, max_rows), i.archived into excess, archived from annex.inboxes i
  where i.user_id = trim_inbox.user_id and i.workspace_id = trim_inbox.workspace_id
    and i.permission = trim_inbox.permission;
  if excess is null or excess <= 0 then
    return 0;
  end if;
  return annex.delete_notifications(
    array(
      select n.id from annex.notifications n
      where n.user_id = trim_inbox.user_id and n.workspace_id = trim_inbox.workspace_id
        and n.permission = trim_inbox.permission and n.archived_at is not null
      order by n.arrived_at, n.id limit least(excess, archived)
    )
    || array(
      select n.id from annex.notifications n
      where n.user_id = trim_inbox.user_id and n.workspace_id = trim_inbox.workspace_id
        and n.permission = trim_inbox.permission and n.archived_at is null and n.snoozed_until is null
      order by n.arrived_at, n.id limit greatest(excess - archived, 0)
    )
  );
end
$$;
grant execute on function annex.trim_inbox(uuid, uuid, text, integer) to annex_worker;

reset role;

insert into annex.migrations (name) values ('15_inbox_changes');
