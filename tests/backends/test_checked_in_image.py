"""--check-config inside a run's image: what the recipe sees there counts, and nothing stays mounted."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.backends.entrypoint_call import EntrypointCall
from launcher.images import sandbox
from tests.backends.containers import contained
from tests.backends.running import ROOT
from tests.images.images import small_image
from tests.support.limits import seconds

RECIPE = """
from pathlib import Path

from vanilla_gpt_pretrain import configure as vanilla


def configure(layers: int = 2):
    cfg = vanilla()
    cfg.model.num_layers = layers
    cfg.train.train_iters = int(Path("/etc/iterations").read_text())
    return cfg
"""


@pytest.fixture(scope="module")
def image(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that knows how long to train, and says of itself that it has Megatron Bridge (it is mounted)."""
    if (reason := sandbox.why_unavailable(None)) is not None:
        pytest.skip(f"{reason}: apt-get install squashfuse fuse3 bubblewrap")
    bridge = f"/usr/local/lib/python3.12/dist-packages/megatron_bridge-{version('megatron-bridge')}.dist-info/METADATA"
    files = {
        "/etc/iterations": "77",
        bridge: f"Metadata-Version: 2.1\nName: megatron-bridge\nVersion: {version('megatron-bridge')}\n",
    }
    return small_image(tmp_path_factory.mktemp("image") / "small.sqsh", environment={"GREETING": "hi"}, files=files)


def enter(
    image: Path, directory: Path, command: str, *mounts: tuple[str, str], **variables: str
) -> "subprocess.CompletedProcess[str]":
    directory.mkdir(exist_ok=True)
    entry = sandbox.SandboxRequest(str(image), str(directory), mounts, (("GREETING", "hi"),), tuple(variables))
    argv = sandbox.argv(entry, ["sh", "-c", command])
    return subprocess.run(
        argv, env={**os.environ, **variables}, input="in\n", capture_output=True, text=True, timeout=seconds(60)
    )


def test_a_command_in_an_image(image: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("mounted")
    # Beside the image's own files, below one of its links (/lib), and where it has nothing.
    mounts = tuple((str(tmp_path / "data"), target) for target in ("/usr/share/new/place", "/lib/here", "/fsx/data"))
    command = (
        "cat /etc/iterations /usr/share/new/place/file /usr/lib/here/file /fsx/data/file; cat; echo $GREETING $MINE"
    )
    done = enter(image, tmp_path / "root", command, *mounts, MINE="my own", OTHER="x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "77mountedmountedmountedin\nhi my own\n", "")
    done = enter(image, tmp_path / "root", "ls /usr/bin/bash /etc/passwd; echo $PATH; rm /etc/passwd; exit 7")
    assert (done.returncode, done.stdout.splitlines()[2].count("/usr/bin")) == (7, 1)
    assert "Read-only" in done.stderr
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_no_command_line_shows_a_variable_of_the_run(image: Path, tmp_path: Path) -> None:
    done = enter(image, tmp_path / "root", "cat /proc/[0-9]*/cmdline; echo; echo $MINE", MINE="not-to-be-seen")
    *lines, last = done.stdout.splitlines()
    assert last == "not-to-be-seen"
    assert "not-to-be-seen" not in "".join(lines)


def test_what_is_not_an_image_is_refused(tmp_path: Path) -> None:
    if (reason := sandbox.why_unavailable(None)) is not None:
        pytest.skip(reason)
    (tmp_path / "no.sqsh").write_bytes(b"no image" * 100)
    done = enter(tmp_path / "no.sqsh", tmp_path / "root", "true")
    assert done.returncode == 3
    assert "squashfuse cannot mount" in done.stderr


def test_an_image_of_another_machine_is_not_entered() -> None:
    assert "is for riscv64" in (sandbox.why_unavailable("riscv64") or "")


@pytest.mark.megatron
@pytest.mark.timeout(400)
def test_the_configuration_is_checked_as_the_image_has_it(image: Path, tmp_path: Path) -> None:
    stack = sorted({sys.base_prefix, sys.prefix})
    mounts = [f"{path}:{path}:ro" for path in stack if not any(path.startswith(f"{other}/") for other in stack)]
    # The virtual environment's launcher is this checkout; the run's own code is in code/.
    mounts.append(f"{ROOT}/launcher:{ROOT}/launcher:ro")
    user = contained(tmp_path, "bwrap", image, mounts=mounts, python=sys.executable)
    recipes = tmp_path / "mine"
    recipes.mkdir()
    (recipes / "asks.py").write_text(RECIPE)
    (recipes / "vanilla_gpt_pretrain.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text())
    common = ("plan", str(recipes / "asks.py"), "--cluster", "alone", "--image", str(image), "--check-config", "--json")
    done = user.user.run(*common, timeout_s=200)
    assert "train_iters=77" in done.stderr
    assert "this machine's Megatron" not in done.stderr
    assert json.loads(done.stdout)["plan"]["memory"] is None


def test_the_users_own_files_are_named() -> None:
    asked = EntrypointCall((), {}, (("/tmp/copy/code/x.py", "/home/me/x.py"),))
    assert asked.own_paths("/tmp/copy/code/x.py:7 and /tmp/y") == "/home/me/x.py:7 and /tmp/y"
    assert asked.own_paths(None) is None
    assert (asked.path_inside("/home/me/x.py"), asked.path_inside("/else")) == ("/tmp/copy/code/x.py", "/else")
