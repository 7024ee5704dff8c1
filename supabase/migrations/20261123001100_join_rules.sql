-- Joining rules: who may join a workspace without an invitation, by the domain of their address or by their SSO provider.

set role annex_owner;

-- Domains under which anybody gets an address, so that no workspace may claim them. A selection of the providers that
-- several public lists agree on (Kikobeats/free-email-domains, MIT; jgillich/free-email-domains, MIT). Not complete, and it
-- need not be: a claim also takes an address in the domain. An operator may add rows.
create table annex.public_mail_domains (
  domain text not null,
  constraint public_mail_domains_pkey primary key (domain),
  constraint public_mail_domains_domain_check check (coalesce(annex.email_domain('a@' || domain) = domain, false))
);

insert into annex.public_mail_domains (domain) values
  ('gmail.com'), ('googlemail.com'),
  ('outlook.com'), ('outlook.de'), ('outlook.fr'), ('outlook.es'), ('outlook.it'), ('outlook.co.uk'),
  ('hotmail.com'), ('hotmail.co.uk'), ('hotmail.de'), ('hotmail.fr'), ('hotmail.it'), ('hotmail.es'), ('hotmail.nl'),
  ('live.com'), ('live.co.uk'), ('live.de'), ('live.fr'), ('live.it'), ('live.nl'), ('msn.com'), ('passport.com'),
  ('yahoo.com'), ('yahoo.co.uk'), ('yahoo.de'), ('yahoo.fr'), ('yahoo.it'), ('yahoo.es'), ('yahoo.ca'), ('yahoo.co.in'),
  ('yahoo.in'), ('yahoo.co.jp'), ('yahoo.com.br'), ('yahoo.com.au'), ('yahoo.com.mx'), ('yahoo.com.ar'),
  ('ymail.com'), ('rocketmail.com'), ('aol.com'), ('aim.com'), ('verizon.net'),
  ('icloud.com'), ('me.com'), ('mac.com'), ('privaterelay.appleid.com'),
  ('proton.me'), ('protonmail.com'), ('protonmail.ch'), ('pm.me'),
  ('tutanota.com'), ('tutanota.de'), ('tuta.com'), ('tuta.io'), ('tutamail.com'), ('keemail.me'),
  ('gmx.com'), ('gmx.de'), ('gmx.net'), ('gmx.at'), ('gmx.ch'), ('gmx.us'), ('web.de'), ('email.de'), ('mail.de'),
  ('freenet.de'), ('t-online.de'), ('arcor.de'), ('posteo.de'), ('posteo.net'), ('mailbox.org'),
  ('mail.com'), ('email.com'), ('usa.com'), ('zoho.com'), ('zohomail.com'), ('zohomail.eu'),
  ('fastmail.com'), ('fastmail.fm'), ('hushmail.com'), ('hey.com'), ('duck.com'), ('mozmail.com'), ('simplelogin.com'),
  ('yandex.com'), ('yandex.ru'), ('ya.ru'), ('mail.ru'), ('bk.ru'), ('inbox.ru'), ('list.ru'), ('rambler.ru'), ('ukr.net'),
  ('qq.com'), ('foxmail.com'), ('163.com'), ('126.com'), ('yeah.net'), ('sina.com'), ('sina.cn'), ('sohu.com'),
  ('139.com'), ('189.cn'), ('aliyun.com'), ('naver.com'), ('daum.net'), ('hanmail.net'), ('nate.com'),
  ('docomo.ne.jp'), ('ezweb.ne.jp'), ('softbank.ne.jp'), ('rediffmail.com'), ('indiatimes.com'),
  ('orange.fr'), ('wanadoo.fr'), ('free.fr'), ('sfr.fr'), ('laposte.net'), ('neuf.fr'), ('bbox.fr'),
  ('libero.it'), ('virgilio.it'), ('alice.it'), ('tiscali.it'), ('tin.it'),
  ('uol.com.br'), ('bol.com.br'), ('terra.com.br'), ('ig.com.br'), ('globo.com'), ('sapo.pt'), ('terra.es'),
  ('wp.pl'), ('o2.pl'), ('onet.pl'), ('interia.pl'), ('seznam.cz'), ('centrum.cz'), ('abv.bg'),
  ('btinternet.com'), ('sky.com'), ('talktalk.net'), ('virginmedia.com'), ('ntlworld.com'),
  ('comcast.net'), ('att.net'), ('sbcglobal.net'), ('bellsouth.net'), ('cox.net'), ('charter.net'), ('earthlink.net'),
  ('rogers.com'), ('shaw.ca'), ('sympatico.ca'), ('bigpond.com'), ('optusnet.com.au'), ('xtra.co.nz'),
  ('ziggo.nl'), ('kpnmail.nl'), ('planet.nl'), ('telenet.be'), ('skynet.be'), ('bluewin.ch'),
  ('mailinator.com'), ('guerrillamail.com'), ('10minutemail.com'), ('yopmail.com'), ('temp-mail.org'), ('sharklasers.com');

