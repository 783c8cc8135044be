"""Prepare training data: text becomes Megatron's files of token ids; and look at what such files hold.

  launcher data prepare corpus.jsonl /data/corpus --tokenizer /models/Llama-3.2-1B
  launcher data prepare texts/ /data/texts --tokenizer DIR --in-job-on gb200 --tasks 16
  launcher data inspect /data/corpus                 counts, lengths, ids against the vocabulary, samples
  launcher run RECIPE data=/data/corpus/data         train on it

SRC is a file or a directory of JSON lines, Parquet or text, or a saved data set. A call that was killed goes on with
the same command: what is whole is kept (launcher help data).
"""

import argparse
from typing import TYPE_CHECKING, Any

from launcher.cli.arguments import add_job, read_job
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import count
from launcher.contract.preparation import FORMATS, SAMPLE_BY, SHARD_BYTES
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.contract.preparation import InspectionRequest, PreparationRequest

_BAR = 40
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each action."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = actions.add_parser("prepare", help="text into Megatron's files of token ids", allow_abbrev=False)
    _add_prepare(one)
    one = actions.add_parser("inspect", help="what files of token ids hold", allow_abbrev=False)
    add = one.add_argument
    add("path", metavar="PATH", help="a directory that `data prepare` made, or a PREFIX of .bin and .idx files")
    add("--tokenizer", metavar="DIR", help="its tokenizer (default: the one that the directory was made with)")
    add("--samples", metavar="N", type=_none_or_more, default=2, help="documents whose beginning is shown (default: 2)")
    add("--verify", action="store_true", help="compare checksums with those of the manifest")
    _add_shared(one)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SRC", help="*.jsonl, *.parquet, *.txt (also .gz of lines), a directory of one of these, or "
        "a data set of save_to_disk()")  # fmt: skip
    add("target", metavar="OUT", help="the directory to make, or to go on with")
    add("--tokenizer", metavar="DIR", required=True, help="directory with the files of a Hugging Face tokenizer")
    add("--field", metavar="NAME", default="text", help="field or column that holds a document (default: text)")
    add("--split", metavar="NAME", help="split of a saved data set (default: its only one, or train)")
    add("--format", choices=FORMATS, help="of the source (default: by the names of its files)")
    add("--sample-by", choices=SAMPLE_BY, default="line", help="one document of a text file (default: line)")
    add("--no-eod", action="store_true", help="do not end documents with the tokenizer's end-of-sequence token")
    add("--no-special-tokens", action="store_true", help="leave out what the tokenizer adds, as at the beginning")
    add("--bad-rows", choices=("refuse", "skip"), default="refuse", help="rows that are broken (default: refuse)")
    add("--shard-size", metavar="SIZE", type=_size, default=SHARD_BYTES, help="text of a shard (default: 256M)")
    add("--no-merge", action="store_true", help="leave the shards apart, as a blend")
    add("--processes", metavar="N", type=count, help="shards at once on this machine (default: its CPUs)")
    add("--tasks", metavar="N", type=count, help="tasks of the array of --in-job-on (default: 4)")
    _add_shared(parser)
    add_job(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--python", metavar="PATH", help="interpreter with the training stack (default: the profile's, this one)")
    add("--json", action="store_true", help="print one JSON object")


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdigit() or len(number) > 9 or not int(number) or unit not in ("", *_SIZES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 64M or 2G")
    return int(number) * _SIZES.get(unit, 1)


def _none_or_more(text: str) -> int:
    if not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 9999")
    return int(text)


def main(parsed: argparse.Namespace) -> int:
    """Carry out the action. Return 1 where an inspection finds something wrong."""
    return _prepare(parsed) if parsed.action == "prepare" else _inspect(parsed)


def _prepare(parsed: argparse.Namespace) -> int:
    from launcher.api import data
    from launcher.cli.progress import TerminalProgress

    job = read_job(parsed)
    _refuse_without_effect(parsed, in_job=job is not None)
    request = _request(parsed, parsed.processes or data.default_processes())
    with TerminalProgress() as progress:
        found = data.prepare(request, progress, tasks=parsed.tasks or 4, python=parsed.python, job=job)
    if parsed.json:
        print_json(found)
    for line in prepared(found):
        info(line)
    return 0


def _request(parsed: argparse.Namespace, processes: int) -> "PreparationRequest":
    from launcher.contract.preparation import PreparationRequest

    return PreparationRequest(
        source=parsed.source,
        target=parsed.target,
        tokenizer=parsed.tokenizer,
        format=parsed.format,
        field=parsed.field,
        split=parsed.split,
        sample_by=parsed.sample_by,
        eod=not parsed.no_eod,
        special_tokens=not parsed.no_special_tokens,
        bad_rows=parsed.bad_rows,
        shard_bytes=parsed.shard_size,
        merge=not parsed.no_merge,
        processes=processes,
    )


def _refuse_without_effect(parsed: argparse.Namespace, *, in_job: bool) -> None:
    from launcher._util.errors import ConfigError

    if in_job and parsed.processes:
        raise ConfigError(
            "a task makes as many shards at once as it has CPUs", where="--processes", hint="Give --cpus instead."
        )
    if not in_job and parsed.tasks:
        raise ConfigError(
            "it is an option of the array of --in-job-on, which is not given",
            where="--tasks",
            hint="Add --in-job-on CLUSTER, or leave it out.",
        )


def prepared(found: dict[str, Any]) -> list[str]:
    """Return what was prepared, for people, line by line."""
    skipped = f", {found['skipped']} rows left out" if found["skipped"] else ""
    kept = f", {found['kept']} of them from before" if found["kept"] else ""
    size = sum(file["bytes"] for file in found["files"].values())
    return [
        f"{coloured('prepared', 'green')}: {found['target']}",
        f"  documents  {found['documents']:,}{skipped}",
        f"  tokens     {found['tokens']:,} of {bytes_text(found['source_bytes'])} of text, {found['dtype']}, "
        f"{bytes_text(size)}",
        f"  shards     {found['shards']}{kept}{', joined' if found['merged'] else ''}",
        f"train on it: data={found['data']}" if found["merged"] else f"train on it: 'data={found['data']}'",
    ]


def _inspect(parsed: argparse.Namespace) -> int:
    from launcher.api import data
    from launcher.cli.progress import TerminalProgress

    request = _inspection(parsed)
    with TerminalProgress() as progress:
        found = data.inspect(request, progress, python=parsed.python)
    if parsed.json:
        print_json(found)
    else:
        for line in inspected(found):
            say(line)
    return 0 if found["ok"] else 1


def _inspection(parsed: argparse.Namespace) -> "InspectionRequest":
    from launcher.contract.preparation import InspectionRequest

    return InspectionRequest(path=parsed.path, tokenizer=parsed.tokenizer, samples=parsed.samples, verify=parsed.verify)


def inspected(found: dict[str, Any]) -> list[str]:
    """Return what an inspection has found, for people, line by line."""
    lengths, ids, tokenizer = found["lengths"], found["ids"], found["tokenizer"]
    files = found["files"]
    first = files[0]["prefix"] if len(files) == 1 else f"{len(files)} pairs of files, the first is {files[0]['prefix']}"
    lines = [
        f"{first} ({files[0]['dtype']})",
        f"  tokens      {found['tokens']:,}",
        f"  documents   {found['documents']:,}",
    ]
    if ids["largest"] is not None:
        vocabulary = f"; the vocabulary has {tokenizer['vocabulary']:,}" if tokenizer else ""
        lines.append(f"  ids         {ids['smallest']} to {ids['largest']}{vocabulary}")
    if tokenizer and tokenizer["eod"] is not None:
        lines.append(f"  ends        {tokenizer['eod_count']:,} tokens are the end of a document ({tokenizer['eod']})")
    lines.append(f"  checksums   {found['checksums']}")
    lines += _histogram(lengths)
    for sample in found["samples"]:
        text = repr(sample["text"]) if sample["text"] is not None else " ".join(map(str, sample["ids"]))
        lines.append(f"  document {sample['document']}: {text}")
    lines += [f"{coloured('problem', 'red')}: {problem}" for problem in found["problems"]]
    return lines


def _histogram(lengths: dict[str, Any]) -> list[str]:
    if "mean" not in lengths:
        return []
    counts = lengths["histogram"]
    used = [number for number, held in enumerate(counts) if held]
    lines = [
        f"  lengths     {lengths['shortest']} to {lengths['longest']} tokens, mean {lengths['mean']:g}, half at most "
        f"{lengths['p50']}, 90 % {lengths['p90']}, 99 % {lengths['p99']}"
    ]
    for number in range(used[0], used[-1] + 1):
        span = "0" if not number else "1" if number == 1 else f"{1 << (number - 1)}-{(1 << number) - 1}"
        bar = "#" * max(1 if counts[number] else 0, round(_BAR * counts[number] / max(counts)))
        lines.append(f"  {span:>21} {counts[number]:>12,} {bar}")
    return lines
