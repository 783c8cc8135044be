"""The environment linter: variables known to be obsolete, contradictory or dangerous, named with who set them.

Nothing is changed: a value may be there for a reason that no rule knows. The rules are in environment_lint_rules.py;
those of one fabric are in its module.
"""

import re
from collections.abc import Iterable

from launcher.contract.fabrics.model import LintRule
from launcher.planning.environment_lint_rules import RULES, ConditionalRule, LintContext
from launcher.planning.model import Variable

__all__ = ["RULES", "LintContext", "warnings"]

_OWN = ("fabric ", "NVLink domain ", "dispatcher ")
"""How the launcher's own origins begin: its own decisions are not linted."""


def warnings(variables: Iterable[Variable], context: LintContext) -> tuple[str, ...]:
    """Return a sentence for each variable that counts, is set by others than the launcher, and breaks a rule."""
    rules = _rules(context)
    return tuple(
        _sentence(variable, rule)
        for variable in variables
        if not variable.origin.startswith(_OWN)
        for rule in rules
        if _matches(rule, variable)
    )


def _rules(context: LintContext) -> tuple[LintRule, ...]:
    own = context.fabric.lint_rules if context.fabric else ()
    return (*own, *(rule for rule in RULES if rule.applies(context)))


def _matches(rule: LintRule, variable: Variable) -> bool:
    set_by = rule.set_by if isinstance(rule, ConditionalRule) else ""
    if not re.fullmatch(rule.name, variable.name) or not variable.origin.startswith(set_by):
        return False
    if variable.value is None:
        return rule.value == ".*"
    return re.fullmatch(rule.value, variable.value.strip(), re.IGNORECASE | re.DOTALL) is not None


def _sentence(variable: Variable, rule: LintRule) -> str:
    value = "" if variable.value is None or rule.value == ".*" else f"={variable.value}"
    return f"{variable.name}{value}, set by {_by(variable.origin)}, is {rule.kind}: {rule.why}; {rule.instead}"


def _by(origin: str) -> str:
    return f"the {origin}" if origin.startswith("cluster profile") else origin
