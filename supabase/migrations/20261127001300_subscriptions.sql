-- Subscriptions: which topics a member follows in a workspace, with a filter of the one grammar (types and `where` clauses).

set role annex_owner;

-- Says if a list of types is of the filter's grammar: up to 20 names, each whole or with `.*` at its end, or `*`.
create function annex.are_type_patterns(types text[]) returns boolean language sql immutable parallel safe as $$
  select cardinality(types) = 0 or array_ndims(types) = 1 and cardinality(types) <= 20 and not exists (
    select from unnest(types) t
    where coalesce(char_length(t) > 200 or t !~ '^([*]|[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*([.][*])?)$', true)
  )
$$;

-- Says if a list of clauses is of the filter's grammar: up to 5, each `data.path:value`.
create function annex.are_clauses(clauses text[]) returns boolean language sql immutable parallel safe as $$
  select cardinality(clauses) = 0 or array_ndims(clauses) = 1 and cardinality(clauses) <= 5 and not exists (
    select from unnest(clauses) c
    where coalesce(char_length(c) > 500 or c !~ '^data([.][A-Za-z0-9_-]{1,64}){1,8}:', true)
  )
$$;

-- Says if the scalar at a clause's path equals its value, as `Filter.matches` in Python says it: as text, or as the number,
-- boolean or null that the value spells. Longer exponents are no number that data can hold.
create function annex.matches_clause(clause text, data jsonb) returns boolean language sql immutable parallel safe as $$
  select coalesce(
    data #> string_to_array(substring(clause from '^data[.]([^:]*):'), '.') = any (
      array[to_jsonb(v.value)]
      || case when v.value ~ '^[ \t\n\r]*(null|true|false|-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?0*[0-9]{1,3})?)[ \t\n\r]*$'
        then array[v.value::jsonb] else '{}' end
    ),
    false
  )
  from (select substring(clause from '^[^:]*:(.*)$') as value) v
$$;

-- Says if an event passes a filter; empty lists let everything through.
create function annex.matches(types text[], clauses text[], type text, data jsonb) returns boolean
language sql immutable parallel safe as $$
  select (
    cardinality(types) = 0 or exists (
      select from unnest(types) t
      where t = matches.type or (right(t, 1) = '*' and starts_with(matches.type, left(t, -1)))
    )
  ) and (
    cardinality(clauses) = 0 or not exists (select from unnest(clauses) c where not annex.matches_clause(c, data))
  )
$$;

-- Goes with the membership: whoever joins again begins without any.
create table annex.subscriptions (
  workspace_id uuid not null,
  topic text not null,
  user_id uuid not null,
  types text[] not null default '{}',
  clauses text[] not null default '{}',
  is_muted boolean not null default false,
  reason text not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  -- In the order in which a fan-out reads the subscribers of a topic.
  constraint subscriptions_pkey primary key (workspace_id, topic, user_id),
  constraint subscriptions_user_id_fkey foreign key (workspace_id, user_id)
    references annex.members (workspace_id, user_id) on delete cascade,
  constraint subscriptions_topic_check check (char_length(topic) between 1 and 200 and topic !~ ','),
  constraint subscriptions_types_check check (annex.are_type_patterns(types)),
  constraint subscriptions_clauses_check check (annex.are_clauses(clauses)),
  constraint subscriptions_reason_check check (reason in ('followed', 'added'))
);
create index subscriptions_user_id_idx on annex.subscriptions (user_id, workspace_id, topic);
create trigger subscriptions_touch before update on annex.subscriptions for each row execute function annex.touch();

alter table annex.subscriptions enable row level security, force row level security;
create policy subscriptions_owner on annex.subscriptions to annex_owner using (true) with check (true);
create policy subscriptions_select on annex.subscriptions for select to annex_api, authenticated
  using (
    user_id = (select annex.user_id()) and workspace_id = any (array(select annex.workspace_ids('events:read')))
  );
grant select on annex.subscriptions to annex_api;
grant select on annex.subscriptions to authenticated;

-- Lock members of a workspace in the order of their ids, so that one call at a time counts their subscriptions. Raises
-- not_found unless all of them are members. For Annex's own functions.
create function annex.lock_subscribers(workspace_id uuid, user_ids uuid[]) returns void
language plpgsql as $$
declare
  wanted integer := (select count(distinct u) from unnest(user_ids) u);
  found_rows integer;
begin
  with locked as (
    select m.user_id from annex.members m
    where m.workspace_id = lock_subscribers.workspace_id and m.user_id = any (user_ids)
    order by m.user_id for no key update
  )
  select count(*) into found_rows from locked;
  if found_rows <> wanted then
    raise exception 'A user is no member of this workspace; nothing was changed.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
end
$$;

-- Raise limit_reached if one of these members has more subscriptions in the workspace than annex.limits says.
create function annex.check_subscriptions(workspace_id uuid, user_ids uuid[]) returns void
language plpgsql as $$
declare
  most integer := (select l.value from annex.limits l where l.name = 'subscriptions_per_member');
begin
  if exists (
    select from unnest(user_ids) u
    where (
      select count(*) from annex.subscriptions s
      where s.user_id = u and s.workspace_id = check_subscriptions.workspace_id
    ) > most
  ) then
    raise exception 'A member has at most % subscriptions in a workspace; remove one that is not needed.', most
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
end
$$;

