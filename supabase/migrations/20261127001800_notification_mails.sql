-- Mails of notifications: one for an item that its user has not read after a while, and the way to end them (RFC 8058).
-- Whoever gets one is asked about again when it is sent: membership, permission, mutes, preferences, address, item.

set role annex_owner;

alter table annex.mails
  add constraint mails_notification_id_fkey foreign key (notification_id) references annex.notifications (id)
    on delete cascade,
  -- At most one for an item, however often it collapses.
  add constraint mails_notification_id_key unique (notification_id);

-- For the budget of a workspace: what was queued, and what was beyond it.
create index mails_notified_idx on annex.mails (workspace_id, is_critical, skip_reason, created_at)
  where notification_id is not null;
-- For the trace.
create index notifications_event_id_idx on annex.notifications (event_id, user_id);

-- How far items have been looked at, in the order of their ids. An item is looked at when it is older than any transaction.
create table annex.mail_state (
  id smallint not null default 1,
  after_id uuid not null,
  constraint mail_state_pkey primary key (id),
  constraint mail_state_id_check check (id = 1)
);

-- Tenants of which more ripened at once than their share: which of their items are still to be looked at. The least recently
-- served one comes first, and all others go on meanwhile.
create table annex.mail_backlogs (
  tenant uuid not null,
  after_id uuid not null,
  until_id uuid not null,
  served_at timestamptz not null default clock_timestamp(),
  constraint mail_backlogs_pkey primary key (tenant)
);

-- Items that could not be looked at: each is looked at again after a while, and the others go on. Without a foreign key, which
-- would wait for an item that is being deleted; a row whose item is gone goes with its next turn.
create table annex.mail_retries (
  notification_id uuid not null,
  attempts integer not null,
  next_attempt_at timestamptz not null,
  error text not null,
  constraint mail_retries_pkey primary key (notification_id),
  constraint mail_retries_error_check check (char_length(error) = 5)
);
create index mail_retries_next_attempt_at_idx on annex.mail_retries (next_attempt_at);

-- BEFORE DELETE on profiles: what is left of a creator's backlog becomes that of each of their workspaces, which are tenants by
-- themselves from then on.
create function annex.move_mail_backlog() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  with gone as (
    delete from annex.mail_backlogs b where b.tenant = old.user_id returning b.*
  )
  insert into annex.mail_backlogs (tenant, after_id, until_id, served_at)
  select w.id, g.after_id, g.until_id, g.served_at from gone g join annex.workspaces w on w.created_by = old.user_id;
  return old;
end
$$;
create trigger profiles_move_backlog before delete on annex.profiles
  for each row execute function annex.move_mail_backlog();

-- What a mail's link ends: one user's mails of one category in one workspace. A hash, never a token.
create table annex.unsubscribe_tokens (
  token_hash bytea not null,
  workspace_id uuid not null,
  user_id uuid not null,
  category text not null,
  created_at timestamptz not null default now(),
  constraint unsubscribe_tokens_pkey primary key (token_hash),
  constraint unsubscribe_tokens_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id)
    on delete cascade,
  constraint unsubscribe_tokens_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint unsubscribe_tokens_token_hash_check check (octet_length(token_hash) = 32),
  constraint unsubscribe_tokens_category_check check (char_length(category) between 1 and 63)
);
create index unsubscribe_tokens_user_id_idx on annex.unsubscribe_tokens (user_id);
create index unsubscribe_tokens_workspace_id_idx on annex.unsubscribe_tokens (workspace_id);
create index unsubscribe_tokens_created_at_idx on annex.unsubscribe_tokens (created_at);

-- AFTER UPDATE on notifications: an item that stands for a newer event now no longer leads to the one before; its trace says so.
create function annex.record_collapse() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into annex.suppressions (event_id, user_id, workspace_id, reason)
  values (old.event_id, old.user_id, old.workspace_id, 'collapsed')
  on conflict do nothing;
  return null;
end
$$;
create trigger notifications_collapse after update of event_id on annex.notifications
  for each row when (old.event_id <> new.event_id) execute function annex.record_collapse();

