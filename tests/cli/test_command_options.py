"""Every option of doctor, convert, data, fetch and image: two values that change what is done, a refusal, or a reason.

Those of run, submit and plan are in test_option_effects.py. Programs are stand-ins that write down what they are given:
sbatch its options, its script and the files beside it, the interpreter its words and its input.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.cli.main import command_parser
from launcher.planning.option_effects import EFFECTS
from tests.support.cli_server import Server, server
from tests.support.limits import seconds

NOTE = """{ echo "== $(basename "$0")"; printf '%s\\n' "$@"; } >>"$RECORD"\n"""
STUBS = {
    "sbatch": NOTE
    + """
for word; do
    [[ ! -f $word ]] || cat "$word" "$(dirname "$word")"/{argv.json,step.sh} >>"$RECORD" 2>/dev/null
done
[[ $* != *--test-only* ]] || { cat >>"$RECORD"; exit 0; }
echo "sbatch: error: Batch job submission failed: Invalid qos specification" >&2
exit 1
""",
    "python": """
if [[ $1 == -c ]]; then echo 0.6.2; echo /nowhere; echo True; exit 0; fi
{ echo "== python"; printf '%s\\n' "$@"; env | grep -E '^(A|HF_HOME)='; cat; } >>"$RECORD" <&0
echo failed >&2
exit 1
""",
    "sinfo": """
case $* in
    *--version*) echo "slurm 23.11.1" ;;
    *%T*%E*) for node in n1 n2 n3; do echo "$node|batch|idle|64|1000|gpu:8|none"; done ;;
    *%N*) echo "batch*|3|64|1|gpu:8|n[1-3]" ;;
    *) echo "batch*|up|infinite|3|64|1000|idle|gpu:8"; echo "other|up|infinite|3|64|1000|idle|gpu:8" ;;
esac
""",
    "scontrol": """
case $* in
    *hostnames*) echo n1 ;;
    *ping*) echo "Slurmctld(primary) at x is UP" ;;
    *config*) echo "ClusterName = x" ;;
    *node*) echo "NodeName=n1 CPUTot=64 ThreadsPerCore=1" ;;
esac
""",
    **dict.fromkeys(("srun", "squeue", "sacct", "munge", "unmunge", "sacctmgr", "scancel"), "exit 1\n"),
    **dict.fromkeys(("bwrap", "unsquashfs", "enroot"), "exit 1\n"),
}


@dataclass(frozen=True)
class Two:
    """Two values of an option, with words that both need. What is executed has to differ."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    besides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A value that is refused, with part of the sentence."""

    words: tuple[str, ...]
    says: str


Case = Two | Refused | str
"""A string is the reason why there is neither."""