create table annex.join_rules (
  id uuid not null default annex.uuid7(),
  workspace_id uuid not null,
  kind text not null,
  value text not null,
  role text not null,
  needs_approval boolean not null default false,
  created_by text not null default annex.principal(),
  created_at timestamptz not null default now(),
  constraint join_rules_pkey primary key (id),
  constraint join_rules_workspace_id_fkey foreign key (workspace_id) references annex.workspaces (id) on delete cascade,
  -- Of all workspaces: whoever joins by it must not have a choice between the rightful owner and another.
  constraint join_rules_kind_value_key unique (kind, value),
  constraint join_rules_kind_check check (kind in ('domain', 'sso')),
  constraint join_rules_value_check check (
    kind = 'domain' and coalesce(annex.email_domain('a@' || value) = value, false)
    or kind = 'sso' and value ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
  ),
  constraint join_rules_role_check check (role ~ '^[a-z][a-z0-9_-]{0,62}$')
);
create index join_rules_workspace_id_idx on annex.join_rules (workspace_id, id desc);

create trigger join_rules_role before insert or update of workspace_id, role on annex.join_rules
  for each row execute function annex.check_role();
create trigger join_rules_record after insert or update or delete on annex.join_rules
  for each row execute function
  annex.record_change('join_rule', 'created', 'updated', 'deleted', 'invitations:read', '');

-- Make a rule. A domain takes a user with a confirmed address in it, a provider a user who signed in through it: they may
-- speak for it; so may an operator. Of two claims one wins. The rules of a deleted workspace are in nobody's way.
create function annex.create_join_rule(
  workspace_id uuid, kind text, value text, role text, needs_approval boolean default false
) returns annex.join_rules
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  workspace annex.workspaces;
  claimed text := lower(create_join_rule.value collate "C");
  caller record;
  made annex.join_rules;
begin
  perform annex.require(create_join_rule.workspace_id, 'invitations:manage');
  perform annex.require_grantable(create_join_rule.workspace_id, create_join_rule.role);
  if not annex.is_operator() then
    caller := annex.confirmed_caller();
    if create_join_rule.kind = 'domain' and (
      annex.email_domain(caller.email) is distinct from claimed or caller.provider like 'sso:%'
    ) or create_join_rule.kind = 'sso' and caller.provider is distinct from 'sso:' || claimed then
      raise exception 'You can only claim the domain of your own confirmed address, or your own SSO provider.'
        using errcode = 'insufficient_privilege', constraint = 'domain_not_claimable';
    end if;
  end if;
  if create_join_rule.kind = 'domain' and exists (
    select from annex.public_mail_domains d where claimed = d.domain or right(claimed, length(d.domain) + 1) = '.' || d.domain
  ) then
    raise exception 'Anybody gets an address in this domain, so nobody can claim it.'
      using errcode = 'insufficient_privilege', constraint = 'domain_not_claimable';
  end if;
  workspace := annex.lock_workspace(create_join_rule.workspace_id);
  -- Asked again under the lock: the role may be gone, and with it what offered it.
  perform annex.require_grantable(create_join_rule.workspace_id, create_join_rule.role);
  if (select count(*) from annex.join_rules j where j.workspace_id = workspace.id) >= 100 then
    raise exception 'The workspace has 100 joining rules; delete some.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  delete from annex.join_rules j using annex.workspaces w
  where w.id = j.workspace_id and w.deleted_at is not null and j.kind = create_join_rule.kind and j.value = claimed;
  insert into annex.join_rules (workspace_id, kind, value, role, needs_approval)
  values (workspace.id, create_join_rule.kind, claimed, create_join_rule.role,
    coalesce(create_join_rule.needs_approval, false))
  returning * into made;
  return made;
end
$$;
grant execute on function annex.create_join_rule(uuid, text, text, text, boolean) to annex_api;