-- Say why an item's user gets no mail of it now; null if they do. The one place that decides, when a mail is queued and again
-- when it is sent.
create function annex.mail_refusal(item annex.notifications) returns text
language plpgsql stable as $$
begin
  return case
    when item.read_at is not null then 'read'
    when item.archived_at is not null then 'archived'
    when item.snoozed_until is not null then 'snoozed'
    else coalesce(
      (select r.refusal from annex.refusals(item.workspace_id, item.permission, array[item.user_id]) r),
      case
        -- As a fan-out has it: one muted topic of the event's is enough, and an event that names its user is not muted.
        when not item.is_critical and item.reason = 'subscription' and exists (
          select from annex.events e
          join annex.subscriptions s on s.workspace_id = e.workspace_id and s.user_id = item.user_id and s.topic = any (e.topics)
          where e.event_id = item.event_id and s.is_muted and annex.matches(s.types, s.clauses, e.type, e.data)
        ) then 'muted'
        when not annex.wants(item.user_id, item.workspace_id, item.category, item.is_critical, 'email') then 'preference'
        when not exists (
          select from annex.find_user(item.user_id) u where annex.email_domain(u.email) is not null
        ) then 'address_unconfirmed'
      end
    )
  end;
end
$$;

-- Count the mails of a day, up to a limit, of the budget that an item's mail would come out of: its workspace's for what is
-- critical, or for what is not. With a reason, those that were skipped for it. For annex.queue_notification_mails.
create function annex.count_mails(item annex.notifications, reason text, most integer) returns integer
language plpgsql stable as $$
begin
  -- Two statements, as an index finds a reason or none, and not one that may be either.
  if reason is null then
    return (
      select count(*) from (
        select from annex.mails m
        where m.workspace_id = item.workspace_id and m.is_critical = item.is_critical
          and m.created_at > now() - interval '24 hours' and m.notification_id is not null and m.skip_reason is null
        limit most
      ) m
    );
  end if;
  return (
    select count(*) from (
      select from annex.mails m
      where m.workspace_id = item.workspace_id and m.is_critical = item.is_critical
        and m.created_at > now() - interval '24 hours' and m.notification_id is not null and m.skip_reason = reason
      limit most
    ) m
  );
end
$$;

-- Choose the items to look at for mails: of the next ones, in the order of their ids, a fifth of a batch for each tenant; then
-- of tenants that have a backlog, by turns of as many, until the batch is full. What one tenant has beyond its share is passed
-- over, so that others' items behind it are reached. Moves the cursors, and says if no more are ripe now. For
-- annex.queue_notification_mails.
create function annex.choose_mail_items(delay_seconds integer, max_rows integer, out ids uuid[], out is_last boolean)
language plpgsql as $$
declare
  ripe uuid := annex.uuid7_floor(now() - make_interval(secs => delay_seconds));
  -- After a long pause: nobody wants a month of mails at once.
  oldest uuid := annex.uuid7_floor(now() - make_interval(secs => delay_seconds) - interval '1 day');
  share integer := greatest(max_rows / 5, 1);
  -- Others' items lie between those of a tenant: so many are read at once, whosever they are.
  reach integer := 20 * max_rows;
  turns integer := 0;
  began uuid;
  news record;
  backlog annex.mail_backlogs;
  theirs uuid[];
  reached uuid;
  served uuid[] := '{}';
