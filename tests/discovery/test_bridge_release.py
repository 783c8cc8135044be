"""The release of Megatron Bridge that a run will find: from its image, its Python, or beside the launcher."""

import sys
from pathlib import Path

import pytest

from launcher.discovery.bridge_release import BridgeRelease, find_bridge_release
from launcher.discovery.recipe_index import installed_metadata, version_of


def python_with(directory: Path, release: str | None) -> str:
    """An interpreter that finds the metadata of `release` and nothing of this one's packages."""
    packages = directory / "packages"
    if release is not None:
        metadata = packages / f"megatron_bridge-{release}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: megatron-bridge\nVersion: {release}\n")
    program = directory / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} -S "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_an_image_says_it_itself() -> None:
    assert find_bridge_release({"megatron-bridge": "0.5.0+abc"}, "/any/python", in_image=True) == BridgeRelease(
        "0.5.0+abc"
    )
    assert find_bridge_release({}, None, in_image=True) == BridgeRelease(None)
    assert find_bridge_release(None, None, in_image=True) == BridgeRelease(None)


@pytest.mark.parametrize("python", [None, sys.executable])
def test_without_one_it_is_the_release_beside_the_launcher(python: str | None) -> None:
    found = installed_metadata()
    version = version_of(found) if found else None
    assert find_bridge_release(None, python, in_image=False) == BridgeRelease(version, sys.executable)


def test_another_python_is_asked(tmp_path: Path) -> None:
    python = python_with(tmp_path, "0.3.1")
    assert find_bridge_release(None, python, in_image=False) == BridgeRelease("0.3.1", python)


def test_of_a_python_without_it_or_elsewhere_nothing_is_known(tmp_path: Path) -> None:
    assert find_bridge_release(None, python_with(tmp_path, None), in_image=False) == BridgeRelease(None)
    assert find_bridge_release(None, "/on/the/nodes/alone/python", in_image=False) == BridgeRelease(None)


def test_whether_the_kernel_of_gradient_accumulation_is_there(tmp_path: Path) -> None:
    python = python_with(tmp_path, "0.6.2")
    assert find_bridge_release(None, python, in_image=False).accumulation_kernel is False
    (tmp_path / "packages/fused_weight_gradient_mlp_cuda.py").write_text("raise SystemExit('imported')\n")
    assert find_bridge_release(None, python, in_image=False).accumulation_kernel is True
    assert find_bridge_release({"megatron-bridge": "0.6.2"}, None, in_image=True).accumulation_kernel is None
