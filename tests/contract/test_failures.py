"""The table of failures, on lines as the programs print them."""

import pytest

from launcher.contract.failures import classify

EXCEPTIONS = {
    # torch 2.x, c10/cuda/CUDACachingAllocator.cpp
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB": (
        "out of memory (GPU)"
    ),
    # torch's DistBackendError around an allocation of NCCL's own
    "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:77, unhandled cuda error\nLast error:\n"
    "Cuda failure 2 'out of memory'": "out of memory (GPU)",
    "DistBackendError: NCCL error in: x.cpp:77, invalid usage\nDuplicate GPU detected : rank 1 and rank 0": (
        "NCCL setup"
    ),
    "DistBackendError: NCCL error in: x.cpp:77\nLast error:\nFailed to bind NVLink SHARP (NVLS) Multicast memory": (
        "NCCL setup"
    ),
    "RuntimeError: NCCL Error 6: remote process exited or there was a network error": "lost peer",
    "DistStoreError: Socket Timeout": "lost peer",
    "RuntimeError: Rank 3 failed to pass monitoredBarrier in 30000 ms": "lost peer",
    "RuntimeError: DeepEP error: timeout (dispatch CPU)": "lost peer",
    "AcceleratorError: CUDA error: uncorrectable ECC error encountered": "hardware",
    "ValueError: the hardware list is empty": None,
    "KeyError: 'nvls'": None,
}
SRUN = {
    "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.": (
        "out of memory (host)"
    ),
    "srun: error: n1: task 3: Out Of Memory": "out of memory (host)",
    "slurmstepd: error: pyxis: couldn't start container": "container",
    "srun: unrecognized option '--container-image=x.sqsh'": "container",
    "srun: error: Unable to create step for job 12: Requested node configuration is not available": "step not started",
    "srun: error: n1: task 0: Exited with exit code 1": None,
}


@pytest.mark.parametrize(("text", "failure"), EXCEPTIONS.items())
def test_exceptions(text: str, failure: str | None) -> None:
    found = classify(exception=text)
    assert (found[0] if found else None) == failure


@pytest.mark.parametrize(("text", "failure"), SRUN.items())
def test_what_srun_said(text: str, failure: str | None) -> None:
    assert classify(srun=f"something else\n{text}\n") == (None if failure is None else (failure, text))
