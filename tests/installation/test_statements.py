"""A file is split into statements as the Supabase CLI splits it."""

import pytest

from app.installation.statements import split


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        (";; ;\n", []),
        ("select 1; -- last", ["select 1", "-- last"]),
        ("select ';', \"a;b\", 'it''s;';select 2", ["select ';', \"a;b\", 'it''s;'", "select 2"]),
        ("select /* ; /* ; */ ; */ 1; select 2", ["select /* ; /* ; */ ; */ 1", "select 2"]),
        ("a -- it's;\n; b", ["a -- it's;", "b"]),
        ("do $$ begin x; end $$; b", ["do $$ begin x; end $$", "b"]),
        ("do $a$ $$; $b$; $a$; b $1; c", ["do $a$ $$; $b$; $a$", "b $1", "c"]),
        ("create rule r do (a; b); c", ["create rule r do (a; b)", "c"]),
        ("f() begin atomic; select (1); END; c", ["f() begin atomic; select (1); END", "c"]),
        ("begin_atomic(); my_begin atomic; x", ["begin_atomic()", "my_begin atomic", "x"]),
        ("select 'open; no end", ["select 'open; no end"]),
        ("/* open; no end", ["/* open; no end"]),
        ("a\\;b;\r\n c ;", ["a\\;b", "c"]),
    ],
)
def test_statements_are_split_as_the_cli_splits_them(sql: str, statements: list[str]) -> None:
    assert split(sql) == statements
