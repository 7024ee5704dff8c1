create table profiles (
  id uuid not null references auth.users on delete cascade primary key,
  username text unique not null,
  bio text default null,
  created_at timestamp with time zone default timezone('utc'::text, now()) not null
);
alter table profiles enable row level security;
create policy "Profiles are public." on profiles for select using (true);
create policy "People change their own." on profiles for update
  using (auth.uid() = id) with check (auth.uid() = id);
grant select on profiles to anon, authenticated;
grant update (username, bio) on profiles to authenticated;
