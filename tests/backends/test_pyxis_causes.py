"""Containers that do not start under pyxis: `--follow`, status and the verdict quote the line with the reason.

Where enroot and pyxis are installed (PYXIS=/path/spank_pyxis.so, compiled against this very Slurm): about 10 s each.
What they print is kept in tests/contract/failure_lines/container.txt.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.containers import contained, logs, missing, result, wrapped_enroot
from tests.backends.running import TOY
from tests.support.slurm import virtual_cluster
from tests.support.slurm.machine import SEARCH_PATH
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(missing("pyxis") is not None, reason=str(missing("pyxis")))]

FULL = "if [[ $1 == create ]]; then mkdir -p /run/enroot/data; mount -t tmpfs -o size=2m x /run/enroot/data; fi"


def without(directory: Path, program: str) -> str:
    """A PATH with everything but one program."""
    directory.mkdir()
    for place in map(Path, SEARCH_PATH.split(os.pathsep)):
        for each in place.iterdir() if place.is_dir() else ():
            if each.name != program and not (directory / each.name).is_symlink():
                (directory / each.name).symlink_to(each)
    return str(directory)


def nodes_path(directory: Path, case: str) -> str:
    """The PATH of slurmd, on which pyxis looks for enroot."""
    if case == "enroot":
        return without(directory / "few", "enroot")
    enroot = wrapped_enroot(directory / "wrapped") / "enroot"
    first, *rest = enroot.read_text().splitlines()
    more = {"full": [FULL], "hook": [f"export ENROOT_SYSCONF_PATH={directory}/etc"]}.get(case, [])
    enroot.write_text("\n".join([first, *more, *rest, ""]))
    if case == "hook":
        found = subprocess.run(["enroot", "info"], capture_output=True, text=True, check=True).stdout
        site = next(line.partition("=")[2] for line in found.splitlines() if "ENROOT_SYSCONF_PATH" in line)
        shutil.copytree(site, directory / "etc")
        hook = directory / "etc/hooks.d/50-site.sh"
        hook.write_text("#!/bin/bash\necho 'no license' >&2\nexit 3\n")
        hook.chmod(0o755)
    return f"{enroot.parent}:{without(directory / 'few', 'column') if case == 'column' else SEARCH_PATH}"


def with_rc(image: Path, directory: Path) -> Path:
    """The image with a start script that fails."""
    root, changed = directory / "root", directory / "rc.sqsh"
    subprocess.run(["unsquashfs", "-quiet", "-n", "-d", str(root), str(image)], check=True)
    (root / "etc/rc").write_text("echo 'the start script found no device' >&2\nexit 7\n")
    subprocess.run(["mksquashfs", str(root), str(changed), "-quiet", "-no-progress", "-comp", "lz4"], check=True)
    return changed


@pytest.mark.parametrize(
    ("case", "words", "todo"),
    [
        ("enroot", "couldn't execute enroot command", "whether enroot is installed on the node"),
        ("column", "[ERROR] Command not found: column", "ask the site to install the program"),
        ("full", "No space left on device", "free some space where the node unpacks images"),
        ("hook", "50-site.sh exited with return code 3", "read the quoted line"),
        ("rc", "the start script found no device", "read the quoted line"),
    ],
)
def test_the_reason_is_quoted(
    new_cluster: Callable[..., VirtualCluster],
    image_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    words: str,
    todo: str,
) -> None:
    monkeypatch.setattr(virtual_cluster, "SEARCH_PATH", nodes_path(tmp_path, case))
    cluster = new_cluster(nodes=1, pyxis=Path(f"{os.environ['PYXIS']} container_scope=global"))
    image = with_rc(image_file, tmp_path) if case == "rc" else image_file
    user = contained(tmp_path, "pyxis", image, cluster)
    asked = [word for word in user.arguments("--cluster", "here", program=TOY) if word != "--json"]
    done = user.user.run("submit", *asked, "--follow", status=1)
    run = user.user.runs()[-1]
    found = result(run)
    assert (found["outcome"], found["failure"]) == ("failed", "container"), logs(run)
    assert words in found["reason"]
    assert words in done.stderr
    assert todo in done.stderr
    (status,) = json.loads(user.user.run("status", str(run), "--json").stdout)["runs"]
    assert words in status["detail"]
