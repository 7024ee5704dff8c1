"""Cut a Markdown document into sections, rows and points, every one with its line.

Rows are split on the raw line, because a Markdown reader pads short rows and drops surplus cells
without a word.
"""

import re
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

from alembic_readonly_check.findings import Location

_CODE = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(slots=True)
class Row:
    cells: list[str]
    location: Location


@dataclass(slots=True)
class Item:
    """A point of a list; `nested` stands under another one."""

    text: str
    location: Location
    nested: bool


@dataclass(slots=True)
class Section:
    """A heading below level 1 and what stands under it, up to the next heading."""

    title: str
    level: int
    location: Location
    header: Row | None = None
    rows: list[Row] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    paragraphs: list[tuple[str, Location]] = field(default_factory=list)
    children: list["Section"] = field(default_factory=list)


def sections(text: str, path: str) -> list[Section]:
    """Cut the document into sections of level 2 with all their subsections."""
    lines = text.split("\n")  # As the reader counts them: a form feed ends no line.
    # Cells and points are read from their raw text, so no token of inline markup is needed.
    reader = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
    tokens = reader.parse(text)
    found: list[Section] = []
    current: Section | None = None
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            section = Section(
                tokens[position + 1].content.strip(), int(token.tag[1]), _at(token, path)
            )
            if section.level <= 2 or not found:
                found.append(section)
            else:
                found[-1].children.append(section)
            current = section if section.level > 1 else None
        elif current is None or token.map is None:
            continue
        elif token.type == "table_open":
            start, end = token.map
            rows = [
                Row(_cells(lines[n]), Location(path, n + 1))
                for n in range(start, end)
                if n != start + 1 and n < len(lines) and lines[n].strip()
            ]
            if current.header is None:
                current.header, *current.rows = rows
        elif token.type == "list_item_open":
            text_ = _content(tokens, position, "list_item_close")
            current.items.append(Item(text_, _at(token, path), token.level > 1))
        elif token.type == "paragraph_open" and token.level == 0:
            current.paragraphs.append((tokens[position + 1].content, _at(token, path)))
    return found


def _at(token: Token, path: str) -> Location:
    return Location(path, token.map[0] + 1 if token.map else 1)


def _content(tokens: list[Token], position: int, end: str) -> str:
    """Join the text of a list item."""
    level = tokens[position].level
    words = []
    for number in range(position + 1, len(tokens)):
        token = tokens[number]
        if token.type == end and token.level == level:
            break
        if token.type == "inline":
            words.append(token.content)
    return " ".join(words)


def _cells(line: str) -> list[str]:
    """Split a raw row at its unescaped pipes."""
    bare = line.strip()
    bare = bare[1:] if bare.startswith("|") else bare
    bare = bare[:-1] if bare.endswith("|") and not bare.endswith("\\|") else bare
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(bare)]


def spans(text: str) -> list[str]:
    """List the contents of the code spans of a text."""
    return [" ".join(match[2].split()) for match in _CODE.finditer(text)]


def whole_span(text: str) -> str | None:
    """Give the content of a text that is exactly one code span."""
    match = _CODE.fullmatch(text.strip())
    return " ".join(match[2].split()) if match else None


def plain(text: str) -> str:
    return " ".join(re.sub(r"[`*_]", "", text).split())
