"""Where a rank computes: on its GPU, or on CPU where there is none."""

from .errors import UserError

DEVICES = ("auto", "cpu", "gpu")


def select(device: str) -> str:
    """ "cpu" or "gpu" for the cluster profile's wish `device` (auto, cpu, gpu) and what torch sees here.

    Raises UserError for "gpu" where torch sees none: training a GPU-sized model on CPU by accident helps nobody.
    """
    if device not in DEVICES:
        raise UserError(f"device {device!r} is not one of {', '.join(DEVICES)}", where="argv.json: options.device")
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "gpu"
    if device == "gpu":
        raise UserError(
            f"the cluster profile asks for GPUs and torch {torch.__version__} sees none on this machine",
            hint="check nvidia-smi in the job, the image's CUDA build of torch, and that the step was given GPUs",
        )
    return "cpu"
