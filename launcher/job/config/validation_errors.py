"""Errors of Megatron's own checks, as one sentence for the user."""

import ast
import linecache
import textwrap
import traceback
from types import FrameType, TracebackType

from ..errors import UserError

_LINES = 12
"""Number of lines in which an assertion's statement is searched."""


_HINTS = {
    "PEFT requires a pretrained checkpoint path": "name the model that the adapters are for: hf_path=DIR (Bridge "
    "recipes), or checkpoint.pretrained_checkpoint=DIR",
}
"""What to do, where Bridge's message does not say it."""


def explain(error: Exception) -> UserError:
    """Return the UserError for an exception from Bridge's validation; `where` is the check's position in Megatron.

    An assertion without a message is shown by its condition and the numbers that it compares.
    """
    frame = _last(error.__traceback__)
    where = None
    if error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{_short(last.filename)}:{last.lineno}"
    words = " ".join(str(error).split())
    if isinstance(error, AssertionError):
        text = words or _condition(frame, error)
    elif isinstance(error, (ValueError, NotImplementedError)) and words:
        text = words
    else:
        text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    hint = next((hint for words, hint in _HINTS.items() if words in text), None)
    return UserError(f"Megatron Bridge refuses the configuration: {text}", where=where, hint=hint)


def _last(trace: "TracebackType | None") -> "FrameType | None":
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None


def _short(filename: str) -> str:
    return filename.partition("site-packages/")[2] or filename


def _condition(frame: "FrameType | None", error: Exception) -> str:
    """Return the condition of the failed assertion, with the values of the fields in it."""
    if frame is None or error.__traceback__ is None:
        return "an assertion failed"
    number = traceback.extract_tb(error.__traceback__)[-1].lineno or 1
    lines = [linecache.getline(frame.f_code.co_filename, number + offset) for offset in range(_LINES)]
    for count in range(1, _LINES + 1):
        try:
            tree = ast.parse(textwrap.dedent("".join(lines[:count])))
        except SyntaxError:
            continue  # the statement goes on in the next line
        if tree.body and isinstance(tree.body[0], ast.Assert):
            condition = tree.body[0].test
            return f"the condition {ast.unparse(condition)} is false{_numbers(condition, frame)}"
    return "an assertion failed"


def _numbers(condition: ast.expr, frame: FrameType) -> str:
    """Return " (self.a=1, self.b=2)" for the attributes in a condition that plain attribute access can read."""
    found = {}
    for node in ast.walk(condition):
        names = _path(node)
        if names and names[0] in frame.f_locals:
            value = frame.f_locals[names[0]]
            for name in names[1:]:
                value = getattr(value, name, None)
            if isinstance(value, (bool, int, float, str, type(None))):
                found[".".join(names)] = value
    return f" ({', '.join(f'{name}={value!r}' for name, value in found.items())})" if found else ""


def _path(node: ast.AST) -> list[str]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []
