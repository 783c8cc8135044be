"""The table of `launcher image list`: no wider than the terminal, and no name cut."""

from pathlib import Path

import pytest

from launcher.api.image import ListedImage
from launcher.cli.commands.image.show import table
from launcher.images.manifest import ImageSource, Manifest, utc_now
from launcher.images.store.store import StoredImage

NAMES = tuple(f"nvcr.io+nvidia+nemo+26.0{number}" for number in range(1, 6))
REFERENCE = "nvcr.io/nvidia/nemo:26.08"


def listed(names: tuple[str, ...], *, text: str = REFERENCE, problem: str | None = None) -> ListedImage:
    digest = f"sha256:{'0123456789abcdef' * 4}"
    source = ImageSource(kind="registry", text=text)
    known = Manifest(architecture="x86_64", created=utc_now(), size_bytes=18 << 30, source=source)
    manifest = None if problem else known
    entry = StoredImage(digest, Path("/store/x.sqsh"), manifest, names, 18 << 30, 0.0, problem)
    return ListedImage(entry, ())


@pytest.mark.parametrize("names", [(), ("nemo",), NAMES])
@pytest.mark.parametrize("problem", [None, "its manifest cannot be read: it was written by a newer launcher"])
def test_it_fits_eighty_columns(names: tuple[str, ...], problem: str | None) -> None:
    lines = table([listed(names, problem=problem), listed(("other",))], 80)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(name in text for name in names)
    assert "0123456789ab  18.0 GiB" in text
    assert text.count("registry nvcr.io/nvidia/nemo:26.08") == (1 if problem else 2)
    assert lines[0].split()[0] == "DIGEST"


def test_where_there_is_space_each_image_has_a_line() -> None:
    lines = table([listed(NAMES), listed(("other",))], 250)
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "DIGEST", "SIZE", "ARCHITECTURE", "CREATED", "RUNS", "SOURCE"]
    assert lines[1].startswith(", ".join(NAMES))
    assert lines[2].endswith("  0     registry nvcr.io/nvidia/nemo:26.08")


def test_a_name_longer_than_the_terminal_stays_whole() -> None:
    name, text = "x" * 120, f"{'y' * 100}/z:1"
    lines = table([listed((name,), text=text)], 80)
    assert f"  {name}" in lines
    assert any(text in line for line in lines)
    assert [line for line in lines if len(line) > 80 and name not in line and text not in line] == []
