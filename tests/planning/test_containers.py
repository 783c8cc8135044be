"""Image, mounts and runtime: what is decided, refused, warned of."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher._util.errors import ConfigError
from launcher.planning import container, environment
from launcher.planning.backend import BACKENDS
from launcher.planning.model import Variable
from launcher.runtimes.bwrap import BWRAP
from launcher.runtimes.enroot import ENROOT
from launcher.runtimes.model import ContainerRequest
from launcher.runtimes.pyxis import PYXIS
from tests.support.building import SHELL, cluster, image, plan
from tests.support.quick import few


def contained(runtime: str = "bwrap", request: dict[str, Any] | None = None, **profile: Any) -> Any:
    return plan(
        profile=cluster(gpus_per_node=2, runtime=runtime, image="nemo", **profile),
        request=request or {},
        inside=image(),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", ("/a", "/a", False)),
        ("/a:/b", ("/a", "/b", False)),
        ("/a:/b:ro", ("/a", "/b", True)),
        ("/a:/b:rw", ("/a", "/b", False)),
        ("/a:ro", ("/a", "/a", True)),
        ("/a:/b//c/", ("/a", "/b/c", False)),
        ("/a b:/c d", ("/a b", "/c d", False)),
    ],
)
def test_mounts(text: str, expected: tuple[str, str, bool]) -> None:
    (mount,) = container.read_mounts([text], BWRAP)
    assert (mount.source, mount.target, mount.read_only) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:/b", "'a' is not an absolute path"),
        ("/a:b", "'b' is not an absolute path"),
        ("/a,b", "contains ','"),
        ("/a\nb", "contains '\\n'"),
        ("/a:/b:/c", "is not a mount"),
        ("/a:/b:ro:rw", "is not a mount"),
        ("/a:/b/../c", "'..'"),
        ("", "not an absolute path"),
        (":", "not an absolute path"),
    ],
)
def test_mounts_that_a_runtime_would_misread_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        container.read_mounts([text], BWRAP)
    assert words in caught.value.message


def test_two_mounts_on_one_place_are_refused_and_the_same_one_twice_is_one() -> None:
    with pytest.raises(ConfigError, match="/data and /fsx are both to be mounted at /data"):
        contained(mounts=("/fsx:/data",), request={"mounts": ("/data",)})
    with pytest.raises(ConfigError, match="both to be mounted at /home/ada/gpt/runs"):
        contained(mounts=("/fsx:/home/ada/gpt/runs/small/20260921-120000-abcd",))
    assert len(contained(mounts=("/fsx", "/fsx:/fsx"), request={"mounts": ("/fsx",)}).mounts) == 1


@pytest.mark.parametrize("root", ["a,b", "a:b"])
@pytest.mark.parametrize("runtime", ["pyxis", "enroot", "bwrap"])
def test_a_run_directory_that_cannot_be_mounted_is_refused(runtime: str, root: str) -> None:
    with pytest.raises(ConfigError) as caught:
        contained(runtime, {"run_root": root})
    assert caught.value.where == "--run-root"


@pytest.mark.parametrize(
    ("target", "hidden"),
    [
        ("/usr", "/usr/bin, /usr/lib"),
        ("/", "/bin"),
        ("/opt", "/opt/venv/bin, /opt/venv/lib"),
        ("/opt/venv", "/opt/venv/bin"),
        ("/etc", "/etc"),
        ("/usr/local/bin", None),
        ("/data", None),
        ("/etc/nccl.conf", None),
    ],
)
def test_a_mount_over_what_the_image_needs_is_warned_of(target: str, hidden: str | None) -> None:
    warnings = [text for text in contained(request={"mounts": (f"/data:{target}",)}).warnings if "hides" in text]
    assert [f"the mount at {target} hides" in text and str(hidden) in text for text in warnings] == [True] * bool(
        hidden
    )


def test_the_plan_records_which_file_it_is() -> None:
    made = contained()
    assert (made.image.name, made.image.digest, made.image.size_bytes) == ("nemo", image().digest, 20_000_000_000)
    assert made.to_dict()["image"]["path"] == str(image().path)
    assert made.container.label.startswith("launcher-0123456789ab-")
    # Another run with the same image never has the same container.
    other = plan(profile=cluster(runtime="bwrap", image="nemo"), request={"name": "other"}, inside=image())
    assert other.container is not None
    assert other.container.label != made.container.label


@pytest.mark.parametrize("runtime", ["pyxis", "enroot", "bwrap"])
def test_writable_or_not(runtime: str) -> None:
    for writable in (True, False):
        made = contained(runtime, container_writable=writable)
        assert made.container.writable is writable
    assert ("--container-readonly" in contained("pyxis", container_writable=False).container.srun_args) is True


def test_enroots_words_are_fstab_and_bwraps_are_plain() -> None:
    mounts = ("/a b:/c\\d:ro",)
    assert contained("enroot", mounts=mounts).container.mounts[-2:] == (
        "--mount",
        "/a\\040b:/c\\134d:x-create=auto,rbind,ro",
    )
    assert contained("bwrap", mounts=mounts).container.mounts[-3:] == ("--ro-bind", "/a b", "/c\\d")


@pytest.mark.parametrize(
    ("profile", "request_", "backend", "words"),
    [
        ({"runtime": "none"}, {"image": "x"}, "batch", "the runtime is none"),
        ({"runtime": "pyxis"}, {}, "batch", "needs an image"),
        ({"runtime": "pyxis"}, {"image": "x"}, "local", "through Slurm's srun"),
    ],
)
def test_image_and_runtime_that_do_not_fit(profile: Any, request_: Any, backend: Any, words: str) -> None:
    from launcher.config.request import Request

    with pytest.raises(ConfigError, match=words):
        container.wanted_image(Request(**request_), cluster(**profile), BACKENDS[backend])


def test_mounts_of_the_profile_are_none_on_the_bare_machine() -> None:
    made = plan(profile=cluster(gpus_per_node=2, mounts=("/fsx",)))
    assert (made.mounts, made.container, made.image) == ((), None, None)


def variables(**changes: Any) -> dict[tuple[str, str], Variable]:
    values: dict[str, Any] = {"profile": {}, "inherit": (), "recipe": {}, "user": ()}
    values |= {"shell": {**SHELL, "NCCL_DEBUG": "TRACE"}}
    values |= {"image": {"NCCL_DEBUG": "VERSION", "PATH": "/opt/bin", "API_KEY": None, "GREETING": "hello"}}
    values |= changes
    values["profile"] = environment.of_profile(cluster(name="c", env=values["profile"]), container=True)
    return {(each.name, each.scope): each for each in environment.plan_environment(**values)}


def test_the_image_is_the_weakest_and_what_overrides_it_is_named() -> None:
    found = variables(user=("NCCL_DEBUG=INFO",), profile={"NCCL_DEBUG": "WARN"})["NCCL_DEBUG", "task"]
    assert (found.value, found.overridden) == ("INFO", (("cluster profile c", "WARN"), ("the image", "VERSION")))
    assert variables()["GREETING", "image"].value == "hello"
    by_name = variables(user=("NCCL_DEBUG",))["NCCL_DEBUG", "inherited"]
    assert by_name.overridden == (("the image", "VERSION"),)
    assert "NCCL_DEBUG" in environment.overrides_image([by_name])


def test_of_what_every_task_inherits_the_containers_own_wins() -> None:
    found = variables()
    path = found["PATH", "image"]
    assert (path.value, path.origin, path.overridden) == (
        "/opt/bin",
        "the image",
        (("the submitting shell", "(value not shown)"),),
    )
    assert found["HOME", "image"].origin == "the container's own"
    assert found["PATH", "inherited"].value is None  # srun's side has it
    assert not {"PATH", "HOME", "LANG"} & {*environment.overrides_image(found.values())}
    assert "PATH" in environment.overrides_image(variables(user=("PATH",)).values())


def test_a_secret_of_the_images_has_no_value_in_the_plan() -> None:
    assert variables()["API_KEY", "image"].value is None


def test_warnings_name_what_the_run_overrides_and_not_what_containers_always_do() -> None:
    made = contained(request={"env": ("NCCL_DEBUG=INFO",)})
    assert "NCCL_DEBUG: --env overrides the image" in made.warnings
    assert not [text for text in made.warnings if text.startswith(("PATH", "HOME"))]


def test_what_was_not_looked_at_is_listed() -> None:
    inside = image(unchecked=("the image: unsquashfs is missing",), warnings=("odd",), path=Path("/x.sqsh"))
    made = plan(profile=cluster(runtime="pyxis", image="x"), inside=inside)
    assert "the image: unsquashfs is missing" in made.unchecked
    assert "odd" in made.warnings


def mounted_by_pyxis(options: str) -> list[tuple[str, str]]:
    """Return what pyxis 0.23 mounts for --container-mounts: it writes a script of echo, whose output is fstab(5)."""
    entries = [entry.split(":") for entry in options.split(",")]
    lines = "".join(f'echo "{source} {target} {"".join(flags)}"\n' for source, target, *flags in entries)
    printed = subprocess.run(["bash"], input=lines, capture_output=True, text=True, check=True).stdout
    return [tuple(unescaped(word) for word in line.split()[:2]) for line in printed.splitlines()]  # type: ignore[misc]


def unescaped(word: str) -> str:
    """Return a field of fstab(5): three octal digits after a backslash are a character."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


