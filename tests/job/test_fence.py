"""A training that another attempt has superseded: it saves nothing more, and leaves the tracker. Cost: about 20 s."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from launcher.job.config import versions
from tests.job.ranks import Ranks, Run, make_run

pytestmark = pytest.mark.megatron
OVERRIDES = ("train.train_iters=400", "checkpoint.save_interval=2", "validation.eval_iters=0")
LEASE = {
    "version": 1,
    "nonce": "launcher:x:y",
    "cluster": "c",
    "job_id": "8",
    "host": "n2",
    "attempt": "001",
    "time": 1,
}
REASON = "superseded: attempt 001 (job 8) owns the run"

LATE = f"""
from pathlib import Path

from megatron.bridge.training import checkpointing
from vanilla_gpt_pretrain import configure

real = checkpointing.get_checkpoint_train_state_filename


def with_another_owner(*arguments, **keywords):
    # Called by rank 0 once the shards of a save are written, before the tracker moves.
    Path("lease").write_text({json.dumps(LEASE)!r})
    return real(*arguments, **keywords)


checkpointing.get_checkpoint_train_state_filename = with_another_owner
"""


def tracker(run: Run) -> Path:
    return run.path / "checkpoints/latest_checkpointed_iteration.txt"


def test_the_ranks_end_before_the_next_save(tmp_path: Path) -> None:
    run = make_run(tmp_path, overrides=OVERRIDES)
    own = {**LEASE, "attempt": "000", "job_id": "7"}
    (run.path / "lease").write_text(json.dumps(own))
    with Ranks(run, 2) as running:
        running.wait_for(lambda: tracker(run).exists())
        temporary = run.path / "lease.new"
        temporary.write_text(json.dumps(LEASE))
        temporary.replace(run.path / "lease")
        after = int(tracker(run).read_text())
        assert running.wait() == [0, 0], running.tails()
    assert [run.end(rank)["outcome"] for rank in range(2)] == ["stopped", "stopped"]
    # Rank 0 reads the lease and the others follow it.
    assert [run.end(rank)["reason"] for rank in range(2)] == [REASON, "superseded: another attempt owns the run"]
    # The save that was being made in that moment may have been completed.
    assert int(tracker(run).read_text()) <= after + 2
    saved = [int(path.name[5:]) for path in (run.path / "checkpoints").glob("iter_*")]
    assert max(saved) <= after + 2 < 400


def test_the_tracker_stays_where_the_owner_changes_during_a_save(tmp_path: Path) -> None:
    run = make_run(tmp_path, recipe="late.py", files={"late.py": LATE}, overrides=OVERRIDES)
    with Ranks(run, 2) as running:
        assert running.wait()[0] == 0, running.tails()
    assert (run.end(0)["outcome"], run.end(0)["reason"]) == ("stopped", REASON)
    assert (run.path / "checkpoints/iter_0000002").exists()
    assert not tracker(run).exists()


class Request(NamedTuple):
    """As megatron-core's AsyncRequest, which the CPU stack cannot execute."""

    finalize_fns: list[Callable[[], None]]


def test_an_asynchronous_save_is_checked_before_it_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled, done = list[Request](), list[str]()
    module = ModuleType("megatron.bridge.training.checkpointing")
    module.get_checkpoint_tracker_filename = lambda directory: f"{directory}/tracker"  # type: ignore[attr-defined]
    module.schedule_async_save = lambda _state, request: scheduled.append(request)  # type: ignore[attr-defined]
    for name in ("megatron", "megatron.bridge", "megatron.bridge.training"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["megatron.bridge.training"].checkpointing = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    versions.before_trackers(lambda: done.append("checked"))
    assert module.get_checkpoint_tracker_filename("d") == "d/tracker"
    assert done == ["checked"]
    module.schedule_async_save(None, Request([lambda: done.append("moved")]))
    for function in scheduled[0].finalize_fns:
        function()
    assert done == ["checked", "checked", "moved"]
