"""Files that the launcher ships: at a checkout's top level, or in `launcher/share` of an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """Return the path of a shipped file or directory, such as `templates` or `configs/clusters`.

    Raises FileNotFoundError if this installation lacks it.
    """
    for root in (_PACKAGE / "share", _PACKAGE.parent):
        path = root / name
        if path.exists():
            return path
    raise FileNotFoundError(f"this installation lacks {name!r} (looked beside and under {_PACKAGE})")
