create type public.listing_status as enum ('open', 'sold');
create table public.listings (
  id uuid primary key default gen_random_uuid(),
  seller_id uuid not null default auth.uid() references public.profiles (id) on delete cascade,
  status public.listing_status not null default 'open',
  active boolean not null default true,
  tags text[] not null default '{}'
);
create index listings_open on public.listings using btree (seller_id)
  where (active = true and status = 'open'::public.listing_status);
alter table public.listings enable row level security;
create policy "Open listings are public." on public.listings
  as permissive for select to anon, authenticated using (active);
create policy "Sellers do as they like." on public.listings to authenticated
  using ((select auth.uid()) = seller_id);
grant select on public.listings to anon;
grant select, insert, update, delete on public.listings to authenticated;
create function public.touch() returns trigger language plpgsql set search_path = '' as $$
begin
  return new;
end $$;
create trigger listings_touch before update on public.listings
  for each row execute procedure public.touch();
create view public.open_listings with (security_invoker) as
  select l.id, l.seller_id from public.listings l where l.active;
grant select on public.open_listings to anon;
create publication market_realtime for table public.listings;
