"""The fenced blocks of the documents, and the tag that says whether a test runs them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

# In the order in which a newcomer reads: each page may rely on the README alone.
FIRST = ["README.md", "docs/realtime.md", "docs/supabase.md"]
TAGS = {"manual", "run", "run background"}
OPENING = re.compile(r"^ *(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
NAME = re.compile(r"^(?://|#|<!--) (?P<name>(?:[\w-]+/)?[\w-]+\.\w+)(?::|$| -->$)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its tag and its text."""

    page: str
    line: int
    language: str
    tag: str
    code: str

    @property
    def place(self) -> str:
        """Say where the block stands, as compilers do."""
        return f"{self.page}:{self.line}"

    @property
    def name(self) -> str | None:
        """Return the file's name that the first line gives, perhaps with its folder, if it does."""
        found = NAME.match(self.code)
        return found["name"] if found else None


def blocks(page: str, text: str) -> Iterator[Block]:
    """Find a page's blocks. A longer fence may hold shorter ones (CommonMark, section 4.5)."""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        opening = OPENING.match(line)
        if opening is None:
            continue
        inside = []
        for _, further in lines:
            closing = OPENING.match(further)
            if closing and not closing["info"] and closing["fence"].startswith(opening["fence"]):
                break
            inside.append(further)
        language, _, tag = opening["info"].strip().partition(" ")
        yield Block(page, number, language, tag, "\n".join([*inside, ""]))


def pages() -> list[str]:
    """List the documents, those that a newcomer reads first at the head."""
    others = sorted(str(p.relative_to(ROOT)) for p in Path(ROOT, "docs").rglob("*.md"))
    return [*FIRST, *(p for p in others if p not in FIRST)]


def all_blocks() -> list[Block]:
    """Return every block of every document, in reading order."""
    return [b for page in pages() for b in blocks(page, (ROOT / page).read_text())]
