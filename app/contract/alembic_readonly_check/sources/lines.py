"""Find the lines on which a mapped class and its attributes are written."""

import ast
import inspect
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1024)
def lines_of(owner: type) -> tuple[Path, int, dict[str, int]] | None:
    """Find the file of a class, its line and the lines of the attributes assigned in its body."""
    try:
        path = inspect.getsourcefile(owner)
    except TypeError:
        return None
    if path is None:
        return None
    for node in _classes(Path(path)):
        if node.name == owner.__name__:
            return Path(path), node.lineno, dict(_attributes(node.body))
    return None


@lru_cache(maxsize=256)
def _classes(path: Path) -> tuple[ast.ClassDef, ...]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _attributes(body: Iterable[ast.stmt]) -> Iterable[tuple[str, int]]:
    for statement in body:
        target: ast.expr | None = None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if isinstance(target, ast.Name):
            yield target.id, statement.lineno