begin
  insert into annex.mail_state (after_id) values (ripe) on conflict do nothing;
  select greatest(s.after_id, oldest) into began from annex.mail_state s;
  select coalesce(array_agg(n.id order by n.id), '{}') as ids, array_agg(n.tenant order by n.id) as tenants,
    array_agg(n.is_due order by n.id) as due
  into news
  from (
    select n.*,
      count(*) filter (where n.is_due) over (order by n.id rows between unbounded preceding and 1 preceding) as due_before
    from (
      select n.id, n.tenant,
        n.nth <= share and not exists (select from annex.mail_backlogs b where b.tenant = n.tenant) as is_due
      from (
        select n.id, w.tenant, row_number() over (partition by w.tenant order by n.id) as nth
        from (
          select n.id, n.workspace_id from annex.notifications n where n.id > began and n.id < ripe order by n.id limit reach
        ) n
        cross join lateral (
          select coalesce(w.created_by, w.id) as tenant from annex.workspaces w where w.id = n.workspace_id offset 0
        ) w
      ) n
      -- Postgres 15 and 16 do not find a window's function again whose argument has a subquery in it.
      offset 0
    ) n
  ) n
  where n.due_before < max_rows;
  ids := array(select n.id from unnest(news.ids, news.due) n (id, is_due) where n.is_due order by n.id);
  is_last := cardinality(news.ids) < reach and cardinality(ids) < max_rows;
  began := coalesce(news.ids[cardinality(news.ids)], began);
  -- All that is new of a tenant that has a backlog comes after it.
  insert into annex.mail_backlogs (tenant, after_id, until_id)
  select n.tenant, (array_agg(n.id order by n.id))[least(share, count(*))], began
  from unnest(news.ids, news.tenants, news.due) n (id, tenant, is_due)
  group by n.tenant
  having not bool_and(n.is_due)
  on conflict (tenant) do update set until_id = excluded.until_id;
  update annex.mail_state s set after_id = began;
  -- One turn at least, or new items could hold up a backlog for ever; and not so many that a call takes long to find nothing.
  while turns = 0 or cardinality(ids) < max_rows and turns < 20 loop
    select b.* into backlog from annex.mail_backlogs b
    where b.tenant <> all (served) order by b.served_at, b.tenant limit 1;
    exit when not found;
    turns := turns + 1;
    backlog.after_id := greatest(backlog.after_id, oldest);
    select coalesce(array_agg(n.id order by n.id), '{}') into theirs
    from (
      select n.id from (
        select n.id, n.workspace_id from annex.notifications n
        where n.id > backlog.after_id and n.id <= backlog.until_id order by n.id limit reach
      ) n
      cross join lateral (
        select from annex.workspaces w
        where w.id = n.workspace_id and coalesce(w.created_by, w.id) = backlog.tenant offset 0
      ) w
      order by n.id limit share
    ) n;
    reached := coalesce(
      theirs[share],
      (
        select n.id from annex.notifications n
        where n.id > backlog.after_id and n.id <= backlog.until_id order by n.id offset reach - 1 limit 1
      ),
      backlog.until_id
    );
    ids := ids || theirs;
    -- What is left of the batch goes to tenants that had a turn already, if they have so many that it is worth a look.
    if cardinality(theirs) < share then
      served := served || backlog.tenant;
    end if;
    if reached >= backlog.until_id then
      delete from annex.mail_backlogs b where b.tenant = backlog.tenant;
    else
      update annex.mail_backlogs b set after_id = reached, served_at = clock_timestamp() where b.tenant = backlog.tenant;
    end if;
  end loop;
  is_last := is_last and not exists (select from annex.mail_backlogs);
end
$$;

-- Take the items whose next try is due, at most a number of them: of the first 1,000, tenant by tenant. Returns how often each
-- was tried, and those that are given up as they are older than a day. For annex.queue_notification_mails.
create function annex.take_mail_retries(delay_seconds integer, max_rows integer, out tried jsonb, out given_up uuid[])
language plpgsql as $$
declare
  oldest uuid := annex.uuid7_floor(now() - make_interval(secs => delay_seconds) - interval '1 day');
begin
  with due as (
    select d.notification_id from (
      select r.notification_id, r.next_attempt_at,
        row_number() over (partition by w.tenant order by r.next_attempt_at, r.notification_id) as nth
      from (
        select r.notification_id, r.next_attempt_at from annex.mail_retries r
        where r.next_attempt_at <= clock_timestamp() order by r.next_attempt_at limit 1000
      ) r
      left join lateral (
        select coalesce(w.created_by, w.id) as tenant
        from annex.notifications n join annex.workspaces w on w.id = n.workspace_id
        where n.id = r.notification_id offset 0
      ) w on true
    ) d
    order by d.nth, d.next_attempt_at, d.notification_id limit max_rows
  ), taken as (
    delete from annex.mail_retries r where r.notification_id = any (array(select d.notification_id from due d))
    returning r.notification_id as id, r.attempts
  )
  select coalesce(jsonb_object_agg(t.id, t.attempts) filter (where t.id > oldest), '{}'),
    coalesce(array_agg(t.id order by t.id) filter (
      where t.id <= oldest and exists (select from annex.notifications n where n.id = t.id offset 0)
    ), '{}')
  into tried, given_up from taken t;
