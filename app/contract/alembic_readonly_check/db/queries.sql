-- The frozen SELECTs that read a database's catalogs: the same text on Postgres 15 to 18.
-- Each gives one row with one JSON text, so that no driver needs a codec, a type lookup or a second
-- round trip. What only newer servers have is read through `to_jsonb(row) ->> 'column'`, which is
-- null on the older ones. Only pg_catalog is read, which needs no privilege beyond LOGIN.
-- `@name(…)` stands for the definition of that name, with its parameters filled in.

--- define mine()
n.nspname = any(string_to_array(:schemas, ','))
--- define unextended(catalog, row)
not exists (select from pg_depend e where e.deptype = 'e' and e.objid = {row}.oid
  and e.classid = '{catalog}'::regclass)
--- define acl(column, kind, owner)
(select json_agg(json_build_array(case a.grantee when 0 then 'PUBLIC' else
    pg_get_userbyid(a.grantee) end, a.privilege_type, a.is_grantable)
    order by pg_get_userbyid(a.grantee), a.privilege_type)
  from aclexplode(coalesce({column}, acldefault('{kind}', {owner}))) a where a.grantee <> {owner})
--- define own(column, kind, owner)
(select string_agg(a.privilege_type, ' ' order by a.privilege_type)
  from aclexplode(coalesce({column}, acldefault('{kind}', {owner}))) a
  where a.grantee = {owner} and a.privilege_type <> 'MAINTAIN')
--- define names(keys, relation)
(select json_agg(a.attname order by u.n) from unnest({keys}) with ordinality u(attnum, n)
  join pg_attribute a on a.attrelid = {relation} and a.attnum = u.attnum)
--- define rows(query)
select coalesce(json_agg(x), '[]')::text from ({query}) x

--- query relations
select n.nspname || '.' || c.relname as name, c.relkind as kind,
  case when not c.relrowsecurity then 'off' when c.relforcerowsecurity then 'forced'
    else 'enabled' end as rls,
  c.relforcerowsecurity as forced, pg_get_partkeydef(c.oid) as partition_key,
  pg_get_expr(c.relpartbound, c.oid) as bounds,
  (select pn.nspname || '.' || p.relname from pg_inherits i
    join pg_class p on p.oid = i.inhparent join pg_namespace pn on pn.oid = p.relnamespace
    where i.inhrelid = c.oid and c.relispartition) as parent,
  (select json_agg(i.inhparent::regclass::text order by i.inhseqno) from pg_inherits i
    where i.inhrelid = c.oid and not c.relispartition) as inherits,
  obj_description(c.oid, 'pg_class') as comment,
  array_to_json(c.reloptions) as options, c.relpersistence as persistence,
  (select array_to_json(t.reloptions) from pg_class t where t.oid = c.reltoastrelid)
    as toast_options,
  c.relreplident as replica_identity, pg_get_userbyid(c.relowner) as owner,
  (select t.spcname from pg_tablespace t where t.oid = c.reltablespace) as tablespace,
  case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end as definition,
  @acl(c.relacl, r, c.relowner) as acl, @own(c.relacl, r, c.relowner) as own,
  nullif((select count(*) from pg_trigger t where t.tgrelid = c.oid and t.tgisinternal
    and t.tgenabled <> 'O'), 0) as disabled
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and @mine() and @unextended(pg_class, c)
order by 1

--- query columns
select n.nspname || '.' || c.relname as relation, a.attname as name,
  format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as not_null,
  pg_get_expr(d.adbin, d.adrelid) as expression, a.attgenerated as generated,
  a.attidentity as identity,
  case when a.attcollation <> t.typcollation then
    (select l.collname from pg_collation l where l.oid = a.attcollation) end as collation,
  col_description(c.oid, a.attnum) as comment,
  case when a.attstorage <> t.typstorage then a.attstorage end as storage,
  nullif(a.attcompression, '') as compression,
  (select json_agg(o order by n) from unnest(a.attoptions) with ordinality u(o, n)
    where not starts_with(o, 'pg_attver=')) as options,
  nullif(a.attstattarget, -1) as statistics,
  (select json_agg(json_build_array(case g.grantee when 0 then 'PUBLIC' else
    pg_get_userbyid(g.grantee) end, g.privilege_type, g.is_grantable)
    order by pg_get_userbyid(g.grantee), g.privilege_type)
    from aclexplode(a.attacl) g where g.grantee <> c.relowner) as acl
