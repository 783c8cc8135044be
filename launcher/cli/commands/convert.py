"""Convert weights between Hugging Face's format and Megatron's, here or in a job, and prove that nothing was lost.

  launcher convert import HF_DIR MEGATRON_DIR       a checkpoint that training starts from
  launcher convert export RUN HF_DIR                what a run has trained, as transformers loads it
  launcher convert export MEGATRON_DIR HF_DIR --architecture HF_DIR
  launcher convert export RUN DIR                   a run of LoRA: its adapters, as peft loads them
  launcher convert export RUN HF_DIR --merge        a run of LoRA: the model with its adapters added

It ends with a parity report: names, shapes, values bit by bit, and the logits of both models (launcher help convert).
"""

import argparse
from typing import Any

from launcher.cli.arguments import add_job, read_job
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json
from launcher.cli.parser import count
from launcher.contract.conversion import DEVICES, DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each direction."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = actions.add_parser("import", help="a Hugging Face directory into a Megatron checkpoint", allow_abbrev=False)
    one.add_argument("source", metavar="HF_DIR", help="config.json and *.safetensors")
    one.add_argument("target", metavar="MEGATRON_DIR", help="the checkpoint directory to make")
    _add_shared(one)
    one = actions.add_parser("export", help="a Megatron checkpoint into a Hugging Face directory", allow_abbrev=False)
    of_run = "a checkpoint directory, an iteration in one, or a run (directory, id or name): its newest"
    complete(one.add_argument("source", metavar="MEGATRON_DIR", help=of_run), "runs")
    one.add_argument("target", metavar="HF_DIR", help="the directory to make")
    one.add_argument(
        "--architecture",
        metavar="HF_DIR",
        help="where config.json and the tokenizer are (default: what the checkpoint remembers); for adapters the "
        "base model with its weights",
    )
    one.add_argument("--merge", action="store_true", help="add adapters to their base model and write the whole model")
    _add_shared(one)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tp", metavar="N", type=count, default=1, help="split tensors over N ranks (default: 1)")
    add("--pp", metavar="N", type=count, default=1, help="split layers over N ranks (default: 1)")
    add("--ep", metavar="N", type=count, default=1, help="split experts over N ranks (default: 1)")
    add("--dtype", choices=DTYPES, help="of the result (default: the source's)")
    add("--no-logits", action="store_true", help="do not run both models to compare what they answer")
    add("--device", choices=DEVICES, default="auto", help="default: GPUs where there are enough")
    add("--python", metavar="PATH", help="interpreter with the training stack (default: the profile's, this one)")
    add_job(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Convert and print the report. Return 1 where the result is not equal to its source."""
    from launcher.api.convert import convert
    from launcher.cli.progress import TerminalProgress
    from launcher.contract.conversion import ConversionRequest

    request = ConversionRequest(
        action=parsed.action,
        source=parsed.source,
        target=parsed.target,
        architecture=getattr(parsed, "architecture", None),
        tp=parsed.tp,
        pp=parsed.pp,
        ep=parsed.ep,
        merge=getattr(parsed, "merge", False),
        dtype=parsed.dtype,
        logits=not parsed.no_logits,
        device=parsed.device,
    )
    with TerminalProgress() as progress:
        found = convert(request, progress, python=parsed.python, job=read_job(parsed))
    if parsed.json:
        print_json(found)
    for line in summary(found):
        info(line)
    return 0 if found["ok"] else 1


def summary(found: dict[str, Any]) -> list[str]:
    """Return the parity report for people, line by line."""
    verdict = coloured("equal", "green") if found["ok"] else coloured("NOT EQUAL", "red")
    lines = [f"{found['action']} {verdict}: {found['target']} ({found['seconds']:g} s, {found['device']})"]
    cast = f", {found['cast']} of them cast to another type" if found["cast"] else ""
    rows = [("tensors", f"{found['tensors']}, {found['bit_exact']} bit-exact{cast}")]
    largest = found["largest_difference"]
    if largest:
        rows.append(("differing", f"{found['differing']}, at most by {largest['value']:.3g} in {largest['name']}"))
    for key, what in (("missing", "lost"), ("unexpected", "not in the source")):
        if found[f"{key}_count"]:
            rows.append((what, f"{found[f'{key}_count']}: {_some(found[key], found[f'{key}_count'])}"))
    for one in found["shapes"][:3]:
        rows.append(("shape", f"{one['name']} is {one['result']} and was {one['source']}"))
    if adapters := found.get("adapters"):
        rows.append(("adapters", _adapters(adapters)))
    for kind, names in found.get("transformers", {}).items():
        if names:
            rows.append((f"transformers: {kind}", _some(names, len(names))))
    rows.append(("logits", _logits(found["logits"])))
    width = max(len(name) for name, _ in rows)
    return [*lines, *(f"  {name:{width}}  {text}" for name, text in rows)]


def _adapters(found: dict[str, Any]) -> str:
    if "changed" in found:
        return f"merged into {found['changed']} of {found['tensors']} tensors"
    if untrained := found["untrained"]:
        return f"{found['tensors']} tensors; all zero, so they change nothing: {_some(untrained, len(untrained))}"
    return f"{found['tensors']} tensors"


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:3]) + (", ..." if count > 3 else "")


def _logits(found: dict[str, Any]) -> str:
    if not found["compared"]:
        return f"not compared: {found['reason']}"
    words = f"differ by at most {found['max_difference']:.2g}, the largest is {found['largest_logit']:.3g} (fp32)"
    return words if found["ok"] else f"{words}; allowed were {found['tolerance']:.2g}"
