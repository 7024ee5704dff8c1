-- Preferences: which categories of notifications reach a user, by which channel, and when mails wait.

set role annex_owner;

-- Say whether a document is a choice of channels for up to 1,200 categories; `*` stands for all others. A user chooses for
-- 100 at most; more come from the links in mails, which must work whatever was chosen, and the catalogue has 1,000.
create function annex.is_choice(categories jsonb) returns boolean
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return jsonb_typeof(categories) = 'object' and (
  select count(*) <= 1200 and coalesce(bool_and(
    c.key ~ '^([*]|[a-z][a-z0-9_-]{0,62})$' and jsonb_typeof(c.value) = 'object'
    and c.value - array['in_app', 'email'] = '{}' and not c.value @? 'strict $.* ? (@.type() != "boolean")'
  ), true)
  from jsonb_each(case when jsonb_typeof(categories) = 'object' then categories end) c
);

-- Say whether a document is a daily time in which mails wait: from a time until another, past midnight too.
create function annex.is_quiet(hours jsonb) returns boolean
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return jsonb_typeof(hours) = 'object' and hours - array['from', 'until'] = '{}'
  and coalesce(hours ->> 'from' ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$', false)
  and coalesce(hours ->> 'until' ~ '^([01][0-9]|2[0-3]):[0-5][0-9]$', false);

-- A user's, a user's in one workspace, or a workspace's default for its members.
create table annex.preferences (
  id uuid not null default annex.uuid7(),
  workspace_id uuid,
  user_id uuid,
  categories jsonb not null default '{}',
  quiet_hours jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint preferences_pkey primary key (id),
  constraint preferences_user_id_workspace_id_key unique nulls not distinct (user_id, workspace_id),
  constraint preferences_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint preferences_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  -- Who leaves a workspace takes their choice for it along.
  constraint preferences_member_fkey foreign key (workspace_id, user_id)
    references annex.members (workspace_id, user_id) on delete cascade,
  constraint preferences_scope_check check (workspace_id is not null or user_id is not null),
  constraint preferences_categories_check check (annex.is_choice(categories)),
  constraint preferences_quiet_hours_check check (quiet_hours is null or annex.is_quiet(quiet_hours))
);
create index preferences_workspace_id_idx on annex.preferences (workspace_id, user_id);

create trigger preferences_touch before update on annex.preferences for each row execute function annex.touch();
-- A workspace's default alone: what a user chose is in no event. Whether an event reached them, its trace tells auditors.
create trigger preferences_record after insert or update on annex.preferences
  for each row when (new.user_id is null)
  execute function annex.record_change('preferences', 'created', 'updated', 'deleted', 'workspace:read', '');

-- Say which of some users want a category of a workspace's notifications by a channel (`in_app`, `email`), in no order. What
-- is critical reaches everybody. Else the first word counts: the user's for this workspace, the user's, the workspace's;
-- of each, the one for the category before the one for all others. Where nobody says anything, it is wanted.
create function annex.wanting(user_ids uuid[], workspace_id uuid, category text, is_critical boolean, channel text)
returns table (user_id uuid) language sql stable as $$
  select u.id
  from unnest(wanting.user_ids) u (id)
  left join annex.preferences here on here.user_id = u.id and here.workspace_id = wanting.workspace_id
  left join annex.preferences mine on mine.user_id = u.id and mine.workspace_id is null
  left join annex.preferences theirs on theirs.user_id is null and theirs.workspace_id = wanting.workspace_id
  where wanting.is_critical or coalesce(
    here.categories -> wanting.category -> wanting.channel, here.categories -> '*' -> wanting.channel,
    mine.categories -> wanting.category -> wanting.channel, mine.categories -> '*' -> wanting.channel,
    theirs.categories -> wanting.category -> wanting.channel, theirs.categories -> '*' -> wanting.channel,
    'true'
  ) = 'true'
$$;

-- The same for one user.
create function annex.wants(user_id uuid, workspace_id uuid, category text, is_critical boolean, channel text)
returns boolean language sql stable as $$
  select exists (
    select from annex.wanting(array[wants.user_id], wants.workspace_id, wants.category, wants.is_critical, wants.channel)
  )
$$;

-- When a mail may go to a user: at the moment itself, or when the quiet hours end that it falls into, in the user's time
-- zone (UTC without one). Whose hours count is as above; hours of no length are none.
create function annex.after_quiet_hours(user_id uuid, workspace_id uuid, moment timestamptz) returns timestamptz
language plpgsql stable as $$
#variable_conflict use_column
declare
  zone text := coalesce((select p.time_zone from annex.profiles p where p.user_id = after_quiet_hours.user_id), 'UTC');
  hours jsonb := (
    select p.quiet_hours from annex.preferences p
    where p.quiet_hours is not null
      and (p.user_id = after_quiet_hours.user_id or p.user_id is null)
      and (p.workspace_id = after_quiet_hours.workspace_id or p.workspace_id is null)
    order by p.user_id is null, p.workspace_id is null limit 1
  );
  wall timestamp;
  begins time := (hours ->> 'from')::time;
  ends time := (hours ->> 'until')::time;
begin
  if hours is null or begins = ends then
    return moment;
  end if;
  begin
    wall := moment at time zone zone;
  exception when invalid_parameter_value then
    zone := 'UTC';  -- one that Python knows and this server does not
    wall := moment at time zone zone;
  end;
  if begins < ends and (wall::time < begins or wall::time >= ends)
    or begins > ends and wall::time < begins and wall::time >= ends
  then
    return moment;
  end if;
  return (wall::date + (begins > ends and wall::time >= begins)::integer + ends) at time zone zone;
end
$$;

-- Find the workspace of preferences by id or slug, for a caller who holds a permission in it; null for none. For Annex's own
-- functions.
create function annex.find_workspace(ws text, permission text) returns uuid
language plpgsql stable as $$
declare
  found_id uuid := (select a.workspace_id from annex.access(ws) a);
begin
  if found_id is null then
    -- Never asked of null, which stands for every workspace of the caller's.
    raise exception 'There is no such workspace, or it is not yours to see.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require(found_id, find_workspace.permission);
  return found_id;
end
$$;

-- The preferences of the calling user, in all workspaces or, with one's id or slug, in that one; or, with is_default, the
-- default of a workspace. Version 0 where nobody has chosen yet. Raises user_required, not_found, forbidden.
create function annex.find_preferences(ws text, is_default boolean default false)
returns table (workspace_id uuid, categories jsonb, quiet_hours jsonb, updated_at timestamptz, version integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  is_of_workspace boolean := coalesce(is_default, false);
  found_id uuid := case when ws is not null or is_of_workspace then annex.find_workspace(ws, 'workspace:read') end;
  caller uuid := case when not is_of_workspace then annex.require_user() end;
begin
  return query
    select found_id, coalesce(p.categories, '{}'), p.quiet_hours, p.updated_at, coalesce(p.version, 0)
    from (select) as one
    left join annex.preferences p on p.workspace_id is not distinct from found_id and p.user_id is not distinct from caller;
end
$$;
grant execute on function annex.find_preferences(text, boolean) to annex_api, authenticated;

-- Change preferences: null leaves, a JSON null clears. Categories are a merge patch (RFC 7396); quiet hours are one value, and
-- so replaced whole. Returns them as find_preferences does, and
-- raises what it raises, and precondition_failed; to change a workspace's default takes preferences:manage.
create function annex.patch_preferences(
  ws text,
  is_default boolean default false,
  categories_patch jsonb default null,
  hours_patch jsonb default null,
  versions integer[] default null
) returns table (workspace_id uuid, categories jsonb, quiet_hours jsonb, updated_at timestamptz, version integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  is_of_workspace boolean := coalesce(is_default, false);
  found_id uuid := case when ws is not null or is_of_workspace then
    annex.find_workspace(ws, case when is_of_workspace then 'preferences:manage' else 'workspace:read' end) end;
  caller uuid := case when not is_of_workspace then annex.require_user() end;
  before annex.preferences;
  chosen jsonb;
  hours jsonb;
begin
  perform annex.refuse_size(categories_patch), annex.refuse_size(hours_patch);
  -- Whoever writes the same preferences waits here, before there is a row to wait for.
  if is_of_workspace then
    perform annex.lock_workspace(found_id);
  else
    insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
    on conflict (user_id) do nothing;
    perform annex.lock_inboxes_of(array[caller]);
  end if;
  select p.* into before from annex.preferences p
  where p.workspace_id is not distinct from found_id and p.user_id is not distinct from caller;
  perform annex.require_version(coalesce(before.version, 0), versions);
  if categories_patch is not null or hours_patch is not null then
    chosen := case when categories_patch = 'null' then '{}'
      else annex.merge_patch(coalesce(before.categories, '{}'), coalesce(categories_patch, '{}')) end;
    -- A category of which nothing is left says nothing.
    if jsonb_typeof(chosen) = 'object' then
      chosen := coalesce((select jsonb_object_agg(c.key, c.value) from jsonb_each(chosen) c where c.value <> '{}'), '{}');
    end if;
    -- The message of the table's own check.
    if (select count(*) from jsonb_object_keys(case when jsonb_typeof(chosen) = 'object' then chosen end)) > greatest(
      100, (select count(*) from jsonb_object_keys(coalesce(before.categories, '{}')))
    ) then
      raise exception 'a choice has at most 100 categories'
        using errcode = 'check_violation', constraint = 'preferences_categories_check';
    end if;
    hours := case when hours_patch is null then before.quiet_hours else nullif(hours_patch, 'null') end;
    insert into annex.preferences (workspace_id, user_id, categories, quiet_hours)
    values (found_id, caller, chosen, hours)
    on conflict (user_id, workspace_id) do update set categories = excluded.categories, quiet_hours = excluded.quiet_hours;
  end if;
  return query select * from annex.find_preferences(ws, is_default);
end
$$;
grant execute on function annex.patch_preferences(text, boolean, jsonb, jsonb, integer[]) to annex_api, authenticated;

alter table annex.preferences enable row level security, force row level security;
create policy preferences_owner on annex.preferences to annex_owner using (true) with check (true);
create policy preferences_select on annex.preferences for select to annex_api, authenticated
  using (
    (user_id is null or user_id = (select annex.user_id()))
    and (workspace_id is null or workspace_id = any (array(select annex.workspace_ids('workspace:read'))))
  );
create policy preferences_operator on annex.preferences for select to annex_api
  using (user_id is null and (select annex.is_operator()));
grant select on annex.preferences to annex_api;
grant select (workspace_id, user_id, categories, quiet_hours, updated_at, version) on annex.preferences to authenticated;

reset role;

insert into annex.migrations (name) values ('17_preferences');
