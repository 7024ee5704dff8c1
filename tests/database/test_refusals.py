"""What SQL refuses with: a problem's code, and one SQLSTATE for each code.

PostgREST makes its status of the SQLSTATE, so that one refusal would else have two statuses there.
"""

import re
from collections import defaultdict
from typing import get_args

from app.problems import CONSTRAINTS
from app.schemas.problems import ProblemCode
from tests.conftest import ROOT

REFUSAL = re.compile(r"raise exception\s(?:'(?:[^']|'')*'|[^;'])*;")
STATE, CODE = re.compile(r"errcode = '(\w+)'"), re.compile(r"constraint = '(\w+)'")
OF_OURS = ("annex.sequence needs READ COMMITTED",)
"""Refusals that no caller can meet: they tell an operator of a fault of the worker."""


def refusals() -> dict[str, list[str]]:
    """Return the refusals of all migrations, by file."""
    found = {}
    for path in sorted((ROOT / "supabase" / "migrations").glob("*.sql")):
        said = REFUSAL.findall(path.read_text())
        found[path.name] = [text for text in said if not any(o in text for o in OF_OURS)]
    return found


def test_every_refusal_has_a_code_that_the_api_knows() -> None:
    nameless = [
        (name, text)
        for name, texts in refusals().items()
        for text in texts
        if not (STATE.search(text) and CODE.search(text))
    ]
    assert nameless == []


def test_a_code_has_one_sqlstate() -> None:
    states = defaultdict(set)
    for texts in refusals().values():
        for text in texts:
            state, code = STATE.search(text), CODE.search(text)
            if state and code:
                states[code[1]].add(state[1])
    assert {c: s for c, s in states.items() if len(s) > 1} == {}
    assert len(states) > 20
    assert states.keys() <= {*get_args(ProblemCode), *CONSTRAINTS}
