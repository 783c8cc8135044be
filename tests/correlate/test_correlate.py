"""Megatron-LM and Megatron Bridge beside each other, on CPU: the pairs of the field's page agree once matched."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.correlate.pairs import FIRST_BRIDGE, FIRST_PAIR, SECOND_BRIDGE, SECOND_PAIR, SEVEN, SMALLER
from tests.support.limits import seconds
from tests.support.warm import warm_python

BRIDGE = "bridge:vanilla_gpt_pretrain_config"
TINY = shlex.split(
    "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --ffn-hidden-size 128 --seq-length 64 "
    "--max-position-embeddings 64 --micro-batch-size 2 --global-batch-size 8 --train-iters 8 --lr 3e-4 --min-lr 3e-5 "
    "--seed 1234 --tokenizer-type NullTokenizer --vocab-size 1000 --mock-data --log-interval 1 --eval-iters 0 "
    "--eval-interval 10"
)

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]


def launcher(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "launcher", *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=seconds(1500),
        check=False,
    )


def correlate(directory: Path, *arguments: str, ranks: int = 1, words: list[str]) -> tuple[int, dict[str, Any]]:
    options = ("--cluster", "local", "--gpus-per-node", str(ranks), "--python", warm_python(), "--json")
    done = launcher(directory, "correlate", *arguments, *options, "--", *words)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def numbers(found: dict[str, Any]) -> set[str]:
    return {one["key"] for one in found["differed_as_given"] if one["numbers"]}


def smaller(words: list[str], **more: str) -> list[str]:
    """Return a pair's command line for a busy machine: the same settings, a smaller model and batch, in fp32."""
    found = [word for word in words if word != "--bf16"]
    sizes = SMALLER | {f"--{name.replace('_', '-')}": value for name, value in more.items()}
    for option, value in sizes.items():
        if option in found:
            found[found.index(option) + 1] = value
    return found


