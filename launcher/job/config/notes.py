"""Notes for the user about how a configuration was made, collected on the way.

They are not warnings: nothing is wrong. Examples: which architecture was read, which keywords of an older Bridge were
applied.
"""

_NOTES: list[str] = []


def add(text: str) -> None:
    """Record one sentence, once."""
    if text not in _NOTES:
        _NOTES.append(text)


def take() -> tuple[str, ...]:
    """Return all sentences so far, and forget them."""
    notes = tuple(_NOTES)
    _NOTES.clear()
    return notes