from pg_attribute a join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace join pg_type t on t.oid = a.atttypid
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f')
  and @mine() and @unextended(pg_class, c)
order by 1, a.attnum

--- query constraints
select coalesce(n.nspname || '.' || c.relname, dn.nspname || '.' || d.typname) as owner,
  d.oid is not null as of_domain, k.conname as name, k.contype as kind,
  @names(k.conkey, k.conrelid) as columns,
  (select fn.nspname || '.' || f.relname from pg_class f join pg_namespace fn
    on fn.oid = f.relnamespace where f.oid = k.confrelid) as target,
  @names(k.confkey, k.confrelid) as target_columns,
  k.confdeltype as on_delete, k.confupdtype as on_update, k.confmatchtype as match,
  @names(k.confdelsetcols, k.conrelid) as set_columns,
  k.condeferrable as deferrable, k.condeferred as deferred, k.convalidated as valid,
  coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) as enforced,
  k.connoinherit as no_inherit, k.coninhcount > 0 and k.conparentid <> 0 as of_parent,
  pg_get_expr(k.conbin, k.conrelid) as expression,
  case when k.contype in ('x', 'u') then pg_get_constraintdef(k.oid) end as definition,
  (select not x.indnullsnotdistinct from pg_index x where x.indexrelid = k.conindid
    and k.contype = 'u') as nulls_distinct,
  (select x.indisvalid from pg_index x where x.indexrelid = k.conindid
    and k.contype in ('p', 'u', 'x')) as index_valid,
  (select json_agg(a.attname order by a.attnum) from pg_index x join pg_attribute a
    on a.attrelid = x.indexrelid and a.attnum > x.indnkeyatts
    where x.indexrelid = k.conindid and k.contype in ('p', 'u')) as include,
  (select array_to_json(x.reloptions) from pg_class x where x.oid = k.conindid
    and k.contype in ('p', 'u', 'x')) as options,
  nullif((to_jsonb(k) ->> 'conperiod')::boolean, false) as period,
  (select nullif(x.indisclustered, false) from pg_index x where x.indexrelid = k.conindid
    and k.contype in ('p', 'u', 'x')) as clustered,
  obj_description(k.oid, 'pg_constraint') as comment
from pg_constraint k left join pg_class c on c.oid = k.conrelid
left join pg_namespace n on n.oid = c.relnamespace
left join pg_type d on d.oid = k.contypid
left join pg_namespace dn on dn.oid = d.typnamespace
where (k.contype in ('p', 'f', 'u', 'c', 'x') or k.contype = 'n' and not k.convalidated)
  and (@mine() or dn.nspname = any(string_to_array(:schemas, ',')))
order by 1, 3

--- query indexes
select n.nspname || '.' || c.relname as relation, i.relname as name, m.amname as method,
  x.indisunique as unique, x.indisvalid and x.indisready as valid,
  not x.indnullsnotdistinct as nulls_distinct, x.indnkeyatts as keys,
  case when x.indexprs is not null then pg_get_indexdef(x.indexrelid) end as definition,
  pg_get_expr(x.indpred, x.indrelid) as predicate, array_to_json(i.reloptions) as options,
  (select string_agg(a.attnum || '=' || a.attstattarget, ' ' order by a.attnum)
    from pg_attribute a where a.attrelid = i.oid and a.attstattarget >= 0) as statistics,
  x.indisclustered as clustered, x.indisreplident as replica_identity,
  (select t.spcname from pg_tablespace t where t.oid = i.reltablespace) as tablespace,
  obj_description(i.oid, 'pg_class') as comment,
  (select json_agg(json_build_object(
    'expression', pg_get_indexdef(x.indexrelid, p.n, false),
    'column', (select b.attname from pg_attribute b where b.attrelid = x.indrelid
      and b.attnum = nullif(x.indkey[p.n - 1], 0)),
    'options', case when p.n <= x.indnkeyatts then x.indoption[p.n - 1] end,
    'opclass', case when p.n <= x.indnkeyatts then (select
      case when o.opcdefault and a.attoptions is null then null else o.opcname end
      from pg_opclass o where o.oid = x.indclass[p.n - 1]) end,
    'usual', case when p.n <= x.indnkeyatts then (select o.opcname from pg_opclass o
      where o.oid = x.indclass[p.n - 1] and o.opcdefault) end,
    'parameters', array_to_json(a.attoptions),
    'collation', case when p.n <= x.indnkeyatts then (select l.collname from pg_collation l
      where l.oid = x.indcollation[p.n - 1] and l.oid <> coalesce((select b.attcollation
        from pg_attribute b where b.attrelid = x.indrelid
        and b.attnum = nullif(x.indkey[p.n - 1], 0)), 100)) end) order by p.n)
    from generate_series(1, x.indnatts) p(n)
    join pg_attribute a on a.attrelid = x.indexrelid and a.attnum = p.n) as columns
