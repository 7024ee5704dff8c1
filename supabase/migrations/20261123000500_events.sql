-- Events: what happened. In monthly partitions; insert-only, by Annex's definer functions alone.

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
  principal text not null default annex.principal(),
  permission text,
  recipients uuid[],
  group_key text,
  url text,
  data jsonb not null default '{}',
  context jsonb not null default '{}',
  occurred_at timestamptz not null default now(),
  recorded_at timestamptz not null default clock_timestamp(),
  constraint events_pkey primary key (event_id),
  constraint events_type_check check (
    user_id is not null or char_length(type) <= 200 and type ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'
  ),
  constraint events_source_check check (char_length(source) between 1 and 500),
  constraint events_key_check check (char_length(key) between 1 and 200),
  constraint events_subject_check check (char_length(subject) between 1 and 500),
  constraint events_topics_check check (
    cardinality(topics) = 0 or cardinality(topics) <= 20 and array_position(topics, null) is null and array_position(topics, '') is null
    and array_to_string(topics, '') !~ ',' and char_length(array_to_string(topics, '')) <= 4000
  ),
  constraint events_actor_check check (char_length(actor) between 1 and 200),
  constraint events_permission_check check (permission = any (annex.permissions())),
  constraint events_recipients_check check (
    array_ndims(recipients) = 1 and cardinality(recipients) <= 1000 and array_position(recipients, null) is null
  ),
  constraint events_group_key_check check (char_length(group_key) between 1 and 200),
  -- HTTPS, without user or password, or a path of the app's own: what a browser is sent to.
  constraint events_url_check check (
    char_length(url) <= 2048 and url ~ '^(https://[!-"$-.0->A-\[\]-~]+([/?#]|$)|/($|[!-.0-\[\]-~]))' and url ~ '^[!-\[\]-~]+$'
  ),
  -- The API allows 64 KiB as sent; jsonb prints with more spaces than many a sender writes.
  -- What is personal was made by Annex alone, of parts that were checked: two in five of the CPU of a fan-out went into this.
  constraint events_data_check check (user_id is not null or annex.json_bytes(data) <= 131072),
  constraint events_context_check check (
    context = '{}' or jsonb_typeof(context) = 'object' and annex.json_bytes(context) <= 16384
  ),
  constraint events_occurred_at_check check (annex.is_rfc3339(occurred_at))
) partition by range (event_id);
create index events_workspace_id_idx on annex.events (workspace_id, event_id);
create index events_user_id_idx on annex.events (user_id, event_id desc) where user_id is not null;

-- One event for one (source, key) of a workspace, however often and by however many writers it is published. Servers (API keys,
-- operators, SQL) are one publisher; each user is another, or a member could take a server's next event away.
create table annex.event_keys (
  workspace_id uuid not null,
  source text not null,
  key text not null,
  publisher text not null default '',
  event_id uuid not null,
  constraint event_keys_pkey primary key (workspace_id, source, key, publisher)
);

alter table annex.events enable row level security, force row level security;
alter table annex.event_keys enable row level security, force row level security;

create policy events_owner on annex.events to annex_owner using (true) with check (true);
create policy event_keys_owner on annex.event_keys to annex_owner using (true) with check (true);

-- Beside events:read, an event may name one more permission that seeing it takes. The list of what the caller holds is
-- made at the first row that names one, and hashed.
create policy events_select on annex.events for select to annex_api, authenticated
  using (
    workspace_id = any (array(select annex.workspace_ids('events:read')))
    and (user_id is null or user_id = (select annex.user_id()))
    and (permission is null or (workspace_id, permission) in (select g.workspace_id, g.permission from annex.granted() g))
  );
create policy events_operator on annex.events for select to annex_api
  using (user_id is null and (select annex.is_operator()));

grant select on annex.events to annex_api;
-- Not its recipients: who is told of an event is for those who may read the members.
grant select (
  event_id, workspace_id, user_id, type, source, key, subject, topics, actor, principal, permission, group_key, url, data,
  context, occurred_at, recorded_at
) on annex.events to authenticated;

-- Make the partitions from last month to some months ahead that are not there yet; returns how many were made.
-- A partition is made by itself and closed (row level security forced, no policy, no grant) before it is attached. That
-- leaves the writers waiting for one short lock, on the default partition; if they keep us from it, there is a next time.
create function annex.roll_partitions(months_ahead integer default 3) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
  first_month timestamptz := date_trunc('month', now() at time zone 'UTC') at time zone 'UTC';
  month timestamptz;
  partition text;
  from_id uuid;
  to_id uuid;
  made integer := 0;
begin
  if not annex.try_lock('partitions') then
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
grant execute on function annex.roll_partitions(integer) to annex_worker;
select annex.roll_partitions();

-- Catches events if nobody rolled in time: nothing is lost, only a month cannot be dropped in one piece.
create table annex.events_default partition of annex.events default;
alter table annex.events_default enable row level security, force row level security;

-- Drop the partitions of the months before the last one in which nothing is left: to delete gives no space back to the
-- disk. Returns how many. Writers wait for a short lock; if they keep us from it, there is a next time.
create function annex.drop_partitions() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '250ms' as $$
declare
  last_month text := to_char(now() at time zone 'UTC' - interval '1 month', 'YYYY_MM');
  partition regclass;
  is_used boolean;
  dropped integer := 0;
begin
  if not annex.try_lock('partitions') then
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

insert into annex.migrations (name) values ('05_events');