end
$$;

-- Queue the mails of items that are so old and were not read: to users who want them, after their quiet hours unless it is
-- critical. A workspace gets so many in 24 hours, and as many again of what is critical; more are skipped, as the items are in the
-- inbox, and of those as many again keep a row that says so. An item or a user that is being deleted gets none. One worker at a
-- time, and tenants take turns. Returns how many items it looked at, and if no more are ripe. An item that fails, by whatever,
-- stops no other: it is put aside and tried again after 30 s, 1 min, 2 min and so on up to 10 min, and given up when it is older
-- than a day. Returns both kinds, and the SQLSTATEs. The first call begins with items that are to come.
create function annex.queue_notification_mails(delay_seconds integer, workspace_limit integer, max_rows integer)
returns table (looked integer, is_last boolean, put_aside uuid[], given_up uuid[], errors text[])
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- As in annex.deliver: planned once a session, for tables of any size.
set plan_cache_mode = force_generic_plan set enable_material = off set enable_memoize = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  chosen record;
  again record;
  item annex.notifications;
  budget text;
  sent jsonb := '{}';
  kept jsonb := '{}';
  used integer;
  beyond integer;
  state text;
  tries integer;
begin
  looked := 0;
  is_last := true;
  put_aside := '{}';
  given_up := '{}';
  errors := '{}';
  if not annex.try_lock('mails_of_items') then
    return next;
    return;
  end if;
  select t.tried, t.given_up into again from annex.take_mail_retries(delay_seconds, greatest(max_rows / 5, 1)) t;
  given_up := again.given_up;
  select c.ids, c.is_last into chosen from annex.choose_mail_items(delay_seconds, max_rows) c;
  is_last := chosen.is_last;
  for item in
    select n.*
    from unnest(array(select k::uuid from jsonb_object_keys(again.tried) k order by 1) || chosen.ids) with ordinality c (id, place)
    cross join lateral (select n.* from annex.notifications n where n.id = c.id offset 0) n
    order by c.place
  loop
    looked := looked + 1;
    begin
      -- Whoever is told nothing by mail gets no row, or a fan-out would be twice as large for nothing.
      continue when annex.mail_refusal(item) is not null;
      -- Counted once a budget and call, and no further than the limit.
      budget := item.workspace_id || case when item.is_critical then ' critical' else '' end;
      used := coalesce((sent ->> budget)::integer, annex.count_mails(item, null, workspace_limit));
      beyond := case when used >= workspace_limit
        then coalesce((kept ->> budget)::integer, annex.count_mails(item, 'limit', workspace_limit)) end;
      sent := sent || jsonb_build_object(budget, used);
      kept := kept || jsonb_strip_nulls(jsonb_build_object(budget, beyond));
      continue when beyond >= workspace_limit;
      insert into annex.mails (
        workspace_id, notification_id, user_id, is_critical, recipient, next_attempt_at, failed_at, skip_reason
      )
      select item.workspace_id, item.id, item.user_id, item.is_critical, u.email,
        case when item.is_critical then now()
          else annex.after_quiet_hours(item.user_id, item.workspace_id, now()) end,
        case when used >= workspace_limit then now() end, case when used >= workspace_limit then 'limit' end
      from annex.find_user(item.user_id) u
      -- Locked, as the foreign keys would lock them, but never waited for: that could be in a circle.
      where exists (select from annex.workspaces w where w.id = item.workspace_id for key share skip locked)
        and exists (select from annex.profiles p where p.user_id = item.user_id for key share skip locked)
        and exists (select from annex.notifications n where n.id = item.id for key share skip locked)
      on conflict do nothing;
      if beyond is null then
        sent := sent || jsonb_build_object(budget, used + found::integer);
      else
        kept := kept || jsonb_build_object(budget, beyond + found::integer);
      end if;
    exception when others then
      -- If this fails too, so does the call, which comes again.
      get stacked diagnostics state = returned_sqlstate;
      tries := coalesce((again.tried ->> item.id::text)::integer, 0);
      insert into annex.mail_retries (notification_id, attempts, next_attempt_at, error)
      values (item.id, tries + 1, clock_timestamp() + least(30 * power(2, least(tries, 10)), 600) * interval '1 second', state)
      on conflict do nothing;
      put_aside := put_aside || item.id;
      errors := case when state = any (errors) then errors else errors || state end;
    end;
  end loop;
  return next;
