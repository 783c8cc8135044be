"""What sbatch.sh does before pyxis unpacks an image: leftovers of ended jobs, free space; on a real Slurm, about 15 s.

srun and enroot are stand-ins: srun without the options of pyxis, enroot as a list of names.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from launcher.scripts.render import scripts
from tests.backends.containers import Contained, contained, logs, result
from tests.backends.running import TOY
from tests.support.building import cluster, image, plan
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

SRUN = """#!/bin/bash
if [[ $* == --help ]]; then echo "      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH"; exit; fi
words=()
for word; do [[ $word == --container-* || $word == --no-container-* ]] || words+=("$word"); done
exec {srun} "${{words[@]}}"
"""
ENROOT = """#!/bin/bash
cd {containers} || exit
case $* in
    "list --fancy") echo "NAME  PID  COMM"; for name in *; do echo "$name  $(<$name)"; done ;;
    list) ls ;;
    info) echo "  ENROOT_DATA_PATH={data}" ;;
    "remove --force "*) rm "$3" ;;
esac
"""
DF = "#!/bin/bash\necho Avail\necho {bytes}\n"
LABEL = "launcher-0123456789ab-abcdef"


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def user(slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path) -> Contained:
    found = contained(tmp_path, "pyxis", image_file, slurm_cluster)
    containers = tmp_path / "containers"
    containers.mkdir()
    script(tmp_path / "bin/srun", SRUN.format(srun=shutil.which("srun")))
    script(tmp_path / "bin/enroot", ENROOT.format(containers=containers, data=tmp_path / "not/yet/there"))
    return found


def test_what_ended_jobs_have_left_is_removed(user: Contained, slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    living = slurm_cluster.submit("sleep 600", "--nodelist=n4")
    ended = slurm_cluster.submit("true", "--nodelist=n4")
    slurm_cluster.wait(ended, "COMPLETED")
    kept = {
        f"pyxis_{LABEL}-{living}-000": "",
        f"pyxis_{living}_{LABEL}-{living}-000": "",
        f"pyxis_{LABEL}-99998-000": "4711",  # a process is inside, whatever Slurm says
        "pyxis_mine": "",
        f"{LABEL}-{ended}-000": "",  # another program's: without the name of pyxis in front
    }
    gone = {f"pyxis_{LABEL}-{ended}-000": "", f"pyxis_{LABEL}-99999-000": "", f"pyxis_77_{LABEL}-99999-001": ""}
    for name, process in {**kept, **gone}.items():
        (tmp_path / "containers" / name).write_text(process)
    run = user.submit("--nodes", "1", program=TOY)
    slurm_cluster.run("scancel", living)
    assert {path.name for path in (tmp_path / "containers").iterdir()} == {*kept}
    assert result(run)["outcome"] == "finished"


def test_the_controller_is_asked_once_about_the_jobs_of_all_containers(tmp_path: Path) -> None:
    """What each node runs, alone: squeue is a stand-in, too."""
    made = plan(profile=cluster(gpus_per_node=8, runtime="pyxis", image="./x.sqsh"), inside=image())
    program = re.search(r"local program='\n(.*?)'\n    \(", scripts(made)["sbatch.sh"], re.DOTALL)
    assert program is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "containers").mkdir()
    script(tmp_path / "bin/enroot", ENROOT.format(containers=tmp_path / "containers", data=tmp_path / "not/yet/there"))
    script(tmp_path / "bin/squeue", f'#!/bin/bash\necho "$*" >>{tmp_path}/asked\necho "12 RUNNING"\n')
    # The file system of a node's disk, whatever that of this machine is.
    script(tmp_path / "bin/stat", "#!/bin/bash\necho xfs\n")
    kept = {f"pyxis_{LABEL}-12-000", "pyxis_mine"}
    for name in (*kept, f"pyxis_{LABEL}-11-000", f"pyxis_77_{LABEL}-13-001", f"pyxis_{LABEL}-1-001"):
        (tmp_path / "containers" / name).touch()
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "1"}
    command = ["bash", "-c", program[1], "tidy", "prepare", f"{LABEL}-1-002", "", "image"]
    subprocess.run(command, env=environment, check=True)
    assert {path.name for path in (tmp_path / "containers").iterdir()} == kept
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert sorted(asked.partition("--jobs=")[2].split()[0].split(",")) == ["11", "12", "13"]


def test_on_a_shared_disk_containers_of_other_jobs_stay(user: Contained, tmp_path: Path) -> None:
    """Another cluster may run a job of a number of which this controller knows nothing."""
    script(
        tmp_path / "bin/stat",
        f'#!/bin/bash\n[[ $1 != -f ]] || {{ echo nfs; exit; }}\nexec {shutil.which("stat")} "$@"\n',
    )
    (tmp_path / "containers" / f"pyxis_{LABEL}-99999-000").write_text("")
    run = user.submit("--nodes", "1", program=TOY)
    assert [path.name for path in (tmp_path / "containers").iterdir()] == [f"pyxis_{LABEL}-99999-000"]
    assert result(run)["outcome"] == "finished"


def test_an_image_for_which_a_node_has_no_space_is_not_unpacked(user: Contained, tmp_path: Path) -> None:
    script(tmp_path / "bin/df", DF.format(bytes=3 << 20))
    run = user.submit("--nodes", "2", state="FAILED", program=TOY)
    assert not list(run.glob("attempts/000/logs/rank-*")), logs(run)
    words = f"{tmp_path}/not/yet/there has 3 MiB free, but {user.image} unpacks to"
    assert words in (run / "attempts/000/logs/srun.log").read_text()
    found = result(run)
    assert (found["outcome"], found["failure"]) == ("failed", "container")
    assert words in found["reason"]
    (status,) = json.loads(user.user.run("status", str(run), "--json").stdout)["runs"]
    assert words in status["detail"]
    shown = user.user.run("status", str(run)).stdout
    assert "3 MiB free" in shown


def test_a_job_that_is_cancelled_meanwhile_ends_as_cancelled(
    user: Contained, slurm_cluster: VirtualCluster, tmp_path: Path
) -> None:
    enroot = tmp_path / "bin/enroot"
    enroot.write_text(enroot.read_text().replace("    list) ls ;;", "    list) touch ../asked; sleep 30 ;;"))
    asked = user.arguments("--cluster", "here", "--nodes", "1", program=TOY)
    answer = json.loads(user.user.run("submit", *asked).stdout)
    deadline = time.monotonic() + seconds(60)
    while not (tmp_path / "asked").exists():
        assert time.monotonic() < deadline, logs(Path(answer["run_dir"]))
        time.sleep(0.05)
    user.user.run("cancel", answer["run_dir"])
    slurm_cluster.wait(answer["job"], "CANCELLED")
    (status,) = json.loads(user.user.run("status", answer["run_dir"], "--json").stdout)["runs"]
    assert status["phase"] == "cancelled"
    assert not list(Path(answer["run_dir"]).glob("attempts/000/ranks/*"))


def test_an_image_that_just_fits_is_unpacked(user: Contained, tmp_path: Path) -> None:
    script(tmp_path / "bin/df", DF.format(bytes=1 << 40))
    run = user.submit("--nodes", "1", program=TOY)
    assert result(run)["outcome"] == "finished"
    script(tmp_path / "bin/df", "#!/bin/bash\nexit 1\n")
    assert result(user.submit("--nodes", "1", program=TOY))["outcome"] == "finished", "what is not known ends nothing"
