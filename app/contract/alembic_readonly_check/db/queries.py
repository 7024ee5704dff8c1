"""The frozen SELECTs of queries.sql; beside the guard's, no others reach a live server."""

import re
from pathlib import Path


def _read(text: str) -> dict[str, str]:
    """Fill the definitions in; every query but `database` gives its rows as one array."""
    macros: dict[str, tuple[list[str], str]] = {}
    queries = {}

    def fill(call: re.Match[str]) -> str:
        names, body = macros[call[1]]
        values = dict(zip(names, call[2].split(", "), strict=True)) if names else {}
        return re.sub(r"\{(\w+)\}", lambda gap: values[gap[1]], body)

    for part in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        word, _, name = head.partition(" ")
        if word == "define":
            name, _, parameters = name.rstrip(")").partition("(")
            macros[name] = ([p for p in parameters.split(", ") if p], body.strip())
        else:
            query = re.sub(r"@(\w+)\(([^()]*)\)", fill, body.strip())
            queries[name] = query if name == "database" else macros["rows"][1].format(query=query)
    return queries


QUERIES = _read(Path(__file__).with_suffix(".sql").read_text("utf-8"))
"""Name -> SELECT."""
