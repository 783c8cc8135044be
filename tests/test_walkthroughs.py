"""The blocks of the README and of the first day are executed, one after the other, on a cluster of virtual nodes.

What such a cluster lacks is replaced, and nothing else: a registry and an image with a training stack (a small image
from a file, the toy in place of Megatron), GPUs (`nvidia-smi`), the names of partition, account and directory.
"""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backends.containers import missing
from tests.backends.running import LAUNCHER, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests/toy/entrypoint.py"
LONG = "llama3_8b_pretrain"
"""A run that goes on until it is cancelled; all others end by themselves."""
SECONDS = {LONG: ("toy.answers=true", "toy.iters=3000", "toy.seconds=0.2"), "": ("toy.iters=20",)}


def blocks(page: str) -> list[str]:
    """Return the commands of a page's blocks, in order, without comments."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    found = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in found for line in block.splitlines()]
    return [line for line in lines if line.startswith(("launcher ", "export ", "salloc ", "./srun.sh "))]


@dataclass
class Reader:
    """Somebody who types what a page shows, on a login node of a virtual cluster."""

    user: User
    image: Path

    def type(self, line: str) -> "subprocess.CompletedProcess[str]":
        words = [self.replaced(word) for word in shlex.split(re.sub(r"\s#.*$", "", line))]
        assert words[0] == "launcher", line
        words = words[1:]
        if words[0] in ("submit", "run") and "--resume" not in words:
            words += ["--entrypoint", str(TOY), *SECONDS[LONG if LONG in words else ""], "--no-check-config"]
        if words[0] == "plan":
            words += ["--no-check-config"]
        if words[0] == "rm" or words[0] == "gc":
            words += ["--yes"]
        return self.user.run(*words, status=None)

    def replaced(self, word: str) -> str:
        word = word.replace("/shared/ada", f"{self.user.directory}/shared").replace("~", str(self.user.directory))
        return {
            "gpu": "batch",
            "nvcr.io#nvidia/nemo:26.08": str(self.image),
            "nvidia-smi": "hostname",
            "mine": "mine",
        }.get(word, word)

    def until_running(self, name: str) -> None:
        end = time.monotonic() + seconds(90)
        while time.monotonic() < end:
            (run,) = json.loads(self.user.run("status", name, "--json").stdout)["runs"]
            if run["phase"] == "running" and run["iteration"]:
                return
            assert not run["over"], run
            time.sleep(0.5)
        raise AssertionError(f"{name} does not run")

    def until_over(self, name: str) -> None:
        end = time.monotonic() + seconds(90)
        while time.monotonic() < end:
            (run,) = json.loads(self.user.run("status", name, "--json").stdout)["runs"]
            if run["over"]:
                return
            time.sleep(0.5)
        raise AssertionError(f"{name} does not end")


@pytest.fixture
def reader(slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path) -> Iterator[Reader]:
    if (reason := missing("bwrap")) is not None:
        pytest.skip(reason)
    user = user_of(tmp_path, slurm_cluster)
    environ = {**user.environ, "HOME": str(tmp_path), "PATH": f"{LAUNCHER.parent}:{user.environ['PATH']}"}
    for name in ("LAUNCHER_CLUSTERS", "LAUNCHER_CLUSTER", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        environ.pop(name, None)
    yield Reader(User(tmp_path, environ), image_file)
    slurm_cluster.cancel_all()


@pytest.mark.timeout(600)
def test_the_first_day(reader: Reader) -> None:
    commands = blocks("docs/tutorial/first-day.md")
    assert len(commands) > 20
    for line in commands:
        if line.startswith(("launcher exec", "launcher stacks")):
            reader.until_running(LONG)
        done = reader.type(line)
        failed = f"{line}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, failed
        if line.startswith("launcher logs -f"):
            assert "finished" in done.stdout + done.stderr, failed
        if line.startswith("launcher init"):
            write_size(reader)
        if line.startswith("launcher cancel"):
            reader.until_over(LONG)
    left = {path.parent.parent.name for path in (reader.user.directory / "shared/runs").glob("*/[!.]*/plan.json")}
    assert left == {"doctor", LONG}  # vanilla_gpt_pretrain was removed


def write_size(reader: Reader) -> None:
    """Add what this cluster cannot know: two ranks on a node without GPUs, and a disk of each node's own."""
    (profile,) = (reader.user.directory / ".config/launcher/clusters").glob("*.toml")
    own = {"device": '"cpu"', "gpus_per_node": "2", "scratch": '"/run/scratch"'}
    lines = [line for line in profile.read_text().splitlines() if line.split(" = ")[0] not in own]
    at = lines.index('extends = "slurm"') + 1
    stated = [f"{key} = {value}" for key, value in own.items()]
    profile.write_text("\n".join([*lines[:at], *stated, *lines[at:], ""]))


@pytest.mark.timeout(600)
def test_the_readme(reader: Reader) -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"## Ten lines to a first run.*?^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for line in block.splitlines() if line.startswith("launcher ")]
    assert len(lines) >= 7
    for line in lines:
        if " cancel " in line:
            continue  # the run has ended by then: `logs -f` has followed it
        if "--resume" in line:
            continue  # the toy takes its number of iterations from toy.iters, and has saved nothing to continue from
        done = reader.type(line)
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        if line.startswith("launcher init"):
            write_size(reader)
