"""Set yourself up on a cluster: probe it, write its profile and your defaults, and check the login node.

On a login node:
  launcher init
  launcher init --partition gpu --account lab --image nemo:26.08 --run-root /shared/ada/runs

On a terminal it asks for what no option states; elsewhere it takes Slurm's defaults. What is there already is changed
only after a yes, or with --force, and a copy is kept. Called again with --image or --run-root alone it sets that and
leaves the profile as it is.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.cli.output import ask, ask_yes, can_ask, coloured, info, print_json, say, warn

if TYPE_CHECKING:
    from launcher.api.init import SetUp, SiteFacts, Written
    from launcher.doctor.report import DoctorReport

_ASKED = ("name", "partition", "account", "image", "run_root")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher init`."""
    add = parser.add_argument
    add("--name", metavar="NAME", help="what the profile is called (default: Slurm's name of the cluster)")
    add("--partition", metavar="NAME", help="partition of your jobs (default: Slurm's)")
    add("--account", metavar="NAME", help="account of your jobs (default: Slurm's)")
    add("--qos", metavar="NAME", help="quality of service of your jobs (default: Slurm's)")
    add("--image", metavar="IMAGE", help="image of your runs: a name in the store, a reference, ./file.sqsh")
    add("--run-root", metavar="DIR", help="directory of all runs, which every node sees (default: ./runs)")
    add("--force", action="store_true", help="change files that are there already; a copy of each is kept")
    add("--no-doctor", action="store_true", help="do not check the login node afterwards")
    add("--json", action="store_true", help="print one JSON object, and ask nothing")


def main(parsed: argparse.Namespace) -> int:
    """Ask, write, check, and print what comes next."""
    from launcher.api.init import check_answers, conflicts, site_facts, write_setup

    facts = site_facts()
    answers = _answers(parsed, facts, asking=can_ask() and not parsed.json)
    check_answers(answers, facts)
    replace = parsed.force
    in_the_way = conflicts(answers, facts)
    if in_the_way and not replace and can_ask() and not parsed.json:
        for sentence in in_the_way:
            info(sentence)
        if not ask_yes("go on, and keep a copy?"):
            info("nothing was changed")
            return 2
        replace = True
    written = write_setup(answers, facts, replace=replace)
    if not parsed.json:
        _show(written)
    report = None if parsed.no_doctor else _doctor(as_json=parsed.json)
    if parsed.json:
        print_json(
            {
                "version": 1,
                "profile": str(written.profile) if written.profile else None,
                "config": str(written.config),
                "set": dict(written.set),
                "copies": [str(path) for path in written.kept],
                "next": next_commands(answers, facts),
                "doctor": report.to_dict() if report else None,
            }
        )
    else:
        info("\nnext:")
        for command in next_commands(answers, facts):
            say(f"  {command}")
    return 1 if report is not None and report.counts()["fail"] else 0


def next_commands(answers: "SetUp", facts: "SiteFacts") -> list[str]:
    """Return the three commands that come next."""
    if not facts.has_slurm:
        return [
            "launcher plan vanilla_gpt_pretrain",
            "launcher run vanilla_gpt_pretrain train.train_iters=20",
            "launcher status",
        ]
    image = [] if answers.image else ["launcher image import nvcr.io#nvidia/nemo:26.08 --name nemo:26.08"]
    named = "" if answers.image else " --image nemo:26.08"
    run = f"vanilla_gpt_pretrain --nodes 2{named}"
    first = ["launcher doctor --nodes 2"] if answers.image else []
    return [*image, *first, f"launcher plan {run}", f"launcher submit {run} --time 0:30:00 train.train_iters=20"]


def _answers(parsed: argparse.Namespace, facts: "SiteFacts", *, asking: bool) -> "SetUp":
    from launcher.api.init import SetUp

    stated = {name: getattr(parsed, name) for name in (*_ASKED, "qos")}
    # Called again with a value, it sets that one: the others were answered before.
    if asking and not (facts.has_profile and any(value is not None for value in stated.values())):
        for name in _ASKED:
            if stated[name] is None:
                stated[name] = _question(name, facts)
    return SetUp(**{**stated, "name": stated["name"] or facts.name})


def _question(name: str, facts: "SiteFacts") -> str | None:
    """Ask for one value; None for an empty answer, and for what does not apply here."""
    if name in ("name", "partition", "account") and (not facts.has_slurm or facts.has_profile):
        return None
    if name == "name":
        return ask("name of the profile", facts.name)
    if name == "partition":
        return _chosen("partition", facts.partitions, facts.partitions[0] if facts.partitions else "")
    if name == "account":
        return _chosen("account", facts.accounts, "") if facts.accounts else None
    none = {"image": "none yet", "run_root": "./runs of the directory you are in"}[name]
    what = {"image": "image of your runs", "run_root": "directory of all runs, which every node sees"}[name]
    return ask(f"{what} (empty: {'as it is' if facts.has_profile else none})", "") or None


def _chosen(what: str, known: Sequence[str], default: str) -> str | None:
    shown = f" ({', '.join(known[:12])}{', ...' if len(known) > 12 else ''})" if known else ""
    return ask(f"{what}{shown}{'' if default else ', empty: Slurm decides'}", default) or None


def _show(written: "Written") -> None:
    if written.refused is not None:
        words = "Name what jobs need here: --partition, --account, --qos"
        warn(f"Slurm refuses even a plain job: {written.refused}\n{words}")
    if written.profile is not None:
        info(f"wrote {written.profile}: the profile (launcher clusters show {written.profile.stem})")
    keys = ", ".join(f"{key} = {value}" for key, value in written.set.items())
    info(f"wrote {written.config}: {keys}")
    for copy in written.kept:
        info(f"kept {copy}: what was there before")


def _doctor(*, as_json: bool) -> "DoctorReport":
    from launcher.api.doctor import DoctorRequest, examine
    from launcher.cli.progress import TerminalProgress
    from launcher.doctor.report import table_lines

    report = examine(DoctorRequest(), TerminalProgress()).report
    if not as_json:
        info()
        say("\n".join(table_lines(report, lambda text, colour: coloured(text, colour, sys.stdout))))
    return report
