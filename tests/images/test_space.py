"""Full disks, in numbers that people can use."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher._util.errors import DiskError
from launcher.contract.units import bytes_text
from launcher.images.store.space import disk_error, free_bytes, require, writing


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_what_is_needed_free_and_missing_is_said(small_disk: Path) -> None:
    require(small_disk, 200 * 1024, "the image")
    with pytest.raises(DiskError) as error:
        require(small_disk / "not" / "yet", 10**9, "the image")
    free = bytes_text(200 * 1024)
    missing = bytes_text(10**9 - 200 * 1024)
    assert error.value.message == f"the image needs 953.7 MiB, {free} are free: {missing} are missing"
    assert error.value.where == str(small_disk / "not" / "yet")
    assert "gc" in str(error.value.hint)


def test_a_write_on_a_full_disk(small_disk: Path) -> None:
    file = small_disk / "x"
    with pytest.raises(DiskError) as error, writing(file, "copy the image", needed=10**6):
        file.write_bytes(bytes(10**6))
    assert error.value.message.startswith(
        "cannot copy the image: No space left on device (976.6 KiB are needed, 0 B are"
    )
    assert "missing" in error.value.message
    assert free_bytes(small_disk) == 0


def test_a_quota_is_not_mistaken_for_a_full_disk(tmp_path: Path) -> None:
    error = disk_error(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), tmp_path, "write the manifest")
    assert "quota" in str(error.hint)
    assert "are free on the disk as a whole" in error.message  # which says nothing of the quota


def test_other_errors_keep_their_words(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot read it: No such file") as error, writing(tmp_path / "x", "read it"):
        (tmp_path / "x").read_text()
    assert error.value.hint is None
    assert error.value.exit_status == 3