-- Delete a rule: nobody joins by it any more; members stay.
create function annex.delete_join_rule(workspace_id uuid, join_rule_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  perform annex.require(delete_join_rule.workspace_id, 'invitations:manage');
  delete from annex.join_rules j
  where j.id = delete_join_rule.join_rule_id and j.workspace_id = delete_join_rule.workspace_id;
  if not found then
    raise exception 'There is no such rule here.' using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
end
$$;
grant execute on function annex.delete_join_rule(uuid, uuid) to annex_api;

-- The rules by which a user may join, of workspaces that they are no member of and were not removed from. A domain's rule
-- is for confirmed addresses in exactly that domain, of users who do not come by SSO: a provider may assert any address.
create function annex.matching_rules(user_id uuid, email text, provider text) returns setof annex.join_rules
language sql stable as $$
  select j.*
  from (
    values ('domain', case when provider like 'sso:%' then null else annex.email_domain(email) end),
      ('sso', case when provider like 'sso:%' then substr(provider, 5) end)
  ) u (kind, value)
  join annex.join_rules j on j.kind = u.kind and j.value = u.value
  join annex.workspaces w on w.id = j.workspace_id and w.deleted_at is null
  where annex.is_domain_allowed(matching_rules.email, w.allowed_email_domains)
    and not exists (
      select from annex.members m where m.workspace_id = j.workspace_id and m.user_id = matching_rules.user_id
    )
    and annex.removed_at(j.workspace_id, matching_rules.user_id, matching_rules.email) is null
$$;

-- What the calling user may join by a rule. At most two, as a domain and a provider have one rule each.
create function annex.my_join_rules() returns table (
  id uuid, workspace_id uuid, workspace_slug text, workspace_name text, role text, needs_approval boolean,
  is_requested boolean
) language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller uuid := annex.user_id();
begin
  return query
    select j.id, w.id, w.slug, w.name, j.role, j.needs_approval, exists (
      select from annex.invitations i
      where i.workspace_id = w.id and i.user_id = caller and i.status = 'requested' and i.expires_at > now()
    )
    from annex.find_user(caller) u, annex.matching_rules(caller, u.email, u.provider) j
    join annex.workspaces w on w.id = j.workspace_id
    order by j.id desc;
end
$$;
grant execute on function annex.my_join_rules() to annex_api;

-- Join by a rule, or ask to: a request is an invitation that the workspace answers, within 30 days. Who asks while an invitation
-- waits for them has accepted it. Raises not_found, limit_reached.
create function annex.join_by_rule(join_rule_id uuid)
returns table (outcome text, workspace_id uuid, workspace_slug text, role text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  caller record := annex.confirmed_caller();
  workspace annex.workspaces;
  rule annex.join_rules;
  waiting annex.invitations;
begin
  select j.* into rule from annex.matching_rules(caller.user_id, caller.email, caller.provider) j
  where j.id = join_by_rule.join_rule_id;
  workspace := annex.lock_workspace(rule.workspace_id);
  -- Asked again under the lock: the user may have joined or been removed, the rule be gone.
  select j.* into rule from annex.matching_rules(caller.user_id, caller.email, caller.provider) j where j.id = rule.id;
  if rule.id is null or not exists (select from annex.find_role(rule.workspace_id, rule.role)) then
    raise exception 'There is no such rule, or it does not let you in.'
      using errcode = 'insufficient_privilege', constraint = 'not_found';
  end if;
  if not rule.needs_approval then
    perform annex.admit(workspace, caller.user_id, caller.email, rule.role);
    -- What waited for an answer has one.
    update annex.invitations i set status = 'accepted', uses = 1, user_id = caller.user_id
    where i.workspace_id = workspace.id and i.email = caller.email and i.status = 'requested';
  else
    insert into annex.profiles (user_id, email) values (caller.user_id, caller.email) on conflict do nothing;
    update annex.invitations i set status = 'expired', token_hash = null
    where i.workspace_id = workspace.id and i.email = caller.email and i.status in ('requested', 'pending')
      and i.expires_at <= now();
    select i.* into waiting from annex.invitations i
    where i.workspace_id = workspace.id and i.email = caller.email and i.status = 'pending';
    if annex.is_open(waiting, workspace, caller.user_id, caller.email) then
      -- It takes no approval any more.
      return query select r.* from annex.respond_to_invitation(null, waiting.id, true) r;
      return;
    end if;
    -- One that nobody can accept, as its inviter may not give the role any more, is not in the way.
    update annex.invitations i set status = 'expired', token_hash = null where i.id = waiting.id;
    -- Of their own: whoever owns one mailbox in a domain has any number of addresses there.
    if (select count(*) from annex.invitations i where i.workspace_id = workspace.id and i.status = 'requested') >= 1000
      and not exists (
        select from annex.invitations i
        where i.workspace_id = workspace.id and i.email = caller.email and i.status = 'requested'
      )
    then
      raise exception 'The workspace has 1,000 requests to join already; ask its members to answer some.'
        using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
    end if;
    insert into annex.invitations (workspace_id, email, role, status, user_id, lifetime_hours, expires_at)
    values (workspace.id, caller.email, rule.role, 'requested', caller.user_id, 720, now() + interval '720 hours')
    on conflict (workspace_id, email) where status in ('requested', 'pending') do nothing;
  end if;
  return query
    select case when rule.needs_approval then 'requested' else 'joined' end, workspace.id, workspace.slug, rule.role;
end
$$;
grant execute on function annex.join_by_rule(uuid) to annex_api;

alter table annex.public_mail_domains enable row level security, force row level security;
alter table annex.join_rules enable row level security, force row level security;
create policy public_mail_domains_owner on annex.public_mail_domains to annex_owner using (true) with check (true);
create policy join_rules_owner on annex.join_rules to annex_owner using (true) with check (true);
create policy join_rules_select on annex.join_rules for select to annex_api
  using (workspace_id = any (array(select annex.workspace_ids('invitations:read'))));
create policy join_rules_operator on annex.join_rules for select to annex_api
  using ((select annex.is_operator()));
grant select on annex.join_rules to annex_api;

reset role;

insert into annex.migrations (name) values ('11_join_rules');
