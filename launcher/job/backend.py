"""The device that a rank computes on: its GPU, or the CPU where there is none."""

from .errors import UserError

DEVICES = ("auto", "cpu", "gpu")


def select(device: str) -> str:
    """Return "cpu" or "gpu" for the cluster profile's `device` (auto, cpu, gpu) and what torch sees here.

    Raises UserError for "gpu" where torch sees none, so that a GPU-sized model is not trained on CPU by accident.
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
            f"the cluster profile requires GPUs, but torch {torch.__version__} sees none on this machine",
            hint="check nvidia-smi in the job, that the image's torch is built for CUDA, and that the step has GPUs",
        )
    return "cpu"
