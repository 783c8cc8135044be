"""Regular expressions that are compiled where they are first used: a command needs few of those that it imports."""

import re
from typing import Any, Union, cast


class _Pattern:
    def __init__(self, pattern: str, flags: Union[int, re.RegexFlag]) -> None:
        self.pattern = pattern
        self.flags = flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(self.pattern, self.flags), name)
        setattr(self, name, found)
        return found


def later(pattern: str, flags: Union[int, re.RegexFlag] = 0) -> "re.Pattern[str]":
    """Return a pattern that is compiled when one of its methods is first used."""
    return cast("re.Pattern[str]", _Pattern(pattern, flags))
