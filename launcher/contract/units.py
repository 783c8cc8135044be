"""Quantities as people read them."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(count: int) -> str:
    """Return a number of bytes as text in powers of 1024: `15.5 GiB`, `999 B`."""
    value = float(count)
    for unit in _UNITS[:-1]:
        # What rounding would turn into 1024 belongs to the next unit.
        if abs(value) < 1023.95:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"
