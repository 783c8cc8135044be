"""What a quick test may not do, and how much of a matrix it takes, for modules that also run without pytest."""

current: str | None = None
"""The quick test that runs now; set by tests/support/tiers.py."""
only = False
"""Whether this is a run of the quick tests alone (`make quick`); set by tests/conftest.py before tests are loaded."""


def few(count: int) -> int:
    """Return how many of `count` examples a test takes: in a run of the quick tests alone a quarter, at least ten."""
    return max(min(count, 10), count // 4) if only else count


def refuse_in_quick(what: str, marker: str) -> None:
    """Raise where the test that runs now is a quick one; called by what starts a Slurm or the training stack."""
    if current is not None:
        raise AssertionError(f"{current} is quick, and starts {what}: mark it `{marker}`")
