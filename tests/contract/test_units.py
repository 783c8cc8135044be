"""Quantities as people read them."""

import pytest

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
