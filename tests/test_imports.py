"""No module imports itself through others: at the top of a module, inside a function, or for type checkers."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "launcher"


def modules() -> dict[str, Path]:
    """Return all modules of the launcher: file by dotted name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Return the modules that a module imports anywhere in it: also in a function, also for type checkers alone."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for each in node.names:
                found = f"{source}.{each.name}" if f"{source}.{each.name}" in known else source
                if found in known:
                    yield found


def circles(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """Return the strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[-len(members) :]
            if len(members) > 1:
                found.append(frozenset(members))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str](), "e": {"e"}}
    assert circles(graph) == [frozenset("abc")]


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    assert len(known) > 200
    graph = {name: set(imported(name, path, known)) - {name} for name, path in known.items()}
    assert graph["launcher.slurm.queue"] >= {"launcher.slurm.ask"}, "imports are read"
    found = [sorted(each) for each in circles(graph)]
    assert found == [], "\n".join(" <-> ".join(each) for each in found)
