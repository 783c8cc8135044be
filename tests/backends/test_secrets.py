"""A secret in the environment reaches the ranks that were to have it, and nothing else."""

import base64
import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.backends.running import User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

CANARY = "hf_CANARY" + "7f3a" * 5

# Shows that it got the value without repeating it, then stays so that /proc can be read.
PROGRAM = """
import hashlib, os, pathlib, time
run = pathlib.Path(os.environ["LAUNCHER_RUN_DIR"])
digest = hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest()
print(digest, flush=True)
(run / ("here-" + os.environ["RANK"])).write_text(digest)
time.sleep(2)
"""


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    made = user_of(tmp_path, slurm_cluster)
    (tmp_path / "program.py").write_text(PROGRAM)
    return made


def assert_nowhere(run: Path) -> None:
    """Neither the value nor its base64 in any file of the run, nor on any command line of this machine."""
    needles = (CANARY.encode(), base64.b64encode(CANARY.encode()).rstrip(b"="))
    for path in run.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # temporary names are renamed meanwhile
            assert not any(needle in path.read_bytes() for needle in needles), path
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert not any(needle in line.read_bytes() for needle in needles), line
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended meanwhile


def holders() -> dict[str, str]:
    """Return the processes of this machine that have the value in their environment, by command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if CANARY.encode() in (process / "environ").read_bytes():
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[process.name] = " ".join(words).strip()
    return found


def test_a_canary_is_found_in_no_file_no_command_line_and_no_answer_of_slurm(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    # A name that does not look like a secret, passed on by the profile: its value is in no file either.
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(f'{profile.read_text()}inherit = ["SITE_SETTING"]\n')
    arguments = ("submit", "small.py", "--entrypoint", "program.py", "--env", "HF_TOKEN", "--json")
    said = user.run(*arguments, environ={"HF_TOKEN": CANARY, "SITE_SETTING": CANARY})
    answer = json.loads(said.stdout)
    run = Path(answer["run_dir"])
    slurm_cluster.wait(answer["job"], "RUNNING")
    job = answer["job"]
    for command in (["scontrol", "show", "job", "-dd", job], ["scontrol", "write", "batch_script", job, "-"]):
        shown = subprocess.run(command, env=slurm_cluster.environment, capture_output=True, text=True, check=True)
        assert CANARY not in shown.stdout + shown.stderr
    while not (run / "here-1").exists():
        assert slurm_cluster.state(answer["job"]) == "RUNNING"
    assert_nowhere(run)
    # The job's script, which hands it over, srun with its helper, and the ranks: nothing else on the machine.
    own = re.compile(rf"\S*slurm_script|\S*bash .*(slurm_script|step\.sh).*|srun .*|\S+python\S* .*{run.name}.*")
    held = holders()
    assert sum("entrypoint.py" in command for command in held.values()) == 2, held
    others = [command for command in held.values() if not own.search(command)]
    assert others == []
    slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED")
    assert_nowhere(run)
    assert CANARY not in said.stdout + said.stderr
    digests = {path.read_text() for path in run.glob("here-*")}
    assert len(digests) == 1  # both ranks had it


def test_in_an_allocation_and_locally_too(user: User) -> None:
    arguments = ("run", "small.py", "--entrypoint", "program.py", "--env", "HF_TOKEN")
    user.salloc(*arguments, options=("-N1", "--ntasks-per-node=2"), status=None, environ={"HF_TOKEN": CANARY})
    user.run(*arguments, "--cluster", "local", "--gpus-per-node", "1", status=None, environ={"HF_TOKEN": CANARY})
    runs = user.runs()
    assert len(runs) == 2
    for run in runs:
        assert (run / "here-0").exists()
        assert_nowhere(run)


def test_the_run_directory_is_the_users_alone_unless_shared(user: User) -> None:
    user.run("run", "small.py", "--cluster", "local", "--gpus-per-node", "1", status=None)
    user.run("run", "small.py", "--cluster", "local", "--gpus-per-node", "1", "--shared", "--name", "open", status=None)
    modes = {run.parent.name: run.stat().st_mode & 0o777 for run in user.runs()}
    assert modes == {"small": 0o700, "open": 0o755}
    (mine,) = (run for run in user.runs() if run.parent.name == "small")
    assert all(path.lstat().st_mode & 0o022 == 0 for path in mine.rglob("*") if not path.is_symlink())
