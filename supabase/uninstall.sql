-- Removes Annex from a database. Stop `annex serve` and `annex worker` first, and make a backup if you may want it back.
--
-- Lost for good: everything in the schema `annex`: profiles, workspaces, members, roles, invitations, API keys, events, and
-- what else Annex keeps. Kept: your own schemas, tables and rows, and Supabase's users.
-- Goes along: what of yours refers to Annex: policies that call its functions, foreign keys to its tables, views over them.
-- A table that loses such a policy keeps row level security, and so shows fewer rows and never more. `annex uninstall <url>`
-- lists what that is.
--
-- Run it as the role that migrated, in one transaction:  psql --single-transaction --set ON_ERROR_STOP=1 --file …
-- A project with the Supabase CLI takes it as a migration of its own: supabase/migrations/<now>_remove_annex.sql

-- A schema of the same name that another product made is not ours to drop.
do $$
begin
  if exists (
    select from pg_namespace n where n.nspname = 'annex'
      and n.nspowner is distinct from to_regrole('annex_owner')::oid
      and not exists (select from pg_proc p where p.pronamespace = n.oid and p.proname = 'applied_migrations')
  ) then
    raise exception 'The schema annex is not one that Annex''s migrations made; nothing was removed.';
  end if;
end
$$;

-- To drop what a role owns takes membership in it, which Postgres 16 does not give to the role that made it.
do $$
declare
  annexes text;
begin
  foreach annexes in array array['annex_owner', 'annex_api', 'annex_worker'] loop
    if exists (select from pg_roles where rolname = annexes) and not pg_has_role(annexes, 'usage') then
      execute format('grant %I to %I', annexes, current_user);
    end if;
  end loop;
end
$$;

drop schema if exists annex cascade;

-- Default privileges and rights that the roles were given elsewhere in this database, then the roles themselves. Another
-- database of the server may use them, too: then they stay.
do $$
declare
  annexes text;
begin
  foreach annexes in array array['annex_api', 'annex_worker', 'annex_owner'] loop
    if exists (select from pg_roles where rolname = annexes) then
      execute format('drop owned by %I', annexes);
      begin
        execute format('drop role %I', annexes);
      exception when dependent_objects_still_exist then
        raise notice 'The role % stays: another database of this server uses it.', annexes;
      end;
    end if;
  end loop;
end
$$;
