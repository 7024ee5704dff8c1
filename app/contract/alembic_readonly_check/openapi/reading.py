"""Read YAML 1.2 or JSON strictly, with the line of every value."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from alembic_readonly_check.findings import CannotCheck

Json = Any


# The C parser reads a thousand lines in a few milliseconds, the one in Python in a few hundred.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE: Final = "tag:yaml.org,2002:"
_NULL: Final = re.compile(r"~|null|Null|NULL|")
_BOOL: Final = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT: Final = re.compile(r"[-+]?[0-9]+")
_RADIX: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ONLY_IN_1_2: Final = re.compile(r"0o[0-7]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document and the JSON pointer (RFC 6901) that it stands at."""

    value: Json
    pointer: str

    def child(self, *keys: str) -> "Node":
        """Descend by mapping keys or list positions; a missing step gives the value None."""
        value, pointer = self.value, self.pointer
        for key in keys:
            pointer = f"{pointer}/{_escape(key)}"
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                value = None
        return Node(value, pointer)

    def children(self) -> Iterator[tuple[str, "Node"]]:
        """Walk the entries of a mapping or list, in the order of the document."""
        pairs: Iterable[tuple[str, Json]] = ()
        if isinstance(self.value, dict):
            pairs = self.value.items()
        elif isinstance(self.value, list):
            pairs = ((str(position), item) for position, item in enumerate(self.value))
        for key, value in pairs:
            yield key, Node(value, f"{self.pointer}/{_escape(key)}")


def read_yaml(text: str, name: str) -> tuple[Json, dict[str, int]]:
    lines: dict[str, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error)
        raise CannotCheck(f"{name}:{line}: not YAML: {problem}.") from error
    if node is None:
        raise CannotCheck(f"{name}:1: the document is empty.")

    def refuse(at: yaml.Node, why: str) -> CannotCheck:
        return CannotCheck(f"{name}:{at.start_mark.line + 1}: {why}.")

    def build(at: yaml.Node, pointer: str, line: int, above: tuple[int, ...]) -> Json:
        lines[pointer] = line
        if not at.tag.startswith(_CORE):
            raise refuse(at, f"the tag {at.tag!r} is not plain YAML")
        if isinstance(at, yaml.ScalarNode):
            return at.value if at.style else _scalar(at.tag, at.value)
        if id(at) in above:
            raise refuse(at, "an alias contains itself")
        above = (*above, id(at))
        if isinstance(at, yaml.SequenceNode):
            return [
                build(item, f"{pointer}/{position}", item.start_mark.line + 1, above)
                for position, item in enumerate(at.value)
            ]
        result: dict[str, Json] = {}
        for key, value in at.value:
            if not isinstance(key, yaml.ScalarNode):
                raise refuse(key, "a key is not a scalar")
            if key.tag == f"{_CORE}merge":
                raise refuse(key, "the merge key `<<` is not YAML 1.2")
            if key.value in result:
                raise refuse(key, f"the key {key.value!r} stands twice in one mapping")
            below = f"{pointer}/{_escape(key.value)}"
            result[key.value] = build(value, below, key.start_mark.line + 1, above)
        return result

    return build(node, "", 1, ()), lines


def _scalar(tag: str, text: str) -> Json:
    """Read a plain scalar by the YAML 1.2 core schema: `no`, `on` and dates stay text."""
    if tag == f"{_CORE}str" and not _ONLY_IN_1_2.fullmatch(text):
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def steps(pointer: str) -> list[str]:
    return [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
