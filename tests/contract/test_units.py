"""Quantities as people read them."""

import pytest

from launcher.contract.batch_sizes import misfit
from launcher.contract.units import bytes_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (15_500_000_000, "14.4 GiB"),
        (2 * 2**40, "2.0 TiB"),
        (3000 * 2**50, "3000.0 PiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(("batch", "nearest"), [(30, "16 or 32"), (6, "16"), (33, "32 or 48")])
def test_a_batch_that_does_not_divide_is_told_the_nearest(batch: int, nearest: str) -> None:
    wrong = misfit(batch, 2, 8)
    assert wrong is not None
    assert wrong[1] == f"use a global batch size of {nearest}"


def test_a_batch_that_divides() -> None:
    assert misfit(32, 2, 8) is None
