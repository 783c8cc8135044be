"""A training by Megatron-LM's command line goes on: its arguments, and the batches on both sides."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher.api.prepare_plan import prepare_plan
from launcher.api.resume import continued_request, find_resumed
from launcher.config.request import Request
from launcher.planning.resume_changes import find_changes, require_permission
from launcher.rundir import RunDirectory
from launcher.translation.translate import to_bridge
from tests.report.blocks import LAUNCHED
from tests.support.limits import seconds
from tests.support.warm import warm_python
from tests.watch.run_dirs import BEGIN, make_attempt

WORDS = tuple(
    shlex.split(
        "--num-layers 1 --hidden-size 32 --num-attention-heads 2 --seq-length 32 --max-position-embeddings 32 "
        "--micro-batch-size 2 --global-batch-size 4 --train-iters 8 --lr 3e-4 --mock-data --vocab-size 1000 "
        "--tokenizer-type NullTokenizer --save-interval 4"
    )
)


def finished(tmp_path: Path) -> RunDirectory:
    """A run that has done its 8 iterations."""
    asked = Request(recipe="mlm:gpt", mlm_arguments=WORDS, cluster="local", gpus_per_node=1)
    path = tmp_path / "gpt" / "0001"
    path.mkdir(parents=True)
    (path / "plan.json").write_text(json.dumps(prepare_plan(asked, "run").to_dict()))
    (path / "journal.jsonl").write_text(json.dumps({"time": BEGIN, **LAUNCHED}) + "\n")
    run = RunDirectory(path)
    make_attempt(run, result={"outcome": "finished", "iteration": 8})
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("8")
    (path / "checkpoints" / "iter_0000008").mkdir()
    return run


def test_new_arguments_are_added_to_those_that_the_run_has(tmp_path: Path) -> None:
    run = finished(tmp_path)
    found = continued_request(run, {"resume": str(run.path), "mlm_arguments": ("--train-iters", "16")})
    assert found["mlm_arguments"] == (*WORDS, "--train-iters", "16")
    assert found["recipe"] == "mlm:gpt"
    assert tuple(continued_request(run, {"resume": str(run.path)})["mlm_arguments"]) == WORDS


@pytest.mark.parametrize("words", [(), ("--train-iters", "8"), ("--train-iters=4",)])
def test_a_finished_run_needs_more_iterations(words: tuple[str, ...], tmp_path: Path) -> None:
    run = finished(tmp_path)
    with pytest.raises(RequestError, match="nothing to continue") as found:
        find_resumed({"resume": str(run.path), **({"mlm_arguments": words} if words else {})})
    assert "-- --train-iters 16" in str(found.value.hint)


@pytest.mark.parametrize(
    ("words", "changes", "needs"),
    [
        ((), set(), set()),
        (("--train-iters", "16"), {"train.train_iters"}, set()),
        (("--adam-beta2", "0.95"), {"optimizer.adam_beta2"}, {"optimizer.adam_beta2"}),
        (("--seed", "1"), {"rng.seed", "dataset.random_seed"}, {"rng.seed", "dataset.random_seed"}),
    ],
)
def test_changes_of_the_training_are_listed_and_need_permission(
    words: tuple[str, ...], changes: set[str], needs: set[str], tmp_path: Path
) -> None:
    run = finished(tmp_path)
    asked = Request(recipe="mlm:gpt", mlm_arguments=(*WORDS, *words), cluster="local", gpus_per_node=1)
    found = find_changes(run.plan, prepare_plan(asked, "run").plan)
    assert {one.key for one in found} == changes
    assert {one.key for one in found if one.needs_permission} == needs
    if needs:
        with pytest.raises(RequestError, match="another training"):
            require_permission(found, (), str(run.path))


# ---- the batches of both sides, over a resume

MORE = ("--min-lr", "3e-5", "--eval-iters", "0", "--eval-interval", "1000", "--log-interval", "1")


def launcher(directory: Path, *arguments: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "launcher", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=directory, timeout=seconds(500), check=False)
    assert done.stdout, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def batches(run_dir: str, attempts: int) -> list[str]:
    """Return the hashes of tokens and labels of all micro-batches, one attempt after the other."""
    found = []
    for number in range(attempts):
        probe = Path(run_dir) / "attempts" / f"{number:03}" / "probe" / "0000.jsonl"
        lines = map(json.loads, probe.read_text().splitlines())
        found += [one["value"] for one in lines if one["stage"] == "data" and "mask" not in one["name"]]
    return found


@pytest.mark.megatron
@pytest.mark.timeout(900)
def test_batches_are_equal_over_100_iterations_and_across_a_resume(tmp_path: Path) -> None:
    """Both sides stop after 50 iterations and are resumed; together they read the batches of one run without a stop."""
    words = [*WORDS, *MORE]
    words[words.index("--train-iters") + 1] = "100"
    words[words.index("--save-interval") + 1] = "50"
    options = ("--cluster", "local", "--gpus-per-node", "1", "--python", warm_python(), "--json")
    stopping = (*words, "--exit-interval", "50")
    left = launcher(tmp_path, "run", "mlm:gpt", "--probe", *options, "--", *stopping)
    assert (left["outcome"], left["iteration"]) == ("stopped", 50)
    left = launcher(tmp_path, "run", "--resume", left["run_dir"], *options[:2], "--json")
    overrides = to_bridge(stopping).words
    right = launcher(tmp_path, "run", "bridge:vanilla_gpt_pretrain_config", *overrides, "--probe", *options)
    assert (right["outcome"], right["iteration"]) == ("stopped", 50)
    right = launcher(tmp_path, "run", "--resume", right["run_dir"], *options[:2], "--json")
    whole = launcher(tmp_path, "run", "mlm:gpt", "--probe", *options, "--", *words)
    assert [one["iteration"] for one in (left, right, whole)] == [100, 100, 100]
    hashes = [batches(left["run_dir"], 2), batches(right["run_dir"], 2), batches(whole["run_dir"], 1)]
    assert len(hashes[0]) == 100 * 2 * 2, "two micro-batches in each iteration, tokens and labels"
    assert len(set(hashes[0])) > 300, "batches differ from each other"
    assert hashes[0] == hashes[2]
    assert hashes[0] == hashes[1]
