"""What evaluations of a run have found."""

from launcher.contract.evaluation import VERSION, EvaluationRecord
from launcher.contract.files import read_object
from launcher.contract.frozen import dataclass
from launcher.contract.validation import problems
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Score:
    """One metric of one task."""

    iteration: int
    task: str
    metric: str
    """With the number of examples in each prompt, where there were any."""
    value: str
    """With its standard error, where there is one."""
    samples: str
    """With what limited them; empty for a group of tasks."""
    ended: float


def evaluations_of(run: RunDirectory) -> list[EvaluationRecord]:
    """Return the records of a run, the oldest first. A file with anything else is left out."""
    found: list[EvaluationRecord] = []
    for path in run.evaluations.glob("*.json") if run.evaluations.is_dir() else ():
        record = read_object(path)
        if record is None or record.get("version") != VERSION:
            continue
        if not any(problems(record, EvaluationRecord, unknown_keys=True)):
            found.append(record)  # type: ignore[arg-type] # which has just been seen
    return sorted(found, key=lambda record: record["ended"])


def scores(run: RunDirectory) -> list[Score]:
    """Return the newest value of each metric, task, iteration, limit and number of examples in a prompt."""
    newest: dict[tuple[object, ...], Score] = {}
    for record in evaluations_of(run):
        for task, result in record["tasks"].items():
            for metric, held in result["metrics"].items():
                limited = f" (limit {record['limit']})" if record["limit"] is not None else ""
                shown = f"{metric} ({result['shots']}-shot)" if result["shots"] else metric
                samples = "" if result["samples"] is None else f"{result['samples']}{limited}"
                score = Score(
                    record["iteration"], task, shown, _value(held["value"], held["stderr"]), samples, record["ended"]
                )
                newest[record["iteration"], task, shown, record["limit"]] = score
    return list(newest.values())


def sentences(run: RunDirectory) -> list[str]:
    """Return a line for each score."""
    return [
        f"evaluated at iteration {score.iteration}: {score.task} {score.metric} {score.value}"
        + (f", {score.samples} samples" if score.samples else "")
        for score in scores(run)
    ]


def _value(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "not a number"
    return f"{value:.6g}" if stderr is None else f"{value:.6g} ± {stderr:.2g}"
