"""The package's own order: small files, and imports that go one way."""

import ast
from pathlib import Path

import alembic_readonly_check

ROOT = Path(alembic_readonly_check.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = ("command", "db", "api", "compare", "sources", "openapi", "sql", "root")
"""Each may import what stands after it; `root` are the modules outside the sub-packages."""

MOST_LINES = 400


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "root"


def imports(path: Path) -> set[str]:
    """List the modules of the package that a file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ROOT.name):
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if is_module(below) else str(node.module))
    return found


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def test_no_file_has_two_inhabitants() -> None:
    assert len(FILES) > 40
    assert [p.name for p in FILES if p.read_text("utf-8").count("\n") > MOST_LINES] == []


def test_imports_go_down_the_layers() -> None:
    wrong = [
        (module_of(path), target)
        for path in FILES
        if path.name != "__main__.py"
        for target in imports(path)
        if LAYERS.index(layer(module_of(path))) > LAYERS.index(layer(target))
    ]
    assert wrong == []


def test_no_import_leads_back() -> None:
    graph = {module_of(path): imports(path) for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
