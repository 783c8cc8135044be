"""Resolving --image TEXT to a file, with real squashfs files and a real store, or to an error with a remedy."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ImageError
from launcher._util.shell import LocalShell
from launcher.config.cluster import Cluster
from launcher.discovery.image import Image, image_store, resolve_image
from launcher.images.inspect.contents import describe
from launcher.images.manifest import Manifest
from launcher.images.store.building import start_building
from launcher.images.store.store import Store
from tests.support.building import host
from tests.support.recorder import Recorder

REFERENCE = "nvcr.io/nvidia/nemo:26.08"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image: /bin/true has the architecture, /etc/environment the variables."""
    if shutil.which("mksquashfs") is None:
        pytest.skip("needs mksquashfs: apt-get install squashfs-tools")
    directory = tmp_path_factory.mktemp("image")
    for name in ("root/bin", "root/etc"):
        (directory / name).mkdir(parents=True)
    for program in ("sh", "python3"):
        shutil.copy("/bin/true", directory / "root/bin" / program)
    (directory / "root/etc/environment").write_text("PATH=/opt/bin\nNGC_API_KEY=nvapi-canary\nGREETING=hello\n")
    argv = ["mksquashfs", str(directory / "root"), str(directory / "x.sqsh"), "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return directory / "x.sqsh"


def stored(root: Path, file: Path, *names: str) -> str:
    """Put the file into a store; its digest."""
    manifest: Manifest = describe(file, LocalShell())
    with start_building(Store(root), "test") as building:
        copy = Path(shutil.copy(file, building.workspace / "image.sqsh"))
        entry = building.add(copy, manifest, names)
    assert entry.digest is not None
    return entry.digest


def look(text: str, directory: Path, shell: Any = None, **profile: Any) -> Image:
    cluster = Cluster(name="mine", image_store=str(directory / "store"), **profile)
    here = host(directory=directory, environ={"HOME": str(directory)})
    return resolve_image(text, cluster=cluster, host=here, shell=shell or LocalShell())


def refused(text: str, directory: Path, **profile: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        look(text, directory, **profile)
    return caught.value


def test_a_name_a_digest_and_a_reference_give_the_file_named_by_content(tmp_path: Path, file: Path) -> None:
    digest = stored(tmp_path / "store", file, "nvcr.io+nvidia+nemo+26.08.sqsh")
    name = "nvcr.io+nvidia+nemo+26.08"
    for text in (name, f"{name}.sqsh", REFERENCE, "nvcr.io#nvidia/nemo:26.08", digest, digest[7:19]):
        found = look(text, tmp_path)
        assert found.path == tmp_path / "store/sha256" / f"{digest[7:]}.sqsh", text
        assert (found.name, found.digest, found.key) == (text, digest, digest[7:19])
        assert found.store == tmp_path / "store"


def test_a_path_is_a_path(tmp_path: Path, file: Path) -> None:
    shutil.copy(file, tmp_path / "mine.sqsh")
    (tmp_path / "link.sqsh").symlink_to("mine.sqsh")
    for text in ("./mine.sqsh", str(tmp_path / "mine.sqsh"), "~/mine.sqsh", "./link.sqsh"):
        found = look(text, tmp_path)
        assert (found.path, found.digest, found.store) == (tmp_path / "mine.sqsh", None, None)
        assert found.size_bytes == (tmp_path / "mine.sqsh").stat().st_size
        assert any("digest" in text for text in found.unchecked)
    before = look("./mine.sqsh", tmp_path).key
    with (tmp_path / "mine.sqsh").open("ab") as image:
        image.write(b"\0" * 4096)
    assert look("./mine.sqsh", tmp_path).key != before


def test_the_images_variables_without_the_values_of_secrets(tmp_path: Path, file: Path) -> None:
    found = look(str(file), tmp_path)
    assert found.environment == {"PATH": "/opt/bin", "NGC_API_KEY": None, "GREETING": "hello"}
    assert "canary" not in repr(found)


def test_cloudais_cache_is_found_where_the_profile_says(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cache").mkdir()
    shutil.copy(file, tmp_path / "cache/nvcr.io_nvidia__nemo__26.08.sqsh")
    found = look(REFERENCE, tmp_path, image_directories=("$HOME/cache",))
    assert found.path == tmp_path / "cache/nvcr.io_nvidia__nemo__26.08.sqsh"


def test_what_is_not_there_is_refused_with_the_way_to_get_it(tmp_path: Path, file: Path) -> None:
    error = refused("nvcr.io#nvidia/nemo:26.08", tmp_path)
    assert error.hint == f"Import it once, instead of in each job: launcher image import {REFERENCE} --cluster mine"
    # Without a registry a reference means Docker Hub's, which is seldom meant.
    plain = refused("nemo:26.08", tmp_path).hint or ""
    assert plain.endswith("\nlauncher image import nvcr.io/nvidia/nemo:26.08 --name nemo:26.08 --cluster mine")
    error = refused("./nothing.sqsh", tmp_path)
    assert "no image ./nothing.sqsh" in error.message
    error = refused("x.sqsh", tmp_path)
    assert "pyxis would search a registry for it" in error.message
    assert "./x.sqsh" not in (error.hint or "")
    shutil.copy(file, tmp_path / "x.sqsh")
    assert "write ./x.sqsh" in (refused("x.sqsh", tmp_path).hint or "")


def test_a_broken_or_unfitting_file_is_refused(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cut.sqsh").write_bytes(file.read_bytes()[:-5000])
    (tmp_path / "text.sqsh").write_text("no image at all\n" * 100)
    for name in ("cut.sqsh", "text.sqsh"):
        assert str(tmp_path / name) in str(refused(f"./{name}", tmp_path))
    native = look(str(file), tmp_path).architecture
    other = "aarch64" if native == "x86_64" else "x86_64"
    assert other in str(refused(str(file), tmp_path, architecture=other))
    assert look(str(file), tmp_path, architecture=native).architecture == native


def test_what_could_not_be_looked_at_is_listed(tmp_path: Path, file: Path) -> None:
    found = look(str(file), tmp_path, shell=Recorder())  # a machine without unsquashfs
    assert any("unsquashfs" in text for text in found.unchecked)


def test_looking_takes_less_than_a_second(tmp_path: Path, file: Path) -> None:
    stored(tmp_path / "store", file, "x.sqsh")
    before = time.process_time()
    look("x", tmp_path)
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("profile", "environ", "expected"),
    [
        ({}, {"HOME": "/home/ada"}, "/home/ada/.local/share/launcher/images/mine"),
        ({}, {"HOME": "/home/ada", "XDG_DATA_HOME": "/data"}, "/data/launcher/images/mine"),
        ({"image_store": "/fsx/$USER/images"}, {"HOME": "/h", "USER": "ada"}, "/fsx/ada/images"),
        ({"image_store": "~/images"}, {"HOME": "/home/ada"}, "/home/ada/images"),
    ],
)
def test_where_the_store_is(profile: dict[str, Any], environ: dict[str, str], expected: str) -> None:
    assert image_store(Cluster(name="mine", **profile), environ).root == Path(expected)
