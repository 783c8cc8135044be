"""Rendering: StrictUndefined, a `q` filter for shell quoting, a `finalize` that refuses a string which skipped it."""

import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.errors import ConfigError
from launcher._util.templates import template_environment
from launcher.contract.variables import references
from launcher.planning.model import Plan, Variable
from launcher.planning.time_limit import MARGIN_S
from launcher.runtimes import BARE, RUNTIMES
from launcher.slurm.ask import UNAVAILABLE_MESSAGES
from launcher.slurm.submit import NEVER_ARRIVED

if TYPE_CHECKING:
    import jinja2


class Quoted(str):
    """Text that may stand in a script as it is."""

    __slots__ = ()


def prepended(variable: Variable) -> Quoted:
    """Return the assignment that puts a directory in front of a list; nothing follows where the list is empty."""
    return Quoted(f'{q(variable.name)}={q(variable.value)}"${{{variable.name}:+:${variable.name}}}"')


def q(value: object) -> Quoted:
    """Quote one word for bash. Raises ConfigError for a NUL byte, which no argument can hold."""
    text = str(value)
    if "\0" in text:
        raise ConfigError(f"{text!r} contains a NUL byte")
    # `NAME==mlx5_0` is right, and reads as a comparison: what begins with = is quoted, too.
    return Quoted(f"'{text}'" if text.startswith("=") and shlex.quote(text) == text else shlex.quote(text))


def expandable(text: str) -> Quoted:
    """Quote a value for bash except for its references to variables, which the shell replaces when it runs."""
    parts = [q(part) if name is None else f'"${{{name}:-{default}}}"' for part, name, default in references(text)]
    return Quoted("".join(parts) or "''")


def directive(value: object) -> Quoted:
    """Quote a value for a `#SBATCH` line, which sbatch reads with rules of its own: one line, no expansion.

    A backslash takes the meaning from the next character, in quotes, too (Slurm 22.05 to 26.05).
    """
    text = str(value)
    if any(ord(sign) < 32 for sign in text):
        raise ConfigError(f"{text!r} contains a control character, which sbatch cannot read")
    if text and not set(text) & set(" \t\"'#\\"):
        return Quoted(text)
    if "'" not in text:
        return Quoted("'" + text.replace("\\", "\\\\") + "'")
    raise ConfigError(f"{text!r} contains a single quote, which sbatch cannot read in a script")


def comment(value: object) -> Quoted:
    """Text for a comment's line: control characters become spaces."""
    return Quoted("".join(sign if ord(sign) >= 32 else " " for sign in str(value)))


def _refuse_unquoted(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Quoted):
        raise ConfigError(f"a template writes {value!r} unquoted", hint="Pipe it through |q.")
    return value


@cache
def environment() -> "jinja2.Environment":
    """Return the Jinja environment of all scripts: `finalize` refuses a string that passed no quoting filter."""
    # Not escaped for HTML: these are bash scripts.
    scripts = template_environment(_refuse_unquoted, autoescape=False)
    scripts.filters |= {
        "q": q,
        "expandable": expandable,
        "prepended": prepended,
        "directive": directive,
        "comment": comment,
    }
    return scripts


def render(template: str, **values: Any) -> str:
    """Return the text of a template. Raises ConfigError for an unquoted or unquotable value."""
    import jinja2

    try:
        return environment().get_template(template).render(**values)
    except jinja2.UndefinedError as error:
        raise ConfigError(f"the template uses a value that the plan lacks: {error}", where=template) from None


def scripts(plan: Plan) -> dict[str, str]:
    """Return the scripts of a run by their names in the run directory.

    `step.sh` always, `sbatch.sh` for a Slurm step, `enter.sh` where the runtime needs it.
    """
    task = {
        operation: [each for each in plan.environment if each.scope == "task" and each.operation == operation]
        for operation in ("unset", "source", "prepend", "set")
    }
    host = [variable for variable in plan.environment if variable.scope == "host"]
    runtime = RUNTIMES[plan.runtime] if plan.container else BARE
    values = {
        "plan": plan,
        "runtime": runtime,
        "task_environment": task,
        "host_environment": host,
        "run_dir": Path(plan.run_dir),
        "directives": dict(plan.directives),
        "keeps_going": plan.argv["options"]["keep_going"] is not None,
        "notifies": plan.argv["options"].get("notify") is not None,
        "requeues": plan.backend.own_job and plan.argv["options"]["keep_going"] is None,
        "stop_margin_s": MARGIN_S,
        "never_arrived": NEVER_ARRIVED,
        "unavailable": UNAVAILABLE_MESSAGES,
    }
    names = ["step.sh", "sbatch.sh"] if plan.backend.slurm_step else ["step.sh"]
    if runtime.enter_template:
        names.append("enter.sh")
    return {name: render(f"{name}.j2", **values) for name in names}