PLACES = st.text(st.sampled_from("ab/ .-_$`\"'\\,:;|&<>*?(){}[]#!~%@=+é0740"), min_size=1, max_size=12)


@given(st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=3))
@example([("a b", "c")])
@example([("$(touch trap)", "c")])
@example([("a\\040b", "c")])
@example([('a"b', "c")])
@example([("a#b", "c*d")])
@settings(max_examples=few(50))
def test_pyxis_mounts_each_path_that_is_not_refused_as_it_is(paths: list[tuple[str, str]]) -> None:
    try:
        mounts = container.read_mounts([f"/s{source}:/t{target}" for source, target in paths], PYXIS)
    except ConfigError:
        return
    made = PYXIS.container and PYXIS.container(ContainerRequest("x.sqsh", "x", mounts, "/run", True, (), None))
    assert made is not None
    (given_to_srun,) = (each for each in made.srun_args if each.startswith("--container-mounts="))
    assert mounted_by_pyxis(given_to_srun.partition("=")[2]) == [(mount.source, mount.target) for mount in mounts]


@pytest.mark.parametrize("sign", [" ", "$", "`", '"', "\\"])
def test_a_path_that_pyxis_would_misread_is_refused_for_pyxis_alone(sign: str) -> None:
    with pytest.raises(ConfigError, match="a list of mounts of pyxis cannot express"):
        container.read_mounts([f"/a{sign}b"], PYXIS)
    assert container.read_mounts([f"/a{sign}b"], ENROOT)
