-- Event types: what the operator says of a kind of event. Its category, its texts for people, and a schema for its data.

set role annex_owner;

-- One step of a JSON pointer (RFC 6901, section 3); a long name is cut, as a pointer is for people here.
create function annex.pointer_step(name text) returns text language sql immutable parallel safe
return '/' || replace(replace(left(name, 100), '~', '~0'), '/', '~1');

-- Say what is wrong with a schema for data: its place and the fault; null if nothing is. Annex takes a part of JSON Schema
-- (draft 2020-12) whose check is linear in data and schema: no references, no patterns, no alternatives. Nothing is fetched
-- or compiled.
create function annex.find_schema_fault(schema jsonb) returns text[]
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  with recursive nodes (pointer, node, depth) as (
    select '', schema, 1
    union all
    select n.pointer || c.step, c.node, n.depth + 1
    from nodes n, lateral (
      select '/properties' || annex.pointer_step(p.key), p.value
      from jsonb_each(case when jsonb_typeof(n.node -> 'properties') = 'object' then n.node -> 'properties' end) p
      union all
      select '/items', n.node -> 'items' where n.node ? 'items'
      union all
      select '/additionalProperties', n.node -> 'additionalProperties'
      where jsonb_typeof(n.node -> 'additionalProperties') <> 'boolean'
    ) c (step, node)
    where n.depth <= 10 and jsonb_typeof(n.node) = 'object'
  )
  select array[n.pointer || f.step, f.detail]
  from nodes n, lateral (
    select '', case
      when jsonb_typeof(n.node) <> 'object' then 'is no object'
      when n.depth > 10 then 'is below ten others'
    end
    union all
    select annex.pointer_step(k.key), case k.key
      when '$schema' then case when n.depth > 1 or k.value <> '"https://json-schema.org/draft/2020-12/schema"'
        then 'is not https://json-schema.org/draft/2020-12/schema, at the top' end
      when 'type' then case when k.kind not in ('string', 'array')
          or k.kind = 'array' and not jsonb_array_length(case k.kind when 'array' then k.value else '[]' end) between 1 and 7
          or not (case k.kind when 'array' then k.value else jsonb_build_array(k.value) end)
            <@ '["null", "boolean", "object", "array", "number", "integer", "string"]'
        then 'is no type of JSON Schema, or a list of them' end
      when 'enum' then case when k.kind <> 'array'
          or not jsonb_array_length(case k.kind when 'array' then k.value else '[]' end) between 1 and 100
          or k.value @? 'strict $[*] ? (@.type() == "object" || @.type() == "array")'
        then 'is no list of 1 to 100 strings, numbers, booleans or null' end
      when 'const' then case when k.kind in ('object', 'array') then 'is no string, number, boolean or null' end
      when 'required' then case when k.kind <> 'array'
          or jsonb_array_length(case k.kind when 'array' then k.value else '[]' end) > 200
          or k.value @? 'strict $[*] ? (@.type() != "string")'
        then 'is no list of up to 200 names' end
      when 'properties' then case when k.kind <> 'object' then 'is no object' end
      when 'items' then null
      when 'additionalProperties' then null
      when 'minimum' then case when k.kind <> 'number' then 'is no number' end
      when 'maximum' then case when k.kind <> 'number' then 'is no number' end
      when 'exclusiveMinimum' then case when k.kind <> 'number' then 'is no number' end
      when 'exclusiveMaximum' then case when k.kind <> 'number' then 'is no number' end
      when 'title' then case when k.kind <> 'string' then 'is no string' end
      when 'description' then case when k.kind <> 'string' then 'is no string' end
      when '$comment' then case when k.kind <> 'string' then 'is no string' end
      when 'format' then case when k.kind <> 'string' then 'is no string' end
      when 'default' then null
      when 'examples' then case when k.kind <> 'array' then 'is no list' end
      when 'deprecated' then case when k.kind <> 'boolean' then 'is no boolean' end
      else case
        when k.key not in ('minLength', 'maxLength', 'minItems', 'maxItems') then 'is no keyword that Annex can check'
        when k.kind <> 'number' or not k.value @? 'strict $ ? (@ >= 0 && @ <= 1000000 && @ == @.floor())'
          then 'is no whole number from 0 to 1,000,000'
      end
    end
    from (
      select e.key, e.value, jsonb_typeof(e.value) as kind
      from jsonb_each(case when jsonb_typeof(n.node) = 'object' then n.node end) e
    ) k
  ) f (step, detail)
  where f.detail is not null
  order by n.depth, 1
  limit 1
$$;

