"""Continue a prompt greedily with what a run has learned: by Megatron and by transformers, token by token.

  launcher generate RUN --prompt "The capital of France is"
  launcher generate CHECKPOINT_DIR --architecture HF_DIR --prompt TEXT --max-new-tokens 16
  launcher generate HF_DIR --prompt TEXT                a model that was exported, or comes from elsewhere

Megatron runs the checkpoint, transformers what an export of it writes; both in fp32. The status is 1 where they choose
different tokens although one of them is above the other by more than the tolerance (launcher help look-at-a-model).
"""

import argparse
from typing import Any

from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count
from launcher.contract.conversion import DEVICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    of_run = "a run (directory, id or name), a checkpoint directory, an iteration in one, or a Hugging Face model"
    complete(add("source", metavar="RUN|DIR", help=of_run), "runs")
    add("--prompt", metavar="TEXT", action="append", required=True, help="what to continue; repeatable")
    add("--max-new-tokens", metavar="N", type=count, default=64, help="most tokens to add (default: 64)")
    add(
        "--architecture",
        metavar="HF_DIR",
        help="where config.json and the tokenizer are (default: what the checkpoint remembers); for adapters the "
        "base model with its weights",
    )
    add("--tokenizer", metavar="DIR", help="the tokenizer (default: that of the architecture)")
    add("--device", choices=DEVICES, default="auto", help="of Megatron's model (default: a GPU where there is one)")
    add("--python", metavar="PATH", help="interpreter with the training stack (default: the profile's, this one)")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Print both continuations. Return 1 where they differ beyond the tolerance."""
    from launcher.api.generate import generate
    from launcher.cli.progress import TerminalProgress
    from launcher.contract.text_generation import GenerationRequest

    request = GenerationRequest(
        source=parsed.source,
        prompts=tuple(parsed.prompt),
        max_new_tokens=parsed.max_new_tokens,
        architecture=parsed.architecture,
        tokenizer=parsed.tokenizer,
        device=parsed.device,
    )
    with TerminalProgress() as progress:
        found = generate(request, progress, python=parsed.python)
    if parsed.json:
        print_json(found)
        return 0 if found["ok"] else 1
    for one in found["prompts"]:
        for line in continued(one):
            say(line)
        info(verdict(one))
    return 0 if found["ok"] else 1


def continued(found: dict[str, Any]) -> list[str]:
    """Return both continuations of a prompt for people: their texts, then a row for each token."""
    mine, theirs = found["megatron"], found["transformers"]
    lines = [
        f"prompt        {found['prompt']!r}",
        f"Megatron      {mine['text']!r}",
        f"transformers  {theirs['text']!r}",
        f"{'':5}  {'Megatron':<20} {'margin':>9}  {'transformers':<20} {'margin':>9}  second",
    ]
    for number in range(max(len(mine["ids"]), len(theirs["ids"]))):
        cells = [_cell(side, number) for side in (mine, theirs)]
        second = repr(mine["second"][number]) if number < len(mine["ids"]) else ""
        mark = "  <- differs" if number == found["differs_at"] else ""
        lines.append(f"{number + 1:5}  {cells[0]}  {cells[1]}  {second}{mark}")
    return lines


def _cell(side: dict[str, Any], number: int) -> str:
    if number >= len(side["ids"]):
        return f"{'':<20} {'':>9}"
    return f"{side['tokens'][number]!r:<20.20} {side['margins'][number]:9.4f}"


def verdict(found: dict[str, Any]) -> str:
    """Return whether both sides agree, in one sentence."""
    number, tokens = found["differs_at"], len(found["megatron"]["ids"])
    if number is None and found["ok"]:
        least = min(found["megatron"]["least_margin"], found["transformers"]["least_margin"])
        return f"{coloured('equal', 'green')}: {tokens} tokens, the least margin is {least:.4g}"
    if number is None:
        return f"{coloured('NOT EQUAL', 'red')}: one side ends before the other"
    margin, tolerance = found["margin"], found["tolerance"]
    if found["ok"]:
        word, than = coloured("undecided", "yellow"), "not above"
    else:
        word, than = coloured("NOT EQUAL", "red"), "above"
    return f"{word}: token {number + 1} differs with a margin of {margin:.4g}, {than} the tolerance of {tolerance:.4g}"