-- Follow a topic as the calling user, or replace the filter and mute of a subscription. Takes events:read. With versions, only
-- one of those is replaced. Returns the subscription; its version is 1 if it is new. Raises not_found, forbidden,
-- second_factor_required, user_required, limit_reached or precondition_failed.
create function annex.follow_topic(
  workspace_id uuid,
  topic text,
  types text[] default '{}',
  clauses text[] default '{}',
  is_muted boolean default false,
  versions integer[] default null
) returns annex.subscriptions
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.require_user();
  before annex.subscriptions;
  written annex.subscriptions;
begin
  perform annex.require(follow_topic.workspace_id, 'events:read');
  perform annex.lock_subscribers(follow_topic.workspace_id, array[caller]);
  select s.* into before from annex.subscriptions s
  where s.workspace_id = follow_topic.workspace_id and s.topic = follow_topic.topic and s.user_id = caller;
  perform annex.require_version(before.version, versions);
  insert into annex.subscriptions as s (workspace_id, topic, user_id, types, clauses, is_muted, reason)
  values (
    follow_topic.workspace_id, follow_topic.topic, caller, coalesce(follow_topic.types, '{}'),
    coalesce(follow_topic.clauses, '{}'), coalesce(follow_topic.is_muted, false), 'followed'
  )
  on conflict (workspace_id, topic, user_id) do update
    set types = excluded.types, clauses = excluded.clauses, is_muted = excluded.is_muted, reason = 'followed'
  returning s.* into written;
  if before.version is null then
    perform annex.check_subscriptions(follow_topic.workspace_id, array[caller]);
  end if;
  return written;
end
$$;
grant execute on function annex.follow_topic(uuid, text, text[], text[], boolean, integer[]) to annex_api, authenticated;

-- Stop following a topic as the calling user. Raises not_found, user_required or precondition_failed.
create function annex.unfollow_topic(workspace_id uuid, topic text, versions integer[] default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.require_user();
  before annex.subscriptions;
begin
  perform annex.require(unfollow_topic.workspace_id, 'events:read');
  select s.* into before from annex.subscriptions s
  where s.workspace_id = unfollow_topic.workspace_id and s.topic = unfollow_topic.topic and s.user_id = caller for update;
  if not found then
    raise exception 'The caller does not follow this topic.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_version(before.version, versions);
  delete from annex.subscriptions s
  where s.workspace_id = unfollow_topic.workspace_id and s.topic = unfollow_topic.topic and s.user_id = caller;
end
$$;
grant execute on function annex.unfollow_topic(uuid, text, integer[]) to annex_api, authenticated;

-- Subscribe members to a topic, and unsubscribe others: all or nothing, at most 1,000 in a call. What a member set for
-- themselves stays: to add one who follows already changes nothing, and only what was added, and is not muted, is taken
-- away. Returns how many subscriptions came and went; where any did, an event says so. It names nobody, so that an erased user
-- is not left in it. Raises not_found, forbidden, limit_reached or too_many_changes.
create function annex.set_subscribers(workspace_id uuid, topic text, add uuid[], remove uuid[])
returns table (added integer, removed integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  more uuid[] := coalesce(set_subscribers.add, '{}');
  less uuid[] := coalesce(set_subscribers.remove, '{}');
begin
  perform annex.require(set_subscribers.workspace_id, 'subscriptions:manage');
  if cardinality(more) + cardinality(less) > 1000 then
    raise exception 'At most 1000 users in a call.'
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
  -- Those who go as well, and before any subscription: two calls that swap users would wait for each other in a circle.
  perform from annex.members m
  where m.workspace_id = set_subscribers.workspace_id and m.user_id = any (more || less)
  order by m.user_id for no key update;
  perform annex.lock_subscribers(set_subscribers.workspace_id, more);
  with gone as (
    delete from annex.subscriptions s
    where s.workspace_id = set_subscribers.workspace_id and s.topic = set_subscribers.topic and s.user_id = any (less)
      and s.user_id <> all (more) and s.reason = 'added' and not s.is_muted
    returning 1
  )
  select count(*) into removed from gone;
  with came as (
    insert into annex.subscriptions (workspace_id, topic, user_id, reason)
    select distinct set_subscribers.workspace_id, set_subscribers.topic, u, 'added' from unnest(more) u order by u
    on conflict (workspace_id, topic, user_id) do nothing
    returning 1
  )
  select count(*) into added from came;
  if added > 0 then
    perform annex.check_subscriptions(set_subscribers.workspace_id, more);
  end if;
  -- What one decides for others is in the trail; what members decide for themselves is nobody else's to read.
  if added + removed > 0 then
    perform annex.append_event(
      set_subscribers.workspace_id, 'annex.subscribers.changed', 'topic:' || set_subscribers.topic,
      jsonb_build_object('topic', set_subscribers.topic, 'added', added, 'removed', removed),
      permission => 'events:audit'
    );
  end if;
  return next;
end
$$;
grant execute on function annex.set_subscribers(uuid, text, uuid[], uuid[]) to annex_api;

reset role;

insert into annex.migrations (name) values ('13_subscriptions');
