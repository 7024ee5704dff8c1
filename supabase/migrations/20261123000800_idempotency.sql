-- Finished answers of POST requests that carried an Idempotency-Key, for 24 hours.

set role annex_owner;

create table annex.idempotency_keys (
  principal text not null,
  route text not null,
  key text not null,
  fingerprint bytea not null,
  status smallint not null,
  headers jsonb not null default '{}',
  body bytea not null,
  expires_at timestamptz not null,
  constraint idempotency_keys_pkey primary key (principal, route, key),
  constraint idempotency_keys_body_check check (octet_length(body) <= 65536),
  constraint idempotency_keys_key_check check (char_length(key) between 1 and 255),
  constraint idempotency_keys_fingerprint_check check (octet_length(fingerprint) = 32),
  constraint idempotency_keys_status_check check (status between 200 and 299)
);
create index idempotency_keys_expires_at_idx on annex.idempotency_keys (expires_at);

alter table annex.idempotency_keys enable row level security, force row level security;
create policy idempotency_keys_owner on annex.idempotency_keys to annex_owner using (true) with check (true);
create policy idempotency_keys_own on annex.idempotency_keys to annex_api
  using (principal = (select annex.principal())) with check (principal = (select annex.principal()));
grant select, insert, update (fingerprint, status, headers, body, expires_at) on annex.idempotency_keys to annex_api;

-- Take a key of the calling principal until the transaction ends; false while another one holds it. A key without an answer
-- gets a row that has expired already, so that nothing is found under it: it is filled in this transaction or goes with it.
create function annex.take_key(route text, key text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
begin
  insert into annex.idempotency_keys as k (principal, route, key, fingerprint, status, body, expires_at)
  values (annex.principal(), take_key.route, take_key.key, sha256(''), 200, '', now())
  on conflict on constraint idempotency_keys_pkey do update set expires_at = k.expires_at;
  return true;
exception when lock_not_available then
  return false;
end
$$;
grant execute on function annex.take_key(text, text) to annex_api;

-- Delete at most a number of expired answers; returns how many went.
create function annex.purge_idempotency_keys(max_rows integer default 10000) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with gone as (
    delete from annex.idempotency_keys k
    where (k.principal, k.route, k.key) in (
      select e.principal, e.route, e.key from annex.idempotency_keys e
      where e.expires_at < now() order by e.expires_at limit max_rows
    )
    returning 1
  )
  select count(*) from gone
$$;
grant execute on function annex.purge_idempotency_keys(integer) to annex_worker;

reset role;

insert into annex.migrations (name) values ('08_idempotency');
