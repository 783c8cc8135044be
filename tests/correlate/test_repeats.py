"""Repeats of both sides, the noise that they show, and several trainings at once."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError, OutsideError
from launcher.api.locate import find_cluster
from launcher.api.progress import Silent
from launcher.config.request import Request
from launcher.correlate import running
from launcher.correlate.correlate import Correlation, Pair, Training, noise_of, run_pair
from launcher.correlate.running import Ended, Wanted
from launcher.rundir import RunDirectory
from tests.watch.run_dirs import make_attempt, make_run

LOSSES = (10.4, 10.3, 10.1, 9.9, 9.8, 9.7, 9.6, 9.5)
PAIR = Pair(
    Training("mlm:gpt", words=("--num-layers", "2")), Training("bridge:vanilla_gpt_pretrain_config"), dropout=0.0
)


class Trainings:
    """Stands for trainings: what each side's runs have as losses, one after the other; None: it fails."""

    def __init__(self, directory: Path, left: Sequence[float | None], right: Sequence[float | None]) -> None:
        self.directory = directory
        self.shifts = {"left": list(left), "right": list(right)}
        self.asked: list[list[str]] = []

    def __call__(self, wanted: Sequence[Wanted]) -> list[Ended]:
        self.asked.append([one.name for one in wanted])
        return [self._one(one) for one in wanted]

    def _one(self, wanted: Wanted) -> Ended:
        shift = self.shifts[wanted.name.partition(",")[0]].pop(0)
        run = recorded(self.directory / str(len(list(self.directory.glob("*")))), shift or 0.0)
        return Ended(wanted.name, run, "it was killed" if shift is None else None)


def recorded(path: Path, shift: float) -> RunDirectory:
    """Return a run whose losses lie so much, relative to themselves, above LOSSES."""
    run = make_run(path / "0001", backend="local", world_size=1)
    argv = {"recipe": {"bridge": "vanilla_gpt_pretrain_config"}, "overrides": []}
    (run.path / "plan.json").write_text(json.dumps({**run.plan, "argv": argv}))
    lines = [
        {"iteration": number, "loss": loss * (1 + shift), "learning_rate": 1e-4}
        for number, loss in enumerate(LOSSES, 1)
    ]
    make_attempt(run, metrics=tuple(lines))
    return run


def correlated(trainings: Trainings, pair: Pair = PAIR) -> Correlation:
    return run_pair(pair, trainings, Silent(), on_cpu=True)


def test_each_side_runs_as_often_as_asked_and_both_spreads_count(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, (0, 1e-6, 0), (1e-5, 0, 0))
    found = correlated(trainings, dataclasses.replace(PAIR, repeats=3))
    assert trainings.asked == [
        ["left", "right", "left, repeat 1", "right, repeat 1", "left, repeat 2", "right, repeat 2"]
    ]
    assert found.noise is not None
    assert found.noise.left == pytest.approx(1e-6, rel=1e-3)
    assert found.noise.right == pytest.approx(1e-5, rel=1e-3)
    assert found.noise.tolerance == pytest.approx(2e-5, rel=1e-3)
    verdict = found.comparison.verdict
    assert verdict.state == "agree within tolerance"
    assert any("3 runs of the right side differ by at most 1.0e-05" in note for note in verdict.notes)
    stored = json.loads((found.directory / "verdict.json").read_text())
    assert len(stored["noise"]["left"]["runs"]) == 3
    assert stored["tolerance"] == found.noise.tolerance


def test_a_difference_is_held_against_one_more_run_of_the_left_side(tmp_path: Path) -> None:
    """Without a number of repeats: a third run only where the two differ; up to twice the noise does not count."""
    trainings = Trainings(tmp_path / "equal", (0,), (0,))
    assert correlated(trainings).comparison.verdict.state == "agree"
    assert trainings.asked == [["left", "right"]]
    trainings = Trainings(tmp_path / "noisy", (0, 1e-3), (1.5e-3,))
    found = correlated(trainings)
    assert trainings.asked == [["left", "right"], ["left, repeat 1"]]
    assert found.comparison.verdict.state == "agree within tolerance"
    trainings = Trainings(tmp_path / "other", (0, 0), (1.5e-3,))
    verdict = correlated(trainings).comparison.verdict
    assert verdict.state == "diverged"
    assert "2 runs of the left side have the same losses in all recorded digits" in verdict.notes


def test_one_repeat_means_no_repeat(tmp_path: Path) -> None:
    trainings = Trainings(tmp_path, (0,), (1e-3,))
    assert correlated(trainings, dataclasses.replace(PAIR, repeats=1)).comparison.verdict.state == "diverged"
    assert trainings.asked == [["left", "right"]]


def test_a_repeat_that_failed_is_said_and_a_side_without_a_run_is_an_error(tmp_path: Path) -> None:
    found = correlated(Trainings(tmp_path / "some", (None, 0), (0, 0)), dataclasses.replace(PAIR, repeats=2))
    assert found.comparison.verdict.state == "agree"
    assert found.noise is not None
    assert found.noise.left is None, "the noise of one run is not known"
    assert "left did not finish (it was killed)" in found.noise.failed[0]
    with pytest.raises(OutsideError, match="it was killed"):
        correlated(Trainings(tmp_path / "none", (0,), (None,)))


def test_noise_needs_two_runs(tmp_path: Path) -> None:
    one, other = (Ended("x", recorded(tmp_path / name, 0.0)) for name in ("a", "b"))
    assert noise_of([one], [other]).largest == 0.0
    assert noise_of([one], [other]).notes == ()


# ---- several at once


@pytest.mark.parametrize(
    ("visible", "installed", "ranks", "places"),
    [
        (None, 4, 1, ["0", "1", "2", "3"]),
        (None, 4, 2, ["0,1", "2,3"]),
        (None, 3, 2, ["0,1"]),
        ("4,6", 8, 1, ["4", "6"]),
        ("", 8, 1, []),
        (None, 0, 1, []),
        (None, 2, 8, []),
    ],
)
def test_trainings_at_once_have_gpus_of_their_own(
    visible: str | None, installed: int, ranks: int, places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, host = find_cluster("local")
    environ = {name: value for name, value in host.environ.items() if name != running.VISIBLE}
    host = dataclasses.replace(
        host, gpus=installed, environ=environ | ({} if visible is None else {running.VISIBLE: visible})
    )
    monkeypatch.setattr(running, "find_cluster", lambda _name: (cluster, host))
    wanted = [Wanted("left", Request(recipe="mlm:gpt", cluster="local", gpus_per_node=ranks))] * 2
    expected = [{running.VISIBLE: place} for place in places] or [{}]
    assert running._places(wanted, 2) == expected
    assert running._places(wanted, 1) == [{}]


def test_several_at_once_are_refused_in_slurm() -> None:
    with pytest.raises(ConfigError, match="GPUs of one machine"):
        running.run_all([Wanted("left", Request(recipe="mlm:gpt", cluster="slurm"))], Silent(), at_once=2)
