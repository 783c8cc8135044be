"""What enroot finds in an image besides its files."""

import os
import subprocess
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.shell import LocalShell
from launcher.api.progress import Silent
from launcher.images.build import enroot, pack
from launcher.images.build.importing import ImportRequest, import_image
from launcher.images.build.layout import (
    ImageConfig,
    Layout,
    bare_layout,
    environment_lines,
    layout_of,
    parse_config,
    rc_script,
)
from launcher.images.build.registry import digest_of
from launcher.images.reference import parse_reference
from launcher.images.store.store import Store
from tests.images.engine_home import BASE, EngineHome
from tests.images.registry import Registry
from tests.support.quick import few

# enroot's own reading of the file: see `common::envfmt` in its sources.
ENVFMT = r"""
s/^[[:space:]]\+//
/^#\|^$/d
/^[[:alpha:]_][[:alnum:]_]*=/!d
/^ENROOT_/d
s/^\([[:alpha:]_][[:alnum:]_]*\)=[\"\x27]\(.*\)[\"\x27][[:space:]]*$/\1=\2/
"""

values = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=30)


def as_enroot_reads(lines: list[str]) -> dict[str, str]:
    done = subprocess.run(
        ["sed", ENVFMT],
        input="".join(lines),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\n") if line)


@settings(max_examples=few(60), deadline=None)
@given(st.lists(values, max_size=8))
def test_values_come_back_as_they_were(texts: list[str]) -> None:
    env = {f"V{number}": text for number, text in enumerate(texts)}
    lines, _ = environment_lines([f"{name}={value}" for name, value in env.items()])
    assert as_enroot_reads(lines) == env


def test_what_cannot_be_written_is_said() -> None:
    lines, warnings = environment_lines(["A=1\n2", "B.c=1", "ENROOT_X=1", "D=${HOME}/x", "E=", "F"])
    assert lines == ["D=${HOME}/x\n", "E=\n", "F=\n"]
    assert [warning.split()[2] for warning in warnings] == ["A", "'B.c'", "ENROOT_X", "D"]


def test_configs_of_all_engines_are_read() -> None:
    config: dict[str, Any] = {
        "Env": ["A=b"],
        "Entrypoint": ["/e"],
        "Cmd": None,
        "WorkingDir": "/w",
        "Volumes": {"/v": {}},
        "Labels": {"l": "m"},
    }
    expected = ImageConfig(("A=b",), ("/e",), (), "/w", ("/v",), {"l": "m"}, "arm64")
    assert parse_config({"Config": config, "Architecture": "arm64"}) == expected
    assert parse_config({"config": config, "architecture": "arm64"}) == expected
    assert parse_config({"Config": None}) == ImageConfig()
    assert parse_config({"Config": {"Cmd": "echo $HOME"}}).command == ("/bin/sh", "-c", "echo $HOME")


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=few(30), deadline=None)
@given(st.lists(words, max_size=3), st.lists(words, max_size=3), st.dictionaries(words, words, max_size=2))
def test_any_words_reach_the_program(command: list[str], given_words: list[str], labels: dict[str, str]) -> None:
    show = ("/bin/sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "show")
    script = rc_script(
        ImageConfig(entrypoint=show, command=tuple(command), working_directory="/", labels=labels), "x\ny"
    )

    def run(*arguments: str) -> list[str]:
        done = subprocess.run(["sh", "-s", "--", *arguments], input=script.encode(), capture_output=True, check=True)
        return [os.fsdecode(each) for each in done.stdout.split(b"\0")][:-1]

    assert run() == command
    if given_words:
        assert run(*given_words) == given_words


def test_a_bare_root_keeps_what_enroot_wrote_and_loses_a_distributions_mounts(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("UUID=1 / ext4\n")
    layout = bare_layout(tmp_path)
    assert layout.files["etc/fstab"] == ""
    assert layout.files["etc/environment"].startswith("PATH=/usr/local/sbin:")
    assert 'exec "$@"' in layout.files["etc/rc"]
    (tmp_path / "etc/environment").write_text("A=1\n")
    (tmp_path / "etc/rc").write_text("exec x\n")
    assert bare_layout(tmp_path) == Layout({})


def test_directories_are_made_inside_the_image_and_only_where_missing(tmp_path: Path) -> None:
    root, workspace = tmp_path / "root", tmp_path / "work"
    (root / "there/sub").mkdir(parents=True)
    workspace.mkdir()
    (root / "link").symlink_to("/there")
    (root / "circle").symlink_to("circle")
    (root / "out").symlink_to("../../../../there")
    layout = Layout({}, ("/link/sub/a b/c", "/out/d", "/there/sub", "/circle/e", "/", "relative"))
    assert layout.pseudo_files(root, workspace).read_text().splitlines() == [
        "there/sub/a\\ b d 755 0 0",
        "there/sub/a\\ b/c d 755 0 0",
        "there/d d 755 0 0",
        "relative d 755 0 0",
        "etc d 755 0 0",
    ]


# ---- beside the real enroot

DOCKERFILE = f"""\
FROM {BASE}
ENV A="b c" Q='x"y' EMPTY="" EQUALS=a=b
VOLUME /data /more
WORKDIR /w/x
LABEL key="value"
RUN echo hi > /etc/hi
ENTRYPOINT ["/bin/echo", "it's", "two  words"]
CMD ["a b", "$HOME"]
"""


def rest(image: Path, name: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", str(image), name], capture_output=True, text=True, check=True).stdout


def files(image: Path) -> list[str]:
    done = subprocess.run(["unsquashfs", "-lln", str(image)], capture_output=True, text=True, check=True)
    # Without times; sizes of what both write in their own words differ.
    found = []
    for line in done.stdout.splitlines():
        if "squashfs-root" in line:
            mode, owner, size, _, _, *path = line.split(maxsplit=5)
            own = any(path[0].endswith(each) for each in ("etc/rc", "etc/rc.local")) or mode.startswith("d")
            found.append(f"{mode} {owner} {'-' if own else size} {path[0]}")
    return sorted(found)


def test_the_same_image_as_enroot_makes(
    enroot_program: str, home: EngineHome, registry: Registry, store: Store, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    identity = home.podman("build", "--quiet", str(context))
    registry.push(identity, "layout:1")
    name = f"{registry.host}/layout:1"
    theirs, ours = tmp_path / "theirs.sqsh", store
    reference = parse_reference(name)
    assert digest_of(reference, "x86_64") is not None
    enroot.import_image(
        reference.enroot_uri,
        theirs,
        LocalShell(),
        settings=enroot.Settings(tmp_path, pack.parse_compression("gzip"), allow_http=True),
    )
    request = ImportRequest(name, tmp_path, engine="podman", compression="gzip")
    mine = import_image(request, ours, LocalShell(), Silent()).entry.path
    assert rest(mine, "etc/environment") == rest(theirs, "etc/environment")
    assert sorted(rest(mine, "etc/fstab").splitlines()) == sorted(rest(theirs, "etc/fstab").splitlines())
    assert files(mine) == files(theirs)
    for arguments in ([], ["x  y"]):
        heard = [
            subprocess.run(
                ["sh", "-s", "--", *arguments],
                # Not in a container: nowhere to change to.
                input="".join(line for line in rest(image, "etc/rc").splitlines(keepends=True) if "/w/x" not in line),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for image in (mine, theirs)
        ]
        assert heard[0] == heard[1] != ""
    assert "# key value" in rest(mine, "etc/rc") and "# key value" in rest(theirs, "etc/rc")


def test_layouts_of_configs_hold_the_four_files() -> None:
    layout = layout_of(ImageConfig(env=("A=1",), volumes=("/a b",)), "docker://x")
    assert set(layout.files) == {"etc/environment", "etc/rc", "etc/rc.local", "etc/fstab"}
    assert layout.files["etc/fstab"] == "${ENROOT_ROOTFS}/a\\040b /a\\040b none x-create=dir,bind,rw,nosuid,nodev\n"
