"""The host context: Slurm's variables of an allocation, and visible GPUs."""

from pathlib import Path

import pytest

from launcher._util.errors import PrerequisiteError
from launcher.discovery.host import Allocation, count_gpus, detect_host, read_allocation


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}, Allocation("7", 2, None, None, None)),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_PER_NODE": "4"}, Allocation("7", 2, 4, None, None)),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NNODES": "3", "SLURM_GPUS_PER_NODE": "h100:8"}
            | {"SLURM_JOB_CPUS_PER_NODE": "96(x2),12", "SLURM_NTASKS_PER_NODE": "2"},
            Allocation("7", 3, 8, 2, 12),
        ),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}, Allocation("7", 1, 2, None, None)),
    ],
)
def test_an_allocation_is_read(environ: dict[str, str], expected: Allocation | None) -> None:
    assert read_allocation(environ) == expected


def test_half_an_allocation_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="only some variables of an allocation"):
        read_allocation({"SLURM_JOB_ID": "7"})


def test_looking_gives_every_run_an_id_of_its_own() -> None:
    assert detect_host().run_id != detect_host().run_id


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("1", 1), ("0,2", 2), ("", 0), ("-1", 0), ("0,1,2,3", 3)])
def test_gpus_are_those_that_a_program_sees(tmp_path: Path, visible: str | None, count: int) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(environ, tmp_path) == count
