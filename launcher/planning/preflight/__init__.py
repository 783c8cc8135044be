"""What is impossible and what is suspicious about a configuration: pure functions over what is known of it.

A rule takes `Seen` and yields findings; it is silent about what it cannot know. Where the configuration was checked,
what Megatron Bridge refuses by itself has been refused already, so a rule that repeats it speaks only of overrides.
"""

from collections.abc import Mapping
from typing import Any

from launcher._util.errors import RequestError
from launcher.planning.preflight import places, precision, schedule, sizes, stack
from launcher.planning.preflight.findings import Finding, Seen

RULES = (*sizes.RULES, *precision.RULES, *schedule.RULES, *places.RULES, *stack.RULES)


def findings(seen: Seen) -> tuple[Finding, ...]:
    """All of them, those that are impossible first."""
    found = dict.fromkeys(finding for rule in RULES for finding in rule(seen))
    return tuple(sorted(found, key=lambda finding: not finding.impossible))


def require(found: tuple[Finding, ...]) -> tuple[str, ...]:
    """The warnings among findings. Raises RequestError with all that are impossible, where there is one."""
    impossible = [finding for finding in found if finding.impossible]
    if not impossible:
        return tuple(str(finding) for finding in found)
    first, *others = impossible
    text = "\n".join([first.text, *(f"and {finding.text}" for finding in others)])
    hints = dict.fromkeys(finding.hint for finding in impossible if finding.hint)
    raise RequestError(text, where=first.where, hint="\n".join(hints) or None)


def flattened(resolved: Mapping[str, Any] | None) -> dict[str, Any]:
    """A checked configuration's values by key."""
    if resolved is None:
        return {}
    sections = {name: section for name, section in (resolved.get("config") or {}).items() if section is not None}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


__all__ = ["Finding", "Seen", "findings", "flattened", "require"]
