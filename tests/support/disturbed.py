"""What is appended to a recipe to disturb its training once, in the first attempt, as the variable FAULT says.

sigkill, flip and cut end the rank (the latter two damage its newest checkpoint first), hang makes it wait for ever,
cuda fails on its GPU, nan makes the parameters of every rank NaN, and nan-unchecked does so where Megatron does not
look at gradients.
"""

_TEXT = """

import os, signal, time
from pathlib import Path

import torch

_plain = configure
_calls = 0


def configure():
    cfg = _plain()
@SETTINGS@
    cfg.rerun_state_machine.check_for_nan_in_loss = False
    cfg.ddp.check_for_nan_in_grad = os.environ.get("FAULT") != "nan-unchecked"
    cfg.model.register_pre_wrap_hook(_disturb)
    return cfg


def _disturb(model):
    if os.environ.get("FAULT") and os.environ["LAUNCHER_ATTEMPT"] == "000":
        model[0].register_forward_pre_hook(_count)
    return model


def _count(module, *_):
    global _calls
    _calls += 1
    if _calls != @CALL@:
        return
    fault = os.environ["FAULT"]
    if fault.startswith("nan"):
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))
        return
    if os.environ["RANK"] != "@RANK@":
        return
    while fault == "hang":
        time.sleep(1)
    if fault == "cuda":
        torch.zeros(2, device="cuda")[torch.tensor([5], device="cuda")]
        torch.cuda.synchronize()
    newest = Path(os.environ["LAUNCHER_RUN_DIR"]) / "checkpoints/iter_@SAVED@"
    while @WAITS@ and not (newest / "launcher-manifest.json").exists():
        time.sleep(0.05)
    if fault == "flip":
        shard = newest / "__0_0.distcp"
        content = bytearray(shard.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
        shard.write_bytes(content)
    if fault == "cut":
        state = newest / "train_state.pt"
        state.write_bytes(state.read_bytes()[:100])
        (newest / "metadata.json").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def disturbed(*settings: str, call: int, rank: int, saved: int | None = None) -> str:
    """Return the text to append: `settings` are statements about `cfg`.

    The fault happens to `rank` in forward pass `call`, and only once the checkpoint of iteration `saved` is whole.
    """
    values = {
        "SETTINGS": "\n".join(f"    {each}" for each in settings),
        "CALL": str(call),
        "RANK": str(rank),
        "SAVED": f"{saved or 0:07d}",
        "WAITS": str(saved is not None),
    }
    text = _TEXT
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
