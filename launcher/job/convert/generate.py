"""`--generate`: the same prompt continued greedily by Megatron's model and by transformers, token by token.

Both compute in fp32 and see the whole text anew for each token, so nothing but their own forward pass differs. Megatron
runs the checkpoint's weights; transformers runs what an export of that checkpoint writes.
"""

import contextlib
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...contract import text_generation
from ...contract.conversion import ConversionRequest
from ...contract.events import EventWriter
from ...contract.text_generation import GenerationRequest
from .. import reporting
from ..data import tokenizing
from ..errors import UserError
from ..model import hf_files, weights
from . import adapters, architecture, logits, model, sources, writing

Forward = Callable[[Any], Any]
"""From token ids, shape (1, length), to the logits of the next token, shape (vocabulary,), fp32."""


@dataclass(frozen=True)
class ChosenToken:
    """One token that was chosen: the two largest logits decide."""

    token: int
    second: int
    margin: float
    """How much the largest logit is above the second."""
    largest: float
    """The largest magnitude of a logit, which the tolerance is a share of."""


def main(text: str) -> int:
    """Answer the request `text`. Exit status: 0 answered, 2 the request was wrong, 3 anything else failed."""
    return reporting.answer("--generate", text, text_generation.parse, _answer)


def _answer(request: GenerationRequest, events: EventWriter) -> "dict[str, Any]":
    source = Path(request.source)
    if not hf_files.holds_weights(source):
        source = sources.iteration(source)
    events.stage("loading Megatron")
    with tempfile.TemporaryDirectory(prefix="launcher-generate-") as directory, _one_rank():
        conversion = ConversionRequest(
            action="export",
            source=str(source),
            target=directory,
            partial=directory,
            architecture=request.architecture,
            merge=True,
            dtype="float32",
            device=request.device,
        )
        return generate(request, conversion, model.init_ranks(conversion), events)


def generate(
    request: GenerationRequest, conversion: ConversionRequest, device: str, events: EventWriter
) -> "dict[str, Any]":
    """Continue each prompt on both sides; `ok` says whether they agree. Raises UserError."""
    from megatron.core import parallel_state

    try:
        built, exported, beside = _both(conversion, device, events)
        tokenizer = _tokenizer(request, beside)
        theirs = logits.hugging_face_model(exported, None)
        size = int(theirs.config.get_text_config().vocab_size)
        sides = (_megatron(built, device, size), _transformers(theirs))
        for prompt in request.prompts:
            _require_in_vocabulary(prompt, tokenizer, size)
        found = [_continued(prompt, request, tokenizer, sides, device, events) for prompt in request.prompts]
    finally:
        parallel_state.destroy_model_parallel()
    return {
        "source": conversion.source,
        "device": device,
        "share": logits.TOLERANCE[device],
        "prompts": found,
        "ok": all(one["ok"] for one in found),
    }


def _both(conversion: ConversionRequest, device: str, events: EventWriter) -> "tuple[list[Any], Path, Optional[Path]]":
    """Return Megatron's model, the directory that transformers loads, and the one that may have a tokenizer."""
    from megatron.bridge import AutoBridge

    source, single = Path(conversion.source), model.dtype_of("float32")
    if hf_files.holds_weights(source):
        with model.supported(str(source)):
            bridge = AutoBridge.from_hf_pretrained(str(source))
        built = model.build(bridge, conversion, device, single)
        events.stage("reading weights")
        with weights.require_all_tensors(str(source)):
            bridge.load_hf_weights(built)
        model.require_all_set(built, str(source))
        return built, source, source
    found = architecture.of_checkpoint(source, conversion.architecture)
    if found.peft is not None:
        bridge, built = adapters.load(found, conversion, device, events)
    else:
        bridge, built = found.bridge, model.build(found.bridge, conversion, device, single)
        events.stage("reading the checkpoint")
        model.load_checkpoint(built, source)
    events.stage("writing tensors")
    writing.write_model(
        model.export_tensors(bridge, built, single),
        found,
        conversion.partial_dir,
        single,
        lambda done, total: events.progress(done, total, "tensors"),
        write=True,
    )
    return built, conversion.partial_dir, found.directory


def _tokenizer(request: GenerationRequest, beside: Optional[Path]) -> tokenizing.Tokenizer:
    named = request.tokenizer or beside
    if named is None:
        raise UserError("it is not known where the tokenizer is", hint="name its directory: --tokenizer DIR")
    return tokenizing.load(Path(named))


def _megatron(built: "list[Any]", device: str, size: int) -> Forward:
    return lambda ids: logits.megatron_logits(built[0], ids, device)[0, -1, :size]  # the vocabulary may be padded


