-- Mails: the outbox. Holds what to send and to whom, never a token: the worker makes one when it sends.

set role annex_owner;

-- The mailbox behind an address: what follows a plus sign is mostly the same one. For limits only, never to tell who it is.
create function annex.mailbox(email text) returns text language sql immutable parallel safe as $$
  select regexp_replace(annex.fold_email(email), '^([^+@]+)[+][^@]*@', '\1@')
$$;

create table annex.mails (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  invitation_id uuid,
  notification_id uuid,
  user_id uuid,
  is_critical boolean not null default false,
  recipient text not null,
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  lease_id uuid,
  leased_until timestamptz,
  sent_at timestamptz,
  failed_at timestamptz,
  error text,
  skip_reason text,
  created_at timestamptz not null default now(),
  constraint mails_pkey primary key (id),
  constraint mails_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint mails_invitation_id_fkey foreign key (invitation_id) references annex.invitations (id) on delete cascade,
  constraint mails_recipient_check check (annex.email_domain(recipient) is not null),
  constraint mails_error_check check (char_length(error) <= 500),
  constraint mails_end_check check (sent_at is null or failed_at is null),
  -- A notification's foreign key comes with its table.
  constraint mails_kind_check check (
    (invitation_id is null) = (notification_id is not null) and (notification_id is null) = (user_id is null)
  ),
  constraint mails_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete cascade,
  constraint mails_skip_reason_check check (
    skip_reason is null or skip_reason in (
      'not_a_member', 'suspended', 'not_permitted', 'muted', 'preference', 'read', 'archived', 'snoozed',
      'address_unconfirmed', 'address_changed', 'limit'
    ) and failed_at is not null
  )
);
-- One mail of an invitation waits at a time, however often it is sent again.
create unique index mails_open_key on annex.mails (invitation_id) where sent_at is null and failed_at is null;
create index mails_next_attempt_at_idx on annex.mails (next_attempt_at) where sent_at is null and failed_at is null;
create index mails_waiting_idx on annex.mails (annex.mailbox(recipient), next_attempt_at)
  where sent_at is null and failed_at is null;
create index mails_leased_until_idx on annex.mails (leased_until) where leased_until is not null;
create index mails_workspace_id_idx on annex.mails (workspace_id, created_at);
create index mails_user_id_idx on annex.mails (user_id) where user_id is not null;
create index mails_mailbox_idx on annex.mails (annex.mailbox(recipient), leased_until) where leased_until is not null;
create index mails_invitation_id_idx on annex.mails (invitation_id);
create index mails_created_at_idx on annex.mails (created_at);

alter table annex.mails enable row level security, force row level security;
create policy mails_owner on annex.mails to annex_owner using (true) with check (true);

-- Lease the invitations' mails that are due to one worker: creators of workspaces take turns, each one's oldest first, of the
-- 100,000 that have been due longest; what was leased to a creator in the last minute counts as turns. A mailbox gets so many mails in 24 hours, of all workspaces together; more wait, and nobody
-- is told. Of these, the workspaces of one creator send a third at most; their first one goes out up to twice the limit, so that
-- no tenant uses up what another one needs. All of a creator's mails to a full mailbox wait together until it has room again.
-- What nobody needs any more is closed. One worker at a time, so that two cannot both count to the limit. A lease is longer than the worker may take; if
-- it ends, the mail is sent again.
create function annex.lease_mails(max_rows integer, lease_seconds integer, mailbox_limit integer)
returns table (
  mail_id uuid, lease_id uuid, recipient text, attempts integer, workspace_name text, invited_by_name text, role_name text,
  locale text, expires_at timestamptz
) language plpgsql security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
declare
  lease uuid := gen_random_uuid();
  waiting record;
  leased uuid[] := '{}';
  full_ones text[] := '{}';
  of_all integer;
  of_theirs integer;
  since timestamptz;
  since_theirs timestamptz;