from pg_index x join pg_class i on i.oid = x.indexrelid join pg_am m on m.oid = i.relam
join pg_class c on c.oid = x.indrelid join pg_namespace n on n.oid = c.relnamespace
where @mine() and @unextended(pg_class, c) and c.relkind in ('r', 'p', 'm')
  and not exists (select from pg_constraint k where k.conindid = x.indexrelid
    and k.conrelid = x.indrelid and k.contype in ('p', 'u', 'x'))
order by 1, 2

--- query policies
select n.nspname || '.' || c.relname as relation, p.polname as name, p.polcmd as command,
  p.polpermissive as permissive,
  (select json_agg(case r.oid when 0 then 'PUBLIC' else pg_get_userbyid(r.oid) end)
    from unnest(p.polroles) r(oid)) as roles,
  pg_get_expr(p.polqual, p.polrelid) as using,
  pg_get_expr(p.polwithcheck, p.polrelid) as with_check,
  obj_description(p.oid, 'pg_policy') as comment
from pg_policy p join pg_class c on c.oid = p.polrelid
join pg_namespace n on n.oid = c.relnamespace where @mine() order by 1, 2

--- query triggers
select n.nspname || '.' || c.relname as relation, t.tgname as name,
  pg_get_triggerdef(t.oid) as definition, t.tgenabled as enabled,
  obj_description(t.oid, 'pg_trigger') as comment
from pg_trigger t join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
where not t.tgisinternal and @mine() and (t.tgparentid = 0 or t.tgenabled <>
  (select o.tgenabled from pg_trigger o where o.oid = t.tgparentid)) order by 1, 2

--- query functions
select n.nspname || '.' || p.proname as name, pg_get_function_arguments(p.oid) as arguments,
  (select json_agg(json_build_array(coalesce(p.proargnames[a.n], ''),
    format_type(a.type, null), coalesce(p.proargmodes[a.n]::text, 'i')) order by a.n)
    from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]))
    with ordinality a(type, n)) as parameters,
  pg_get_function_result(p.oid) as returns, p.prokind as kind, p.prosecdef as definer,
  (select concat_ws(' ', a.aggtransfn::regproc, a.aggfinalfn::regproc, a.aggcombinefn::regproc,
    format_type(a.aggtranstype, null), a.agginitval) from pg_aggregate a where a.aggfnoid = p.oid)
    as aggregate,
  p.provolatile as volatility, p.proisstrict as strict, p.proleakproof as leakproof,
  p.proparallel as parallel, array_to_json(p.proconfig) as settings, l.lanname as language,
  p.procost as cost, p.prorows as rows,
  coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) as text, p.probin as library,
  pg_get_userbyid(p.proowner) as owner, obj_description(p.oid, 'pg_proc') as comment,
  @acl(p.proacl, f, p.proowner) as acl
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
join pg_language l on l.oid = p.prolang
where @mine() and @unextended(pg_proc, p) and not exists (select from pg_depend i
  where i.objid = p.oid and i.classid = 'pg_proc'::regclass and i.deptype = 'i')
order by 1, 2

