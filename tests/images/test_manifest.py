"""The manifest beside an image."""

import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import DiskError, ImageError, MissingProgramError
from launcher._util.shell import LocalShell
from launcher.images.inspect.contents import describe, describe_tree
from launcher.images.inspect.tree import DirectoryTree
from launcher.images.manifest import (
    Contents,
    ImageSource,
    Manifest,
    NetworkPlugin,
    manifest_path,
    read_manifest,
    write_manifest,
)
from tests.images.trees import make_tree, needs_squashfs, pack, tiny_elf
from tests.support.recorder import Recorder

HEX = "ab" * 32
FULL = Manifest(
    digest=f"sha256:{HEX}",
    size_bytes=123,
    architecture="aarch64",
    created="2026-01-02T03:04:05+00:00",
    source=ImageSource(
        kind="dockerfile",
        text="Dockerfile",
        digest=f"sha256:{HEX}",
        dockerfile="/x/Dockerfile",
        target="last",
        build_args={"A": "1", "HF_TOKEN": None},
        platform="linux/arm64",
    ),
    tools={"enroot": "4.1.2"},
    compression="zstd:3",
    environment={"A": "1", "API_KEY": None},
    contents=Contents(
        packages={"torch": "2.9.1"},
        python="/usr/bin/python3",
        network_plugins=(NetworkPlugin(path="/x.so", kind="net", names=("Libfabric",)),),
        moe_backends=("deepep",),
        verified={"torch": "2.9.1"},
    ),
)


def test_it_lies_beside_the_image_and_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "sha256").mkdir()
    image = tmp_path / "sha256" / f"{HEX}.sqsh"
    image.touch()
    link = tmp_path / "nvcr.io+nvidia+nemo+26.08.sqsh"
    link.symlink_to(image)
    assert read_manifest(image) is None
    write_manifest(manifest_path(image), FULL)
    assert manifest_path(image) == tmp_path / "sha256" / f"{HEX}.json"
    assert read_manifest(image) == read_manifest(link) == FULL
    assert read_manifest(tmp_path / "no" / "such.sqsh") is None
    assert [path.name for path in (tmp_path / "sha256").iterdir()] != [], "no temporary file stays"
    assert len(list((tmp_path / "sha256").iterdir())) == 2
    assert manifest_path(image).stat().st_mode & 0o777 == 0o644


@settings(deadline=None)  # the machine may be busy
@given(
    st.builds(
        Manifest,
        size_bytes=st.integers(0, 1 << 50),
        created=st.text(max_size=30),
        architecture=st.none() | st.text(max_size=9),
        environment=st.dictionaries(st.text(max_size=9), st.none() | st.text(max_size=20), max_size=3),
        tools=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
        contents=st.builds(Contents, packages=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3)),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    path = tmp_path_factory.mktemp("manifest") / "x.json"
    write_manifest(path, manifest)
    assert read_manifest(path.with_suffix(".sqsh")) == manifest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "Manifest|dictionary|object"),
        ("{}", "size_bytes"),
        (b"\xff\xfe", "JSON"),
        (FULL.model_dump_json().replace('"version":1', '"version":2'), "version"),
        (FULL.model_dump_json()[:-1] + ',"extra":1}', "extra"),
        (json.dumps({"size_bytes": -1, "created": ""}), "size_bytes"),
        (FULL.model_dump_json().replace(f"sha256:{HEX}", "md5:1", 1), "digest"),
        (" " * (17 << 20), "too large"),
    ],
    ids=["empty", "half", "list", "bare", "binary", "newer", "unknown key", "negative", "digest", "huge"],
)
def test_a_broken_one_is_refused_with_its_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ImageError, match=words) as caught:
        read_manifest(tmp_path / "x.sqsh")
    assert caught.value.where == str(tmp_path / "x.json")
    assert "\n" not in caught.value.message


def test_a_truncated_one_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    text = FULL.model_dump_json(indent=2)
    for length in range(0, len(text), 7):
        (tmp_path / "x.json").write_text(text[:length])
        with pytest.raises(ImageError):
            read_manifest(tmp_path / "x.sqsh")


def _write_many(path: Path, tool: str) -> None:
    for _ in range(40):
        write_manifest(path, FULL.model_copy(update={"tools": {tool: tool * 1000}}))


def test_readers_never_see_half_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_manifest(path, FULL)
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_write_many, args=(path, tool)) for tool in "ab"]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers) or not seen:
        assert read_manifest(path.with_suffix(".sqsh")) is not None
        seen += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught:
        write_manifest(tmp_path / "missing" / "x.json", FULL)
    assert caught.value.where == str(tmp_path / "missing" / "x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(DiskError):
        write_manifest(tmp_path / "x.json", FULL)
    assert [found.name for found in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(DiskError):
        read_manifest(tmp_path / "x.sqsh")


TREE: dict[str, str | bytes] = {
    "bin/sh": tiny_elf("x86_64"),
    "etc/environment": "A=1\nWANDB_API_KEY=secret-value\n",
    "usr/bin/python3": "",
}


@needs_squashfs
def test_an_image_without_one_is_described(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", TREE)
    image = pack(root, tmp_path / "x.sqsh", "-comp", "zstd", "-Xcompression-level", "7", "-mkfs-time", "1700000000")
    found = describe(image, LocalShell())
    assert found == Manifest(
        size_bytes=image.stat().st_size,
        architecture="x86_64",
        created="2023-11-14T22:13:20+00:00",
        compression="zstd:7",
        environment={"A": "1", "WANDB_API_KEY": None},
        contents=Contents(python="/usr/bin/python3"),
    )
    assert "secret-value" not in found.model_dump_json()
    with pytest.raises(MissingProgramError):
        describe(image, Recorder())
    os.truncate(image, 300)
    with pytest.raises(ImageError):
        describe(image, LocalShell())


def test_a_root_about_to_be_packed_is_described(tmp_path: Path) -> None:
    tree = DirectoryTree(make_tree(tmp_path / "root", TREE))
    found = describe_tree(tree, source=FULL.source, tools={"mksquashfs": "4.5.1"}, compression="zstd:3")
    assert (found.architecture, found.source, found.size_bytes, found.digest) == ("x86_64", FULL.source, 0, None)
    assert (found.tools, found.compression) == ({"mksquashfs": "4.5.1"}, "zstd:3")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.created)
