"""Every code once: what it means, an example, the fix.

`explain` prints an entry, and the tables of docs/drift.md are these entries.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from alembic_readonly_check.findings import Finding, Location, Severity


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of drift; the texts are for the person who has to repair it."""

    code: str
    title: str
    severity: Severity
    explanation: str
    example: str
    fix: str


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two descriptions that a family compares: the one that leads and the one that follows."""

    family: str
    lead: str
    follow: str
    rule: str


_PAIRS = (
    _Pair(
        "DM1",
        "datamodel.md",
        "the models",
        "The document is the truth; the models mirror it.",
    ),
    _Pair(
        "DB2",
        "the models",
        "the database",
        "The models say what the code relies on; the database has to supply it.",
    ),
    _Pair(
        "DC3",
        "datamodel.md",
        "the database",
        "The document is the truth; migrations carry it out, the database is their result.",
    ),
)

_FACTS: tuple[tuple[str, str, str, str, Severity], ...] = (
    (
        "01",
        "a table is on one side only",
        "A table was added, dropped or renamed on one side. Partitions of a declared parent, "
        "managed schemas and objects of extensions are not counted.",
        "annex.members: the table is missing",
        "error",
    ),
    (
        "02",
        "a column is on one side only",
        "A column was added, dropped or renamed on one side.",
        "annex.members.role: the column is missing",
        "error",
    ),
    (
        "03",
        "a column's type differs",
        "Types are compared with length, precision and array, after one spelling is given to "
        "both: int4 and integer are equal, varchar(50) and varchar(80) are not.",
        "public.orders.total: type differs: numeric(12,2) against numeric(10,2)",
        "error",
    ),
    (
        "04",
        "a column takes null on one side only",
        "NOT NULL stands on one side only. A primary key column is never nullable.",
        "public.orders.note: nullable against not null",
        "error",
    ),
    (
        "05",
        "a column's default differs",
        "Defaults are compared as expressions, never executed: now() and CURRENT_TIMESTAMP are "
        "equal, and so are '{}' and '{}'::jsonb; nextval of another sequence is not.",
        "public.orders.status: default differs: 'new' against 'open'",
        "error",
    ),
    (
        "06",
        "the primary key differs",
        "The primary key is missing on one side or covers other columns.",
        "public.orders: primary key differs: (id) against none",
        "error",
    ),
    (
        "07",
        "a foreign key differs",
        "A foreign key is missing on one side, has another name, target or columns, or acts "
        "otherwise on delete or update. NO ACTION is the same as nothing said.",
        "public.orders.orders_customer_fkey: ON DELETE CASCADE against NO ACTION",
        "error",
    ),
    (
        "08",
        "a unique constraint differs",
        "A unique constraint is missing on one side, has another name, columns or treatment of "
        "null.",
        "public.orders.orders_number_key: UNIQUE (number) against none",
        "error",
    ),
    (
        "09",
        "a check or exclusion constraint differs",
        "A check is missing on one side or says something else. Spelling does not count: IN and "
        "= ANY, BETWEEN and two comparisons are equal.",
        "public.orders.orders_total_check: total > 0 against total >= 0",
        "error",
    ),
    (
        "10",
        "an index differs",
        "An index is missing on one side, is unique on one side only, or has other keys.",
        "public.orders.orders_created_idx: missing",
        "error",
    ),
    (
        "11",
        "an enum type differs",
        "An enum is missing on one side, or its values or their order differ.",
        "public.order_status: 'new', 'paid' against 'paid', 'new'",
        "error",
    ),
    (
        "12",
        "a comment differs",
        "A comment that the following side states is not the one of the leading side. A side "
        "that states none is not asked for one.",
        "public.orders.total: comment 'gross' against 'net'",
        "warning",
    ),
    (
        "13",
        "a generated or identity column differs",
        "A column is generated or an identity on one side only, its expression differs, or "
        "GENERATED ALWAYS stands against BY DEFAULT.",
        "public.orders.id: identity ALWAYS against BY DEFAULT",
        "error",
    ),
    (
        "14",
        "columns stand in another order",
        "The same columns in another order: harmless to queries by name, a trap for COPY, INSERT"
        " without a column list and SELECT *.",
        "public.orders: id, total, note against id, note, total",
        "warning",
    ),
)

_FOLLOW_FIX = {
    "DM1": "change the model to what datamodel.md says; to change that is a decision of its own",
    "DB2": "write a migration that gives the database what the models say, or correct the models",
    "DC3": "write a migration that gives the database what datamodel.md says",
}

_MORE: tuple[tuple[str, str, Severity, str, str, str], ...] = (
    # The document itself.
    (
        "DM001",
        "datamodel.md: a section or line is not in the format",
        "error",
        "A table's section has no table of columns, a table or object stands twice, or a line of"
        " policies, grants, triggers, partitions, functions or other objects cannot be read.",
        "annex.members: the section has no table of columns",
        "write the section as docs/drift.md shows the format",
    ),
    (
        "DM002",
        "datamodel.md: a row has missing or surplus cells",
        "error",
        "A row has not six cells, other titles, no name in a code span, or repeats a column. "
        "Cells are counted on the raw line, since Markdown readers drop surplus cells silently.",
        "annex.members.role: the row has 7 cells, not 6",
        "write every cell, and a pipe inside a cell as \\|",
    ),
    (
        "DM003",
        "datamodel.md: a type is unknown",
        "error",
        "The type is no type of Postgres, of a well-known extension, or of ## Enums and ## "
        "Domains.",
        "annex.members.joined_at: timestmptz is unknown",
        "correct the type, or list it under ## Enums or ## Domains",
    ),
    (
        "DM004",
        "datamodel.md: a Null cell is neither yes nor no",
        "error",
        "The Null cell takes exactly the words yes and no.",
        "annex.members.role: nope",
        "write yes or no",
    ),
    (
        "DM005",
        "datamodel.md: a default cannot be read",
        "error",
        "A default is one SQL expression in one code span.",
        "annex.members.role: 'member",
        "write the expression between backticks, quoted as in SQL",
    ),
    (
        "DM006",
        "datamodel.md: a Key cell holds an unknown word",
        "error",
        "The Key cell takes PK, FK and UQ, separated by commas.",
        "annex.members.role: PX",
        "write PK, FK or UQ",
    ),
    (
        "DM007",
        "datamodel.md: a foreign key leads nowhere",
        "error",
        "The line names a table or column that the document does not hold, cannot be read, or is"
        " missing although the Key cell says FK. Tables of other schemas may be named freely.",
        "annex.members.members_role_fkey: annex.rolls",
        "name a table and columns that stand in the document",
    ),
    (
        "DM008",
        "datamodel.md: a unique constraint cannot be held",
        "error",
        "The line cannot be read, names no column of the table, or is missing although the Key "
        "cell says UQ.",
        "annex.workspaces.workspaces_slug_key: slugg",
        "name columns of this table",
    ),
    (
        "DM009",
        "datamodel.md: a check cannot be read",
        "error",
        "A check reads `CHECK (expression)`, an exclusion `EXCLUDE USING …`, in one code span.",
        "annex.members.members_status_check: CHECK (status IN",
        "write it as Postgres would read it",
    ),
    (
        "DM010",
        "datamodel.md: an index cannot be read",
        "error",
        "An index reads `btree (column, …)`, with UNIQUE before it, INCLUDE and WHERE after it.",
        "annex.members.members_user_id_idx: (user_id)",
        "name the method and the keys",
    ),
    (
        "DM011",
        "datamodel.md: an enum cannot be read",
        "error",
        "An enum reads `'first', 'second'` in one code span.",
        "public.order_status: new, paid",
        "quote every value",
    ),
    (
        "DM012",
        "datamodel.md: a column has no description",
        "warning",
        "A name is not a description; the document is read by people who did not write the "
        "table.",
        "annex.members.role: empty",
        "say in one sentence what the column holds",
    ),
    (
        "DM013",
        "datamodel.md: a generated or identity cell cannot be read",
        "error",
        "The Default cell reads generated: `(expression)`, identity: `ALWAYS` or identity: `BY "
        "DEFAULT`.",
        "public.orders.id: identity: `SOMETIMES`",
        "use one of the three forms",
    ),
    (
        "DM014",
        "datamodel.md: a heading is unknown or stands twice",
        "error",
        "Headings of level 3 inside a table's section are a closed set, each at most once; so is"
        " each heading of level 2 that lists objects.",
        "annex.members: ### Constraints",
        "use Foreign keys, Unique, Checks, Indexes, Partitions, Policies, Grants or Triggers",
    ),
    # Where Alembic is blind.
    (
        "DB230",
        "a column's collation differs",
        "error",
        "A collation changes order, equality and which index serves a query; Alembic does not "
        "look.",
        'public.orders.number: COLLATE "C" against the default',
        "write a migration that sets the collation the models say",
    ),
    (
        "DB231",
        "a check says something else under the same name",
        "error",
        "Alembic compares no text of checks. Expressions are compared as Postgres understands "
        "them.",
        "public.orders.orders_total_check: total > 0 against total >= 0",
        "write a migration that drops the check and adds the one of the models",
    ),
    (
        "DB232",
        "a constraint is not validated or an index is invalid",
        "error",
        "NOT VALID lets old rows break the rule, NOT ENFORCED all rows; an invalid index is the "
        "rest of a failed CREATE INDEX CONCURRENTLY and serves no query.",
        "public.orders.orders_total_check: NOT VALID",
        "VALIDATE CONSTRAINT, or REINDEX",
    ),
    (
        "DB233",
        "an index's predicate differs",
        "error",
        "A partial index covers other rows than the models say.",
        "public.orders.orders_open_idx: WHERE (closed_at IS NULL) against none",
        "write a migration that makes the index anew",
    ),
    (
        "DB234",
        "an index includes other columns",
        "error",
        "INCLUDE decides whether a query is answered from the index alone.",
        "public.orders.orders_created_idx: INCLUDE (total) against none",
        "write a migration that makes the index anew",
    ),
    (
        "DB235",
        "an index has another method, operator class, collation or order",
        "error",
        "The keys are the same, but not how they are kept: btree or gin, text_pattern_ops, DESC,"
        " NULLS FIRST, storage options.",
        "public.orders.orders_created_idx: created_at DESC against created_at",
        "write a migration that makes the index anew",
    ),
    (
        "DB236",
        "an exclusion constraint differs",
        "error",
        "An exclusion constraint is missing on one side or says something else.",
        "public.bookings.bookings_no_overlap: missing",
        "write a migration that gives the table the constraint of the models",
    ),
    (
        "DB237",
        "a partition key differs",
        "error",
        "The table is partitioned on one side only, or by another strategy or key.",
        "public.measures: RANGE (taken_at) against none",
        "a table is partitioned when it is made: a migration has to make it anew",
    ),
    (
        "DB238",
        "a domain differs",
        "error",
        "A domain that the models use is missing, or its type, default, null or checks differ.",
        "public.email: CHECK (VALUE ~ '@') against none",
        "write a migration with ALTER DOMAIN",
    ),
    (
        "DB239",
        "a constraint is deferrable on one side only",
        "error",
        "DEFERRABLE decides whether a rule is checked at the statement or at COMMIT.",
        "public.orders.orders_number_key: DEFERRABLE against not",
        "write a migration with ALTER CONSTRAINT, or make the constraint anew",
    ),
    # What only the document and the catalog know.
    (
        "DC320",
        "row level security differs",
        "error",
        "A table or one of its partitions has row level security off, or on but not forced, "
        "where the document expects otherwise. Without FORCE the owner sees every row.",
        "annex.members: enabled, forced against off",
        "ALTER TABLE … ENABLE ROW LEVEL SECURITY; ALTER TABLE … FORCE ROW LEVEL SECURITY",
    ),
    (
        "DC321",
        "a policy differs",
        "error",
        "A policy is missing or extra, or its command, roles, USING or WITH CHECK differ.",
        "annex.members.members_select: USING (true) against USING (user_id = auth.uid())",
        "write a migration that makes the policy of datamodel.md",
    ),
    (
        "DC322",
        "a grant differs",
        "error",
        "A role may do more or less on a table, view or partition than the document says; grants"
        " of single columns count. The owner's own rights and the roles of ignore-grantees do "
        "not.",
        "annex.members.anon: none against SELECT",
        "REVOKE or GRANT in a migration",
    ),
    (
        "DC323",
        "a trigger differs",
        "error",
        "A trigger is missing, extra, disabled, or defined otherwise.",
        "annex.members.members_touch: disabled",
        "write a migration that makes the trigger of datamodel.md",
    ),
    (
        "DC324",
        "a function differs",
        "error",
        "A function is missing or extra, or its result, arguments, SECURITY DEFINER or the roles"
        " that may execute it differ. A function that returns trigger need not be listed. What a"
        " function does inside is compared only between catalogs (MG403).",
        "annex.publish(uuid, text): definer against invoker",
        "write a migration that makes the function as datamodel.md lists it",
    ),
    (
        "DC325",
        "a view differs",
        "error",
        "A view is missing or extra, or its columns, their types or its options differ; without "
        "security_invoker a view reads with its owner's rights, past row level security.",
        "public.open_orders: WITH (security_invoker=true) against none",
        "write a migration that makes the view of datamodel.md",
    ),
    (
        "DC326",
        "an extension differs",
        "error",
        "An extension that the document lists is missing or lies in another schema, or one is "
        "installed that it does not list. plpgsql and the extensions of ignore-extensions are "
        "free.",
        "pg_trgm: missing",
        "CREATE EXTENSION or DROP EXTENSION in a migration",
    ),
    (
        "DC327",
        "partitioning differs",
        "error",
        "The partition key differs, a table is partitioned on one side only, or a partition's "
        "bounds are not those of the other catalog.",
        "public.measures: RANGE (taken_at) against none",
        "write a migration; a table is partitioned only when it is made",
    ),
    (
        "DC328",
        "a publication differs",
        "error",
        "A publication carries a table of the document that is not listed under ## Publications,"
        " or lacks one that is: what it carries leaves the database past row level security.",
        "supabase_realtime: annex.events",
        "ALTER PUBLICATION … ADD or DROP TABLE in a migration",
    ),
    (
        "DC329",
        "a sequence differs",
        "error",
        "A sequence that no column owns is missing or extra, or its type, start, step, bounds, "
        "cache or cycle differ.",
        "public.order_number: INCREMENT BY 10 against 1",
        "write a migration with ALTER SEQUENCE",
    ),
    (
        "DC330",
        "a domain differs",
        "error",
        "A domain is missing or extra, or its type, default, null or checks differ.",
        "public.email: CHECK (VALUE ~ '@') against none",
        "write a migration with ALTER DOMAIN",
    ),
    (
        "DC390",
        "the database holds an object of a kind that no document describes",
        "info",
        "Rules, casts, operators, statistics, composite types, event triggers, default "
        "privileges and the like are compared only between catalogs (MG403). They are named here"
        " so that nobody takes silence for agreement; with --strict-coverage this is an error.",
        "rule orders_protect on public.orders",
        "nothing, if it is meant; else drop it in a migration",
    ),
    # Migrations.
    (
        "MG401",
        "a migration is not applied",
        "info",
        "A file of the migrations folder is not in the database's history; usual before a "
        "deployment.",
        "20260101120000_members.sql",
        "apply it",
    ),
    (
        "MG402",
        "an applied migration was edited",
        "error",
        "The statements that the database recorded when it applied the migration are not those "
        "of the file, or the file is gone. Comments and white space do not count.",
        "20260101120000_members.sql: statement 3 differs",
        "restore the file; a change is a new migration",
    ),
    (
        "MG403",
        "the database is not what its migrations make",
        "error",
        "A database built from the migrations and the live one differ: somebody changed one by "
        "hand.",
        "annex.members.role: default 'member' against 'admin'",
        "write a migration that says what the live database has, or undo the change there",
    ),
    # The contract and the routes.
    (
        "AR501",
        "openapi.yaml and the routes: an operation is not served",
        "error",
        "The contract names a method of a path that the app does not serve. Where the app serves"
        " another method of the same path instead, the finding names it.",
        "GET /orders/{id}: operation is not served: document GET, app none",
        "serve the operation, or take it out of the contract first",
    ),
    (
        "AR502",
        "openapi.yaml and the routes: a parameter is on one side only",
        "error",
        "A path, query, header or cookie parameter is documented and not read, or read and not "
        "documented; a renamed one is both. Parameters of dependencies and layers count. One "
        "that the code reads from the request itself is named in ambient_parameters, or in the "
        "handler's opt as read_parameters.",
        "GET /orders query:limit: parameter differs: document present, app absent",
        "declare the parameter as the contract names it",
    ),
    (
        "AR503",
        "openapi.yaml and the routes: a parameter's type or limits differ",
        "error",
        "Type, format, bounds, lengths, pattern or item counts of a parameter are not what "
        "Litestar enforces. Litestar drops a msgspec.Meta on the outermost type of a parameter.",
        "GET /orders query:limit: parameter's bounds differs: document maximum 100, app no "
        "maximum",
        "state the limits in litestar.params (QueryParameter(le=100)), as the contract does",
    ),
    (
        "AR504",
        "openapi.yaml and the routes: a parameter or body is required on one side only",
        "error",
        "Without a default and without None a parameter is required, and so is a body. A "
        "contract's requestBody is optional unless it says required: true.",
        "GET /orders query:state: parameter's required differs: document optional, app required",
        "give the parameter the default that the contract implies, or take it away",
    ),
    (
        "AR505",
        "openapi.yaml and the routes: a parameter's default differs",
        "error",
        "The value that stands for an absent parameter is not the documented one.",
        "GET /orders query:limit: parameter's default differs: document default 50, app default "
        "20",
        "give the parameter the documented default",
    ),
    (
        "AR506",
        "openapi.yaml and the routes: a route is not documented",
        "error",
        "The app serves a method of a path that the contract does not name. HEAD, OPTIONS, "
        "handlers with include_in_schema=False and paths under `undocumented` are left out.",
        "DELETE /orders/{id}: route is not documented: delete_order (controllers/orders.py:40)",
        "document the operation first, or remove the route",
    ),
    (
        "AR507",
        "openapi.yaml and the routes: the operationId differs",
        "error",
        "The handler's operation_id is not the contract's; where it states none, the function's "
        "name speaks (list_orders serves listOrders).",
        "GET /orders: operationId differs: document listOrders, app getOrders",
        "give the handler the contract's operation_id",
    ),
    (
        "AR508",
        "openapi.yaml and the routes: a media type differs",
        "error",
        "The media types of a request or of the success responses differ, text/event-stream "
        "against a handler that returns ServerSentEvent among them. A handler that returns a "
        "bare Response shows none: it states response_media_types in its opt.",
        "GET /stream response: media type differs: document text/event-stream, app "
        "application/json",
        "return what the contract names, or state the media types in the handler's opt",
    ),
    (
        "AR509",
        "openapi.yaml and the routes: security differs",
        "error",
        "The operation's x-permission is not the permission in the handler's opt; or the contract"
        " asks for credentials and nothing checks them (no guard, no authentication middleware, no"
        " dependency of auth-dependencies, no `authenticates` in the opt); or the contract says"
        " security: [] and something does. A permission in the opt alone checks nothing.",
        "GET /orders: security differs: document authenticated, app public",
        "guard the handler as the contract says",
    ),
    (
        "AR510",
        "openapi.yaml and the routes: a success status differs",
        "error",
        "The handler's status_code (or `statuses` in its opt) is not the set of documented 2xx "
        "statuses. 2XX and default stand for any.",
        "POST /orders: success status differs: document 202, app 201",
        "give the handler the documented status_code",
    ),
    (
        "AR511",
        "openapi.yaml and the routes: a parameter's values differ",
        "error",
        "The enum of a parameter and the values that the handler takes are not the same set.",
        "GET /orders query:state: parameter's enum differs: document 'open', app 'closed', "
        "'open'",
        "take the documented values, as a Literal or an Enum",
    ),
    (
        "AR512",
        "openapi.yaml and the routes: a body passes through a DTO",
        "error",
        "A DTO replaces the struct by a model of its own, which keeps no constraint below the "
        "top level; what the struct promises is then not what the app enforces.",
        "POST /orders request: passes through MsgspecDTO",
        "take and return the struct itself",
    ),
    # The contract and the structs.
    (
        "AS602",
        "openapi.yaml and the structs: a property is on one side only",
        "error",
        "A property is documented and not in the struct, or the other way round, at any depth.",
        "listOrders response 200 at data[].total: property differs: document present, struct "
        "absent",
        "give the struct the documented fields, no more and no less",
    ),
    (
        "AS603",
        "openapi.yaml and the structs: a type differs",
        "error",
        "JSON types are compared after nullable, $ref, allOf, oneOf and anyOf are brought to one"
        " form; integer and number differ.",
        "createOrder request at quantity: type differs: document integer, struct number",
        "give the field the documented type",
    ),
    (
        "AS604",
        "openapi.yaml and the structs: required differs",
        "error",
        "A field without a default is required in a request. In a response a field is always "
        "there unless it may be UNSET or the struct omits defaults.",
        "createOrder request at note: required differs: document optional, struct required",
        "give the field a default or UNSET, or take it away",
    ),
    (
        "AS605",
        "openapi.yaml and the structs: a default differs",
        "error",
        "In requests, the documented default is not the field's. A default of None may go "
        "undocumented.",
        "createOrder request at state: default differs: document default 'open', struct no "
        "default",
        "give the field the documented default",
    ),
    (
        "AS606",
        "openapi.yaml and the structs: null differs",
        "error",
        "null is admitted on one side only.",
        "Order.note: null differs: document nullable, struct never null",
        "write `T | None`, or take the None away",
    ),
    (
        "AS607",
        "openapi.yaml and the structs: a format differs",
        "error",
        "Formats that msgspec enforces (uuid, date-time, date, time, duration, byte, decimal) "
        "are compared both ways, others only where the struct states them in "
        "Meta(extra_json_schema). In a request a datetime without Meta(tz=True) takes times "
        "without an offset.",
        "createOrder request at due_at: format differs: document date-time, struct none",
        "give the field the type that the format stands for",
    ),
    (
        "AS608",
        "openapi.yaml and the structs: a length differs",
        "error",
        "minLength or maxLength differs. In a response it counts only where the struct states "
        "one.",
        "createOrder request at note: length differs: document maxLength 500, struct no "
        "maxLength",
        "state the documented length in msgspec.Meta",
    ),
    (
        "AS609",
        "openapi.yaml and the structs: bounds differ",
        "error",
        "minimum, maximum, their exclusive forms or multipleOf differ. For integers, above 0 and"
        " from 1 on are the same.",
        "createOrder request at weight: bounds differs: document minimum 0, struct "
        "exclusiveMinimum 0",
        "state the documented bounds in msgspec.Meta",
    ),
    (
        "AS610",
        "openapi.yaml and the structs: an item count differs",
        "error",
        "minItems, maxItems, uniqueItems, minProperties or maxProperties differs.",
        "createOrder request at lines: item count differs: document maxItems 50, struct no "
        "maxItems",
        "state the documented count in msgspec.Meta",
    ),
    (
        "AS611",
        "openapi.yaml and the structs: values differ",
        "error",
        "The enum and the Literal or Enum of the field are not the same set; order does not "
        "count.",
        "Order.state: values differs: document 'closed', 'open', struct 'open'",
        "give the field the documented values",
    ),
    (
        "AS612",
        "openapi.yaml and the structs: a pattern differs",
        "error",
        "The regular expressions are not the same text.",
        "createOrder request at code: pattern differs: document pattern '^[A-Z]+$', struct no "
        "pattern",
        "state the documented pattern in msgspec.Meta",
    ),
    (
        "AS613",
        "openapi.yaml and the structs: other properties are treated differently",
        "error",
        "additionalProperties: false asks for forbid_unknown_fields=True in requests, and the "
        "other way round; the type of a map's values is compared as well.",
        "createOrder request: other properties differs: document other properties refused, "
        "struct other properties ignored",
        "give the struct forbid_unknown_fields=True where the contract closes the object",
    ),
    (
        "AS614",
        "openapi.yaml and the structs: the tag of a union differs",
        "error",
        "The property that tells the members of a union apart, or one of its values, differs.",
        "createEvent request: tag differs: document kind: card, cash, struct kind: card, coin",
        "give the structs the documented tag_field and tags",
    ),
    (
        "AS615",
        "openapi.yaml and the structs: a body cannot be compared",
        "error",
        "A JSON body is documented and the handler shows no type for it (raw body, bare "
        "Response, bytes), or the handler takes a body that the contract does not name.",
        "publishEvents request application/json: no struct to compare with",
        "state request_struct or response_struct in the handler's opt, or document the body",
    ),
    # The contract and the columns.
    (
        "AC701",
        "openapi.yaml and datamodel.md: a mapped table is missing",
        "error",
        "x-db-column names a table or view that datamodel.md does not have. The heading says "
        "which operations wait for it.",
        "BLOCKED: datamodel incomplete - listOrders needs public.orders with id, total",
        "document the table first, or correct x-db-column",
    ),
    (
        "AC702",
        "openapi.yaml and datamodel.md: a mapped column is missing",
        "error",
        "x-db-column names a column that datamodel.md does not have.",
        "BLOCKED: datamodel incomplete - listOrders needs public.orders with total",
        "document the column first, or correct x-db-column",
    ),
    (
        "AC703",
        "openapi.yaml and datamodel.md: a mapped type does not fit",
        "error",
        "The JSON type and format of the property cannot carry the column's type, or an item of "
        "an array that of the column's elements.",
        "MISMATCH: [Order.id] - openapi.yaml says string, datamodel.md says uuid",
        "change the document that is wrong, with a line in the change log",
    ),
    (
        "AC704",
        "openapi.yaml and datamodel.md: null does not fit",
        "error",
        "A nullable column feeds a response property that is required and never null. Or a request"
        " property takes null, is required or part of a PATCH, and its column takes no null and has"
        " no default that null could stand for.",
        "MISMATCH: [Order.note] - openapi.yaml says never null, datamodel.md says nullable",
        "make both nullable, or neither",
    ),
    (
        "AC705",
        "openapi.yaml and datamodel.md: a default differs",
        "error",
        "The default of a request property and the literal default of its column differ.",
        "MISMATCH: [NewOrder.state] - openapi.yaml says 'open', datamodel.md says 'draft'",
        "decide on one default and write it in both documents",
    ),
    (
        "AC706",
        "openapi.yaml and datamodel.md: a persisted property is not mapped",
        "warning",
        "Its neighbours in the schema are mapped to a table that has a column of this name, yet "
        "the property has no x-db-column. `x-db-column: null` says that it is not persisted.",
        "Order.total: has no x-db-column, and public.orders has a column total",
        "add x-db-column, or say `x-db-column: null`",
    ),
    (
        "AC707",
        "openapi.yaml and datamodel.md: x-db-column cannot be read",
        "error",
        "The value is neither table.column nor schema.table.column, nor null.",
        "Order.total: x-db-column 'total' is not table.column",
        "write table.column or schema.table.column",
    ),
    (
        "AC708",
        "openapi.yaml and datamodel.md: a request may be longer than its column",
        "error",
        "maxLength of a request property is missing or above the length of the column: that of its"
        " type or its domain, or that of a CHECK of char_length, length or octet_length. The same"
        " for maxItems and a CHECK of cardinality or array_length.",
        "MISMATCH: [NewOrder.note] - openapi.yaml says maxLength 50, datamodel.md says at most 20",
        "lower maxLength, or widen the column in datamodel.md",
    ),
    (
        "AC709",
        "openapi.yaml and datamodel.md: a request may lie outside a CHECK",
        "error",
        "minimum, maximum or minLength of a request property admit what a CHECK of the column "
        "refuses.",
        "MISMATCH: [NewOrder.quantity] - openapi.yaml says minimum 0, datamodel.md says minimum "
        "1",
        "tighten the bounds of the property, or loosen the CHECK in datamodel.md",
    ),
    (
        "AC710",
        "openapi.yaml and datamodel.md: a private column is exposed",
        "error",
        "A response carries a column that matches private_columns.",
        "ApiKey.secret_hash: exposes annex.api_keys.secret_hash",
        "take the property out of the response",
    ),
    (
        "AC711",
        "openapi.yaml and datamodel.md: values do not nest",
        "error",
        "A request admits a value that the column's enum or CHECK refuses, or the column holds a"
        " value that the response does not name.",
        "MISMATCH: [Order.state] - openapi.yaml says 'open', datamodel.md says 'closed', 'open'",
        "bring the values of the two documents together",
    ),
    # External systems.
    (
        "EX801",
        "openapi.yaml and external_apis.md: a system has no section",
        "error",
        "An operation has x-external-api, and external_apis.md has no section (`## name`) for "
        "it.",
        "BLOCKED: external_apis.md incomplete - createOrder integrates billing",
        "write the section before the code",
    ),
    (
        "EX802",
        "openapi.yaml and external_apis.md: a section lacks a fact",
        "error",
        "A section needs the bullets Base URL, Authentication, Operations, Failure and Timeout, "
        "each once and not empty, and stands once.",
        "billing Timeout: Timeout is missing",
        "write the bullet, such as `- Timeout: 5 s`, once",
    ),
    (
        "EX803",
        "openapi.yaml and external_apis.md: nothing uses a section",
        "warning",
        "No operation names the system in x-external-api, and the section has no bullet `Used "
        "by` that says who else calls it.",
        "billing: no operation has x-external-api: billing",
        "name it in x-external-api, write `- Used by: …`, or take the section out",
    ),
    # The tool itself.
    (
        "RO901",
        "the role of the check may write",
        "warning",
        "A read-only transaction is proof enough for one run, but a role without the right to "
        "write is better. With --require-readonly-role this is an error and the command ends "
        "with 2.",
        "role postgres may write to annex.members",
        "use a role with LOGIN and nothing else; the catalogs need no privilege",
    ),
    (
        "RO902",
        "the transaction is not read only",
        "error",
        "The server did not report REPEATABLE READ and READ ONLY, so nothing was read.",
        "transaction_read_only = off",
        "look for a pooler or proxy that rewrites BEGIN",
    ),
    (
        "RO903",
        "a statement is not on the allow-list",
        "error",
        "Only the frozen catalog queries and EXPLAIN of exactly one expression may reach the "
        "server; something, perhaps a type of the project, tried to send another statement.",
        "UPDATE annex.members SET role = 'owner'",
        "report it: it is a fault of this tool or of code that runs inside it",
    ),
    (
        "RO904",
        "scratch and live are the same database",
        "error",
        "The scratch server's databases are created and dropped; it must not be the database "
        "that is checked.",
        "DATABASE_URL and SCRATCH_URL name the same database",
        "give the scratch mode a server of its own",
    ),
)


def _registry() -> dict[str, Code]:
    codes: dict[str, Code] = {}
    for pair in _PAIRS:
        for digits, title, explanation, example, severity in _FACTS:
            if pair.family == "DB2" and digits == "14":
                continue  # An ORM names its columns, so their order is no fact of a model.
            code = f"{pair.family}{digits}"
            codes[code] = Code(
                code,
                f"{pair.lead} and {pair.follow}: {title}",
                severity,
                f"{explanation} {pair.rule}",
                example,
                _FOLLOW_FIX[pair.family],
            )
    for code, title, severity, explanation, example, fix in _MORE:
        codes[code] = Code(code, title, severity, explanation, example, fix)
    return dict(sorted(codes.items()))


REGISTRY: dict[str, Code] = _registry()


def finding(
    code: str,
    subject: str,
    message: str,
    location: Location | None = None,
    *,
    expected: str | None = None,
    actual: str | None = None,
    fix: str | None = None,
    heading: str | None = None,
) -> Finding:
    """Make a finding with the severity, and unless told otherwise the fix, of its code."""
    known = REGISTRY[code]
    return Finding(
        code,
        known.severity,
        message,
        location,
        subject,
        expected,
        actual,
        known.fix if fix is None else fix,
        heading,
    )


FAMILIES: dict[str, str] = {
    "DM0": "datamodel.md by itself",
    "DM1": "datamodel.md and the models",
    "DB2": "The models and the database",
    "DC3": "datamodel.md and the database",
    "MG4": "The migrations and the database",
    "AR5": "openapi.yaml and the routes",
    "AS6": "openapi.yaml and the structs",
    "AC7": "openapi.yaml and datamodel.md",
    "EX8": "openapi.yaml and external_apis.md",
    "RO9": "The tool's own guard",
}
"""First letters and digit of a code -> the pair that the family compares."""


def tables() -> str:
    """Write the Markdown tables of every family, for docs/drift.md."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    parts = []
    for prefix, pair in FAMILIES.items():
        rows = "".join(
            f"| {entry.code} | {entry.severity} | {cell(entry.title)} | {cell(entry.explanation)} |"
            f" `{cell(entry.example)}` | {cell(entry.fix)} |\n"
            for entry in REGISTRY.values()
            if entry.code.startswith(prefix)
        )
        titles = ("Code", "Severity", "Title", "What it means", "Example", "Fix")
        head = f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}\n"
        parts.append(f"### {prefix}: {pair}\n{head}{rows}")
    return "\n".join(parts)


def main(path: Path) -> None:
    """Write the tables of all codes into a document, between its two markers."""
    text = path.read_text("utf-8")
    head, start, rest = text.partition("<!-- codes -->\n")
    _, end, tail = rest.partition("<!-- /codes -->")
    path.write_text(f"{head}{start}{tables()}{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