--- query types
select n.nspname || '.' || t.typname as name, t.typtype as kind,
  (select json_agg(e.enumlabel order by e.enumsortorder) from pg_enum e
    where e.enumtypid = t.oid) as labels,
  case when t.typtype = 'd' then format_type(t.typbasetype, t.typtypmod) end as base,
  t.typnotnull as not_null,
  case when t.typtype = 'd' then pg_get_expr(t.typdefaultbin, 0) end as default,
  case when t.typtype = 'd' then (select l.collname from pg_collation l
    join pg_type b on b.oid = t.typbasetype
    where l.oid = t.typcollation and l.oid <> b.typcollation) end as collation,
  case when t.typtype = 'c' then (select json_agg(json_build_array(a.attname,
    format_type(a.atttypid, a.atttypmod)) order by a.attnum) from pg_attribute a
    where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) end as fields,
  case when t.typtype = 'r' then (select concat_ws(' ', format_type(r.rngsubtype, null),
      nullif(r.rngsubdiff, 0)::regproc, nullif(r.rngcanonical, 0)::regproc) from pg_range r
    where r.rngtypid = t.oid) end as subtype,
  pg_get_userbyid(t.typowner) as owner, obj_description(t.oid, 'pg_type') as comment,
  @acl(t.typacl, T, t.typowner) as acl
from pg_type t join pg_namespace n on n.oid = t.typnamespace
where @mine() and @unextended(pg_type, t) and (t.typtype in ('e', 'd', 'r')
  or t.typtype = 'c' and exists (select from pg_class c
    where c.oid = t.typrelid and c.relkind = 'c')) order by 1

