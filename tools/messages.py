"""The messages of the launcher's errors, read from its source: what each says, and what to do, by the function.

`tools/reference.py` writes docs/reference/messages.md from them. An error has its function's name as its id
(launcher/contract/errors.py), which stays while lines move.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from launcher._util import errors
from launcher._util.errors import LauncherError

ROOT = Path(__file__).resolve().parent.parent
BUILT_ELSEWHERE = "what the program, the library or the file says"
"""In place of a message that the source does not spell out."""


class Message(NamedTuple):
    """One message: where it is made, its text with `...` for what varies, and what to do."""

    id: str
    kind: str
    text: str
    hint: str


def messages() -> list[Message]:
    """Return all messages of the half that runs on the user's machine, by id."""
    kinds = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, LauncherError)
    }
    trees = dict[Path, ast.Module]()
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        if "job" not in path.relative_to(ROOT / "launcher").parts[:1]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            trees[path] = _WithConstants(tree).visit(tree)
    kinds |= set(_derived(trees.values(), kinds))
    found: dict[Message, None] = {}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(ROOT / "launcher").with_suffix("").parts).removesuffix(".__init__")
        for message in _of(tree, module, "module", dict(zip(kinds, kinds, strict=True))):
            found[message] = None
    return sorted(found)


class _WithConstants(ast.NodeTransformer):
    """Puts the texts that a module has as constants in the places where they are used."""

    def __init__(self, tree: ast.Module) -> None:
        self.constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id.isupper()
        }

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Return the text of a constant, and any other name as it is."""
        return self.constants.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def _derived(trees: "object", kinds: set[str]) -> Iterator[str]:
    """Yield the classes that modules derive from errors."""
    for tree in trees:  # type: ignore[attr-defined]
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id in kinds for base in node.bases
            ):
                yield node.name


def _of(node: ast.AST, module: str, function: str, kinds: Mapping[str, str]) -> Iterator[Message]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name.lstrip("_")
        kinds = {**kinds, **dict(_chosen_by_callers(node, kinds))}
    if isinstance(node, ast.Call) and (kind := kinds.get(_name(node.func))) is not None:
        arguments = {word.arg: word.value for word in node.keywords}
        text = node.args[0] if node.args else arguments.get("message")
        yield Message(f"{module}.{function}", kind, _text(text), _text(arguments.get("hint"), ""))
    for child in ast.iter_child_nodes(node):
        yield from _of(child, module, function, kinds)


def _chosen_by_callers(
    node: ast.FunctionDef | ast.AsyncFunctionDef, kinds: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a function that are classes of errors, with the class that bounds them."""
    for parameter in (*node.args.args, *node.args.kwonlyargs):
        bound = re.fullmatch(r"type\[(\w+)\]", ast.unparse(parameter.annotation) if parameter.annotation else "")
        if bound and bound[1] in kinds:
            yield parameter.arg, bound[1]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _text(node: ast.AST | None, otherwise: str = BUILT_ELSEWHERE) -> str:
    """Return a text as the source spells it, with `...` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split())
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
        return " ".join("".join(parts).split())
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body, otherwise)}, or: {_text(node.orelse, otherwise)}"
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left, '...')}{_text(node.right, '...')}"
    return otherwise
