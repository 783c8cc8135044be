"""The arithmetic of a step's samples, told in the same words before a job and in it."""

from typing import Optional


def misfit(batch: int, micro: int, data_parallel: int) -> Optional[tuple[str, str]]:
    """What is wrong with a global batch of `batch` samples and what would do, or None where it can be divided.

    Each of `data_parallel` ranks works on micro-batches of `micro` samples; megatron-core's microbatch calculator
    demands a whole number of them (num_microbatches_calculator.py of 0.19.2).
    """
    step = micro * data_parallel
    if batch % step == 0:
        return None
    lower = batch // step * step
    nearest = f"{lower} or {lower + step}" if lower else str(step)
    return (
        f"train.global_batch_size={batch} is no multiple of micro-batch size {micro} x data-parallel size "
        f"{data_parallel} = {step}",
        f"use a global batch size of {nearest}",
    )
