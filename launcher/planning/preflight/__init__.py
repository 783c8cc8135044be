"""Rules that find impossible and suspicious values in a configuration: pure functions over its known values.

A rule takes a `ConfigView` and yields findings. It yields none about a value that is unknown. Megatron Bridge refuses
some values itself when a configuration is checked; a rule that repeats such a refusal looks at overrides only.
"""

from collections.abc import Mapping
from typing import Any

from launcher._util.errors import RequestError
from launcher.planning.preflight import files, precision, schedule, sizes, stack
from launcher.planning.preflight.findings import ConfigView, Finding

RULES = (*sizes.RULES, *precision.RULES, *schedule.RULES, *files.RULES, *stack.RULES)


def findings(view: ConfigView) -> tuple[Finding, ...]:
    """Apply all rules; return their findings without duplicates, impossible ones first."""
    found = dict.fromkeys(finding for rule in RULES for finding in rule(view))
    return tuple(sorted(found, key=lambda finding: not finding.impossible))


def require(found: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return findings as warnings. Raises RequestError with all impossible findings if there is one."""
    impossible = [finding for finding in found if finding.impossible]
    if not impossible:
        return tuple(str(finding) for finding in found)
    first, *others = impossible
    text = "\n".join([first.text, *(f"and {finding.text}" for finding in others)])
    hints = dict.fromkeys(finding.hint for finding in impossible if finding.hint)
    raise RequestError(text, where=first.where, hint="\n".join(hints) or None)


def flattened(resolved: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of a checked configuration by key; empty for None."""
    if resolved is None:
        return {}
    sections = {name: section for name, section in (resolved.get("config") or {}).items() if section is not None}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


__all__ = ["ConfigView", "Finding", "findings", "flattened", "require"]
