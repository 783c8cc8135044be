"""What `launcher.submitit` refuses before anything is submitted: no Slurm is asked."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError, ImageError, LauncherError, PrerequisiteError, RequestError
from launcher.submitit import Executor


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a user on a machine that has programs of Slurm's names."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("LAUNCHER_CLUSTER", "SLURM_JOB_ID", "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/mine.toml").write_text('extends = "slurm"\n')
    (tmp_path / "file").write_text("")
    return tmp_path


WRONG: list[tuple[dict[str, Any], dict[str, Any], type[LauncherError], str]] = [
    ({"cluster": "mien"}, {}, ConfigError, "there is no cluster profile 'mien'"),
    ({"cluster": "local"}, {}, PrerequisiteError, "has no Slurm to submit to"),
    ({"image": "nothing", "runtime": "bwrap"}, {}, ImageError, "there is no image|the store has no image"),
    ({"image": "/a.sqsh", "runtime": "none"}, {}, ConfigError, "--image /a.sqsh needs a container"),
    ({"runtime": "docker"}, {}, ConfigError, "runtime"),
    ({"mounts": ("/data",)}, {}, ConfigError, "--mount needs a container"),
    ({"env": {"HF_TOKEN": "hf_" + "a" * 34}}, {}, ConfigError, "looks like a secret"),
    ({"env": ("RANK=1",)}, {}, ConfigError, "RANK is set for each rank"),
    ({"env": {"NOT_SET_HERE": None}}, {}, ConfigError, "this shell, which has none"),
    ({"sbatch": {"output": "x"}}, {}, ConfigError, "output is managed by the launcher"),
    ({"sbatch": {"comment": "mine"}}, {}, ConfigError, "managed|JSON object"),
    ({"sbatch": {"reservation": "it's"}}, {}, ConfigError, "single quote"),
    ({"folder": "file"}, {}, RequestError, "this is not a directory"),
    ({"folder": "jobs/%j"}, {}, ConfigError, "contains '%'"),
    ({}, {"time": "soon"}, ConfigError, "'soon' is not a time limit"),
    ({}, {"cpus": 4}, ConfigError, "no parameter 'cpus'"),
    ({}, {"use_srun": False}, ConfigError, "srun starts the function"),
    ({}, {"partition": "a\nb"}, ConfigError, "control character"),
]


@pytest.mark.parametrize(
    ("options", "parameters", "kind", "message"),
    WRONG,
    ids=[re.sub(r"\W+", "-", f"{row[0]}{row[1]}")[:40] for row in WRONG],
)
def test_what_is_wrong_is_refused(
    machine: Path, options: Mapping[str, Any], parameters: Mapping[str, Any], kind: type[LauncherError], message: str
) -> None:
    given = {"folder": "jobs", "cluster": "mine", **options}
    with pytest.raises(kind, match=message):
        Executor(**given).update_parameters(**parameters)
    assert not (machine / "jobs").exists()


def test_what_cannot_be_pickled_or_is_too_large_is_refused(machine: Path) -> None:
    executor = Executor("jobs", cluster="mine", max_pickle_size_gb=1e-4)
    with pytest.raises(RequestError, match="cannot be pickled"):
        executor.submit(print, (line for line in "ab"))
    with pytest.raises(RequestError, match="more than max_pickle_size_gb"):
        executor.submit(print, b"x" * 200_000)
    assert [*(machine / "jobs").glob("*.pkl")] == []


def test_parameters_are_stronger_than_the_profile(machine: Path) -> None:
    (machine / "clusters/mine.toml").write_text(
        'extends = "slurm"\npartition = "gpu"\naccount = "team"\ntime_limit = "1:30:00"\n'
        '[directives]\nreservation = "r 1"\ngpus-per-node = true\nexclusive = true\n'
    )
    executor = Executor("jobs", cluster="mine", account="own")

    def directives() -> dict[str, str]:
        text = executor._make_submission_file_text("true", "x")
        return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))

    found = directives()
    assert {"partition": "gpu", "account": "own", "time": "90", "reservation": "'r 1'"}.items() <= found.items()
    assert "exclusive" in found and "gpus-per-node" not in found and "wckey" not in found
    executor.update_parameters(partition="cpu", time="0:10:30", gpus_per_node=2)
    executor.update_parameters(cpus_per_task=3)
    found = directives()
    expected = {"partition": "cpu", "time": "11", "gpus-per-node": "2", "cpus-per-task": "3", "account": "own"}
    assert expected.items() <= found.items()
    with pytest.raises(ConfigError):
        executor.update_parameters(time="soon")
    assert directives() == found


def test_a_function_that_is_requeued_is_refused_in_an_image(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Training:
        """A function of the kind of submitit's Checkpointable."""

        def __call__(self) -> None:
            """Train."""

        def checkpoint(self) -> None:
            """Return what is queued next."""

    executor = Executor("jobs", cluster="mine")
    monkeypatch.setattr(executor, "task", executor.task.__class__(**{**vars(executor.task), "image": object()}))
    with pytest.raises(ConfigError, match="requeued by scontrol from inside its task"):
        executor.submit(Training())
