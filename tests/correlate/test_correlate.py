"""Megatron-LM and Megatron Bridge beside each other, on CPU: the pairs of the field's page agree once matched."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.correlate.test_verdict import FIRST_BRIDGE, FIRST_PAIR, SECOND_BRIDGE, SECOND_PAIR, SEVEN
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


SMALLER = {
    "--hidden-size": "64",
    "--ffn-hidden-size": "256",
    "--seq-length": "64",
    "--max-position-embeddings": "64",
    "--micro-batch-size": "2",
    "--global-batch-size": "4",
}


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
