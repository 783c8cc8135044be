"""Faults of the real Megatron under --keep-going on a real Slurm, all at once: the same losses as undisturbed.

Each happens once, before iteration 7 of the first attempt. Cost: about 75 s on an idle machine, most of it CPU time.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import PROFILE, ROOT, User, user_of
from tests.faults.test_next_attempt import RETRY, decided, last, losses, status
from tests.support.disturbed import disturbed
from tests.support.fault_table import Faults
from tests.support.limits import SCALE
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]

DISTURBED = disturbed(
    "cfg.train.global_batch_size = cfg.train.micro_batch_size = 4",
    "cfg.train.train_iters, cfg.checkpoint.save_interval = 12, 3",
    "cfg.validation.eval_iters = 0",
    call=7,
    rank=0,
    saved=6,
)


@dataclass(frozen=True)
class Case:
    """A fault, and the expected end of the first attempt."""

    fault: str
    kind: str
    """Of the first attempt's end."""
    loaded: int
    """The checkpoint from which the second attempt continues."""
    names: tuple[str, ...] = ()
    """In the catalogue."""


CASES = (
    Case("sigkill", "machine", 6),
    Case("hang", "machine", 6),
    Case("nan", "diverged", 6),
    Case("nan-unchecked", "diverged", 6, ("NaN without a check",)),
    Case("flip", "machine", 3, ("flipped bytes in a shard",)),
    Case("cut", "machine", 3, ("damaged checkpoint", "cut and empty parts of a checkpoint")),
)
ONLY = os.environ.get("TEST_FAULT_OF_MEGATRON")
"""One of the faults above, for switch_off.py, which looks at one mechanism at a time."""


@pytest.fixture
def cluster(new_cluster: Callable[..., VirtualCluster]) -> VirtualCluster:
    """One node with the machine's own /proc: a save asks for processes that the fork server has started outside it."""
    return new_cluster(nodes=1, namespaces=False)


@pytest.fixture
def user(cluster: VirtualCluster, tmp_path: Path) -> User:
    user = user_of(tmp_path, cluster)
    own = f'python = "{warm_python()}"\nhang_limit_s = {10 * SCALE}\n'
    (tmp_path / "clusters/virtual.toml").write_text(PROFILE + own + RETRY)
    (tmp_path / "trial.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text() + DISTURBED)
    return user


def submit(user: User, fault: str) -> Path:
    options = ("--keep-going", "--nodes=1", "--gpus-per-node=1", "--no-check-config", "--json", f"--env=FAULT={fault}")
    answer = json.loads(user.run("submit", "trial.py", *options).stdout)
    return Path(answer["run_dir"])


def loaded(run: Path) -> list[int]:
    """The checkpoints from which attempts have continued."""
    lines = [
        json.loads(line)
        for path in sorted(run.glob("attempts/*/timeline.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [line["iteration"] for line in lines if line["event"] == "checkpoint_loaded"]


@pytest.mark.fault(
    "flipped bytes in a shard",
    "damaged checkpoint",
    "cut and empty parts of a checkpoint",
    "NaN without a check",
)
def test_faults_of_the_real_training_end_with_the_losses_of_an_undisturbed_one(
    user: User, cluster: VirtualCluster, faults: Faults
) -> None:
    whole = submit(user, "")
    runs = {case: submit(user, case.fault) for case in CASES if ONLY in (None, case.fault)}
    for case, run in runs.items():
        wait_until(lambda run=run: decided(run)[-1:] == ["end"], f"the end of {case.fault}", cluster, 300)  # type: ignore[misc]
    wait_until(lambda: decided(whole)[-1:] == ["end"], "the end of the one without a fault", cluster, 300)
    expected = losses(whole)
    assert sorted(expected) == list(range(1, 13))
    for case, run in runs.items():
        first: dict[str, Any] = json.loads((run / "attempts/000/next.json").read_text())
        assert (first["kind"], first["action"], last(run)["kind"]) == (case.kind, "requeue", "finished"), case
        assert loaded(run) == [case.loaded], case
        assert losses(run) == expected, case
        assert "Traceback" not in (run / "attempts/001/logs/rank-0000.log").read_text()
        for name in case.names:
            faults.note_run(name, run, lost=status(user, run)["lost_iterations"])
        if case.fault == "nan":
            result = json.loads((run / "attempts/000/result.json").read_text())
            assert (result["outcome"], result["diverged_at"], result["failure"]) == ("diverged", 7, "diverged")
