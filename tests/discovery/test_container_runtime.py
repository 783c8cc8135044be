"""The runtime of a cluster whose profile leaves it open: what is there, decided once, with its evidence."""

from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher._util.shell import Result
from launcher.config.cluster import Cluster
from launcher.config.load import load_cluster
from launcher.config.request import Request
from launcher.discovery.container_runtime import DEFAULT_IMAGE, RuntimeChoice, choose_runtime
from launcher.discovery.host import HostContext
from launcher.planning.container import chosen_runtime
from launcher.planning.model import Plan
from tests.support import building
from tests.support.recorder import Recorder

OPEN = building.cluster(gpus_per_node=2)
PYXIS = Recorder({"srun": Result(("srun",), 0, "  --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH\n", "")})
PLAIN = Recorder({"srun": Result(("srun",), 0, "  --nodes=N\n", "")})


@pytest.fixture
def here(tmp_path: Path) -> HostContext:
    """A shell whose PATH has srun alone, in a directory with the image that `make build` leaves."""
    install(tmp_path, "srun")
    (tmp_path / DEFAULT_IMAGE).write_bytes(b"image")
    environ = {"PATH": str(tmp_path / "bin"), "LAUNCHER_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return building.host(directory=tmp_path, environ=environ)


def install(directory: Path, *programs: str) -> None:
    (directory / "bin").mkdir(exist_ok=True)
    for name in programs:
        (directory / "bin" / name).write_text("#!/bin/sh\n")
        (directory / "bin" / name).chmod(0o755)


def chosen(
    host: HostContext, shell: Recorder = PLAIN, profile: Cluster = OPEN, *, srun: bool = True, **request: Any
) -> RuntimeChoice:
    """The choice of a request that passes the default image on, as srun.sh does."""
    asked = Request.model_validate({"default_image": f"./{DEFAULT_IMAGE}", **request})
    return choose_runtime(asked, profile, host, shell, srun=srun)


def planned(host: HostContext, choice: RuntimeChoice) -> Plan:
    """The plan of a run in that runtime."""
    profile = OPEN.model_copy(update={"runtime": choice.name, "image": "nemo"})
    return building.plan("allocation", profile=profile, where=host, inside=building.image())


def test_the_image_of_make_build_is_used_with_what_the_cluster_has(here: HostContext) -> None:
    assert chosen(here, PYXIS) == RuntimeChoice("pyxis", "srun --help lists --container-image")
    found = planned(here, chosen(here, PYXIS)).container
    assert found and found.srun_args[0].startswith("--container-image=/images/")
    install(here.directory, "unsquashfs", "bwrap")
    other = building.cluster(name="other")
    assert chosen(here, PLAIN, other).name == "bwrap"
    install(here.directory, "enroot")
    assert chosen(here, PLAIN, building.cluster(name="third")).name == "enroot"
    # Without Slurm srun's plugin is of no use.
    assert chosen(here, PYXIS, srun=False).name == "enroot"


def test_it_is_decided_once_until_what_it_depends_on_changes(here: HostContext) -> None:
    install(here.directory, "unsquashfs", "bwrap")
    first = chosen(here)
    assert first.name == "bwrap"
    assert first.unchecked == ("whether the nodes have bwrap and unsquashfs: seen on login only",)
    install(here.directory, "enroot")
    silent = Recorder()
    assert chosen(here, silent) == first
    assert silent.asked == []
    (here.directory / "bin/bwrap").unlink()
    assert chosen(here).name == "enroot"


def test_a_plugin_that_was_loaded_or_removed_is_noticed(here: HostContext) -> None:
    conf = here.directory / "etc"
    conf.mkdir()
    host = building.host(directory=here.directory, environ={**here.environ, "SLURM_CONF": str(conf / "slurm.conf")})
    (conf / "plugstack.conf").write_text("required spank_pyxis.so\n")
    assert chosen(host, PYXIS).name == "pyxis"
    (conf / "plugstack.conf").write_text("")
    install(here.directory, "unsquashfs", "bwrap")
    assert chosen(host, PLAIN).name == "bwrap"
    (conf / "plugstack.conf").write_text("required spank_pyxis.so\n")
    assert chosen(host, PYXIS).name == "pyxis", "also where another runtime was found before"


def test_a_plugin_that_no_file_here_shows_is_asked_for_each_time(here: HostContext) -> None:
    """As where srun reads its configuration from the controller, or plugstack.conf includes other files."""
    assert chosen(here, PYXIS).name == "pyxis"
    install(here.directory, "unsquashfs", "bwrap")
    silent = Recorder({"srun": Result(("srun",), 1, "", "srun: fatal: Could not establish a configuration source\n")})
    assert chosen(here, silent).name == "pyxis", "without an answer nothing new is known"
    assert chosen(here, PLAIN).name == "bwrap"
    for name in ("unsquashfs", "bwrap"):
        (here.directory / "bin" / name).unlink()
    assert "(pyxis: srun: fatal: Could not establish" in chosen(here, silent, building.cluster(name="other")).origin


def test_auto_takes_what_the_cluster_has_whatever_the_profile_says(here: HostContext) -> None:
    bare = building.cluster(runtime="none")
    assert chosen(here, PYXIS, bare).name == "none"
    assert chosen(here, PYXIS, bare, runtime="auto").name == "pyxis"
    asked = Request.model_validate({"image": "nemo", "runtime": "auto"})
    assert choose_runtime(asked, bare, here, PYXIS, srun=True, earlier="bwrap").name == "pyxis"
    assert chosen_runtime(asked, building.cluster(runtime="pyxis")).name == "pyxis", "discovery has decided it"
    with pytest.raises(ConfigError, match="the image nemo needs a container, and no runtime was found here"):
        chosen(here, PLAIN, building.cluster(name="third", runtime="pyxis"), runtime="auto", image="nemo")
    assert chosen(here, PLAIN, building.cluster(name="third"), runtime="auto").warnings


def test_an_image_that_lies_there_unused_is_warned_of(here: HostContext) -> None:
    (warning,) = chosen(here).warnings
    assert warning.startswith(
        f"the image ./{DEFAULT_IMAGE} is there and is not used, because no runtime was found here"
    )
    assert "srun knows no --container-image" in warning
    assert "not on the PATH: bwrap, unsquashfs" in warning
    # Without srun.sh nothing names the image; a profile may say that the nodes are bare.
    assert "because no image is named" in chosen(here, PYXIS, default_image=None).warnings[0]
    bare = building.cluster(runtime="none")
    assert "because the cluster profile 'test' says runtime = none" in chosen(here, PYXIS, bare).warnings[0]
    assert chosen(here, runtime="none").warnings == ()
    (here.directory / DEFAULT_IMAGE).unlink()
    assert chosen(here) == RuntimeChoice("none", "no image is named")


def test_an_image_that_was_named_needs_a_runtime(here: HostContext) -> None:
    with pytest.raises(ConfigError, match="the image nemo needs a container, and no runtime was found here") as refused:
        chosen(here, image="nemo")
    assert "enroot, unsquashfs" in str(refused.value)
    assert chosen(here, PYXIS, building.cluster(image="nemo"), default_image=None).name == "pyxis"


def test_a_resumed_run_keeps_its_runtime(here: HostContext) -> None:
    asked = Request.model_validate({"default_image": f"./{DEFAULT_IMAGE}"})
    for earlier in ("none", "bwrap"):
        kept = choose_runtime(asked, OPEN, here, PYXIS, srun=True, earlier=earlier)
        assert (kept.name, kept.origin) == (earlier, "as in the run's earlier attempts")
    with_image = Request.model_validate({"image": "nemo"})
    assert choose_runtime(with_image, OPEN, here, PYXIS, srun=True, earlier="none").name == "pyxis"


def test_profiles_that_describe_no_site_leave_it_open() -> None:
    for name in ("slurm", "local"):
        assert load_cluster(name, {"HOME": "/nowhere"}).runtime == "auto"
