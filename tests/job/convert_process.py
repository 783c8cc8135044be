"""Ranks that carry out many conversions after importing Megatron once: `convert_all` starts them and has their answers.

A step is {"do": ..., ...}: `make` a small random model, `alter` one of its tensors or drop it, `import`, `export`,
`judge` (compare a result once more), `data` (a file of tokens), `loss` of a model on a sample. Each answer has what
rank 0 found, or the error.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.job.ranks import free_port
from tests.support.limits import seconds
from tests.support.warm import warm_python

if TYPE_CHECKING:
    from launcher.contract.conversion import ConversionRequest

ROOT = Path(__file__).resolve().parents[2]

SMALL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
HEADS = {"head_dim": 16}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, **HEADS}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SMALL, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2Config", {**SMALL, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**SMALL, **HEADS, "vocab_size": 101}),
    "qwen3_moe": ("Qwen3MoeConfig", {**SMALL, **EXPERTS}),
    "gpt2": ("GPT2Config", {"vocab_size": 100, "n_embd": 32, "n_layer": 1, "n_head": 2}),
}
"""Families by name: transformers' configuration class, and a small shape. 101 tokens cannot be split by two."""


def convert_all(steps: list[dict[str, Any]], ranks: int = 1, timeout_s: float = 250) -> list[dict[str, Any]]:
    """The answers to `steps`, carried out by so many ranks one after another."""
    names = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = []
    for rank in range(ranks):
        each = {**names, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(value) for name, value in each.items()}}
        command = [warm_python(), "-m", "tests.job.convert_process", json.dumps(steps)]
        # Files, not pipes: they are read only at the end.
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 open until the end of this function
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        started.append((process, out, err))
    try:
        ended = _wait([process for process, _, _ in started], timeout_s)
        said = [[_content(file) for file in files] for _, *files in started]
    finally:
        for process, *files in started:
            process.kill()
            process.wait()
            for file in files:
                file.close()
    assert ended == [0] * ranks, "\n".join(errors[-3000:] for _, errors in said)
    answers: list[dict[str, Any]] = json.loads(said[0][0].splitlines()[-1])
    return answers


def _wait(processes: "list[subprocess.Popen[bytes]]", timeout_s: float) -> list[int | None]:
    """Exit statuses once all have ended, one has failed, or the time is over."""
    ended: list[int | None] = []
    end = time.monotonic() + seconds(timeout_s)
    while time.monotonic() < end:
        ended = [process.poll() for process in processes]
        if None not in ended or any(ended):
            break
        time.sleep(0.05)
    return ended


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def make(path: Path, family: str, dtype: str = "bfloat16", std: float = 0.1) -> None:
    """A random model of a family with weights that random initialisation would not give."""
    import torch
    import transformers

    kind, shape = MODELS[family]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std).add_(parameter.ndim == 1)  # norms around one
    model.to(getattr(torch, dtype)).save_pretrained(path)


def loss_of(path: Path, sample: list[int], labels: list[int]) -> float:
    """The mean loss of the model in `path`; a label of -100 does not count."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([sample])).logits[0]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)))


def alter(path: Path, name: str, by: float | None) -> None:
    """Change one element of one tensor in a model's directory of one file; None: drop the tensor."""
    from safetensors.torch import load_file, save_file

    file = path / "model.safetensors"
    tensors = load_file(file)
    if by is None:
        del tensors[name]
    else:
        tensors[name].reshape(-1)[5] += by
    save_file(tensors, file, metadata={"format": "pt"})


def data(prefix: Path, document: list[int], count: int) -> None:
    """Megatron's file of tokens with the same document again and again."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin")
    for _ in range(count):
        builder.add_document(torch.tensor(document), [len(document)])
    builder.finalize(f"{prefix}.idx")


def _step(step: dict[str, Any], device: str) -> dict[str, Any]:
    import torch

    from launcher.contract.conversion import REPORT, ConversionRequest
    from launcher.contract.events import EventWriter
    from launcher.job.convert import sources, work

    first = torch.distributed.get_rank() == 0
    what = step.pop("do")
    if what == "make" and first:
        make(Path(step["path"]), step["family"], step.get("dtype", "bfloat16"), step.get("std", 0.1))
    elif what == "alter" and first:
        alter(Path(step["path"]), step["name"], step["by"])
    elif what == "data" and first:
        data(Path(step["path"]), step["document"], step["count"])
    elif what == "loss":
        return {"loss": loss_of(Path(step["path"]), step["sample"], step["labels"])}
    torch.distributed.barrier()
    if what in ("import", "export"):
        source = step["source"] if what == "import" else str(sources.iteration(Path(step["source"])))
        made = ConversionRequest(action=what, partial=step["target"], **{**step, "source": source})
        if first:
            made.partial_dir.mkdir()
        torch.distributed.barrier()
        ok = work.convert(made, device, EventWriter.silent())
        report = json.loads((made.partial_dir / REPORT).read_text())
        return {**report, "answer": ok, "request": asdict(made)}
    if what == "judge":
        return _judged(
            ConversionRequest(action=step["action"], target="", partial=step["partial"], source=step["source"]), device
        )
    return {}


def _judged(made: "ConversionRequest", device: str) -> dict[str, Any]:
    """The report about a result that lies there already."""
    from megatron.bridge import AutoBridge
    from megatron.core import parallel_state

    from launcher.contract.events import EventWriter
    from launcher.job.convert import architecture, model, work

    try:
        if made.action == "import":
            bridge = AutoBridge.from_hf_pretrained(made.source)
            built = model.build(bridge, made, device, None)
            return work.judge_import(bridge, built, made, device, EventWriter.silent())
        found = architecture.of_checkpoint(Path(made.source), None)
        built = model.build(found.bridge, made, device, found.dtype)
        model.load_checkpoint(built, Path(made.source))
        return work.judge_export(found.bridge, built, made, device, EventWriter.silent())
    finally:
        parallel_state.destroy_model_parallel()


def main() -> None:
    """Carry out the steps of argv[1]."""
    from launcher.contract.conversion import ConversionRequest
    from launcher.job.convert import model
    from launcher.job.errors import UserError
    from launcher.job.watch.stdout_channel import on_stdout

    # Each step makes process groups, whose sockets stay open: an ordinary user's soft limit is often 1,024 files.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with on_stdout() as out:
        device = model.init_ranks(ConversionRequest(action="import", source="", target="", device="cpu"))
        answers = []
        for step in json.loads(sys.argv[1]):
            try:
                answers.append(_step(step, device))
            except UserError as error:
                from megatron.core import parallel_state

                parallel_state.destroy_model_parallel()
                answers.append({"error": error.message, "where": error.where, "hint": error.hint})
            except Exception:
                traceback.print_exc()
                os._exit(1)  # the other rank may wait for this one
        out.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
