"""The images that tests use."""

import subprocess
from pathlib import Path


def test_the_image_holds_what_its_fixture_says(image_file: Path) -> None:
    done = subprocess.run(
        ["unsquashfs", "-cat", str(image_file), "etc/environment"], capture_output=True, text=True, check=True
    )
    assert "GREETING=hello from the image\n" in done.stdout
