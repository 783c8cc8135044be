"""Whether a file is an image that a cluster can run."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from launcher._util.errors import ImageError
from launcher._util.shell import LocalShell
from launcher.images.inspect.contents import describe
from launcher.images.manifest import Manifest, manifest_path, read_manifest, write_manifest
from launcher.images.verify import VerifiedImage, check, file_digest
from tests.images.trees import make_tree, needs_squashfs, pack, tiny_elf
from tests.support.recorder import Recorder

pytestmark = needs_squashfs

SHELL = LocalShell()


def make_image(directory: Path, machine: str = "x86_64", **more: str | bytes) -> Path:
    """A small image with a manifest beside it, as the store makes them."""
    files: dict[str, str | bytes] = {
        "usr/bin/dash": tiny_elf(machine),
        "etc/environment": "A=1\n",
        "big": os.urandom(50_000),
    }
    root = make_tree(directory / "root", files | more, {"bin": "usr/bin", "usr/bin/sh": "dash"})
    image = pack(root, directory / "x.sqsh", "-all-root")
    found = describe(image, SHELL).model_copy(update={"digest": file_digest(image)})
    write_manifest(manifest_path(image), found)
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(image: Path, tmp_path: Path) -> Path:
    """A copy to break, its manifest beside it."""
    shutil.copy(manifest_path(image), tmp_path / "x.json")
    return Path(shutil.copy(image, tmp_path / "x.sqsh"))


def refused(path: Path, architecture: str | None = "x86_64", *, checksum: bool = False) -> str:
    """The message of the refusal, which names the file and a remedy."""
    with pytest.raises(ImageError) as caught:
        check(path, architecture=architecture, shell=SHELL, checksum=checksum)
    assert str(path.name) in (caught.value.where or "")
    assert caught.value.hint
    return caught.value.message


def test_a_good_image_is_good(image: Path) -> None:
    found = check(image, architecture="x86_64", shell=SHELL, checksum=True)
    assert found == VerifiedImage(image.resolve(), read_manifest(image) or Manifest(size_bytes=0, created=""), (), ())
    assert found.manifest.environment == {"A": "1"}


def test_a_foreign_image_is_looked_into(image: Path, tmp_path: Path) -> None:
    foreign = Path(shutil.copy(image, tmp_path / "foreign.sqsh"))
    found = check(foreign, architecture="x86_64", shell=SHELL)
    assert (found.manifest.architecture, found.manifest.digest, found.unchecked) == ("x86_64", None, ())
    assert "aarch64" in refused(foreign, "aarch64")
    assert any("checksum" in text for text in check(foreign, architecture=None, shell=SHELL, checksum=True).unchecked)


def test_a_real_image_is_good(image_file: Path) -> None:
    machine = os.uname().machine
    found = check(image_file, architecture=machine, shell=SHELL)
    assert (found.manifest.architecture, found.unchecked, found.warnings) == (machine, (), ())
    assert found.manifest.environment["GREETING"] == "hello from the image"
    assert found.manifest.contents.python == "/usr/bin/python3"


def test_every_truncation_of_a_real_image_is_refused(image_file: Path, tmp_path: Path) -> None:
    short = Path(shutil.copy(image_file, tmp_path / "short.sqsh"))
    some = random.Random(2)  # noqa: S311
    size = short.stat().st_size
    for length in sorted({size - 4097, 96, 95, 1, 0, *(some.randrange(size - 4096) for _ in range(60))}, reverse=True):
        os.truncate(short, length)
        assert re.search("truncated|empty|not a squashfs", refused(short))


def test_a_missing_end_of_the_padding_contradicts_the_manifest_only(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size - 1)
    assert "bytes, but x.json beside it says" in refused(copy)
    manifest_path(copy).unlink()
    assert check(copy, architecture="x86_64", shell=SHELL).unchecked == ()


def test_every_flipped_byte_is_found_by_the_checksum(copy: Path) -> None:
    data = copy.read_bytes()
    some = random.Random(3)  # noqa: S311
    for position in [0, 50, len(data) - 1, *(some.randrange(len(data)) for _ in range(40))]:
        with copy.open("r+b") as file:
            file.seek(position)
            file.write(bytes([data[position] ^ (1 << some.randrange(8))]))
        refused(copy, checksum=True)
        copy.write_bytes(data)
    check(copy, architecture="x86_64", shell=SHELL, checksum=True)


def test_the_store_s_name_is_a_checksum_too(image: Path, tmp_path: Path) -> None:
    digest = file_digest(image).removeprefix("sha256:")
    named = Path(shutil.copy(image, tmp_path / f"{digest}.sqsh"))
    assert check(named, architecture="x86_64", shell=SHELL, checksum=True).unchecked == ()
    wrong = named.rename(tmp_path / f"{digest[::-1]}.sqsh")
    assert "damaged or was changed" in refused(wrong, checksum=True)
    shutil.copy(manifest_path(image), manifest_path(wrong))
    assert "manifest of another image" in refused(wrong)


def test_flipped_bytes_never_change_what_is_read_unnoticed(image: Path, tmp_path: Path) -> None:
    """Without a checksum a flip may go unnoticed, but only in what is not looked at: it never ends in another error."""
    foreign = Path(shutil.copy(image, tmp_path / "foreign.sqsh"))
    good = check(foreign, architecture="x86_64", shell=SHELL)
    data = foreign.read_bytes()
    some = random.Random(4)  # noqa: S311
    for _ in range(15):
        position = some.randrange(96, len(data))
        foreign.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        try:
            found = check(foreign, architecture="x86_64", shell=SHELL)
        except ImageError as error:
            assert error.where == str(foreign)
        else:
            assert found.manifest.size_bytes == good.manifest.size_bytes


def test_an_image_for_other_machines_is_refused(debian: Path, tmp_path: Path) -> None:
    """A Debian root whose programs say that they are for ARM."""
    root = tmp_path / "root"
    for name in ("usr/bin/dash", "usr/bin/bash", "usr/bin/env", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"):
        if (debian / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            program = bytearray((debian / name).read_bytes())
            program[18:20] = (183).to_bytes(2, "little")
            (root / name).write_bytes(program)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "bin").symlink_to("usr/bin")
    image = pack(root, tmp_path / "arm.sqsh")
    message = refused(image, "x86_64")
    assert "aarch64" in message
    assert "x86_64" in message
    assert check(image, architecture="aarch64", shell=SHELL).unchecked == ()
    assert check(image, architecture="arm64", shell=SHELL).unchecked == ()


def test_what_cannot_be_verified_is_listed(tmp_path: Path) -> None:
    empty = pack(make_tree(tmp_path / "root", {"README": "no program"}), tmp_path / "x.sqsh")
    assert "architecture" in check(empty, architecture="x86_64", shell=SHELL).unchecked[0]
    (tmp_path / "second").mkdir()
    image = make_image(tmp_path / "second")
    assert "does not state their architecture" in check(image, architecture=None, shell=SHELL).unchecked[0]


def test_without_unsquashfs_the_rest_is_checked_and_that_is_said(image: Path, tmp_path: Path) -> None:
    found = check(image, architecture="x86_64", shell=Recorder(), checksum=True)
    assert len(found.unchecked) == 1
    assert "unsquashfs" in found.unchecked[0]
    foreign = Path(shutil.copy(image, tmp_path / "foreign.sqsh"))
    assert len(check(foreign, architecture="x86_64", shell=Recorder()).unchecked) == 2
    os.truncate(foreign, 5000)
    with pytest.raises(ImageError, match="truncated"):
        check(foreign, architecture="x86_64", shell=Recorder())


def test_what_follows_the_file_system_is_a_warning(image: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.sqsh"
    longer.write_bytes(image.read_bytes() + bytes(10_000))
    assert "follow the file system" in check(longer, architecture="x86_64", shell=SHELL).warnings[0]


def test_a_link_is_followed_to_the_manifest_of_its_file(image: Path, tmp_path: Path) -> None:
    (tmp_path / "megatron-lm+latest.sqsh").symlink_to(image)
    found = check(tmp_path / "megatron-lm+latest.sqsh", architecture="x86_64", shell=SHELL)
    assert found.path == image.resolve()
    assert found.manifest.digest
    (tmp_path / "dangling.sqsh").symlink_to(tmp_path / "gone.sqsh")
    assert "does not exist" in refused(tmp_path / "dangling.sqsh")


def test_other_files_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.sqsh"
    page.write_text("<html>401 Unauthorized</html>")
    assert "web page" in refused(page)
    (tmp_path / "directory.sqsh").mkdir()
    assert "directory" in refused(tmp_path / "directory.sqsh")
    program = Path(shutil.copy("/proc/self/exe", tmp_path / "program.sqsh"))
    assert "program" in refused(program)


def test_a_broken_manifest_is_refused(copy: Path) -> None:
    manifest_path(copy).write_text("{")
    with pytest.raises(ImageError, match="manifest"):
        check(copy, architecture="x86_64", shell=SHELL)


def test_an_unreadable_file_says_whom_to_ask(copy: Path) -> None:
    copy.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        assert "may not read" in refused(copy)
    finally:
        if root:
            os.seteuid(0)