TABLE = "it changes what is printed, and nothing that is executed"
FETCHED = "it has no effect in launcher fetch"
OF_A_JOB = {
    "in_job_on": Two(("--in-job-on", "mine"), ("--in-job-on", "other")),
    "cpus": Two(("--cpus", "2"), ("--cpus", "4"), ("--in-job-on", "mine")),
    "time": Two(("--time", "10"), ("--time", "20"), ("--in-job-on", "mine")),
    "partition": Two(("--partition", "a"), ("--partition", "b"), ("--in-job-on", "mine")),
    "account": Two(("--account", "a"), ("--account", "b"), ("--in-job-on", "mine")),
    "sbatch": Two(("--sbatch", "mem=1G"), ("--sbatch", "mem=2G"), ("--in-job-on", "mine")),
}
OF_A_CONVERSION: Mapping[str, Case] = {
    "source": "the checkpoint itself",
    "target": "the result itself",
    **{key: Two((f"--{key}", "1"), (f"--{key}", "2")) for key in ("tp", "pp", "ep")},
    "dtype": Two(("--dtype", "bfloat16"), ("--dtype", "float32")),
    "no_logits": Two((), ("--no-logits",)),
    "device": Two(("--device", "cpu"), ("--device", "gpu")),
    "python": Two(("--python", "./bin/python"), ("--python", "./bin/other-python")),
    "json": TABLE,
    **OF_A_JOB,
}
OF_AN_IMAGE: Mapping[str, Case] = {
    "spec": "the image itself",
    "source": "the image itself",
    "image": "the image itself",
    "quiet": TABLE,
    "json": TABLE,
    **dict.fromkeys(
        ("file", "context", "target", "build_arg", "secret", "engine", "name", "link", "architecture", "compression"),
        "tests/images/test_build.py, test_importing.py: the engine's and mksquashfs' command lines, and the store",
    ),
    "store": "tests/cli/test_image.py: images of another store",
    "cluster": "tests/cli/test_image.py: the store of another profile",
    **dict.fromkeys(("older_than", "include_named", "dry_run"), "tests/images/test_collect.py: other images go"),
    "checksum": "tests/cli/test_image.py: a flipped byte is found with it alone",
    **dict.fromkeys(OF_A_JOB, "tests/backends/test_task.py: the parameters of its job"),
}
CASES: Mapping[tuple[str, ...], Mapping[str, Case]] = {
    ("doctor", "--nodes", "1"): {
        "recipe": "tests/doctor/test_on_slurm.py: what it reads is looked at",
        "assignments": "tests/doctor/test_on_slurm.py: likewise",
        "cluster": Two(("--cluster", "mine"), ("--cluster", "other")),
        "nodes": Two(("--nodes", "1"), ("--nodes", "2")),
        "gpus_per_node": Two(("--gpus-per-node", "1"), ("--gpus-per-node", "2")),
        "time": Two(("--time", "10"), ("--time", "20")),
        "partition": Two(("--partition", "batch"), ("--partition", "other")),
        "account": Two(("--account", "a"), ("--account", "b")),
        "qos": Two(("--qos", "a"), ("--qos", "b")),
        "nodelist": Two(("--nodelist", "n1"), ("--nodelist", "n[1]")),
        "exclude": Two(("--exclude", "n2"), ("--exclude", "n3")),
        "image": "tests/doctor/test_on_slurm.py: the checks run in the image",
        "runtime": "tests/doctor/test_on_slurm.py: likewise",
        "mount": "tests/doctor/test_on_slurm.py: the directory is looked at",
        "env": Two(("--env", "A=1"), ("--env", "A=2")),
        "run_root": Two(("--run-root", "a"), ("--run-root", "b")),
        "sbatch": Two(("--sbatch", "mem=1G"), ("--sbatch", "mem=2G")),
        "unset_sbatch": Two((), ("--unset-sbatch", "gpus-per-node")),
        "srun_arg": Two(("--srun-arg=--label",), ("--srun-arg=--verbose",)),
        "quick": Two((), ("--quick",)),
        "rendezvous_timeout": Two(("--rendezvous-timeout", "5"), ("--rendezvous-timeout", "6")),
        "json": TABLE,
        "skipped": TABLE,
    },
    ("convert", "import", "hf", "new"): OF_A_CONVERSION,
    ("convert", "export", "hf", "new"): {
        **OF_A_CONVERSION,
        "architecture": Two(("--architecture", "hf"), ("--architecture", "hf2")),
        "merge": Two((), ("--merge",)),
    },
    ("data", "prepare", "corpus.jsonl", "new", "--tokenizer", "hf"): {
        "source": "the text itself",
        "target": "the result itself",
        "tokenizer": Two(("--tokenizer", "hf"), ("--tokenizer", "hf2")),
        "field": Two((), ("--field", "content")),
        "split": Two(("--split", "train"), ("--split", "test")),
        "format": Two((), ("--format", "jsonl")),
        "sample_by": Two((), ("--sample-by", "paragraph")),
        "no_eod": Two((), ("--no-eod",)),
        "no_special_tokens": Two((), ("--no-special-tokens",)),
        "bad_rows": Two((), ("--bad-rows", "skip")),
        "shard_size": Two(("--shard-size", "64M"), ("--shard-size", "2G")),
        "no_merge": Two((), ("--no-merge",)),
        "processes": Two(("--processes", "1"), ("--processes", "2")),
        "tasks": Two(("--tasks", "1"), ("--tasks", "2"), ("--in-job-on", "mine")),
        "python": Two(("--python", "./bin/python"), ("--python", "./bin/other-python")),
        "json": TABLE,
        **OF_A_JOB,
    },
    ("data", "inspect", "new"): {
        "path": "the data itself",
        "tokenizer": Two(("--tokenizer", "hf"), ("--tokenizer", "hf2")),
        "samples": Two(("--samples", "0"), ("--samples", "3")),
        "verify": Two((), ("--verify",)),
        "python": Two(("--python", "./bin/python"), ("--python", "./bin/other-python")),
        "json": TABLE,
    },
    ("generate", "hf", "--prompt", "a"): {
        "source": "the model itself",
        "prompt": Two((), ("--prompt", "b")),
        "max_new_tokens": Two(("--max-new-tokens", "1"), ("--max-new-tokens", "2")),
        "architecture": Two(("--architecture", "hf"), ("--architecture", "hf2")),
        "tokenizer": Two(("--tokenizer", "hf"), ("--tokenizer", "hf2")),
        "device": Two(("--device", "cpu"), ("--device", "gpu")),
        "python": Two(("--python", "./bin/python"), ("--python", "./bin/other-python")),
        "json": TABLE,
    },
    ("fetch", "small.py", "--python", "./bin/python"): {
        "recipe": "the recipe itself",
        "assignments": Two(("train.train_iters=3",), ("train.train_iters=4",)),
        "cluster": Two(("--cluster", "mine"), ("--cluster", "other")),
        "nodes": Two(("--nodes", "1"), ("--nodes", "2")),
        "gpus_per_node": Two(("--gpus-per-node", "1"), ("--gpus-per-node", "2")),
        "env": Two(("--env", "A=1"), ("--env", "A=2")),
        "expand_env": Two(("--env", "A=/a:$PATH"), ("--env", "A=/a:$PATH", "--expand-env", "A")),
        "python": Two(("--python", "./bin/python"), ("--python", "./bin/other-python")),
        "ship": "tests/discovery/test_shipped_code.py: the file lies beside the recipe, which may read it",
        "init": Two(("--init", "random"), ()),
        "image": "the stack of this machine fetches; the image decides which release's keys are known",
        "runtime": "likewise, without an image there is none",
        "mount": "likewise; a source that is missing is refused",
        "default_image": "likewise",
        "default_mount": "likewise",
        "resume": "tests/cli/test_fetch.py: the recipe and the assignments are those of the run",
        "entrypoint": Refused(("--entrypoint", "program.py"), "only the project's own entrypoint can fetch"),
        "unset_sbatch": Refused(("--unset-sbatch", "mem"), FETCHED),
        "json": TABLE,
        **{
            key: Refused(words, FETCHED)
            for key, words in {
                "time": ("--time", "10"),
                "partition": ("--partition", "a"),
                "account": ("--account", "a"),
                "qos": ("--qos", "a"),
                "nodelist": ("--nodelist", "n1"),
                "exclude": ("--exclude", "n1"),
                "sbatch": ("--sbatch", "mem=1G"),
                "srun_arg": ("--srun-arg=--label",),
                "name": ("--name", "a"),
                "run_root": ("--run-root", "a"),
                "shared": ("--shared",),
                "allow_change": ("--allow-change", "a"),
                "allow_checkpoint_load": ("--allow-checkpoint-load",),
                "keep_going": ("--keep-going",),
                "attempts": ("--attempts", "2"),
                "verify": ("--verify", "full"),
                "hang_limit": ("--hang-limit", "100"),
                "scale_batch": ("--scale-batch",),
                "spares": ("--spares", "1"),
                "probe": ("--probe",),
                "notify": ("--notify", "./tell"),
                "notify_url": ("--notify-url", "CHAT"),
                "mlm_source": ("--mlm-source", "/opt"),
                "mcore": ("--mcore", "/opt"),
                "nsys": ("--nsys",),
                "profiler": ("--profiler", "torch"),
                "profile_steps": ("--profile-steps", "3:4"),
                "profile_ranks": ("--profile-ranks", "0"),
                "nsys_trace": ("--nsys-trace", "cuda"),
                "nsys_arg": ("--nsys-arg=--stats=true",),
                "gpu_metrics": ("--gpu-metrics",),
                "nsys_from": ("--nsys-from", "/opt"),
            }.items()
        },
    },
    **{("image", action): OF_AN_IMAGE for action in ("build", "import", "list", "inspect", "verify", "gc")},
}


