"""One entry in W&B and MLflow over all attempts of a run, and a record of where it is."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.contract.paths import AttemptPaths
from launcher.contract.records.environment import TrackersRecord
from launcher.contract.validation import conforming
from launcher.job import trackers
from launcher.job.rank import Rank, read_rank
from tests.job.ranks import Ranks, make_run

OVERRIDES = ("train.train_iters=2", "checkpoint.save_interval=2", "logger.log_interval=1", "validation.eval_iters=0")


def rank_of(run: Path, *, rank: int = 1, attempt: str = "000") -> Rank:
    environ = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "NODE_RANK": "0"}
    run.mkdir(parents=True, exist_ok=True)
    return read_rank({**environ, "LAUNCHER_RUN_DIR": str(run), "LAUNCHER_ATTEMPT": attempt})


def config(**logger: Any) -> Any:
    return SimpleNamespace(logger=SimpleNamespace(**{"wandb_project": None, "mlflow_experiment": None, **logger}))


def test_the_id_is_the_runs_own(tmp_path: Path) -> None:
    run = tmp_path / f"odd name{'x' * 60}" / "20260921-101500-abcd"
    environ: dict[str, str] = {}
    trackers.prepare(config(wandb_project="p"), rank_of(run), environ)
    assert environ == {"WANDB_RUN_ID": f"odd-name{'x' * 32}-20260921-101500-abcd", "WANDB_RESUME": "allow"}
    assert len(environ["WANDB_RUN_ID"]) <= 64


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    environ = {"WANDB_RUN_ID": "mine"}
    trackers.prepare(config(wandb_project="p"), rank_of(tmp_path / "a" / "1"), environ)
    assert environ == {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "allow"}, "a second attempt goes on with it"
    environ = {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "must"}
    trackers.prepare(config(wandb_project="p"), rank_of(tmp_path / "a" / "1"), environ)
    assert environ == {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "must"}


def test_without_a_tracker_and_on_other_ranks_nothing_is_set(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    trackers.prepare(config(), rank_of(tmp_path / "a" / "1"), environ)
    trackers.prepare(config(wandb_project="p"), rank_of(tmp_path / "a" / "1", rank=0), environ)
    trackers.prepare(SimpleNamespace(), rank_of(tmp_path / "a" / "1"), environ)
    assert environ == {}


def test_a_password_in_the_address_of_mlflow_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(experiment_id="1", run_id="2", run_name="small")
    state: Any = SimpleNamespace(_mlflow_logger=True, cfg=config(mlflow_experiment="e"))
    for address, place in (("https://ada:canary@host/a@b", "https://host/a@b"), ("sqlite:///a.db", "sqlite:///a.db")):
        module = SimpleNamespace(
            active_run=lambda: SimpleNamespace(info=info), get_tracking_uri=lambda address=address: address
        )
        monkeypatch.setitem(sys.modules, "mlflow", module)
        found = trackers._mlflow(state)
        assert found is not None and "canary" not in str(found)
        assert str(found["url"] or found["place"]).startswith(place)


def test_the_newest_earlier_attempt_counts(tmp_path: Path) -> None:
    for number, text in enumerate(('{"mlflow": {"id": "one"}}', '{"mlflow": {"id": "two"}}', "{", '{"mlflow": 1}')):
        path = AttemptPaths(tmp_path / f"attempts/{number:03d}").trackers
        path.parent.mkdir(parents=True)
        path.write_text(text)
    found = trackers.earlier(rank_of(tmp_path, attempt="004"), "mlflow")
    assert [one["id"] for one in found] == ["two", "one"]
    assert trackers.earlier(rank_of(tmp_path, attempt="000"), "mlflow") == []


@pytest.mark.parametrize(
    ("address", "continued"),
    [
        ("https://me:secret@first.example/x", "one"),
        ("sqlite:////shared/a.db", "two"),
        ("https://other.example/x", None),
        (None, "three"),
    ],
)
def test_mlflow_goes_on_with_the_run_of_the_same_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, continued: str | None
) -> None:
    """An id of another server is refused by MLflow: the attempt would end."""
    places = (
        {"id": "one", "url": "https://first.example/x/#/experiments/7/runs/one", "place": None},
        {"id": "two", "url": None, "place": "sqlite:////shared/a.db"},
        {"id": "three", "url": None, "place": "file:///default"},
    )
    for number, found in enumerate(places):
        path = AttemptPaths(tmp_path / f"attempts/{number:03d}").trackers
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"version": 1, "mlflow": found}))
    tracking = ["file:///default"]
    module = SimpleNamespace(
        set_tracking_uri=tracking.append, get_tracking_uri=lambda: tracking[-1], log_params=lambda _: None
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    environ: dict[str, str] = {}
    logger = config(mlflow_experiment="e", mlflow_tracking_uri=address)
    trackers.prepare(logger, rank_of(tmp_path, attempt="003"), environ)
    assert environ.get("MLFLOW_RUN_ID") == continued


@pytest.mark.parametrize(
    ("tracking", "url", "place"),
    [
        ("https://ada:p@ss@mlflow.lab:5000/x", "https://mlflow.lab:5000/x/#/experiments/7/runs/r", None),
        ("postgresql://ada:word@db:5432/mlflow?password=word", None, "postgresql://db:5432/mlflow"),
        ("file:///shared/ada@lab/mlruns", None, "file:///shared/ada@lab/mlruns"),
    ],
)
def test_the_password_of_a_server_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: str, url: str | None, place: str | None
) -> None:
    info = SimpleNamespace(experiment_id="7", run_id="r", run_name="n")
    module = SimpleNamespace(active_run=lambda: SimpleNamespace(info=info), get_tracking_uri=lambda: tracking)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    logger = SimpleNamespace(mlflow_experiment="e", tensorboard_dir=None)
    rank = rank_of(tmp_path / "a" / "1")
    rank.paths.trackers.parent.mkdir(parents=True, exist_ok=True)
    state = SimpleNamespace(_mlflow_logger=module, cfg=SimpleNamespace(logger=logger))
    assert trackers.record(state, rank) is not None
    text = rank.paths.trackers.read_text()
    found = json.loads(text)["mlflow"]
    assert (found["url"], found["place"]) == (url, place)
    assert "word" not in text and "p@ss" not in text


def recorded(run: Path, attempt: str) -> TrackersRecord:
    text = AttemptPaths(run / "attempts" / attempt).trackers.read_text()
    return conforming(json.loads(text), TrackersRecord, unknown_keys=False)


@pytest.mark.parametrize(
    ("tracking", "url", "place"),
    [
        ("https://me:secret@ml.example.org/x", "https://ml.example.org/x/#/experiments/7/runs/abc", None),
        ("postgresql://me:secret@db/ml", None, "postgresql://db/ml"),
        ("/scratch/a@b/mlruns", None, "/scratch/a@b/mlruns"),
    ],
)
def test_a_record_holds_no_password(
    tracking: str, url: str | None, place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = SimpleNamespace(experiment_id="7", run_id="abc", run_name="one")
    mlflow = SimpleNamespace(active_run=lambda: SimpleNamespace(info=info), get_tracking_uri=lambda: tracking)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    rank = rank_of(tmp_path / "a" / "1")
    rank.paths.path.mkdir(parents=True)
    state = SimpleNamespace(_mlflow_logger=mlflow, cfg=config(mlflow_experiment="small"))
    trackers.record(state, rank)
    found = recorded(rank.run_dir, "000")["mlflow"]
    assert (found["url"], found["place"]) == (url, place)


@pytest.mark.megatron
def test_wandb_has_one_id_over_two_attempts(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    overrides = (
        *OVERRIDES,
        "logger.wandb_project=small",
        "logger.wandb_exp_name=first",
        f"logger.wandb_save_dir={tmp_path}",
    )
    run = make_run(tmp_path / "tracked" / "20260921-101500-abcd", overrides=overrides)
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}
    for attempt in ("000", "001"):
        with Ranks(run, 2, attempt, environment) as ranks:
            assert ranks.wait() == [0, 0], ranks.tails()
        if attempt == "000":
            request = json.loads((run.path / "argv.json").read_text())
            for override in request["overrides"]:
                if override["key"] == "train.train_iters":
                    override |= {"value": 4, "text": "train.train_iters=4"}
            (run.path / "argv.json").write_text(json.dumps(request))
    found = [recorded(run.path, attempt)["wandb"] for attempt in ("000", "001")]
    assert [one["id"] for one in found] == ["tracked-20260921-101500-abcd"] * 2
    assert [(one["name"], one["project"], one["url"]) for one in found] == [("first", "small", None)] * 2
    places = {Path(str(one["place"])).parent.name for one in found}
    assert len(places) == 2
    assert all(place.startswith("offline-run-") and place.endswith("tracked-20260921-101500-abcd") for place in places)
    assert recorded(run.path, "001")["tensorboard"]["place"] == str(run.path / "tensorboard")


@pytest.mark.megatron
@pytest.mark.soak
def test_mlflow_has_one_run_over_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs the package mlflow or mlflow-skinny, which the tests do not install."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "mlflow").as_uri()
    names = ("logger.mlflow_experiment=small", "logger.mlflow_run_name=first", f"logger.mlflow_tracking_uri={store}")
    run = make_run(tmp_path / "tracked" / "20260921-101500-abcd", overrides=(*OVERRIDES, *names))
    for attempt in ("000", "001"):
        with Ranks(run, 2, attempt, {"MLFLOW_ALLOW_FILE_STORE": "true"}) as ranks:
            assert ranks.wait() == [0, 0], ranks.tails()
        request = json.loads((run.path / "argv.json").read_text())
        for override in request["overrides"]:
            if override["key"] == "train.train_iters":
                override |= {"value": 4, "text": "train.train_iters=4"}
        (run.path / "argv.json").write_text(json.dumps(request))
    found = [recorded(run.path, attempt)["mlflow"] for attempt in ("000", "001")]
    assert found[0]["id"] == found[1]["id"]
    assert (found[1]["name"], found[1]["url"], found[1]["place"]) == ("first", None, store)
    client = mlflow.tracking.MlflowClient(store)
    (experiment,) = [each for each in client.search_experiments() if each.name == "small"]
    assert len(client.search_runs([experiment.experiment_id])) == 1
    steps = {metric.step for metric in client.get_metric_history(str(found[0]["id"]), "lm loss")}
    assert steps == {1, 2, 3, 4}
