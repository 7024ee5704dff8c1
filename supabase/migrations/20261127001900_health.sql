-- What `annex doctor` asks about work that waits; it connects as annex_worker, which reads no table of it. And what keeps plans
-- good while tables grow.

set role annex_owner;

-- Since when work has waited: the oldest of each kind, null where none waits. Also the head of the log, when its oldest event was
-- made, and when the oldest notification arrived that may expire.
create function annex.health() returns table (
  head bigint, oldest_event_at timestamptz, pending_since timestamptz, mail_due_since timestamptz, answer_expired_since timestamptz,
  erasure_since timestamptz, oldest_notification_at timestamptz
)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select s.head,
    (
      select to_timestamp(('x' || translate(left(l.event_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
      from annex.log l order by l.pos limit 1
    ),
    (
      select to_timestamp(('x' || translate(left(min(p.event_id::text), 13), '-', ''))::bit(48)::bigint / 1000.0)
      from (
        -- The first of each lane, however long they are.
        (select f.event_id from annex.pending f where f.is_personal order by f.id limit 1)
        union all
        (select f.event_id from annex.pending f where not f.is_personal order by f.id limit 1)
      ) p
    ),
    (
      select min(m.next_attempt_at) from annex.mails m
      where m.sent_at is null and m.failed_at is null and m.next_attempt_at <= now()
        and coalesce(m.leased_until <= now(), true)
    ),
    (select min(k.expires_at) from annex.idempotency_keys k where k.expires_at <= now()),
    (select min(e.erased_at) from annex.erasures e),
    (select n.arrived_at from annex.notifications n where n.snoozed_until is null order by n.id limit 1)
  from annex.log_state s
$$;
grant execute on function annex.health() to annex_worker;

-- Analyze the tables that have more than doubled since they were analyzed; returns how many. A session plans a statement once,
-- and again when a table of it was analyzed. Of a table that is a page long, one index is as good as any other, also one that
-- would be read from its start for each row when the table has grown, and autovacuum comes a minute later at the earliest.
-- Of columns that an index has, or goes by: to sort samples of all others, such as documents, was a fifth of what the worker's
-- sessions did. A table whose index has an expression is analyzed whole, as a list of columns would leave out the expression.
-- By samples of 3,000 rows: it is about orders of magnitude, and ten times as many keep a core from whoever waits for a plan.
create function annex.refresh_statistics() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set default_statistics_target = 10 as $$
declare
  grown regclass;
  refreshed integer := 0;
begin
  for grown in
    select c.oid from pg_class c join pg_stat_all_tables s on s.relid = c.oid
    where c.relnamespace = 'annex'::regnamespace and c.relkind = 'r'
      and s.n_live_tup > 100 + 2 * greatest(c.reltuples, 0)
    order by c.oid
  loop
    execute format('analyze (skip_locked) %s %s', grown, (
      select '(' || string_agg(distinct quote_ident(a.attname), ', ') || ')'
      from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum > 0
      where i.indrelid = grown and (
        a.attnum = any (i.indkey)
        or exists (
          select from pg_depend d
          where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
            and d.refclassid = 'pg_class'::regclass and d.refobjid = grown and d.refobjsubid = a.attnum
        )
      )
      having not bool_or(i.indexprs is not null)
    ));
    refreshed := refreshed + 1;
  end loop;
  return refreshed;
end
$$;
grant execute on function annex.refresh_statistics() to annex_worker;

reset role;

insert into annex.migrations (name) values ('19_health');
