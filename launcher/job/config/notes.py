"""What the user should know of how a configuration came about, collected while it is made.

Not warnings: nothing is wrong. Which architecture was read, which keywords of an older Bridge were understood.
"""

_NOTES: list[str] = []


def add(text: str) -> None:
    """Remember one sentence; the same one only once."""
    if text not in _NOTES:
        _NOTES.append(text)


def take() -> tuple[str, ...]:
    """All sentences so far, which are forgotten with that."""
    notes = tuple(_NOTES)
    _NOTES.clear()
    return notes
