"""The host context: Slurm's variables of an allocation, and visible GPUs."""

from pathlib import Path

import pytest

from launcher._util.errors import PrerequisiteError
from launcher.discovery.host import ShellJob, count_gpus, detect_host, read_job


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}, ShellJob("7")),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}, ShellJob("7")),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_STEP_ID": "0"}, ShellJob("7", "0")),
        ({"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"}, ShellJob("7")),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "16"},
            ShellJob("7", "0", 16),
        ),
    ],
)
def test_the_job_of_a_shell_is_read(environ: dict[str, str], expected: ShellJob | None) -> None:
    assert read_job(environ) == expected


def test_half_an_allocation_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="only some variables of an allocation"):
        read_job({"SLURM_JOB_ID": "7"})


def test_looking_gives_every_run_an_id_of_its_own() -> None:
    assert detect_host().run_id != detect_host().run_id


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("1", 1), ("0,2", 2), ("", 0), ("-1", 0), ("0,1,2,3", 3)])
def test_gpus_are_those_that_a_program_sees(tmp_path: Path, visible: str | None, count: int) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(environ, tmp_path) == count
