"""Faults of what surrounds a run: a controller, images, many submissions. Cost: 60 s, 35 s of them CPU time."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.containers import missing
from tests.backends.running import LAUNCHER, TOY, User, user_of
from tests.faults.forks import Launchers, launchers
from tests.faults.shims import put
from tests.faults.test_once import COMMON, HOLD, KILLING, jobs, left_over, user_with
from tests.support.fault_table import Faults
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_with(tmp_path, slurm_cluster)


@pytest.fixture
def forks(user: User) -> Iterator[Launchers]:
    with launchers(user) as server:
        yield server


def status(user: User, run: Path) -> dict[str, Any]:
    (found,) = json.loads(user.run("status", str(run), "--json").stdout)["runs"]
    return dict(found)


@pytest.mark.fault("controller away")
def test_a_controller_that_is_away_ends_no_run_and_status_says_unknown(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path, faults: Faults
) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=1)
    user = user_of(tmp_path, cluster)
    toy = ("small.py", "--nodes=1", f"--entrypoint={TOY}", "--no-check-config", "toy.iters=240", "toy.seconds=0.05")
    answer = json.loads(user.run("submit", *toy, "--json").stdout)
    run = Path(answer["run_dir"])
    wait_until((run / "attempts/000/metrics.jsonl").exists, "the training", cluster, 60)
    cluster.stop_controller()  # after SIGKILL Slurm itself may start the job again, and drains the node for it
    away = status(user, run)
    assert (away["phase"], away["over"]) == ("unknown", False)
    assert away["unknown_since"] is not None
    assert "iteration" in away["detail"]
    cluster.start_controller()
    wait_until(lambda: cluster.run("sinfo", "-h", check=False).returncode == 0, "slurmctld", cluster)
    assert cluster.wait(str(answer["job"]), "COMPLETED", "FAILED", timeout_s=90) == "COMPLETED"
    seen = status(user, run)
    assert (seen["phase"], seen["attempts"], seen["iteration"]) == ("finished", 1, 240)
    faults.note("controller away", lost=0, verdict="unknown, then finished in the first attempt")


@pytest.mark.fault("broken image")
@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs: apt-get install squashfs-tools")
@pytest.mark.skipif(missing("bwrap") is not None, reason=str(missing("bwrap")))
def test_a_broken_image_is_refused_before_anything_is_queued(
    user: User, slurm_cluster: VirtualCluster, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(random.Random(7).randbytes(200_000))  # noqa: S311 - does not compress
    subprocess.run(["mksquashfs", "root", "whole.sqsh", "-quiet", "-no-progress"], cwd=tmp_path, check=True)
    content = (tmp_path / "whole.sqsh").read_bytes()
    (tmp_path / "short.sqsh").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.sqsh").touch()
    (tmp_path / "page.sqsh").write_text("<html><body>401 Unauthorized</body></html>")
    for name, words in {"short": "truncated", "empty": "empty", "page": "web page", "none": "none.sqsh"}.items():
        image = ("--image", f"./{name}.sqsh", "--runtime", "bwrap")
        done = user.run("submit", "small.py", "--nodes=1", f"--entrypoint={TOY}", *image, status=2)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert user.runs() == []
    assert not jobs(slurm_cluster, user)


@pytest.mark.fault("two builds of one image")
@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs: apt-get install squashfs-tools")
def test_of_six_that_put_one_image_into_the_store_one_does_the_work(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    user.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_bytes(bytes(range(256)) * 40_000)
    subprocess.run(["mksquashfs", "root", "one.sqsh", "-quiet", "-no-progress"], cwd=tmp_path, check=True)
    argv = [str(LAUNCHER), "image", "import", "./one.sqsh", "--name", "one", "--json"]
    # The first one is at work until all others wait for it.
    go = tmp_path / "go"
    put(user, {"cp": f'#!/bin/bash\nuntil [[ -e {go} ]]; do sleep 0.05; done\nexec /bin/cp "$@"\n'})
    told = [tmp_path / f"told{number}" for number in range(6)]
    started = []
    for path in told:
        with path.open("w") as err:
            started.append(
                subprocess.Popen(argv, cwd=tmp_path, env=user.environ, stdout=subprocess.PIPE, stderr=err, text=True)
            )
    deadline = time.monotonic() + seconds(60)
    while sum("waiting" in path.read_text() for path in told) < 5:
        assert time.monotonic() < deadline, [path.read_text() for path in told]
        time.sleep(0.05)
    go.touch()
    ended = [process.communicate(timeout=seconds(120)) for process in started]
    assert [process.returncode for process in started] == [0] * 6, [path.read_text() for path in told]
    answers = [json.loads(out) for out, _ in ended]
    assert len({answer["digest"] for answer in answers}) == 1
    assert [answer["reused"] for answer in answers].count(False) == 1
    assert len(list((tmp_path / "data").rglob("sha256/*.sqsh"))) == 1


@pytest.mark.fault("submissions at once")
def test_fifty_submissions_at_once_have_a_job_and_a_directory_each(
    user: User, slurm_cluster: VirtualCluster, forks: Launchers
) -> None:
    started = [forks.start("submit", *COMMON, *HOLD, f"toy.seed={number}") for number in range(50)]
    assert [each.wait() for each in started] == [0] * 50, [each.text for each in started if each.text]
    runs = user.runs()
    assert len({run.name for run in runs}) == 50
    assert jobs(slurm_cluster, user) == {str(run): 1 for run in runs}
    assert left_over(user) == []


@pytest.mark.fault("interrupted sweep")
def test_a_loop_of_submissions_that_was_killed_is_completed_by_running_it_again(
    user: User, slurm_cluster: VirtualCluster, forks: Launchers
) -> None:
    """The login node goes down: one command is killed at work, one when sbatch has answered, and the rest never ran."""
    arguments = [("submit", *COMMON, *HOLD, f"--once=trial {number}", f"toy.seed={number}") for number in range(16)]
    for words in arguments[:8]:
        forks.run(*words)
    at_work = forks.start(*arguments[8])
    wait_until(lambda: len(user.runs()) > 8, "a run directory", slurm_cluster, 30)
    at_work.kill()
    at_work.wait()
    shims = put(user, {"sbatch": KILLING.format(more="")})
    forks.run(*arguments[9], status=137)
    (shims / "sbatch").unlink()
    for words in arguments:
        forks.run(*words)
    runs = user.runs()
    assert len(runs) == 16
    assert jobs(slurm_cluster, user) == {str(run): 1 for run in runs}
    seeds = {json.loads((run / "argv.json").read_text())["overrides"][0]["value"] for run in runs}
    assert seeds == set(range(16))
    assert left_over(user) == []
