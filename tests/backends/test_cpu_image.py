"""The target `cpu` of the Dockerfile, built by the command, and the vanilla recipe inside it on two nodes."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.backends.containers import contained, logs, missing
from tests.backends.running import ROOT, User
from tests.images.cpu_image import context, engine_in, import_root, python_root, wheels
from tests.images.engine_home import missing_engine
from tests.support.slurm.virtual_cluster import VirtualCluster

VANILLA = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
ASKED = (VANILLA, "train.train_iters=6", "checkpoint.save=null", "--nodes", "2", "--gpus-per-node", "2")
BARE = 'extends = "slurm"\ndevice = "cpu"\ngpus_per_node = 2\nruntime = "none"\n'

pytestmark = [pytest.mark.soak, pytest.mark.megatron, pytest.mark.timeout(5400)]


def test_the_vanilla_recipe_trains_in_the_cpu_image_as_on_the_bare_machine(
    debian: Path, slurm_cluster: VirtualCluster, tmp_path: Path
) -> None:
    """Nothing is mounted but the run directory: Python, torch and Megatron are the image's own."""
    if reason := missing_engine() or missing("bwrap"):
        pytest.skip(reason)
    user = contained(tmp_path, "bwrap", tmp_path / "unused", slurm_cluster)
    (tmp_path / "clusters/bare.toml").write_text(f'{BARE}python = "{sys.executable}"\n')
    begin = time.monotonic()
    built = build(user.user, tmp_path)
    built_s = time.monotonic() - begin
    size = Path(built["path"]).stat().st_size
    contents = json.loads(user.user.run("image", "inspect", built["path"], "--json").stdout)["manifest"]["contents"]
    assert contents["python"] == "/opt/venv/bin/python3"
    assert contents["packages"]["megatron-bridge"] == "0.6.2"
    assert contents["packages"]["megatron-core"] == "0.19.2"
    assert contents["verified"]["torch"].startswith("2.13.0")
    assert "deepep" not in contents["moe_backends"]

    inside, inside_s = trained(user.user, slurm_cluster, "--cluster", "here", "--image", "cpu:1")
    plan = json.loads((inside / "plan.json").read_text())
    assert (plan["runtime"], plan["image"]["digest"], plan["mounts"]) == ("bwrap", built["digest"], [])
    assert logs(inside).count("launcher: unpacking") == 2
    bare, bare_s = trained(user.user, slurm_cluster, "--cluster", "bare")
    print(f"\nbuilt in {built_s:.0f} s: {size / 1e9:.2f} GB; trained in {inside_s:.0f} s, bare in {bare_s:.0f} s")
    assert list(losses(inside)) == [1, 2, 3, 4, 5, 6]
    assert losses(inside) == losses(bare)
    Path(built["path"]).unlink()  # large, and tests' directories are kept


def build(user: User, directory: Path) -> dict[str, Any]:
    """`launcher image build --target cpu` on a base of Debian's packages and this Python."""
    root = python_root(directory / "root")
    files = context(directory / "context", wheels("3.12", ("cpu", "torch", "tools")))
    with engine_in(directory / "engine") as home:
        base = import_root(home, root, "localhost/launcher-test-python:1", directory)
        user.environ.update(home.environment, XDG_DATA_HOME=str(directory / "data"))
        done = user.run(
            *("image", "build", "--target", "cpu", "--file", str(files / "Dockerfile"), "--name", "cpu:1"),
            *("--build-arg", f"CPU_BASE={base}", "--build-arg", "PIP_NO_INDEX=1", "--cluster", "here"),
            *("--json", "--quiet"),
            timeout_s=3600,
        )
    shutil.rmtree(files)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def trained(user: User, cluster: VirtualCluster, *where: str) -> tuple[Path, float]:
    """Submit the recipe and wait for its end: the run directory and the seconds that it took."""
    begin = time.monotonic()
    answer = json.loads(user.run("submit", *ASKED, *where, "--json", "--no-check-config").stdout)
    run = Path(answer["run_dir"])
    state = cluster.wait(answer["job"], "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", timeout_s=1500)
    assert state == "COMPLETED", logs(run)[-6000:]
    return run, time.monotonic() - begin


def losses(run: Path) -> dict[int, float]:
    """The loss of each iteration."""
    lines = (run / "attempts/000/metrics.jsonl").read_text().splitlines()
    return {entry["iteration"]: entry["loss"] for entry in map(json.loads, lines)}
