"""The environment linter: variables known to be obsolete, contradictory or dangerous, named with who set them.

Nothing is changed: a value may be there for a reason that no table knows. The table is in environment_lint_rules.py.
"""

import re
from collections.abc import Iterable

from launcher.planning.environment_lint_rules import RULES, Place, Rule
from launcher.planning.model import Variable

__all__ = ["RULES", "Place", "warnings"]

_OWN = ("fabric ", "NVLink domain ", "dispatcher ")
"""How the launcher's own origins begin: what it decides is not somebody's mistake."""


def warnings(variables: Iterable[Variable], place: Place) -> tuple[str, ...]:
    """A sentence for each variable that somebody set, that is not beaten, and that breaks a rule."""
    return tuple(
        _sentence(variable, rule)
        for variable in variables
        if not variable.origin.startswith(_OWN)
        for rule in RULES
        if _fits(rule, variable) and rule.applies(place)
    )


def _fits(rule: Rule, variable: Variable) -> bool:
    if not re.fullmatch(rule.name, variable.name) or not variable.origin.startswith(rule.set_by):
        return False
    if variable.value is None:
        return rule.value == ".*"
    return re.fullmatch(rule.value, variable.value.strip(), re.IGNORECASE | re.DOTALL) is not None


def _sentence(variable: Variable, rule: Rule) -> str:
    value = "" if variable.value is None or rule.value == ".*" else f"={variable.value}"
    return f"{variable.name}{value}, set by {_who(variable.origin)}, is {rule.kind}: {rule.why}; {rule.instead}"


def _who(origin: str) -> str:
    return f"the {origin}" if origin.startswith("cluster profile") else origin
