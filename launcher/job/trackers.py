"""Experiment trackers of a run: one run of W&B and of MLflow over all attempts, and where people find it.

Megatron Bridge starts its trackers on the last rank when it first logs. Before that the variables that both libraries
read are set here, unless the user has set them; once the training loop begins, what became of it is recorded.

    WANDB_RUN_ID, WANDB_RESUME      https://docs.wandb.ai/guides/track/environment-variables
    MLFLOW_RUN_ID                   https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html#mlflow.start_run
"""

import contextlib
import functools
import os
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Optional

from ..contract.files import read_object, write_json
from ..contract.records.environment import TrackerRecord, TrackersRecord
from .rank import Rank

_NAME_LENGTH = 40


def wandb_id(run: Path) -> str:
    """Return the id of a run in W&B: its name and its own id, in the characters that W&B allows."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run.parent.name)[:_NAME_LENGTH]
    return f"{name}-{re.sub(r'[^A-Za-z0-9_.-]', '-', run.name)}"


def prepare(config: Any, rank: Rank, environ: MutableMapping[str, str] = os.environ) -> None:
    """Let the trackers of a configuration continue the run's own entry; only the last rank has trackers."""
    logger = getattr(config, "logger", None)
    if rank.rank != rank.world_size - 1 or logger is None:
        return
    if getattr(logger, "wandb_project", None):
        environ.setdefault("WANDB_RUN_ID", wandb_id(rank.run_dir))
        # Without it each attempt is a new run, also under an id of the user's. W&B refuses it beside the other two.
        if not environ.keys() & {"WANDB_RESUME_FROM", "WANDB_FORK_FROM"}:
            environ.setdefault("WANDB_RESUME", "allow")
    if getattr(logger, "mlflow_experiment", None) and "MLFLOW_RUN_ID" not in environ:
        known = earlier(rank, "mlflow")
        # Another server does not know the run, and MLflow refuses an id that it does not know.
        here = _mlflow_address(logger) if known else None
        found = next((one for one in known if _recorded_address(one) == here), None)
        if found is not None:
            environ["MLFLOW_RUN_ID"] = str(found["id"])
            _log_new_parameters_only()


def earlier(rank: Rank, kind: str) -> list[dict[str, Any]]:
    """Return what earlier attempts have recorded of a tracker with an id, the newest first."""
    numbers = range(int(rank.attempt) - 1, -1, -1)
    records = (read_object(rank.run_paths.attempt_paths(f"{number:03d}").trackers) or {} for number in numbers)
    found = (record.get(kind) for record in records)
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("id"), str)]


def _mlflow_address(logger: Any) -> str:
    """Return where MLflow records this attempt: the configuration's address, set as Bridge does, or MLflow's own."""
    import mlflow

    if getattr(logger, "mlflow_tracking_uri", None):
        mlflow.set_tracking_uri(logger.mlflow_tracking_uri)
    return without_credentials(str(mlflow.get_tracking_uri()))


def _recorded_address(record: dict[str, Any]) -> str:
    return str(record.get("place") or str(record.get("url")).partition("/#/experiments/")[0])


def _log_new_parameters_only() -> None:
    """Leave out parameters that a continued run of MLflow has: it refuses another value, and a resume has some."""
    import mlflow

    log_params = mlflow.log_params

    @functools.wraps(log_params)
    def log_new(params: dict[str, Any], *rest: Any, **named: Any) -> Any:
        active = mlflow.active_run()
        known = active.data.params if active is not None else {}
        return log_params({key: value for key, value in params.items() if key not in known}, *rest, **named)

    setattr(mlflow, "log_params", log_new)  # noqa: B010 - of a module that is not known here


def record(state: Any, rank: Rank, before: "Optional[TrackersRecord]" = None) -> "Optional[TrackersRecord]":
    """Write where the trackers of an attempt are found, unless that is written already (`before`); return it.

    Bridge starts each tracker when it first logs to it. Nothing that fails here disturbs the training.
    """
    if rank.rank != rank.world_size - 1:
        return None
    found: TrackersRecord = {"version": 1}
    with contextlib.suppress(Exception):  # a library's own object, of whatever release
        if (wandb := _wandb(state)) is not None:
            found["wandb"] = wandb
    with contextlib.suppress(Exception):  # as above
        if (mlflow := _mlflow(state)) is not None:
            found["mlflow"] = mlflow
    with contextlib.suppress(Exception):  # as above
        directory = state.cfg.logger.tensorboard_dir
        if directory:
            found["tensorboard"] = {"id": None, "name": None, "project": None, "url": None, "place": str(directory)}
    if len(found) > 1 and found != before:
        with contextlib.suppress(OSError):  # a full disk
            write_json(rank.paths.trackers, found)
    return found


def _wandb(state: Any) -> Optional[TrackerRecord]:
    # Bridge's own property would start one.
    module = getattr(state, "_wandb_logger", None)
    run = getattr(module, "run", None)
    if run is None:
        return None
    url = getattr(run, "url", None)
    return {
        "id": str(run.id),
        "name": run.name,
        "project": "/".join(each for each in (run.entity, run.project) if each) or None,
        "url": without_credentials(str(url)) if url else None,
        "place": None if url else str(run.dir),
    }


def without_credentials(address: str) -> str:
    """Return an address without user, password and query: the record of it is shown to others."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", r"\1", address).partition("?")[0]


def _mlflow(state: Any) -> Optional[TrackerRecord]:
    module: Any = getattr(state, "_mlflow_logger", None) and sys.modules.get("mlflow")
    run = module.active_run() if module else None
    if run is None:
        return None
    tracking = without_credentials(str(module.get_tracking_uri()))
    url = f"{tracking}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    is_server = tracking.startswith(("http://", "https://"))
    return {
        "id": str(run.info.run_id),
        "name": run.info.run_name,
        "project": state.cfg.logger.mlflow_experiment,
        "url": url if is_server else None,
        "place": None if is_server else tracking,
    }
