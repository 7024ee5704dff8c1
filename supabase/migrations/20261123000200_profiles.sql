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
create policy profiles_insert on annex.profiles for insert to annex_api
  with check (user_id = (select annex.user_id()));
create policy profiles_update on annex.profiles for update to annex_api
  using (user_id = (select annex.user_id()));

grant select, insert (user_id, email), update (email, display_name, avatar_url, locale, time_zone)
  on annex.profiles to annex_api;
grant select (user_id, email, display_name, avatar_url) on annex.profiles to authenticated;

reset role;

-- As the migrating role: it may reference auth.users, which annex_owner may not, and perhaps may not be allowed to.
alter table annex.profiles
  add constraint profiles_user_id_fkey foreign key (user_id) references auth.users (id) on delete cascade;

insert into annex.migrations (name) values ('02_profiles');
