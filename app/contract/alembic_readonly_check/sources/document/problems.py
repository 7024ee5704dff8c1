"""What may be wrong with a document: a key, its code, the message, the fix, one a line."""

_TEXTS = """\
no fact | DM001 | a line of {} is no fact | write - `name`: `definition`
not read | DM001 | the definition does not parse: {} | write it as Postgres would read it
object twice | DM001 | it stands twice | keep one line
table twice | DM001 | the table stands twice, first on line {} | keep one section of it
no columns | DM001 | the section has no table of columns | add {} and one row a column
security | DM001 | the line of row level security holds an unknown word\
  | write off, enabled, or enabled, forced
function titles | DM001 | the table of functions has other titles | write {}
function cells | DM001 | the row has {} cells, not 5 | write a pipe as \\|
no function | DM001 | the row is no function\
  | write `name(arguments)`, `result` and definer or invoker
bad function | DM001 | the function does not parse: {} | write it as CREATE FUNCTION would
column titles | DM002 | the table of columns has other titles | write {}
column twice | DM002 | the column stands twice | keep one row of it
surplus cells | DM002 | the row has {} cells, not 6 | write a pipe inside a cell as \\|
missing cells | DM002 | the row has {} cells, not 6 | fill in the missing cells
bare name | DM002 | the name is not one code span | write it between backticks
bare type | DM003 | the type is not one code span | write it between backticks
no type | DM003 | the type does not parse: {} | write a type as Postgres knows it
unknown type | DM003 | the type is unknown\
  | write a type of Postgres, or list it under ## Enums or ## Domains
null | DM004 | the Null cell is neither yes nor no | write yes or no
bare default | DM005 | the {} is not one code span | write the SQL between backticks
bad default | DM005 | the {} does not parse: {} | write one SQL expression
key | DM006 | the Key cell holds an unknown word | write PK, FK or UQ, separated by commas
nowhere | DM007 | the foreign key leads nowhere | name tables and columns that stand here
no key | DM007 | the Key cell says FK, no line does | add the line under ### Foreign keys
no column | DM008 | it names no column of the table | name columns of this table
no unique | DM008 | the Key cell says UQ, no line does\
  | add the line under ### Unique or ### Indexes
undescribed | DM012 | the column has no description | say in a sentence what it holds
identity | DM013 | the kind of identity is unknown\
  | write identity: `ALWAYS` or identity: `BY DEFAULT`
section twice | DM014 | the section stands twice | put all its lines into one section
subsection twice | DM014 | the subsection stands twice | put all its lines into one
no subsection | DM014 | no such subsection is known | use one of {}
"""

PROBLEMS = {
    problem.strip(): (code.strip(), message.strip(), fix.strip())
    for problem, code, message, fix in (line.split(" | ") for line in _TEXTS.splitlines())
}