@pytest.fixture(scope="module")
def cli() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text("def configure():\n    return None\n")
    (tmp_path / "program.py").write_text("print()\n")
    (tmp_path / "clusters").mkdir()
    python = f'launcher_python = "{tmp_path}/bin/python"\npython = "{tmp_path}/bin/python"\n'
    (tmp_path / "clusters/mine.toml").write_text('extends = "slurm"\n' + python)
    (tmp_path / "clusters/other.toml").write_text(
        f'extends = "slurm"\n{python}[directives]\nmem = "3G"\n[env]\nA = "other"\n'
    )
    (tmp_path / "clusters/mine-local.toml").write_text('extends = "local"\ndevice = "cpu"\n')
    for name in ("hf", "hf2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    for name, text in {**STUBS, "other-python": STUBS["python"].replace("== python", "== other-python")}.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text.replace("$RECORD", str(tmp_path / "record")))
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def called(cli: Server, home: Path, words: tuple[str, ...], cluster: str = "mine") -> tuple[int | None, str, str]:
    """Return the status, what was executed without what is drawn for each run, and what was said."""
    record = home / "record"
    record.write_text("")
    environ = {
        "PATH": f"{home}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "USER": "ada",
        "LAUNCHER_CLUSTERS": str(home / "clusters"),
        "LAUNCHER_CLUSTER": cluster,
    }
    answer = cli.call(words, home, environ, limit_s=seconds(20))
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{12}", "RUN", record.read_text(errors="replace"))
    text = re.sub(r"(?<=RUN:)[0-9a-f]{12}|launcher-(ask|fetch)-\w+|submission_file_\w+", "DRAWN", text)
    text = re.sub(r"(?<=with )\w{8,}|\b[0-9a-f]{32}\b", "DRAWN", text)
    return answer.status, text, f"{answer.stdout}{answer.stderr}"


def options_of(words: tuple[str, ...]) -> set[str]:
    """Return the names of a command's options and words, from its parser."""
    parser: argparse.ArgumentParser = command_parser(words[0])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parser = action.choices[words[1]]
    return {action.dest for action in parser._actions if action.dest != "help"}


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_every_option_has_its_case(words: tuple[str, ...]) -> None:
    assert options_of(words) - set(CASES[words]) == set()
    if words[0] != "image":
        assert set(CASES[words]) - options_of(words) == set()


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in CASES if words[0] != "image"], ids=" ".join)
def test_two_values_change_what_is_executed(words: tuple[str, ...], cli: Server, home: Path) -> None:
    once, again = called(cli, home, words), called(cli, home, words)
    assert once == again
    assert once[1], once[2]
    wrong = []
    for key, case in CASES[words].items():
        if isinstance(case, Two):
            first, second = (called(cli, home, (*words, *case.besides, *value)) for value in (case.first, case.second))
            if not (first[1] and second[1]):
                wrong.append(f"{key}: nothing was executed: {first[2][-300:]} {second[2][-300:]}")
            elif case.besides and first[1] != called(cli, home, (*words, *case.besides, *case.first))[1]:
                wrong.append(f"{key}: the same words execute something else each time")
            elif first[1] == second[1]:
                wrong.append(f"{key}: {case.first} and {case.second} execute the same")
        elif isinstance(case, Refused):
            status, _, said = called(cli, home, (*words, *case.words))
            if status != 2 or case.says not in said:
                wrong.append(f"{key}: {status} {said[-300:]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("key", [key for key, effect in EFFECTS.items() if not effect.counts_in("local")])
def test_the_doctor_refuses_on_this_machine_what_is_slurms(key: str, cli: Server, home: Path) -> None:
    words = CASES["doctor", "--nodes", "1"].get({"srun_args": "srun_arg"}.get(key, key))
    if not isinstance(words, Two):
        pytest.skip("the doctor has no such option")
    status, _, said = called(cli, home, ("doctor", *words.first), cluster="mine-local")
    assert status == 1
    assert "it has no effect in a local run" in said
