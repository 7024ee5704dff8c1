-- Demo data for development: a workspace, its owner and a member, a stranger to it, and a few events.
-- Run as the migrating role; can be run again.

insert into auth.users (id, email, email_confirmed_at) values
  ('0190a000-0000-7000-8000-000000000001', 'owner@example.com', now()),
  ('0190a000-0000-7000-8000-000000000002', 'member@example.com', now()),
  ('0190a000-0000-7000-8000-000000000003', 'stranger@example.com', now())
on conflict (id) do nothing;

set role annex_owner;

insert into annex.profiles (user_id, email, display_name) values
  ('0190a000-0000-7000-8000-000000000001', 'owner@example.com', 'Olivia Owner'),
  ('0190a000-0000-7000-8000-000000000002', 'member@example.com', 'Max Member'),
  ('0190a000-0000-7000-8000-000000000003', 'stranger@example.com', 'Sam Stranger')
on conflict (user_id) do nothing;

insert into annex.workspaces (id, slug, name, created_by) values
  ('0190a000-0000-7000-8000-0000000000aa', 'acme', 'Acme', '0190a000-0000-7000-8000-000000000001')
on conflict (id) do nothing;

insert into annex.members (workspace_id, user_id, role) values
  ('0190a000-0000-7000-8000-0000000000aa', '0190a000-0000-7000-8000-000000000001', 'owner'),
  ('0190a000-0000-7000-8000-0000000000aa', '0190a000-0000-7000-8000-000000000002', 'member')
on conflict (workspace_id, user_id) do nothing;

select
  annex.publish(
    '0190a000-0000-7000-8000-0000000000aa', 'project.created', '{"name": "Website", "budget": 12000}',
    topics => '{project:1}', subject => 'project:1', source => 'demo', key => 'project-1'
  ),
  annex.publish(
    '0190a000-0000-7000-8000-0000000000aa', 'invoice.paid', '{"total": 99.5, "currency": "EUR"}',
    topics => '{project:1,billing}', subject => 'invoice:1', source => 'demo', key => 'invoice-1'
  );

reset role;
