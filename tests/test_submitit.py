"""`launcher.submitit.Executor` on a real Slurm of virtual nodes: functions as jobs and arrays, here and in an image."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import RequestError, SlurmError
from launcher.slurm.queue import Answer, Job, State
from launcher.submitit import Executor, FunctionJob, Watcher
from tests.backends.containers import SCRATCH, missing
from tests.backends.running import PROFILE, ROOT
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

PAGE = ROOT / "docs/how-to/submitit.md"


@pytest.fixture
def make(slurm_cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Executor]:
    """Executors of this process, which is a client of the virtual cluster; `site` adds lines to the profile."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("LAUNCHER_CLUSTER")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters").mkdir()

    def executor(*, site: str = "", folder: str = "jobs", **options: Any) -> Executor:
        (tmp_path / "clusters/virtual.toml").write_text(f"{PROFILE}{site}")
        made = Executor(tmp_path / folder, cluster="virtual", **options)
        made.update_parameters(time=5)
        return made

    return executor


def in_main(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as one of a user's script: pickled by value, as this module is not on the node's path."""
    function.__module__ = "__main__"
    return function


def ended(job: Any) -> Any:
    """Wait for a job of submitit's."""
    deadline = time.monotonic() + seconds(60)
    while not job.done():
        assert time.monotonic() < deadline, (job.state, job.stdout(), job.stderr())
        time.sleep(0.2)
    return job


def seen(*names: str) -> dict[str, Any]:
    import os
    import sys

    return {name: os.environ.get(name) for name in (*names, "SLURM_JOB_ID")} | {"python": sys.executable}


def times(a: int, b: int) -> int:
    if a == 3:
        raise ValueError("three is not multiplied")
    return a * b


def test_a_function_has_the_environment_of_the_profile(
    make: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSED", "it's $HOME")
    monkeypatch.setenv("NOT_PASSED", "leaks")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    site = '[env]\nOF_SITE = "a b; echo"\n[env_prepend]\nPATH = "/opt/site/bin"\n'
    executor = make(site=site, env={"PASSED": None, "GIVEN": "x=y"})
    job = executor.submit(in_main(seen), "OF_SITE", "PASSED", "NOT_PASSED", "GIVEN", "PATH")
    assert isinstance(job, FunctionJob)
    found = ended(job).result()
    # The batch script has the PATH of a login shell on the node, as that of a run has.
    assert found.pop("PATH").startswith("/opt/site/bin:/")
    assert found == {
        "OF_SITE": "a b; echo",
        "PASSED": "it's $HOME",
        "NOT_PASSED": None,
        "GIVEN": "x=y",
        "SLURM_JOB_ID": job.job_id,
        "python": sys.executable,
    }
    assert job.exception() is None
    script = job.paths.submission_file.read_text()
    assert "wckey" not in script and "a b; echo" not in script
    assert os.environ["SLURM_JOB_ID"] == "4711"


def test_an_array_is_one_job_and_each_part_has_its_own_end(
    make: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make()
    jobs = executor.map_array(in_main(times), range(1, 5), [10] * 4)
    assert len({job.job_id.partition("_")[0] for job in jobs}) == 1
    assert [ended(job).exception() is None for job in jobs] == [True, True, False, True]
    assert [jobs[index].result() for index in (0, 1, 3)] == [10, 20, 40]
    assert "three is not multiplied" in str(jobs[2].exception())
    with pytest.raises(Exception, match="three is not multiplied"):
        jobs[2].result()
    with executor.batch():
        batched = [executor.submit(in_main(times), 2, factor) for factor in (2, 4)]
    assert [ended(job).result() for job in batched] == [4, 8]


def test_a_job_that_is_ended_has_an_exception_and_no_accounting_is_needed(make: Callable[..., Executor]) -> None:
    executor = make()
    job = executor.submit(in_main(times_slowly), 1)
    other = executor.submit(in_main(times), 1, 1)
    ended(other)
    calls = FunctionJob.watcher.num_calls
    job.cancel()
    deadline = time.monotonic() + seconds(60)
    while not job.done(force_check=True):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert job.state in ("CANCELLED", "FORGOTTEN")
    monkey = FunctionJob._results_timeout_s
    try:
        FunctionJob._results_timeout_s = 0  # the result file of a cancelled job does not come late
        assert "has not produced any output" in str(job.exception())
    finally:
        FunctionJob._results_timeout_s = monkey
    assert FunctionJob.watcher.num_calls > calls
    job.cancel()  # one that has ended is left alone


def times_slowly(a: int) -> int:
    import time

    time.sleep(300)
    return a


def test_another_job_of_the_same_number_is_not_cancelled(make: Callable[..., Executor]) -> None:
    executor = make()
    job = executor.submit(in_main(times_slowly), 1)
    script = job.paths.submission_file
    text = script.read_text()
    script.write_text(re.sub("launcher-function:[0-9a-f]{8}", "launcher-function:00000000", text))
    job.cancel()
    assert job.get_info(mode="force")["State"] in ("PENDING", "RUNNING", "CONFIGURING")
    script.unlink()
    with pytest.raises(SlurmError, match="its script, which shows that it is ours, is gone"):
        job.cancel()


def test_a_job_of_another_process_is_known_by_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FunctionJob, "watcher", Watcher())
    token = f"launcher-function:{32 * '0'}"
    (tmp_path / "70007_submission.sh").write_text(f"#SBATCH --comment={token}\n")
    job = FunctionJob(folder=tmp_path, job_id="70007", tasks=[0])
    for origin, state in ((f"/a.sh {token}|/|", "RUNNING"), ("/other.sh|/|", "FORGOTTEN")):
        answer = Answer({"70007": Job("70007", State.RUNNING, origin=origin)}, 0.0)
        monkeypatch.setattr("launcher.submitit.ask_jobs", lambda *_, answer=answer: answer)
        FunctionJob.watcher.update()
        assert job.get_info(mode="cache")["State"] == state


def test_a_job_of_which_slurm_shows_nothing_is_not_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FunctionJob, "watcher", Watcher())
    job = FunctionJob(folder=tmp_path, job_id="7", tasks=[0])
    job.paths.submission_file.write_text(f"#SBATCH --comment=launcher-function:{32 * '0'}\n")
    ended: list[str] = []
    monkeypatch.setattr("launcher.submitit.cancel", lambda jobs, _: ended.extend(jobs))
    for state, terminal in ((State.RUNNING, False), (State.FORGOTTEN, True)):
        answer = Answer({"7": Job("7", state, terminal=terminal)}, 0.0)
        monkeypatch.setattr("launcher.submitit.ask_jobs", lambda *_, answer=answer: answer)
        if terminal:
            job.cancel()
        else:
            with pytest.raises(SlurmError, match="shows neither the comment nor the command"):
                job.cancel()
    assert ended == []


def test_sbatchs_refusal_is_a_request_error_and_leaves_nothing(make: Callable[..., Executor]) -> None:
    executor = make(partition="nowhere")
    with pytest.raises(RequestError, match="nvalid partition"):
        executor.submit(in_main(times), 1, 2)
    with pytest.raises(RequestError, match="nvalid partition"):
        executor.map_array(in_main(times), [1, 2], [3, 4])
    assert not [*executor.folder.glob("*.pkl"), *executor.folder.glob(".submission*")]
    executor.update_parameters(partition="batch")  # stronger than the option
    assert ended(executor.submit(in_main(times), 2, 2)).result() == 4


@pytest.mark.timeout(300)
def test_a_function_runs_in_the_image(make: Callable[..., Executor], image_file: Path) -> None:
    if reason := missing("bwrap"):
        pytest.skip(reason)
    stack = sorted({sys.base_prefix, sys.prefix})
    mounts = [f"{path}:{path}:ro" for path in stack if not any(path.startswith(f"{other}/") for other in stack)]
    site = f'runtime = "bwrap"\nscratch = "{SCRATCH}"\n'
    executor = make(site=site, image=str(image_file), mounts=mounts, python=str(Path(sys.base_prefix) / "bin/python3"))
    jobs = executor.map_array(in_main(in_image), ["a", "b"])
    assert [ended(job).result() for job in jobs] == [("a", "tests", "hello from the image")] * 1 + [
        ("b", "tests", "hello from the image")
    ]
    # The image's own interpreter is another Python than the one that pickled the function.
    other = make(site=site, image=str(image_file), folder="other")
    job = ended(other.submit(in_main(in_image), "a"))
    monkey = FunctionJob._results_timeout_s
    try:
        FunctionJob._results_timeout_s = 0
        assert re.search(r"pickled by Python 3\.\d+, and python3 here is Python 3\.11", str(job.exception()))
    finally:
        FunctionJob._results_timeout_s = monkey


def in_image(word: str) -> tuple[str, str, str | None]:
    import os
    from pathlib import Path

    return word, Path("/etc/made-for").read_text().strip(), os.environ.get("GREETING")


def test_the_examples_of_the_page(make: Callable[..., Executor], tmp_path: Path) -> None:
    make()
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    (tmp_path / "shards").mkdir()
    for index in range(3):
        (tmp_path / f"shards/{index}.txt").write_text("a line\n" * (index + 1))
    for number, code in enumerate(blocks):
        file = tmp_path / f"example{number}.py"
        file.write_text(code.replace('"mine"', '"virtual"').replace('"/shared/', f'"{tmp_path}/'))
        done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=seconds(120))
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        expected = re.findall(r"# prints (.*)$", code, re.MULTILINE)
        assert done.stdout.split("\n")[:-1] == expected, done.stdout