def _transformers(loaded: Any) -> Forward:
    import torch

    def forward(ids: Any) -> Any:
        with torch.no_grad():
            return loaded(input_ids=ids).logits[0, -1].float()

    return forward


def _require_in_vocabulary(prompt: str, tokenizer: tokenizing.Tokenizer, size: int) -> None:
    (ids,) = tokenizer.encode([prompt], special_tokens=True)
    if not ids:
        raise UserError("this prompt has no tokens", where=f"--prompt {prompt!r}")
    if max(ids) >= size:
        raise UserError(
            f"the prompt's id {max(ids)} is not in the model's vocabulary of {size}",
            where=f"--prompt {prompt!r}",
            hint="the tokenizer is not that of the model: --tokenizer DIR",
        )


def _continued(
    prompt: str,
    request: GenerationRequest,
    tokenizer: tokenizing.Tokenizer,
    sides: "tuple[Forward, Forward]",
    device: str,
    events: EventWriter,
) -> "dict[str, Any]":
    (start,) = tokenizer.encode([prompt], special_tokens=True)
    found = []
    for name, forward in zip(("Megatron", "transformers"), sides, strict=True):
        events.stage(f"generating with {name}")
        found.append(_greedy(name, forward, start, request.max_new_tokens, tokenizer.eod))
    mine, theirs = found

    def above(side: int, number: int, token: int) -> float:
        ids = [*start, *(step.token for step in found[side][:number])]
        values = _logits(sides[side], ids)
        return float(values[found[side][number].token] - values[token])

    verdict = judge(mine, theirs, share=logits.TOLERANCE[device], above=above)
    return {
        "prompt": prompt,
        "prompt_ids": start,
        "megatron": _described(mine, tokenizer),
        "transformers": _described(theirs, tokenizer),
        **verdict,
    }


def _logits(forward: Forward, ids: "list[int]") -> Any:
    import torch

    return forward(torch.tensor([ids]))


def _greedy(name: str, forward: Forward, start: "list[int]", most: int, end: Optional[int]) -> "list[ChosenToken]":
    import torch

    ids, steps = list(start), list[ChosenToken]()
    while len(steps) < most and not (steps and steps[-1].token == end):
        found = _logits(forward, ids)
        if bool(found.isnan().any()):
            raise UserError(f"{name} answers with logits that are not numbers, at token {len(steps) + 1}")
        first, second = torch.topk(found, 2)[0].tolist()
        one, other = torch.topk(found, 2)[1].tolist()
        steps.append(ChosenToken(one, other, first - second, float(found.abs().max())))
        ids.append(one)
    return steps


def judge(
    mine: "list[ChosenToken]", theirs: "list[ChosenToken]", *, share: float, above: "Callable[[int, int, int], float]"
) -> "dict[str, Any]":
    """Return where two continuations first differ, and whether both sides were undecided there.

    `above(side, number, token)` returns how much the choice `number` of a side (0 or 1) is above another token there.
    Each logit may differ by `share` of the largest, so what one side has for its own choice above the other's may turn
    where it is below twice that; what follows has other texts before it and is not compared.
    """
    for number, (one, other) in enumerate(zip(mine, theirs)):  # noqa: B905 - one may have ended before
        if one.token != other.token:
            tolerance = 2 * share * max(one.largest, other.largest)
            margin = max(
                one.margin if one.second == other.token else above(0, number, other.token),
                other.margin if other.second == one.token else above(1, number, one.token),
            )
            return {"same": number, "differs_at": number, "margin": margin, "tolerance": tolerance,
                    "ok": margin <= tolerance}  # fmt: skip
    same = min(len(mine), len(theirs))
    return {"same": same, "differs_at": None, "margin": None, "tolerance": None, "ok": len(mine) == len(theirs)}


def _described(steps: "list[ChosenToken]", tokenizer: tokenizing.Tokenizer) -> "dict[str, Any]":
    return {
        "text": tokenizer.decode([step.token for step in steps]),
        "ids": [step.token for step in steps],
        "tokens": [tokenizer.decode([step.token]) for step in steps],
        "second": [tokenizer.decode([step.second]) for step in steps],
        "margins": [step.margin for step in steps],
        "least_margin": min(step.margin for step in steps),
    }


@contextlib.contextmanager
def _one_rank() -> "Iterator[None]":
    """Make this process the only rank inside the block."""
    warnings.simplefilter("ignore")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    os.environ.update({**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"})
    yield
    distributed: Any = sys.modules["torch"].distributed
    if distributed.is_initialized():
        distributed.destroy_process_group()
