"""Where the experiment trackers of a run have it."""

from launcher.contract.files import read_object
from launcher.rundir import RunDirectory

NAMES = {"wandb": "W&B", "mlflow": "MLflow", "tensorboard": "TensorBoard"}


def trackers_of(run: RunDirectory) -> list[tuple[str, str]]:
    """Return the trackers that the newest attempt with some has noted, each with its address or place."""
    for attempt in reversed(run.attempts()):
        noted = read_object(attempt.trackers)
        if noted is None:
            continue
        found = [(title, _place(noted.get(key))) for key, title in NAMES.items()]
        return [(title, place) for title, place in found if place]
    return []


def _place(record: object) -> str:
    """Return the address of an entry; without a server its place and its id."""
    if not isinstance(record, dict):
        return ""
    url, place, number = (record.get(name) for name in ("url", "place", "id"))
    if isinstance(url, str):
        return url
    named = f" (id {number})" if isinstance(number, str) else ""
    return f"{place}{named}" if isinstance(place, str) else ""