-- Say where data do not fit a schema: the place and what is wrong there; null if they fit. Looks at 2,000 values at most, so
-- that a publisher cannot make it long; each is met once. Keywords that it does not know say nothing.
create function annex.find_mismatch(schema jsonb, document jsonb) returns text[]
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  -- plpgsql, so that a session plans it once.
  return (
    with recursive nodes (pointer, node, value) as (
      select '', schema, document
      union all
      select n.pointer || c.step, c.node, c.value
      from (
        -- Most values have none below them: to say so here is half of the time.
        select * from nodes
        where jsonb_typeof(value) = 'object' and node ?| array['properties', 'additionalProperties']
          or jsonb_typeof(value) = 'array' and node ? 'items'
      ) n, lateral (
        select annex.pointer_step(e.key), coalesce(n.node -> 'properties' -> e.key, n.node -> 'additionalProperties'),
          e.value
        from jsonb_each(case when jsonb_typeof(n.value) = 'object' then n.value end) e
        union all
        select '/' || (e.n - 1), n.node -> 'items', e.value
        from jsonb_array_elements(case when jsonb_typeof(n.value) = 'array' then n.value end) with ordinality as e (value, n)
      ) c (step, node, value)
      where jsonb_typeof(c.node) = 'object'
    ), numbered as materialized (
      select n.pointer, n.node, n.value, jsonb_typeof(n.value) as kind, row_number() over () as place
      from nodes n limit 2001
    )
    select array[f.pointer, f.detail] from (
      select v.place, v.pointer, case
        when v.place > 2000 then 'is one of more than 2,000 values'
        when v.node ? 'type' and not v.node -> 'type' ? v.kind and not (
          v.kind = 'number' and v.node -> 'type' ? 'integer'
          and scale(trim_scale(case v.kind when 'number' then v.value::numeric end)) = 0
        ) then 'is not of the type ' || (v.node -> 'type' #>> '{}')
        when v.node ? 'enum' and not (v.kind not in ('object', 'array') and v.node -> 'enum' @> jsonb_build_array(v.value))
          then 'is none of the values that it may have'
        when v.node ? 'const' and v.value <> v.node -> 'const' then 'is not the value that it must have'
        when v.kind = 'number' then case
          when v.value < v.node -> 'minimum' then 'is less than ' || (v.node ->> 'minimum')
          when v.value > v.node -> 'maximum' then 'is more than ' || (v.node ->> 'maximum')
          when v.value <= v.node -> 'exclusiveMinimum' then 'is not more than ' || (v.node ->> 'exclusiveMinimum')
          when v.value >= v.node -> 'exclusiveMaximum' then 'is not less than ' || (v.node ->> 'exclusiveMaximum')
        end
        when v.kind = 'string' and v.node ?| array['minLength', 'maxLength'] then case
          when to_jsonb(char_length(v.value #>> '{}')) < v.node -> 'minLength'
            then 'is shorter than ' || (v.node ->> 'minLength') || ' characters'
          when to_jsonb(char_length(v.value #>> '{}')) > v.node -> 'maxLength'
            then 'is longer than ' || (v.node ->> 'maxLength') || ' characters'
        end
        when v.kind = 'array' then case
          when to_jsonb(jsonb_array_length(v.value)) < v.node -> 'minItems'
            then 'has fewer than ' || (v.node ->> 'minItems') || ' items'
          when to_jsonb(jsonb_array_length(v.value)) > v.node -> 'maxItems'
            then 'has more than ' || (v.node ->> 'maxItems') || ' items'
        end
      end
      from numbered v
      union all
      select v.place, v.pointer || annex.pointer_step(r.name), 'is required'
      from numbered v, jsonb_array_elements_text(
        case jsonb_typeof(v.node -> 'required') when 'array' then v.node -> 'required' end
      ) r (name)
      where v.kind = 'object' and v.node ? 'required' and not v.value ? r.name
      union all
      select v.place, v.pointer || annex.pointer_step(o.name), 'is not in the schema'
      from numbered v, jsonb_object_keys(case v.kind when 'object' then v.value end) o (name)
      where v.kind = 'object' and v.node -> 'additionalProperties' = 'false'
        and not coalesce(v.node -> 'properties' ? o.name, false)
    ) f (place, pointer, detail)
    where f.detail is not null
    order by f.place
    limit 1
  );
end
$$;

-- Say whether a template can be filled: `{{data.path}}` up to 20 times, and no other braces in pairs.
create function annex.is_template(template text) returns boolean language sql immutable parallel safe
return regexp_replace(template, '\{\{ *data(\.[A-Za-z0-9_-]{1,64}){1,8} *\}\}', '', 'g') !~ '\{\{|\}\}'
  and cardinality(string_to_array(template, '{{')) <= 21;

-- Write a text as one part of a URL's path or query (RFC 3986, section 2.1).
create function annex.url_part(part text) returns text language sql immutable parallel safe
return (
  select coalesce(string_agg(
    case when c.c ~ '[A-Za-z0-9_~-]' or c.c = '.' then c.c
      else regexp_replace(upper(encode(convert_to(c.c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') end,
    '' order by c.n
  ), '')
  from string_to_table(part, null) with ordinality as c (c, n)
);

-- Fill a template with an event's data, which is never looked into for more. A scalar shows as one line of up to 200
-- characters without what is not visible; what is no scalar or not there shows as nothing. In a link each value is one
-- part of the URL; one that is empty, or a step up, makes the link null.
create function annex.fill_template(template text, data jsonb, max_characters integer, is_link boolean default false)
returns text language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case when is_link and bool_or(p.n > 1 and v.value in ('', '.', '..')) then null
    else left(string_agg(
      case
        when p.n = 1 then p.part
        when is_link then annex.url_part(v.value) || s.rest
        else v.value || s.rest
      end, '' order by p.n), max_characters) end
  from string_to_table(template, '{{') with ordinality as p (part, n),
    lateral (
      select substr(p.part, strpos(p.part, '}}') + 2) as rest,
        (string_to_array(btrim(split_part(p.part, '}}', 1)), '.'))[2:] as path
    ) s,
    lateral (
      select case when p.n = 1 or jsonb_typeof(data #> s.path) in ('object', 'array', 'null') then '' else
        -- Cut before it is cleaned: a value may have 64 KiB, and a template names twenty.
        left(regexp_replace(left(coalesce(data #>> s.path, ''), 1000),
          '[\u0001-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+', ' ', 'g'), 200)
      end as value
    ) v
$$;

create table annex.event_types (
  id uuid not null default annex.uuid7(),
  name text not null,
  description text not null default '',
  category text not null,
  is_critical boolean not null default false,
  title text not null default '',
  body text not null default '',
  link text,
  data_schema jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version integer not null default 1,
  constraint event_types_pkey primary key (id),
  constraint event_types_name_key unique (name),
  constraint event_types_name_check check (
    char_length(name) <= 200 and name ~ '^[a-z][a-z0-9_-]*([.][a-z0-9_-]+)*$'
  ),
  constraint event_types_description_check check (char_length(description) <= 1000),
  constraint event_types_category_check check (category ~ '^[a-z][a-z0-9_-]{0,62}$'),
  constraint event_types_title_check check (
    char_length(title) <= 200 and title !~ '[[:cntrl:]]' and annex.is_template(title)
  ),
  constraint event_types_body_check check (char_length(body) <= 2000 and annex.is_template(body)),
  -- A path of the application's own, or a host that no value can change: what is filled in comes after it.
  constraint event_types_link_check check (
    char_length(link) <= 500 and annex.is_template(link) and link !~ '[[:cntrl:][:space:]\\]'
    and link ~ '^(/|/[^/].*|https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/.*)$'
  ),
  -- Annex's own events are as its documents say.
  constraint event_types_data_schema_check check (
    data_schema is null or name not like 'annex.%'
      and annex.json_bytes(data_schema) <= 16384 and annex.find_schema_fault(data_schema) is null
  )
);
create trigger event_types_touch before update on annex.event_types for each row execute function annex.touch();

-- Who changed the catalogue, and how. Events belong to workspaces, and the catalogue to none: so its own trail.
create table annex.event_type_changes (
  id uuid not null default annex.uuid7(),
  name text not null,
  actor text not null,
  previous jsonb,
  record jsonb not null,
  created_at timestamptz not null default now(),
  constraint event_type_changes_pkey primary key (id)
);
create index event_type_changes_name_idx on annex.event_type_changes (name, id);

-- AFTER trigger of the catalogue: writes its trail, whoever writes. A large schema is told by its size and hash.
create function annex.record_event_type() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into annex.event_type_changes (name, actor, previous, record)
  values (
    new.name, annex.principal(), annex.digest_documents(case when tg_op = 'UPDATE' then to_jsonb(old) end),
    annex.digest_documents(to_jsonb(new))
  );
  return null;
end
$$;
create trigger event_types_record_insert after insert on annex.event_types
  for each row execute function annex.record_event_type();
create trigger event_types_record_update after update on annex.event_types
  for each row when (old.* is distinct from new.*) execute function annex.record_event_type();

-- Raise unless an event's data fit its type's schema, or where a strict workspace meets a type that is not in the catalogue.
-- `within` is the pointer to the event. For publishing, which calls it for such types alone. Returns true.
create function annex.check_type(name text, is_known boolean, schema jsonb, data jsonb, within text) returns boolean
language plpgsql immutable as $$
declare
  mismatch text[];
begin
  if not is_known then
    raise exception 'This workspace takes only event types of the catalogue; % is not one.', left(name, 200)
      using errcode = 'check_violation', constraint = 'unknown_event_type', column = within || '/type',
        detail = 'is not in the catalogue';
  end if;
  mismatch := annex.find_mismatch(schema, data);
  if mismatch is not null then
    raise exception 'The data do not fit the schema of %; `errors` says where.', left(name, 200)
      using errcode = 'check_violation', constraint = 'invalid_data', column = within || '/data' || mismatch[1],
        detail = mismatch[2];
  end if;
  return true;
end
$$;

-- Create an event type, or replace it; only an operator may. With versions, only one of those is replaced; is_new only
-- creates, or, if false, only replaces. Events that were published stay as they are. Returns the type; its created_at is
-- now() if it is new. Raises operator_required, invalid_schema, limit_reached, precondition_failed.
create function annex.put_event_type(
  name text,
  description text,
  category text,
  is_critical boolean,
  title text,
  body text,
  link text,
  data_schema jsonb,
  versions integer[] default null,
  is_new boolean default null
) returns annex.event_types
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  before annex.event_types;
  fault text[];
  written annex.event_types;
begin
  if not annex.is_operator() then
    raise exception 'Only an operator writes the catalogue; send an operator''s key.'
      using errcode = 'insufficient_privilege', constraint = 'operator_required';
  end if;
  if annex.json_bytes(put_event_type.data_schema) > 16384 then
    fault := array['', 'is larger than 16 KiB'];
  elsif put_event_type.data_schema is not null and put_event_type.name like 'annex.%' then
    fault := array['', 'is not for the types that Annex draws'];
  else
    fault := annex.find_schema_fault(put_event_type.data_schema);
  end if;
  if put_event_type.data_schema is not null and fault is not null then
    raise exception 'The schema is none that Annex can check; `errors` says where.'
      using errcode = 'check_violation', constraint = 'invalid_schema', column = '/data_schema' || fault[1],
        detail = fault[2];
  end if;
  -- One at a time; publishers do not wait.
  lock table annex.event_types in share row exclusive mode;
  select t.* into before from annex.event_types t where t.name = put_event_type.name;
  if before.id is null and (select count(*) from annex.event_types) >= 1000 then
    raise exception 'The catalogue has 1,000 event types, which is the most that it takes.'
      using errcode = 'program_limit_exceeded', constraint = 'limit_reached';
  end if;
  -- Where it is there and should be new, or the other way round, no version will do.
  perform annex.require_version(before.version, case when is_new = (before.id is not null) then '{}' else versions end);
  insert into annex.event_types as t (name, description, category, is_critical, title, body, link, data_schema)
  values (
    put_event_type.name, coalesce(put_event_type.description, ''), put_event_type.category,
    coalesce(put_event_type.is_critical, false), coalesce(put_event_type.title, ''), coalesce(put_event_type.body, ''),
    put_event_type.link, put_event_type.data_schema
  )
  on conflict (name) do update set description = excluded.description, category = excluded.category,
    is_critical = excluded.is_critical, title = excluded.title, body = excluded.body, link = excluded.link,
    data_schema = excluded.data_schema
  returning t.* into written;
  return written;
end
$$;
grant execute on function
  annex.put_event_type(text, text, text, boolean, text, text, text, jsonb, integer[], boolean) to annex_api;

-- What an event says to people: its category, whether nobody can mute it, and its texts. Plain text, never HTML. A type that
-- is not in the catalogue is `general`, and its title is its name. A text without a place to fill is not looked into: to call
-- for one costs more than all the rest.
create function annex.describe(type text, data jsonb)
returns table (category text, is_critical boolean, title text, body text, link text)
language sql stable as $$
  select coalesce(t.category, 'general'), coalesce(t.is_critical, false),
    coalesce(
      nullif(btrim(
        case when t.title like '%{{%' then annex.fill_template(t.title, describe.data, 200) else t.title end
      ), ''),
      describe.type
    ),
    coalesce(case when t.body like '%{{%' then annex.fill_template(t.body, describe.data, 2000) else t.body end, ''),
    case when t.link like '%{{%' then annex.fill_template(t.link, describe.data, 2000, true) else t.link end
  from (select) as one left join annex.event_types t on t.name = describe.type
$$;

alter table annex.event_type_changes enable row level security, force row level security;
create policy event_type_changes_owner on annex.event_type_changes to annex_owner using (true) with check (true);
alter table annex.event_types enable row level security, force row level security;
create policy event_types_owner on annex.event_types to annex_owner using (true) with check (true);
-- The same for every workspace: who may call at all may read it.
create policy event_types_select on annex.event_types for select to annex_api, authenticated using (true);
grant select on annex.event_types to annex_api, authenticated;

reset role;

insert into annex.migrations (name) values ('16_event_types');
