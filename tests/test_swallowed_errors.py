"""Each error that is passed over has its reason beside it: a comment there, or what the function's docstring promises.

Tier: quick, 2 s.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "launcher"
SILENT = (ast.Pass, ast.Continue, ast.Break)


def unexplained(source: str) -> Iterator[int]:
    """Yield the lines of handlers that only pass, go on or return, and of `suppress`, without a reason."""
    lines = source.splitlines()

    def commented(first: int, last: int) -> bool:
        return any("#" in line for line in lines[first - 1 : last])

    def visit(node: ast.AST, promised: bool) -> Iterator[int]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            promised = ast.get_docstring(node) is not None or lines[node.body[0].lineno - 1].lstrip().startswith("#")
        if isinstance(node, ast.ExceptHandler) and all(isinstance(each, (*SILENT, ast.Return)) for each in node.body):
            last = node.body[-1]
            valued = isinstance(last, ast.Return) and last.value is not None
            passed_on = any(isinstance(each, ast.Name) and each.id == node.name for each in ast.walk(last))
            if (
                not passed_on
                and not (valued and promised)
                and not commented(node.lineno - 1, last.end_lineno or last.lineno)
            ):
                yield node.lineno
        suppresses = isinstance(node, ast.With) and any("suppress(" in ast.unparse(each) for each in node.items)
        if isinstance(node, ast.With) and suppresses and not commented(node.lineno - 1, node.body[0].lineno):
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, promised)

    yield from visit(ast.parse(source), promised=False)


@pytest.mark.parametrize("package", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_a_swallowed_error_has_its_reason(package: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line}"
        for path in sorted((PACKAGE / package).rglob("*.py"))
        for line in unexplained(path.read_text())
    ]
    assert found == [], "say in a comment why this error may be passed over"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f():\n    try:\n        x()\n    except OSError:\n        pass\n", [4]),
        ("def f():\n    try:\n        x()\n    except OSError:\n        pass  # because\n", []),
        ("def f():\n    try:\n        x()\n    except OSError:\n        # because\n        return\n", []),
        ("def f():\n    try:\n        return x()\n    except OSError:\n        return None\n", [4]),
        ('def f():\n    """Return x, or 1."""\n    try:\n        return x()\n    except E:\n        return 1\n', []),
        ('def f():\n    """Do x."""\n    try:\n        x()\n    except E:\n        return\n', [5]),
        ("for y in z:\n    try:\n        x()\n    except E:\n        continue\n", [4]),
        ("with contextlib.suppress(OSError):\n    x()\n", [1]),
        ("# because\nwith contextlib.suppress(OSError):\n    x()\n", []),
        ("def f():\n    try:\n        return x()\n    except E as error:\n        return str(error)\n", []),
        ("try:\n    x()\nexcept OSError as error:\n    raise Y from error\n", []),
    ],
)  # fmt: skip
def test_what_counts_as_a_reason(text: str, lines: list[int]) -> None:
    assert list(unexplained(text)) == lines