begin
  if not annex.try_lock('mails') then
    return;
  end if;
  update annex.mails m set failed_at = now(), error = 'The invitation is closed.', lease_id = null
  from annex.invitations i, annex.workspaces w
  where m.sent_at is null and m.failed_at is null and m.next_attempt_at <= now() and coalesce(m.leased_until <= now(), true)
    and i.id = m.invitation_id and w.id = m.workspace_id
    and (i.status <> 'pending' or i.expires_at <= now() or w.deleted_at is not null);
  for waiting in
    with recent as materialized (
      select coalesce(w.created_by, w.id) as tenant, count(*) as turns
      from annex.mails m join annex.workspaces w on w.id = m.workspace_id
      where m.leased_until > now() - interval '1 minute' and m.invitation_id is not null group by 1
    )
    select t.id, annex.mailbox(t.recipient) as mailbox, t.tenant from (
      select d.*, row_number() over (partition by d.tenant order by d.next_attempt_at, d.id) as nth
      from (
        select m.id, m.recipient, m.next_attempt_at, coalesce(w.created_by, w.id) as tenant
        from annex.mails m join annex.workspaces w on w.id = m.workspace_id
        where m.sent_at is null and m.failed_at is null and m.next_attempt_at <= now()
          and coalesce(m.leased_until <= now(), true) and m.invitation_id is not null
        order by m.next_attempt_at limit 100000
      ) d
    ) t
    left join recent r on r.tenant = t.tenant
    order by t.nth + coalesce(r.turns, 0), t.next_attempt_at, t.id limit 10000
  loop
    exit when cardinality(leased) >= max_rows;
    continue when waiting.tenant || ' ' || waiting.mailbox = any (full_ones);
    -- Whatever was tried counts, also what failed or was sent anew: the mail may have arrived.
    select count(*), count(*) filter (where coalesce(w.created_by, w.id) = waiting.tenant), min(x.leased_until),
      min(x.leased_until) filter (where coalesce(w.created_by, w.id) = waiting.tenant)
    into of_all, of_theirs, since, since_theirs
    from annex.mails x join annex.workspaces w on w.id = x.workspace_id
    where annex.mailbox(x.recipient) = waiting.mailbox and x.id <> waiting.id and x.invitation_id is not null
      and x.leased_until > now() - interval '24 hours';
    if of_theirs = 0 and of_all < 2 * mailbox_limit
      or of_theirs < greatest(mailbox_limit / 3, 1) and of_all < mailbox_limit
    then
      update annex.mails m
      set lease_id = lease, leased_until = now() + make_interval(secs => lease_seconds), attempts = m.attempts + 1
      where m.id = waiting.id;
      leased := leased || waiting.id;
    else
      full_ones := full_ones || (waiting.tenant || ' ' || waiting.mailbox);
      if of_all < mailbox_limit then
        since := since_theirs;
      end if;
      update annex.mails m
      set next_attempt_at = greatest(since + interval '24 hours', now() + interval '15 minutes')
      from annex.workspaces w
      where annex.mailbox(m.recipient) = waiting.mailbox and m.sent_at is null and m.failed_at is null
        and m.next_attempt_at <= now() and coalesce(m.leased_until <= now(), true) and m.invitation_id is not null
        and w.id = m.workspace_id and coalesce(w.created_by, w.id) = waiting.tenant;
    end if;
  end loop;
  return query
    select m.id, m.lease_id, m.recipient, m.attempts, w.name,
      coalesce(inviter.display_name, ''),
      (select r.name from annex.find_role(i.workspace_id, i.role) r),
      coalesce(
        (
          select p.locale from annex.profiles p
          where annex.fold_email(p.email) = m.recipient and p.locale is not null limit 1
        ),
        inviter.locale
      ),
      i.expires_at
    from annex.mails m
    join annex.invitations i on i.id = m.invitation_id
    join annex.workspaces w on w.id = m.workspace_id
    left join annex.profiles inviter on inviter.user_id = annex.user_of(i.invited_by)
    where m.id = any (leased);
end
$$;
grant execute on function annex.lease_mails(integer, integer, integer) to annex_worker;

-- Give a leased mail's invitation the hash of a new token, just before the mail is sent; false if there is nothing to send
-- any more. A token of an earlier attempt is dead then: of two mails that arrive, the later one's link works.
create function annex.mint_invitation(mail_id uuid, lease_id uuid, new_hash bytea) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update annex.invitations i set token_hash = new_hash
  from annex.mails m
  where m.id = mint_invitation.mail_id and m.lease_id = mint_invitation.lease_id
    and m.sent_at is null and m.failed_at is null and m.leased_until > now()
    and i.id = m.invitation_id and i.status = 'pending' and i.expires_at > now();
  return found;
end
$$;
grant execute on function annex.mint_invitation(uuid, uuid, bytea) to annex_worker;

-- Say how a leased mail fared: sent without an error; to be tried again after some seconds; else failed for good. False if
-- the lease is no longer the worker's. Locks the invitation before the mail, as all others do.
create function annex.finish_mail(mail_id uuid, lease_id uuid, error text default null, retry_seconds integer default null)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  invitation annex.invitations;
begin
  select i.* into invitation from annex.invitations i join annex.mails m on m.invitation_id = i.id
  where m.id = finish_mail.mail_id for update of i;
  update annex.mails m
  set sent_at = case when finish_mail.error is null then now() end,
    failed_at = case when finish_mail.error is not null and retry_seconds is null then now() end,
    next_attempt_at = now() + make_interval(secs => coalesce(retry_seconds, 0)),
    error = left(finish_mail.error, 500), lease_id = null, leased_until = least(m.leased_until, now())
  where m.id = finish_mail.mail_id and m.lease_id = finish_mail.lease_id and m.sent_at is null and m.failed_at is null;
  if not found then
    return false;
  end if;
  update annex.invitations i
  set delivery = case when finish_mail.error is null then 'sent' when retry_seconds is null then 'failed' else 'queued' end
  where i.id = invitation.id and i.status = 'pending';
  return true;
end
$$;
grant execute on function annex.finish_mail(uuid, uuid, text, integer) to annex_worker;

-- Delete at most a number of mails that ended 30 days ago; returns how many.
create function annex.purge_mails(max_rows integer default 10000) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
  with gone as (
    delete from annex.mails m
    where m.id in (
      select e.id from annex.mails e
      where e.created_at < now() - interval '30 days' and (e.sent_at is not null or e.failed_at is not null)
      order by e.created_at limit max_rows
    )
    returning 1
  )
  select count(*) from gone
$$;
grant execute on function annex.purge_mails(integer) to annex_worker;

reset role;

insert into annex.migrations (name) values ('12_mails');