--- query sequences
select n.nspname || '.' || c.relname as name, format_type(s.seqtypid, null) as type,
  s.seqstart as start, s.seqincrement as increment, s.seqmin as minimum,
  s.seqmax as maximum, s.seqcache as cache, s.seqcycle as cycle,
  (select rn.nspname || '.' || r.relname || '.' || a.attname from pg_depend d
    join pg_class r on r.oid = d.refobjid join pg_namespace rn on rn.oid = r.relnamespace
    join pg_attribute a on a.attrelid = r.oid and a.attnum = d.refobjsubid
    where d.objid = c.oid and d.classid = 'pg_class'::regclass
    and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')) as owned_by,
  obj_description(c.oid, 'pg_class') as comment, c.relpersistence as persistence,
  pg_get_userbyid(c.relowner) as owner, @acl(c.relacl, s, c.relowner) as acl
from pg_sequence s join pg_class c on c.oid = s.seqrelid
join pg_namespace n on n.oid = c.relnamespace
where @mine() and @unextended(pg_class, c) order by 1

--- query database
select json_build_object(
  'version', current_setting('server_version_num')::int,
  'extensions', (select json_agg(json_build_object('name', e.extname, 'schema', n.nspname))
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace),
  'brought', (select json_agg(format_type(t.oid, null)) from pg_type t
    where exists (select from pg_depend e where e.deptype = 'e' and e.objid = t.oid
      and e.classid = 'pg_type'::regclass)),
  'publications', (select json_agg(json_build_object('name', p.pubname,
    'all_tables', p.puballtables, 'insert', p.pubinsert, 'update', p.pubupdate,
    'delete', p.pubdelete, 'truncate', p.pubtruncate, 'via_root', p.pubviaroot,
    'tables', (select json_agg(x.name order by x.name) from (
      select n.nspname || '.' || c.relname as name from pg_publication_rel r
      join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
      where r.prpubid = p.oid and @mine() union
      select n.nspname || '.' || c.relname from pg_publication_namespace r
      join pg_namespace n on n.oid = r.pnnspid join pg_class c on c.relnamespace = n.oid
      where r.pnpubid = p.oid and c.relkind in ('r', 'p') and not c.relispartition
        and @mine()) x),
    'limits', (select string_agg(concat_ws(' ', n.nspname || '.' || c.relname,
        (select '(' || string_agg(a.attname, ', ' order by a.attnum) || ')'
          from pg_attribute a where a.attrelid = c.oid and a.attnum = any(r.prattrs)),
        'WHERE ' || pg_get_expr(r.prqual, r.prrelid)), '; ' order by 1)
      from pg_publication_rel r join pg_class c on c.oid = r.prrelid
      join pg_namespace n on n.oid = c.relnamespace where r.prpubid = p.oid and @mine()
        and (r.prattrs is not null or r.prqual is not null)))
    order by p.pubname) from pg_publication p),
  'schemas', (select json_agg(json_build_array(n.nspname, x.held) order by n.nspname)
    from pg_namespace n, lateral (select count(*) as held from (
      select from pg_class c where c.relnamespace = n.oid
        and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and @unextended(pg_class, c)
      union all
      select from pg_proc p where p.pronamespace = n.oid and @unextended(pg_proc, p)
      union all
      select from pg_type t where t.typnamespace = n.oid and t.typtype in ('e', 'd')
        and @unextended(pg_type, t)) o) x
    where x.held > 0 and not @mine() and n.nspname !~ '^pg_'
      and n.nspname <> 'information_schema'),
  'others', (select json_agg(json_build_array(o.kind, o.name, o.definition)
    order by o.kind, o.name) from (
      select 'rule' as kind, n.nspname || '.' || c.relname || '.' || r.rulename as name,
        pg_get_ruledef(r.oid) || ' ' || r.ev_enabled::text as definition
      from pg_rewrite r join pg_class c on c.oid = r.ev_class
      join pg_namespace n on n.oid = c.relnamespace
      where r.rulename <> '_RETURN' and @mine()
      union all
      select 'statistics', n.nspname || '.' || s.stxname, concat_ws(' ',
        pg_get_statisticsobjdef(s.oid), nullif(s.stxstattarget, -1))
      from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace where @mine()
      union all
      select 'operator', n.nspname || '.' || o.oprname || '(' ||
        format_type(o.oprleft, null) || ', ' || format_type(o.oprright, null) || ')',
        o.oprcode::regprocedure::text
      from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
      where @mine() and @unextended(pg_operator, o)
      union all
      select 'operator class', n.nspname || '.' || o.opcname,
        format_type(o.opcintype, null) from pg_opclass o
      join pg_namespace n on n.oid = o.opcnamespace
      where @mine() and @unextended(pg_opclass, o)
      union all
      select 'collation', n.nspname || '.' || l.collname,
        concat_ws(' ', l.collprovider, l.collcollate, l.collctype, l.collisdeterministic,
          to_jsonb(l) ->> 'colliculocale', to_jsonb(l) ->> 'colllocale')
      from pg_collation l join pg_namespace n on n.oid = l.collnamespace where @mine()
      union all
      select 'text search configuration', n.nspname || '.' || t.cfgname,
        (select string_agg(m.maptokentype || ':' || m.mapdict::regdictionary::text, ' '
          order by m.maptokentype, m.mapseqno) from pg_ts_config_map m
          where m.mapcfg = t.oid)
      from pg_ts_config t join pg_namespace n on n.oid = t.cfgnamespace
      where @mine() and @unextended(pg_ts_config, t)
      union all
      select 'text search dictionary', n.nspname || '.' || t.dictname, t.dictinitoption
      from pg_ts_dict t join pg_namespace n on n.oid = t.dictnamespace
      where @mine() and @unextended(pg_ts_dict, t)
      union all
      select 'event trigger', t.evtname, concat_ws(' ', t.evtevent,
        t.evtfoid::regprocedure::text, t.evtenabled, array_to_string(t.evttags, ','))
      from pg_event_trigger t where exists (select from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace where p.oid = t.evtfoid and @mine())
      union all
      select 'cast', format_type(k.castsource, null) || ' as ' ||
        format_type(k.casttarget, null), k.castfunc::regprocedure::text || ' ' ||
        k.castcontext::text
      from pg_cast k where k.oid >= 16384 and @unextended(pg_cast, k)
        and exists (select from pg_type t join pg_namespace n on n.oid = t.typnamespace
          where t.oid in (k.castsource, k.casttarget) and @mine())
      union all
      select 'default privileges', coalesce(n.nspname, '*') || ' of ' ||
        pg_get_userbyid(d.defaclrole) || ' ' || case d.defaclobjtype when 'r' then 'tables'
        when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
        else 'schemas' end,
        (select string_agg(case g.grantee when 0 then 'PUBLIC' else
          pg_get_userbyid(g.grantee) end || '=' || g.privilege_type, ' '
          order by pg_get_userbyid(g.grantee), g.privilege_type)
          from aclexplode(d.defaclacl) g)
      from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace
      where d.defaclnamespace = 0 or @mine()
      union all
      select 'schema', n.nspname, concat_ws(' ', 'owner', pg_get_userbyid(n.nspowner),
        (select string_agg(case g.grantee when 0 then 'PUBLIC' else
          pg_get_userbyid(g.grantee) end || '=' || g.privilege_type, ' '
          order by pg_get_userbyid(g.grantee), g.privilege_type) from aclexplode(n.nspacl) g
          where g.grantee <> n.nspowner), obj_description(n.oid, 'pg_namespace'))
      from pg_namespace n where @mine()) o))::text
