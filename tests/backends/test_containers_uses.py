"""That a run needs an image is noted in its store before anything is started."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher._util.errors import ImageError
from launcher._util.shell import LocalShell
from launcher.backends.image_uses import record_image_use, record_job
from launcher.images.inspect.contents import describe
from launcher.images.store.building import start_building
from launcher.images.store.store import Store
from launcher.images.store.uses import uses_of
from launcher.planning.model import Plan
from tests.support.building import cluster, host, image, plan


@pytest.fixture
def store(tmp_path: Path) -> Store:
    if shutil.which("mksquashfs") is None:
        pytest.skip("needs mksquashfs: apt-get install squashfs-tools")
    (tmp_path / "root/bin").mkdir(parents=True)
    shutil.copy("/bin/true", tmp_path / "root/bin/sh")
    argv = ["mksquashfs", str(tmp_path / "root"), str(tmp_path / "x.sqsh"), "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return Store(tmp_path / "store")


def planned(store: Store, tmp_path: Path) -> Plan:
    with start_building(store, "test") as building:
        copy = Path(shutil.copy(tmp_path / "x.sqsh", building.workspace / "image.sqsh"))
        entry = building.add(copy, describe(copy, LocalShell()), ("x.sqsh",))
    inside = image(path=entry.path, digest=entry.digest, store=store.root)
    return plan(profile=cluster(runtime="pyxis", image="x"), inside=inside)


def test_the_use_is_there_before_the_submission_and_has_the_job_after_it(store: Store, tmp_path: Path) -> None:
    made = planned(store, tmp_path)
    assert made.image is not None
    assert made.image.digest is not None
    assert record_image_use(made, host()) is None
    (use,) = uses_of(store, made.image.digest)
    assert (use.run_id, use.run_dir, use.backend, use.user, use.job) == (
        made.run_id,
        made.run_dir,
        "batch",
        "ada",
        None,
    )
    record_job(made, "77")
    (use,) = uses_of(store, made.image.digest)
    assert use.job == "77"


def test_an_image_that_is_gone_is_refused_and_one_outside_a_store_is_not_noted(store: Store, tmp_path: Path) -> None:
    made = planned(store, tmp_path)
    assert made.image is not None
    outside = dataclasses.replace(made, image=dataclasses.replace(made.image, store=None))
    assert record_image_use(outside, host()) is None
    assert not (store.root / "uses").exists()
    Path(made.image.path).unlink()
    with pytest.raises(ImageError, match="not in the store"):
        record_image_use(made, host())
