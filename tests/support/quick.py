"""What a quick test may not do, for modules that also run without pytest."""

current: str | None = None
"""The quick test that runs now; set by tests/support/tiers.py."""


def refuse_in_quick(what: str, marker: str) -> None:
    """Raise where the test that runs now is a quick one; called by what starts a Slurm or the training stack."""
    if current is not None:
        raise AssertionError(f"{current} is quick, and starts {what}: mark it `{marker}`")