end
$$;
grant execute on function annex.queue_notification_mails(integer, integer, integer) to annex_worker;

-- Lease the notifications' mails that are due to one worker: tenants take turns, as in annex.lease_mails.
create function annex.lease_notification_mails(max_rows integer, lease_seconds integer)
returns table (mail_id uuid, lease_id uuid, attempts integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  lease uuid := gen_random_uuid();
begin
  if not annex.try_lock('leases_of_items') then
    return;
  end if;
  return query
    with recent as materialized (
      select coalesce(w.created_by, w.id) as tenant, count(*) as turns
      from annex.mails m join annex.workspaces w on w.id = m.workspace_id
      where m.leased_until > now() - interval '1 minute' and m.notification_id is not null group by 1
    ), due as (
      select t.id from (
        select d.*, row_number() over (partition by d.tenant order by d.next_attempt_at, d.id) as nth
        from (
          select m.id, m.next_attempt_at, coalesce(w.created_by, w.id) as tenant
          from annex.mails m join annex.workspaces w on w.id = m.workspace_id
          where m.sent_at is null and m.failed_at is null and m.next_attempt_at <= now()
            and coalesce(m.leased_until <= now(), true) and m.notification_id is not null
          order by m.next_attempt_at limit 100000
        ) d
      ) t
      left join recent r on r.tenant = t.tenant
      order by t.nth + coalesce(r.turns, 0), t.next_attempt_at, t.id limit max_rows
    )
    update annex.mails m
    set lease_id = lease, leased_until = now() + make_interval(secs => lease_seconds), attempts = m.attempts + 1
    from due where m.id = due.id
    returning m.id, m.lease_id, m.attempts;
end
$$;
grant execute on function annex.lease_notification_mails(integer, integer) to annex_worker;

-- What a leased mail says, just before it is sent. Everything is asked again: who may not or does not want it any more is
-- skipped, with the reason; quiet hours that have begun since make it wait. No row then, nor where the lease is lost. A mailbox
-- gets so many in 24 hours; a third of these are kept for each creator of workspaces whatever others send, up to twice the limit.
-- What is critical is counted by itself, so that nothing else uses up its place. Stores the hash of the mail's new unsubscribe
-- token; what is critical has none, as nobody can end it. Where a workspace demands a second factor, the event's type stands for
-- title and body.
create function annex.prepare_notification_mail(mail_id uuid, lease_id uuid, new_hash bytea, mailbox_limit integer)
returns table (
  recipient text, workspace_name text, title text, body text, url text, group_count integer, locale text, is_critical boolean
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  mail annex.mails;
  item annex.notifications;
  tenant uuid;
  of_all integer;
  of_theirs integer;
  address text;
  refusal text;
  quiet_until timestamptz;
begin
  select m.* into mail from annex.mails m
  where m.id = prepare_notification_mail.mail_id and m.lease_id = prepare_notification_mail.lease_id
    and m.sent_at is null and m.failed_at is null and m.leased_until > now() for update;
  if not found then
    return;
  end if;
  select n.* into item from annex.notifications n where n.id = mail.notification_id;
  select u.email into address from annex.find_user(mail.user_id) u;
  select coalesce(w.created_by, w.id) into tenant from annex.workspaces w where w.id = mail.workspace_id;
  -- Whatever was tried counts: the mail may have arrived.
  select count(*), count(*) filter (where coalesce(w.created_by, w.id) = tenant) into of_all, of_theirs
  from annex.mails x
  join annex.workspaces w on w.id = x.workspace_id
  where annex.mailbox(x.recipient) = annex.mailbox(mail.recipient) and x.id <> mail.id
    and x.notification_id is not null and x.is_critical = item.is_critical
    and x.skip_reason is null and x.leased_until > now() - interval '24 hours'
    and (x.sent_at is not null or x.id < mail.id);
  refusal := coalesce(
    annex.mail_refusal(item),
    case when address <> mail.recipient then 'address_changed' end,
    case when of_all >= 2 * mailbox_limit or of_all >= mailbox_limit and of_theirs >= greatest(mailbox_limit / 3, 1)
      then 'limit' end
  );
  if refusal is not null then
    update annex.mails m set failed_at = now(), skip_reason = refusal, lease_id = null, leased_until = null
    where m.id = mail.id;
    return;
  end if;
  quiet_until := annex.after_quiet_hours(mail.user_id, mail.workspace_id, now());
  if quiet_until > now() and not item.is_critical then
    update annex.mails m
    set next_attempt_at = quiet_until, lease_id = null, leased_until = null, attempts = m.attempts - 1
    where m.id = mail.id;
    return;
  end if;
  if not item.is_critical then
    insert into annex.unsubscribe_tokens (token_hash, workspace_id, user_id, category)
    values (new_hash, item.workspace_id, item.user_id, item.category);
  end if;
  return query
    select mail.recipient, w.name,
      -- A mailbox is no second factor.
      case when w.require_aal2 then item.type else coalesce(item.title, item.type) end,
      case when w.require_aal2 then '' else coalesce(item.body, '') end, item.url, item.group_count, p.locale, item.is_critical
    from annex.workspaces w, annex.profiles p where w.id = item.workspace_id and p.user_id = item.user_id;
end
$$;
grant execute on function annex.prepare_notification_mail(uuid, uuid, bytea, integer) to annex_worker;

-- End a user's mails of one category in one workspace, by a token's hash. For anybody who has the token: it says whose they
-- are. Doing it again changes nothing. Raises not_found.
create function annex.unsubscribe(hash bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  token annex.unsubscribe_tokens;
begin
  select t.* into token from annex.unsubscribe_tokens t where t.token_hash = hash;
  if not found then
    raise exception 'The link is not valid, or no longer.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  -- As patch_preferences locks; and one who has left has nothing to end.
  perform annex.lock_inboxes_of(array[token.user_id]);
  perform from annex.members m
  where m.workspace_id = token.workspace_id and m.user_id = token.user_id for key share;
  if not found then
    return;
  end if;
  insert into annex.preferences as p (workspace_id, user_id, categories)
  values (
    token.workspace_id, token.user_id, jsonb_build_object(token.category, jsonb_build_object('email', false))
  )
  on conflict (user_id, workspace_id) do update
    set categories = annex.merge_patch(p.categories, excluded.categories);
end
$$;
grant execute on function annex.unsubscribe(bytea) to annex_api;

-- Delete at most a number of unsubscribe tokens that are a year old; returns how many.
create function annex.purge_unsubscribe_tokens(max_rows integer default 10000) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with gone as (
    delete from annex.unsubscribe_tokens t
    where t.token_hash in (
      select e.token_hash from annex.unsubscribe_tokens e
      where e.created_at < now() - interval '1 year' order by e.created_at limit max_rows
    )
    returning 1
  )
  select count(*) from gone
$$;
grant execute on function annex.purge_unsubscribe_tokens(integer) to annex_worker;

-- How far an event's fan-out is: `waiting` until the projector has read the event, `delivering`, `given_up` after too many
-- failures, or `complete`. Of what a workspace published and nobody has read, 10,000 events are looked at; what is beyond them
-- is told by its id. For Annex's own functions.
create function annex.fanout_state(workspace_id uuid, event_id uuid) returns text
language sql stable as $$
  select case
    when f.event_id is not null then case when f.failed_at is null then 'delivering' else 'given_up' end
    when exists (select from annex.pending p where p.event_id = fanout_state.event_id)
      or (
        select bool_or(u.event_id = fanout_state.event_id)
          or count(*) = 10000 and fanout_state.event_id > (array_agg(u.event_id order by u.pos desc))[1]
        from (
          select l.pos, l.event_id from annex.log l
          where l.workspace_id = fanout_state.workspace_id and l.user_id is null
            and l.pos > coalesce((select r.pos from annex.readers r where r.name = 'projector'), 0)
          order by l.pos limit 10000
        ) u
      ) then 'waiting'
    else 'complete'
  end
  from (select) as one left join annex.fanouts f on f.event_id = fanout_state.event_id
$$;

-- What became of an event, recipient by recipient, in the order of their ids: delivered to an inbox or not, and why, and what
-- became of the mail. The first row is nobody's and says how far the fan-out is. Raises not_found and forbidden; who reads it
-- must see the event.
create function annex.trace_event(workspace_id uuid, event_id uuid, after_id uuid, max_rows integer)
returns table (
  user_id uuid, outcome text, reason text, notification_id uuid, mail text, mail_reason text, at timestamptz, state text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
  event annex.events;
  -- No user has this id; a condition that may be absent would read the recipients from the start with each page.
  after uuid := coalesce(after_id, '00000000-0000-0000-0000-000000000000');
  state_now text := annex.fanout_state(trace_event.workspace_id, trace_event.event_id);
begin
  perform annex.require(trace_event.workspace_id, 'events:audit');
  select e.* into event from annex.events e
  where e.event_id = trace_event.event_id and e.workspace_id = trace_event.workspace_id and e.user_id is null;
  if not found or not annex.has_permission(trace_event.workspace_id, coalesce(event.permission, 'events:audit')) then
    raise exception 'There is no such thing here, or it is not yours to see.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  return query select null::uuid, null, null, null::uuid, null, null, null::timestamptz, state_now;
  return query
    select t.user_id, t.outcome, t.reason, t.notification_id,
      case
        when m.id is null then 'none' when m.sent_at is not null then 'sent' when m.skip_reason is not null then 'skipped'
        when m.failed_at is not null then 'failed' else 'queued'
      end,
      m.skip_reason, t.at, state_now
    from (
      (
        select n.user_id, 'delivered' as outcome, n.reason, n.id as notification_id, n.arrived_at as at
        from annex.notifications n
        where n.event_id = trace_event.event_id and n.workspace_id = trace_event.workspace_id
          and n.user_id > after
        order by n.user_id limit max_rows
      )
      union all
      (
        select s.user_id, case s.reason when 'collapsed' then 'delivered' else 'suppressed' end, s.reason, null, s.created_at
        from annex.suppressions s
        where s.event_id = trace_event.event_id and s.workspace_id = trace_event.workspace_id
          and s.user_id > after
          -- Of a stranger nothing is said, as of an id that is nobody's: or it would tell who has an account.
          and (s.reason <> 'not_a_member'
            or exists (select from annex.members m where m.workspace_id = s.workspace_id and m.user_id = s.user_id)
            or exists (select from annex.removals r where r.workspace_id = s.workspace_id and r.user_id = s.user_id))
        order by s.user_id limit max_rows
      )
    ) t
    left join annex.mails m on m.notification_id = t.notification_id
    order by t.user_id limit max_rows;
end
$$;
grant execute on function annex.trace_event(uuid, uuid, uuid, integer) to annex_api;

alter table annex.mail_state enable row level security, force row level security;
alter table annex.mail_backlogs enable row level security, force row level security;
alter table annex.mail_retries enable row level security, force row level security;
alter table annex.unsubscribe_tokens enable row level security, force row level security;
create policy mail_state_owner on annex.mail_state to annex_owner using (true) with check (true);
create policy mail_backlogs_owner on annex.mail_backlogs to annex_owner using (true) with check (true);
create policy mail_retries_owner on annex.mail_retries to annex_owner using (true) with check (true);
create policy unsubscribe_tokens_owner on annex.unsubscribe_tokens to annex_owner using (true) with check (true);

reset role;

insert into annex.migrations (name) values ('18_notification_mails');