def test_the_fields_first_pair_agrees_in_all_printed_digits_once_matched(tmp_path: Path) -> None:
    """One command from both command lines; as printed seven settings would differ."""
    words = smaller(FIRST_PAIR, vocab_size="2000", eval_iters="0")
    status, found = correlate(tmp_path, "mlm:gpt", BRIDGE, *FIRST_BRIDGE, "--probe", words=words)
    assert (status, found["verdict"]["state"]) == (0, "agree"), found["verdict"]
    assert found["verdict"]["compared"] == [1, 10]
    assert found["verdict"]["largest_difference"] == 0.0
    assert numbers(found) >= SEVEN
    directory = Path(found["directory"])
    assert (directory / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert "agree in all printed digits" in (directory / "page.html").read_text()
    # Megatron-LM prints a mean for the second iteration; only the log differs.
    assert found["verdict"]["stage"] == "log"


def test_the_fields_second_pair_agrees_on_two_tensor_parallel_ranks(tmp_path: Path) -> None:
    words = smaller(SECOND_PAIR, eval_iters="0", num_layers="2")
    status, found = correlate(tmp_path, "mlm:gpt", BRIDGE, *SECOND_BRIDGE, ranks=2, words=words)
    assert (status, found["verdict"]["state"]) == (0, "agree"), found["verdict"]
    assert numbers(found) >= SEVEN | {"optimizer.lr", "optimizer.min_lr", "tokenizer.vocab_size"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("words", "overrides", "ranks"), [(FIRST_PAIR, FIRST_BRIDGE, 1), (SECOND_PAIR, SECOND_BRIDGE, 2)], ids=["1", "2"]
)
def test_the_fields_pairs_agree_in_their_own_sizes(
    tmp_path: Path, words: list[str], overrides: list[str], ranks: int
) -> None:
    status, found = correlate(tmp_path, "mlm:gpt", BRIDGE, *overrides, "--fp32", ranks=ranks, words=words)
    assert (status, found["verdict"]["state"]) == (0, "agree"), found["verdict"]
    assert found["verdict"]["compared"] == [1, 10]


DATA = """
import sys, torch
from launcher.job import cpu
cpu.enable()
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
for number, name in enumerate(sys.argv[1:]):
    torch.manual_seed(number)
    builder = IndexedDatasetBuilder(name + ".bin", dtype=DType.optimal_dtype(1000))
    for _ in range(3000):
        tokens = torch.randint(0, 900, (int(torch.randint(20, 200, (1,))),))
        builder.add_document(tokens, [tokens.numel()])
    builder.finalize(name + ".idx")
"""


def test_real_data_comes_in_the_same_batches_on_both_sides(tmp_path: Path) -> None:
    """A blend of two files, without --split: Megatron-LM takes 969,30,1, and Bridge's recipe another one."""
    names = [str(tmp_path / name) for name in ("a_text_document", "b_text_document")]
    subprocess.run([warm_python(), "-c", DATA, *names], check=True, timeout=seconds(100))
    words = [word for word in TINY if word != "--mock-data"]
    words[words.index("--train-iters") + 1] = "20"
    words[words.index("--eval-iters") + 1] = "1"
    words += ["--data-path", "0.7", names[0], "0.3", names[1], "--data-cache-path", str(tmp_path / "cache")]
    status, found = correlate(tmp_path, "mlm:gpt", BRIDGE, "--probe", words=words)
    assert (status, found["verdict"]["state"]) == (0, "agree"), found["verdict"]
    hashes = []
    for side in ("left", "right"):
        probe = Path(found[side]["run_dir"]) / "attempts" / "000" / "probe" / "0000.jsonl"
        lines = map(json.loads, probe.read_text().splitlines())
        hashes.append([line["value"] for line in lines if line["stage"] == "data" and "tokens" in line["name"]])
    assert len(hashes[0]) == 20 * 4
    assert len(set(hashes[0])) > 40, "batches differ from each other"
    assert hashes[0] == hashes[1]


# ---- planted differences: each run of the same recipe, with one thing changed inside

PLANTED = {
    "epsilon": ("forward", "layer 0"),
    "permuted": ("data", "micro-batch 0: tokens"),
    "draw": ("generator", "model-parallel-rng"),
    "flipped": ("initialisation", "before the first forward"),
    "unfused": ("forward", "layer 0"),
    "adam": ("optimizer", "eps used"),
    "gradient": ("backward", "gradient of"),
    "mask": ("data", "loss_mask"),
    "scale": ("initialisation", "linear_fc1.weight"),
    "rate": ("optimizer", "lr used in iteration 3"),
}
MORE = {
    "padding": ("initialisation", "has the shape [256, 32] and [320, 32]"),
    "labels": ("data", "labels"),
    "swapped": ("data", "tokens"),
    "layer": ("forward", "layer 1"),
    "attention": ("forward", "layer 0"),
    "betas": ("optimizer", "betas used"),
    "decay": ("optimizer", "weight_decay used"),
    "clip": ("backward", "gradient of"),
}
"""With the variable and the mean in Megatron-LM's log they are twenty."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recipe and the run without a plant, `none`."""
    directory = tmp_path_factory.mktemp("planted")
    (directory / "planted.py").write_text((Path(__file__).parent / "plants.py").read_text())
    plant(directory, "none")
    return directory


def plant(directory: Path, name: str, *options: str, run: str | None = None) -> str:
    """Run the recipe with a plant; return the run's directory."""
    asked = ("planted.py", f"plant={name}", "--name", run or name, "--probe", "--json", "--python", warm_python())
    done = launcher(directory, "run", *asked, "--cluster", "local", "--gpus-per-node", "1", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(json.loads(done.stdout)["run_dir"])


def judged(directory: Path, left: str, right: str) -> dict[str, Any]:
    done = launcher(directory, "correlate", left, right, "--dropout", "0", "--json")
    assert done.stdout, done.stderr[-3000:]
    return dict(json.loads(done.stdout)["verdict"])


@pytest.mark.parametrize("name", [*PLANTED, *(pytest.param(one, marks=pytest.mark.soak) for one in MORE)])
def test_a_planted_difference_is_found_in_its_stage(planted: Path, name: str) -> None:
    found = judged(planted, "none", plant(planted, name))
    stage, cause = (PLANTED | MORE)[name]
    assert found["stage"] == stage, found
    assert cause in found["cause"], found
    assert not [one for one in found["settings"] if one["numbers"]], "a comparison of configurations would see it"


def test_a_variable_is_named_as_the_cause(planted: Path) -> None:
    found = judged(planted, "none", plant(planted, "variable", "--env", "PLANTED_SCALE=1.000001"))
    assert found["stage"] == "forward"
    assert "PLANTED_SCALE" in found["cause"]


@pytest.mark.parametrize("runs", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_equal_runs_give_no_false_alarm(planted: Path, runs: int) -> None:
    for number in range(runs):
        found = judged(planted, "none", plant(planted, "none", run=f"again-{number}"))
        assert (found["state"], found["stage"]) == ("agree", None), found


def test_another_layout_is_not_comparable_and_another_setting_is_named(planted: Path) -> None:
    """One recipe with two values of a setting: `--vary`."""
    options = ("--cluster", "local", "--python", warm_python(), "--json", "--gpus-per-node")
    done = launcher(planted, "correlate", "planted.py", "--vary", "model.tensor_model_parallel_size=1,2", *options, "2")
    found = json.loads(done.stdout)["verdict"]
    assert (done.returncode, found["state"]) == (1, "not comparable"), found
    assert "start both from one checkpoint" in found["sentence"]
    done = launcher(planted, "correlate", "planted.py", "--vary", "optimizer.adam_beta2=0.95,0.99", *options, "1")
    found = json.loads(done.stdout)["verdict"]
    assert (done.returncode, found["state"]) == (1, "diverged"), found
    assert [one["key"] for one in found["settings"]] == ["optimizer.adam_beta2"]
