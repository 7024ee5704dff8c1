-- Profiles: what Annex knows of Supabase's users.

set role annex_owner;

create table annex.profiles (
  user_id uuid not null,
  email text,
  display_name text not null default '',
  avatar_url text,
  locale text,
  time_zone text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint profiles_pkey primary key (user_id),
  constraint profiles_email_check check (char_length(email) between 1 and 320),
  constraint profiles_display_name_check check (char_length(display_name) <= 200),
  constraint profiles_avatar_url_check check (char_length(avatar_url) between 1 and 2048),
  constraint profiles_locale_check check (char_length(locale) between 2 and 35),
  constraint profiles_time_zone_check check (char_length(time_zone) between 1 and 64)
);

create trigger profiles_touch before update on annex.profiles for each row execute function annex.touch();

alter table annex.profiles enable row level security, force row level security;
-- Definer functions run as annex_owner, which has no BYPASSRLS: without such a policy on each table, forced row level
-- security would recurse into itself.
create policy profiles_owner on annex.profiles to annex_owner using (true) with check (true);

grant select on annex.profiles to annex_api;
grant select (user_id, email, display_name, avatar_url) on annex.profiles to authenticated;

-- Change the calling user's profile by a merge patch (RFC 7396) of display_name, avatar_url, locale and time_zone; makes it if
-- there is none, and keeps the token's email in it. Returns the profile. Not for `authenticated`: the API knows IANA's names
-- of time zones, of which Postgres takes more. Raises user_required, invalid_request, precondition_failed for a version that is
-- none of those given, and profiles_user_id_fkey for a user who was deleted.
create function annex.update_profile(patch jsonb default '{}', versions integer[] default null) returns annex.profiles
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  caller uuid := annex.require_user();
  profile annex.profiles;
begin
  perform annex.require_members(patch, array['display_name', 'avatar_url', 'locale', 'time_zone']);
  insert into annex.profiles (user_id, email) values (caller, nullif(annex.claims() ->> 'email', ''))
  on conflict (user_id) do update set email = excluded.email
  returning * into profile;
  perform annex.require_version(profile.version, versions);
  if patch <> '{}' then
    profile := jsonb_populate_record(profile, patch);
    update annex.profiles p
    set display_name = profile.display_name, avatar_url = profile.avatar_url, locale = profile.locale,
      time_zone = profile.time_zone
    where p.user_id = caller
    returning p.* into profile;
  end if;
  return profile;
end
$$;
grant execute on function annex.update_profile(jsonb, integer[]) to annex_api;

reset role;

-- As the migrating role: it may reference auth.users, which annex_owner may not, and perhaps may not be allowed to.
alter table annex.profiles
  add constraint profiles_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade;

insert into annex.migrations (name) values ('02_profiles');
