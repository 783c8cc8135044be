"""The estimate of checkpoints, and what is said where they do not fit. Real ones: tests/job/test_checkpoint_sizes.py.

Tier: quick, about 1 s.
"""

from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher.contract.disk_space import DiskSpace, Quota
from launcher.discovery.training_files import SavedModel, TrainingFiles
from launcher.planning.checkpoint_space import CheckpointSize, estimate, findings
from launcher.planning.inputs import FromCheck
from launcher.planning.memory import NotEstimatedError
from tests.planning.checked_configurations import resolved
from tests.support.building import plan

PARAMETERS = 1_235_814_400
"""Of Llama 3.2 1B, whose embedding is tied (Hugging Face's model card: 1.24 billion)."""


NOT_DISTRIBUTED = {"use_distributed_optimizer": False}


def size(world_size: int = 8, done: int = 0, **changes: Any) -> CheckpointSize:
    checkpoint = {"save_interval": 10, "most_recent_k": -1, **changes.pop("checkpoint", {})}
    return estimate(resolved(world_size, batch=16, checkpoint=checkpoint, **changes), world_size, done=done)


@pytest.mark.parametrize(
    ("changes", "each"),
    [
        ({}, 2 + 12),
        ({"checkpoint": {"save_optim": False}}, 2),
        ({"bf16": False}, 4 + 12),
        ({"optimizer": {"optimizer": "sgd"}}, 2 + 8),
        ({"bf16": False, "optimizer": NOT_DISTRIBUTED, "ddp": NOT_DISTRIBUTED}, 12),
        ({"checkpoint": {"dist_ckpt_optim_fully_reshardable": True}, "tensor_model_parallel_size": 2}, 2 + 12),
    ],
)
def test_bytes_per_parameter(changes: dict[str, Any], each: int) -> None:
    assert size(**changes).bytes == PARAMETERS * each


def test_copies_that_the_distributed_optimizer_keeps_are_counted() -> None:
    # Norms are not split by TP: 33 vectors of 2048 values. The tied embedding is on the first and the last stage.
    assert size(tensor_model_parallel_size=2).bytes == PARAMETERS * 14 + 33 * 2048 * 12
    assert size(pipeline_model_parallel_size=2).bytes == PARAMETERS * 14 + 128256 * 2048 * 12


@pytest.mark.parametrize(
    ("checkpoint", "done", "numbers"),
    [
        ({"save_interval": 10}, 0, (10, 10)),
        ({"save_interval": 30}, 0, (4, 4)),
        ({"save_interval": 10, "most_recent_k": 2}, 0, (10, 3)),
        ({"save_interval": 60, "most_recent_k": 5}, 0, (2, 2)),
        ({"save_interval": None}, 0, (1, 1)),
        ({"save_interval": 0}, 0, (0, 0)),
        ({"save_interval": 10}, 95, (1, 1)),
        ({"save_interval": 10}, 100, (0, 0)),
    ],
)
def test_how_many_exist_at_once(checkpoint: dict[str, Any], done: int, numbers: tuple[int, int]) -> None:
    found = size(done=done, checkpoint=checkpoint)
    assert (found.saved, found.at_once) == numbers


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft": {"dim": 8, "target_modules": []}}, "adapters"),
        ({"checkpoint": {"ckpt_format": "zarr"}}, "ckpt_format=zarr"),
        ({"train": {"train_iters": None}}, "train_iters is unknown"),
        ({"padded_vocab_size": None}, "size of the vocabulary"),
    ],
)
def test_an_unknown_size_is_printed_as_unknown(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(NotEstimatedError, match=says):
        size(**changes)
    checkpoint = {"save_interval": 10, **changes.pop("checkpoint", {})}
    made = plan(request={"nodes": 2}, known=FromCheck(resolved(8, batch=16, checkpoint=checkpoint, **changes)))
    assert made.checkpoints is None
    assert any(text.startswith("size of checkpoints: ") and says in text for text in made.unchecked)
    assert "size of checkpoints: the recipe decides" in plan().unchecked


TEN = CheckpointSize(bytes=1000, files=20, saved=10, at_once=10, notes=())
ONE = CheckpointSize(bytes=1000, files=20, saved=1, at_once=1, notes=())
SPACE = DiskSpace("/d", 20_000, 20_000, 1000, None)


@pytest.mark.parametrize(
    ("size", "space", "says"),
    [
        (TEN, SPACE, None),
        (TEN, None, None),
        (
            TEN,
            SPACE._replace(free_bytes=9_999),
            "need 9.8 KiB, and /d has 9.8 KiB left; free some space, or keep fewer",
        ),
        (TEN, SPACE._replace(free_files=199), "up to 200 files, and /d can take 199 more"),
        (TEN, SPACE._replace(free_files=None), None),
        (TEN, SPACE._replace(quota=Quota(0, 9_000, 0, None)), "has 8.8 KiB left of the quota"),
        (TEN, SPACE._replace(quota=Quota(0, None, 0, 150)), "can take 150 more"),
        (ONE, SPACE._replace(free_bytes=999), "is to be saved, and /d has 999 B left"),
        (CheckpointSize(1000, 20, 0, 0, ()), SPACE._replace(free_bytes=0), None),
    ],
)
def test_what_does_not_fit_is_warned_of(size: CheckpointSize, space: DiskSpace | None, says: str | None) -> None:
    found = findings(size, space)
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


@pytest.mark.parametrize(
    ("space", "what"),
    [
        (SPACE._replace(free_bytes=900, total_bytes=900), "the file system of /d, which holds 900 B"),
        (SPACE._replace(quota=Quota(0, 900, 0, None, 900)), "the quota of /d"),
    ],
)
def test_what_can_never_fit_is_refused(space: DiskSpace, what: str) -> None:
    with pytest.raises(RequestError, match=f"does not fit {what}"):
        findings(ONE, space)


def test_the_plan_has_the_estimate_and_compares_it_before_anything_is_queued() -> None:
    checkpoint = {"save_interval": 10, "most_recent_k": -1}
    known = FromCheck(resolved(8, batch=16, checkpoint=checkpoint))
    made = plan(request={"nodes": 2}, known=known)
    assert made.checkpoints is not None
    assert (made.checkpoints["bytes"], made.checkpoints["at_once"]) == (PARAMETERS * 14, 10)
    assert made.checkpoints["bytes_at_once"] == PARAMETERS * 140
    small = DiskSpace("/d", PARAMETERS * 20, PARAMETERS * 20, None, None)
    made = plan(request={"nodes": 2}, known=known, space=small)
    assert [text for text in made.warnings if "10 checkpoints of about 16.1 GiB each need 161.1 GiB" in text]
    made = plan(request={"nodes": 2}, known=known, space=small, changes=("checkpoint.save=null",))
    assert not [text for text in made.warnings if "GiB" in text]
    own = FromCheck(known.resolved, TrainingFiles(loads=SavedModel("/d/iter_0000090", 90, own=True)))
    made = plan(request={"nodes": 2}, known=own, space=small)
    assert made.checkpoints is not None
    assert made.checkpoints["at_once"] == 1
    assert "space for checkpoints: their directory is not seen here" in plan(known=known, space=None).unchecked
    with pytest.raises(RequestError, match=r"16\.1 GiB does not fit the file system"):
        plan(request={"nodes": 2}, known=known, space=small._replace(total_bytes=PARAMETERS))
