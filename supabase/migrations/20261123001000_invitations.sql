-- Invitations: who may join a workspace, by address or by link, and how they answer.

-- Made and owned by the migrating role: annex_owner may not read auth.users, and perhaps may not be allowed to. A Supabase
-- user's address in lower case, if Supabase has confirmed it, and how the user signed up (`email`, `google`, `sso:<uuid>`).
create function annex.find_user(user_id uuid) returns table (email text, provider text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select lower(u.email collate "C"), u.raw_app_meta_data ->> 'provider'
  from auth.users u
  where u.id = find_user.user_id and u.email_confirmed_at is not null and u.email <> ''
    and u.is_anonymous is not true
$$;
revoke all on function annex.find_user(uuid) from public, anon, authenticated, service_role;
grant execute on function annex.find_user(uuid) to annex_owner;

set role annex_owner;

-- The one way to compare addresses: A to Z folded, all else as it is. Dots, plus signs and Unicode make other addresses.
create function annex.fold_email(email text) returns text language sql immutable parallel safe as $$
  select lower(email collate "C")
$$;
-- Who writes a profile computes its index.
grant execute on function annex.fold_email(text) to annex_api;

-- The domain of an address, in lower case; null where the address is not one that can be invited: ASCII, a local part
-- without quotes (RFC 5322, section 3.2.3) and a domain name of two labels or more (RFC 1035, section 2.3.1; A-labels).
create function annex.email_domain(email text) returns text language sql immutable parallel safe as $$
  select case when octet_length(email) <= 254 then substring(
    annex.fold_email(email)
    from '^[a-z0-9!#$%&''*+/=?^_`{|}~-](?:\.?[a-z0-9!#$%&''*+/=?^_`{|}~-]){0,63}@((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9]))$'
  ) end
$$;

-- Say whether a workspace allows members with an address. One that cannot be read has no domain, and so is not in a list.
create function annex.is_domain_allowed(email text, domains text[]) returns boolean language sql immutable parallel safe as $$
  select domains is null or coalesce(annex.email_domain(email) = any (domains), false)
$$;

create table annex.invitations (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  email text,
  role text not null,
  status text not null default 'pending',
  token_hash bytea,
  max_uses integer not null default 1,
  uses integer not null default 0,
  lifetime_hours integer not null default 168,
  expires_at timestamptz not null,
  delivery text not null default 'none',
  invited_by text not null default annex.principal(),
  user_id uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint invitations_pkey primary key (id),
  constraint invitations_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint invitations_user_id_fkey foreign key (user_id) references annex.profiles (user_id) on delete set null,
  constraint invitations_token_hash_key unique (token_hash),
  constraint invitations_email_check check (
    email is null or email = annex.fold_email(email) and annex.email_domain(email) is not null
  ),
  constraint invitations_role_check check (role ~ '^[a-z][a-z0-9_-]{0,62}$'),
  constraint invitations_status_check check (
    status in ('requested', 'pending', 'accepted', 'declined', 'revoked', 'expired')
  ),
  constraint invitations_token_hash_check check (octet_length(token_hash) = 32),
  constraint invitations_max_uses_check check (max_uses between 1 and 10000 and (email is null or max_uses = 1)),
  constraint invitations_uses_check check (uses between 0 and max_uses),
  constraint invitations_lifetime_hours_check check (lifetime_hours between 1 and 720),
  constraint invitations_delivery_check check (delivery in ('none', 'queued', 'sent', 'failed'))
);
-- One open invitation for an address; a second one would be a second live token.
create unique index invitations_open_key on annex.invitations (workspace_id, email)
  where status in ('requested', 'pending');
create index invitations_workspace_id_idx on annex.invitations (workspace_id, id desc);
create index invitations_email_idx on annex.invitations (email, id desc) where status = 'pending';
create index invitations_user_id_idx on annex.invitations (user_id) where user_id is not null;
create index invitations_expires_at_idx on annex.invitations (expires_at) where status in ('requested', 'pending');

-- To find members by an address, and an address's locale.
create index profiles_email_idx on annex.profiles (annex.fold_email(email));

-- Whom somebody else removed from a workspace. They come back only by a later invitation to their address: neither links,
-- nor older invitations, nor joining rules let them in. A removal outlives the account, or to delete that and sign up again
-- would end it: no foreign key, and a hash of the address, which names nobody and is of no use in another workspace.
create table annex.removals (
  workspace_id uuid not null,
  user_id uuid not null,
  email_hash bytea,
  removed_at timestamptz not null default now(),
  constraint removals_pkey primary key (workspace_id, user_id),
  constraint removals_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  constraint removals_email_hash_check check (octet_length(email_hash) = 32)
);
create index removals_email_hash_idx on annex.removals (workspace_id, email_hash) where email_hash is not null;

-- The hash by which a workspace knows an address again.
create function annex.hash_email(workspace_id uuid, email text) returns bytea
language sql immutable parallel safe as $$
  select sha256(convert_to(workspace_id::text || ':' || annex.fold_email(email), 'UTF8'))
$$;

-- When a user was last removed from a workspace, under this account or, by its address, under an earlier one; null for never.
create function annex.removed_at(workspace_id uuid, user_id uuid, email text) returns timestamptz
language sql stable as $$
  select max(found.moment) from (
    select r.removed_at as moment from annex.removals r
    where r.workspace_id = removed_at.workspace_id and r.user_id = removed_at.user_id
    union all
    select r.removed_at from annex.removals r
    where r.workspace_id = removed_at.workspace_id
      and r.email_hash = annex.hash_email(removed_at.workspace_id, removed_at.email)
  ) found
$$;

-- Remember that a user was removed from a workspace, or refused.
create function annex.add_removal(workspace_id uuid, user_id uuid) returns void
language sql volatile as $$
  insert into annex.removals (workspace_id, user_id, email_hash)
  values (
    add_removal.workspace_id, add_removal.user_id,
    (select annex.hash_email(add_removal.workspace_id, u.email) from annex.find_user(add_removal.user_id) u)
  )
  on conflict (workspace_id, user_id) do update
    set removed_at = now(), email_hash = coalesce(excluded.email_hash, removals.email_hash)
$$;

create trigger invitations_role before insert or update of workspace_id, role on annex.invitations
  for each row execute function annex.check_role();
create trigger invitations_touch before update on annex.invitations for each row execute function annex.touch();
create trigger invitations_record after insert or update or delete on annex.invitations
  for each row execute function
  annex.record_change('invitation', 'created', 'updated', 'deleted', 'invitations:read', '');

-- AFTER DELETE on members. One who left is not removed; and where workspace or user go, nobody is left to remember.
create function annex.record_removal() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if old.user_id is distinct from annex.user_id()
    and exists (select from annex.workspaces w where w.id = old.workspace_id and w.deleted_at is null)
    and exists (select from annex.profiles p where p.user_id = old.user_id)
  then
    perform annex.add_removal(old.workspace_id, old.user_id);
  end if;
  return null;
end
$$;
create trigger members_removal after delete on annex.members
  for each row execute function annex.record_removal();

-- AFTER trigger of members: a suspended one counts as removed until somebody lets them in again. When the account goes, and
-- the membership with it, Supabase knows its address no more, and the same person could join with another account.
create function annex.record_suspension() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if new.status = 'suspended' then
    perform annex.add_removal(new.workspace_id, new.user_id);
  elsif tg_op = 'UPDATE' then
    delete from annex.removals r where r.workspace_id = new.workspace_id and r.user_id = new.user_id;
  end if;
  return null;
end
$$;
create trigger members_suspension after insert or update of status on annex.members
  for each row execute function annex.record_suspension();

-- Say whether a principal may give a role in a workspace now, by what the tables say of them and not by claims: to check
-- who invited again when the invitation is accepted. The role must exist, and the principal hold invitations:manage and
-- all permissions of the role, and may give it. An operator may give every role.
create function annex.may_give(workspace_id uuid, giver text, role text) returns boolean
language plpgsql stable as $$
#variable_conflict use_column
declare
  kind text := split_part(giver, ':', 1);
  giver_id uuid := case when kind in ('user', 'api_key') then split_part(giver, ':', 2) end;
  wanted annex.roles := (select r from annex.find_role(may_give.workspace_id, may_give.role) r);
begin
  if wanted.id is null or giver_id is null then
    return wanted.id is not null and kind = 'operator';
  end if;
  return exists (
    select from annex.grants(
      may_give.workspace_id,
      of_user => case kind when 'user' then giver_id end,
      of_key => case kind when 'api_key' then giver_id end
    ) g
    where 'invitations:manage' = any (g.permissions) and annex.is_grantable(wanted, g.permissions, g.grantable)
  );
end
$$;

-- The calling user's address and provider; raises unless Supabase has confirmed the address.
create function annex.confirmed_caller(out user_id uuid, out email text, out provider text)
language plpgsql stable as $$
begin
  user_id := annex.require_user();
  select u.email, u.provider into email, provider from annex.find_user(user_id) u;
  if email is null then
    raise exception 'Confirm your email address first.'
      using errcode = 'insufficient_privilege', constraint = 'email_unconfirmed';
  end if;
end
$$;

-- Say whether a confirmed address proves by itself that its user is who they say, in a workspace. An identity provider may
-- assert whatever address it likes, so those of SSO users count only where the workspace has a rule for that provider.
create function annex.is_proof(workspace_id uuid, provider text) returns boolean
language plpgsql stable as $$
begin
  return provider is null or provider not like 'sso:%' or exists (
    select from annex.join_rules j
    where j.workspace_id = is_proof.workspace_id and j.kind = 'sso' and 'sso:' || j.value = is_proof.provider
  );
end
$$;

-- Make a user a member; the caller holds the workspace's lock, and has checked that the user may join. The trigger of
-- members counts the seats.
create function annex.admit(workspace annex.workspaces, user_id uuid, email text, role text) returns void
language plpgsql as $$
begin
  if exists (
    select from annex.members m where m.workspace_id = workspace.id and m.user_id = admit.user_id
  ) then
    raise exception 'The user is a member already.' using errcode = 'unique_violation', constraint = 'already_member';
  end if;
  insert into annex.profiles (user_id, email) values (admit.user_id, admit.email) on conflict do nothing;
  insert into annex.members (workspace_id, user_id, role) values (workspace.id, admit.user_id, admit.role);
  delete from annex.removals r
  where r.workspace_id = workspace.id
    and (r.user_id = admit.user_id or r.email_hash = annex.hash_email(workspace.id, admit.email));
end
$$;

-- Raise if a workspace has queued more invitations' mails in 24 hours than it may; after they were queued, under the workspace's lock.
create function annex.require_mails(workspace_id uuid, mail_limit integer) returns void
language plpgsql stable as $$
begin
  if mail_limit < (
    select count(*) from annex.mails m
    where m.workspace_id = require_mails.workspace_id and m.created_at > now() - interval '24 hours'
      and m.invitation_id is not null
  ) then
    raise exception 'The workspace has sent its mails for today; try again tomorrow.'
      using errcode = 'program_limit_exceeded', constraint = 'too_many_mails';
  end if;
end
$$;

-- Invite addresses, or make a link where emails is null. Each gets the hash of the token that the API made; with is_mailed
-- addresses get none, as the worker makes it when it sends the mail. Returns a row for each address, in their order: its
-- outcome is `created`, `already_invited`, `already_requested` or `already_member`, which leave what is there as it is.
create function annex.create_invitations(
  workspace_id uuid,
  emails text[],
  token_hashes bytea[],
  role text,
  max_uses integer,
  lifetime_hours integer,
  is_mailed boolean,
  mail_limit integer
) returns table (ordinal integer, address text, outcome text, issued_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  workspace annex.workspaces;
  asked text[] := array(select annex.fold_email(e) from unnest(emails) with ordinality as u (e, n) order by n);
  mailed boolean := coalesce(is_mailed, false) and emails is not null;
  hours integer := coalesce(create_invitations.lifetime_hours, 168);
  present text[];
  kept record;
begin
  perform annex.require(create_invitations.workspace_id, 'invitations:manage');
  perform annex.require_grantable(create_invitations.workspace_id, create_invitations.role);
  if emails is not null and cardinality(emails) not between 1 and 100 then
    raise exception 'Between 1 and 100 addresses.'
      using errcode = 'invalid_parameter_value', constraint = 'invalid_request';
  end if;
  workspace := annex.lock_workspace(create_invitations.workspace_id);
  -- Asked again under the lock: the role may be gone, and with it what offered it.
  perform annex.require_grantable(create_invitations.workspace_id, create_invitations.role);
  if exists (
    select from unnest(asked) e where not annex.is_domain_allowed(e, workspace.allowed_email_domains)
  ) then
    raise exception 'The workspace does not allow members of this domain.'
      using errcode = 'check_violation', constraint = 'domain_not_allowed';
  end if;
  if (
    select count(*) from annex.invitations i where i.workspace_id = workspace.id and i.status = 'pending'
  ) + greatest(cardinality(asked), 1) > 5000 then
    raise exception 'The workspace has 5,000 open invitations; revoke some.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  elsif (
    -- Those that were revoked as well: one call closes thousands, and their rows stay for a while.
    select count(*) from annex.invitations i
    where i.workspace_id = workspace.id and i.id >= annex.uuid7_floor(now() - interval '24 hours')
  ) + greatest(cardinality(asked), 1) > 10000 then
    raise exception 'The workspace has made 10,000 invitations within 24 hours; try again tomorrow.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  if annex.has_permission(workspace.id, 'members:read') then
    present := array(
      select annex.fold_email(p.email) from annex.members m join annex.profiles p on p.user_id = m.user_id
      where m.workspace_id = workspace.id and annex.fold_email(p.email) = any (asked)
    );
  end if;
  -- One that nobody can accept any more is no longer in the way.
  update annex.invitations i set status = 'expired', token_hash = null
  where i.workspace_id = workspace.id and i.status in ('requested', 'pending') and i.expires_at <= now()
    and i.email = any (asked);
  for n in 1 .. coalesce(cardinality(emails), 1) loop
    ordinal := n;
    address := asked[n];
    issued_id := null;
    if address = any (present) then
      outcome := 'already_member';
      return next;
      continue;
    end if;
    select i.id, i.status into kept from annex.invitations i
    where i.workspace_id = workspace.id and i.email = address and i.status in ('requested', 'pending');
    if found then
      outcome := case kept.status when 'requested' then 'already_requested' else 'already_invited' end;
      issued_id := kept.id;
      return next;
      continue;
    end if;
    insert into annex.invitations (
      workspace_id, email, role, token_hash, max_uses, lifetime_hours, expires_at, delivery
    ) values (
      workspace.id, address, create_invitations.role, case when not mailed then token_hashes[n] end,
      case when address is null then coalesce(create_invitations.max_uses, 1) else 1 end,
      hours, now() + make_interval(hours => hours), case when mailed then 'queued' else 'none' end
    ) returning id into issued_id;
    outcome := 'created';
    if mailed then
      insert into annex.mails (workspace_id, invitation_id, recipient) values (workspace.id, issued_id, address);
    end if;
    return next;
  end loop;
  if mailed then
    perform annex.require_mails(workspace.id, mail_limit);
  end if;
end
$$;
grant execute on function
  annex.create_invitations(uuid, text[], bytea[], text, integer, integer, boolean, integer) to annex_api;

-- The invitation of a workspace, locked after it; for the functions below. With versions, only one of those.
create function annex.lock_invitation(workspace_id uuid, invitation_id uuid, versions integer[] default null)
returns annex.invitations
language plpgsql as $$
#variable_conflict use_column
declare
  found_one annex.invitations;
begin
  perform annex.require(lock_invitation.workspace_id, 'invitations:manage');
  perform annex.lock_workspace(lock_invitation.workspace_id);
  select i.* into found_one from annex.invitations i
  where i.id = lock_invitation.invitation_id and i.workspace_id = lock_invitation.workspace_id for update;
  if not found then
    raise exception 'There is no such invitation here.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  perform annex.require_version(found_one.version, versions);
  return found_one;
end
$$;

-- Revoke an invitation, or refuse a request to join. Doing it again changes nothing; one that was answered stays as it is.
-- Whoever was refused does not join by a rule either, until somebody invites them.
create function annex.revoke_invitation(workspace_id uuid, invitation_id uuid, versions integer[] default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  invitation annex.invitations;
begin
  invitation := annex.lock_invitation(revoke_invitation.workspace_id, revoke_invitation.invitation_id, versions);
  if invitation.status = 'revoked' then
    return;
  elsif invitation.status not in ('requested', 'pending', 'expired') then
    raise exception 'The invitation has been answered.' using errcode = 'check_violation', constraint = 'invitation_closed';
  end if;
  if invitation.status = 'requested' and invitation.user_id is not null then
    perform annex.add_removal(invitation.workspace_id, invitation.user_id);
  end if;
  update annex.invitations i set status = 'revoked', token_hash = null where i.id = invitation.id;
end
$$;
grant execute on function annex.revoke_invitation(uuid, uuid, integer[]) to annex_api;

-- Give an invitation a new token and its whole lifetime again; the token before is dead at once. Who sends it again is the
-- one who invites from now on, and so must be allowed to give the role.
create function annex.resend_invitation(
  workspace_id uuid, invitation_id uuid, new_hash bytea, is_mailed boolean, mail_limit integer
) returns table (ordinal integer, address text, outcome text, issued_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  invitation annex.invitations;
  mailed boolean;
begin
  invitation := annex.lock_invitation(resend_invitation.workspace_id, resend_invitation.invitation_id);
  perform annex.require_grantable(invitation.workspace_id, invitation.role);
  if invitation.status = 'expired' and exists (
    select from annex.invitations i
    where i.workspace_id = invitation.workspace_id and i.email = invitation.email
      and i.status in ('requested', 'pending')
  ) or invitation.status not in ('pending', 'expired') then
    raise exception 'Only an open invitation can be sent again.'
      using errcode = 'check_violation', constraint = 'invitation_closed';
  end if;
  mailed := coalesce(is_mailed, false) and invitation.email is not null;
  if mailed then
    -- What is being sent holds the token before; what waits will get the new one.
    update annex.mails m set failed_at = now(), error = 'It was sent again.', lease_id = null
    where m.invitation_id = invitation.id and m.sent_at is null and m.failed_at is null and m.leased_until > now();
    insert into annex.mails (workspace_id, invitation_id, recipient)
    values (invitation.workspace_id, invitation.id, invitation.email)
    on conflict (invitation_id) where sent_at is null and failed_at is null do nothing;
    perform annex.require_mails(invitation.workspace_id, mail_limit);
  end if;
  update annex.invitations i
  set status = 'pending', token_hash = case when not mailed then new_hash end, invited_by = annex.principal(),
    expires_at = now() + make_interval(hours => i.lifetime_hours), delivery = case when mailed then 'queued' else 'none' end
  where i.id = invitation.id;
  return query select 1, invitation.email, 'resent', invitation.id;
end
$$;
grant execute on function annex.resend_invitation(uuid, uuid, bytea, boolean, integer) to annex_api;

-- Let a user in who asked to join. Their address must still be the one they asked with.
create function annex.approve_invitation(workspace_id uuid, invitation_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  invitation annex.invitations;
  workspace annex.workspaces;
begin
  invitation := annex.lock_invitation(approve_invitation.workspace_id, approve_invitation.invitation_id);
  perform annex.require_grantable(invitation.workspace_id, invitation.role);
  if invitation.status <> 'requested' or invitation.expires_at <= now() or not exists (
    select from annex.find_user(invitation.user_id) u where u.email = invitation.email
  ) then
    raise exception 'Nobody waits for this to be approved.'
      using errcode = 'check_violation', constraint = 'invitation_closed';
  end if;
  workspace := annex.lock_workspace(invitation.workspace_id);
  if not annex.is_domain_allowed(invitation.email, workspace.allowed_email_domains) then
    raise exception 'The workspace does not allow members of this domain.'
      using errcode = 'check_violation', constraint = 'domain_not_allowed';
  end if;
  perform annex.admit(workspace, invitation.user_id, invitation.email, invitation.role);
  update annex.invitations i set status = 'accepted', uses = 1, invited_by = annex.principal() where i.id = invitation.id;
end
$$;
grant execute on function annex.approve_invitation(uuid, uuid) to annex_api;

-- Say whether an invitation can be accepted by a user now: open, in time, into a workspace that is there, by somebody who
-- may still give the role, of a domain that the workspace allows, and not from before the user was removed.
create function annex.is_open(invitation annex.invitations, workspace annex.workspaces, user_id uuid, email text)
returns boolean
language plpgsql stable as $$
#variable_conflict use_column
begin
  return coalesce(
    invitation.status = 'pending' and invitation.expires_at > now() and invitation.uses < invitation.max_uses
    and workspace.id is not null and workspace.deleted_at is null
    and annex.may_give(invitation.workspace_id, invitation.invited_by, invitation.role)
    and annex.is_domain_allowed(is_open.email, workspace.allowed_email_domains)
    and coalesce(
      annex.removed_at(invitation.workspace_id, is_open.user_id, is_open.email)
        < case
          when invitation.email is null then '-infinity'
          -- When it was sent for the last time: who sends it again invites again.
          else invitation.expires_at - make_interval(hours => invitation.lifetime_hours)
        end
      -- Who is suspended is told that they are a member.
      or exists (
        select from annex.members m where m.workspace_id = invitation.workspace_id and m.user_id = is_open.user_id
      ), true
    ), false
  );
end
$$;

-- Find the invitation that a token's hash or an id names, as the caller may know it. By token, one to another address
-- raises invitation_for_another, whatever its state. By id, only one to the caller's own address is found at all: ids are
-- no secret, and a link has none but its token.
create function annex.find_invitation(hash bytea, invitation_id uuid, email text, provider text)
returns annex.invitations
language plpgsql stable as $$
declare
  invitation annex.invitations;
begin
  if hash is not null then
    select i.* into invitation from annex.invitations i where i.token_hash = hash;
  else
    select i.* into invitation from annex.invitations i
    where i.id = find_invitation.invitation_id and i.email = find_invitation.email
      and i.status <> 'requested' and annex.is_proof(i.workspace_id, find_invitation.provider);
  end if;
  if invitation.id is null then
    raise exception 'There is no such invitation, or a newer one has taken its place.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  elsif invitation.email is not null and invitation.email <> find_invitation.email then
    raise exception 'The invitation is to another address; sign in with the one that it was sent to.'
      using errcode = 'insufficient_privilege', constraint = 'invitation_for_another';
  end if;
  return invitation;
end
$$;

-- Raise that an invitation is over, in one sentence for every reason.
create function annex.refuse_invitation() returns void language plpgsql as $$
begin
  raise exception 'The invitation has expired, was used, or was withdrawn; ask for a new one, to your address.'
    using errcode = 'check_violation', constraint = 'invitation_gone';
end
$$;

-- What an invitation offers to its recipient, who does not see the workspace yet; for the functions below.
create function annex.offers(invitation_ids uuid[]) returns table (
  id uuid, workspace_id uuid, workspace_slug text, workspace_name text, role text, is_link boolean,
  invited_by_name text, expires_at timestamptz, created_at timestamptz
) language sql stable as $$
  select i.id, w.id, w.slug, w.name, i.role, i.email is null,
    coalesce(inviter.display_name, ''),
    i.expires_at, i.created_at
  from unnest(invitation_ids) with ordinality as o (id, n)
  join annex.invitations i on i.id = o.id
  join annex.workspaces w on w.id = i.workspace_id
  left join annex.profiles inviter on inviter.user_id = annex.user_of(i.invited_by)
  order by o.n
$$;

-- Show what a token offers, and change nothing.
create function annex.look_up_invitation(hash bytea) returns table (
  id uuid, workspace_id uuid, workspace_slug text, workspace_name text, role text, is_link boolean,
  invited_by_name text, expires_at timestamptz, created_at timestamptz
) language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller record := annex.confirmed_caller();
  invitation annex.invitations := annex.find_invitation(hash, null, caller.email, caller.provider);
  workspace annex.workspaces;
begin
  select w.* into workspace from annex.workspaces w where w.id = invitation.workspace_id;
  if not annex.is_open(invitation, workspace, caller.user_id, caller.email) then
    perform annex.refuse_invitation();
  end if;
  return query select * from annex.offers(array[invitation.id]);
end
$$;
grant execute on function annex.look_up_invitation(bytea) to annex_api;

-- The open invitations to the caller's confirmed address, newest first, after one of them; none without such an address.
-- One by one until the page is full: what each of them asks of its workspace would take too long for thousands. Of those
-- that are pending but can no longer be accepted, it passes 1,000 at most.
create function annex.my_invitations(after_id uuid, max_rows integer) returns table (
  id uuid, workspace_id uuid, workspace_slug text, workspace_name text, role text, is_link boolean,
  invited_by_name text, expires_at timestamptz, created_at timestamptz
) language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
  address record;
  invitation annex.invitations;
  workspace annex.workspaces;
  open_ids uuid[] := '{}';
begin
  select u.email, u.provider into address from annex.find_user(caller) u;
  for invitation in
    select i.* from annex.invitations i
    where i.email = address.email and i.status = 'pending'
      and i.id < coalesce(after_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    order by i.id desc limit 1000 + least(max_rows, 101)
  loop
    exit when cardinality(open_ids) >= least(max_rows, 101);
    select w.* into workspace from annex.workspaces w where w.id = invitation.workspace_id;
    if annex.is_open(invitation, workspace, caller, address.email) and annex.is_proof(workspace.id, address.provider) then
      open_ids := open_ids || invitation.id;
    end if;
  end loop;
  return query select o.* from annex.offers(open_ids) o;
end
$$;
grant execute on function annex.my_invitations(uuid, integer) to annex_api;

-- Accept or decline as the calling user, by a token's hash or by the id of an invitation to their own address. To accept
-- what one has accepted gives the same answer. Locks the workspace, then the invitation; all that may have changed since
-- it was made is asked again under the locks.
create function annex.respond_to_invitation(hash bytea, invitation_id uuid, is_accepted boolean)
returns table (outcome text, workspace_id uuid, workspace_slug text, role text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller record := annex.confirmed_caller();
  invitation annex.invitations :=
    annex.find_invitation(hash, respond_to_invitation.invitation_id, caller.email, caller.provider);
  workspace annex.workspaces := annex.lock_workspace(invitation.workspace_id);
begin
  select i.* into invitation from annex.invitations i where i.id = invitation.id for update;
  if invitation.id is null or invitation.token_hash is distinct from coalesce(hash, invitation.token_hash) then
    perform annex.refuse_invitation();
  elsif not (is_accepted and invitation.status = 'accepted' and invitation.user_id = caller.user_id and exists (
    select from annex.members m where m.workspace_id = workspace.id and m.user_id = caller.user_id
  )) then
    if not annex.is_open(invitation, workspace, caller.user_id, caller.email) then
      perform annex.refuse_invitation();
    elsif is_accepted then
      perform annex.admit(workspace, caller.user_id, caller.email, invitation.role);
      update annex.invitations i
      set uses = i.uses + 1, user_id = case when i.email is not null then caller.user_id end,
        status = case when i.uses + 1 = i.max_uses then 'accepted' else 'pending' end
      where i.id = invitation.id;
    elsif invitation.email is not null then
      update annex.invitations i set status = 'declined', token_hash = null where i.id = invitation.id;
    end if;
  end if;
  return query select case when is_accepted then 'joined' else 'declined' end, workspace.id, workspace.slug, invitation.role;
end
$$;
grant execute on function annex.respond_to_invitation(bytea, uuid, boolean) to annex_api;

-- Close at most a number of invitations whose time is over; returns how many.
create function annex.expire_invitations(max_rows integer default 1000) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  closed integer;
begin
  with due as (
    select i.id from annex.invitations i
    where i.status in ('requested', 'pending') and i.expires_at <= now()
    order by i.expires_at limit max_rows for update skip locked
  )
  update annex.invitations i set status = 'expired', token_hash = null from due where i.id = due.id;
  get diagnostics closed = row_count;
  return closed;
end
$$;
grant execute on function annex.expire_invitations(integer) to annex_worker;

alter table annex.invitations enable row level security, force row level security;
alter table annex.removals enable row level security, force row level security;
create policy invitations_owner on annex.invitations to annex_owner using (true) with check (true);
create policy removals_owner on annex.removals to annex_owner using (true) with check (true);
create policy invitations_select on annex.invitations for select to annex_api
  using (workspace_id = any (array(select annex.workspace_ids('invitations:read'))));
create policy invitations_operator on annex.invitations for select to annex_api
  using ((select annex.is_operator()));
grant select (
  id, workspace_id, email, role, status, max_uses, uses, lifetime_hours, expires_at, delivery, invited_by, user_id,
  created_at, updated_at, version
) on annex.invitations to annex_api;

reset role;

insert into annex.migrations (name) values ('10_invitations');
