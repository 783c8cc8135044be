"""Fetch what a run will read of Hugging Face's hub, before it is queued: model configuration, tokenizer, weights, data.

  launcher fetch recipes/llama32_1b_sft.py hf_path=meta-llama/Llama-3.2-1B
  launcher fetch RECIPE --env HF_HOME=/shared/hf --env HF_TOKEN

The files go into the cache that the run will use, so give what you give `run` or `submit`. What is there is not asked
for again. A run fetches by itself what is missing; this is for compute nodes without network, and for not waiting.
"""

import argparse

from launcher.cli import arguments
from launcher.cli.output import info, print_json
from launcher.contract.units import bytes_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher fetch`."""
    arguments.add_common(parser)
    arguments.hide_without_effect(parser, "fetch")
    parser.add_argument("--json", action="store_true", help="print what was fetched as one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Fetch and print what was fetched."""
    from launcher.api.fetch import fetch
    from launcher.cli.progress import TerminalProgress

    with TerminalProgress() as progress:
        found = fetch(arguments.read_request(parsed), progress)
    if parsed.json:
        from dataclasses import asdict

        print_json(asdict(found))
    fetched = [one for one in found.items if one.state == "fetched"]
    for one in found.items:
        text = f"{bytes_text(one.bytes)} in {one.files} files"
        state = f"fetched {text} in {one.seconds:.0f} s" if one in fetched else f"in the cache, {text}"
        info(f"{one.kind:14} {one.name}: {state}")
    if fetched:
        info(f"{bytes_text(sum(one.bytes for one in fetched))} from {found.endpoint} into {found.cache}")
    else:
        info(f"nothing to fetch: {found.cache} has all that the run will read of the hub")
    return 0
