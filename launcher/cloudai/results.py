"""What came of a scenario: the files that CloudAI writes, from the run directories and from what Slurm answers."""

import datetime
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher._util.shell import LocalShell, Shell
from launcher.cloudai import exec_mode, exec_results
from launcher.cloudai.exec_mode import LOG, ExecCase
from launcher.cloudai.gates import outcomes, words_after
from launcher.cloudai.models import METRICS, AgentConfig
from launcher.cloudai.profile import toml_text
from launcher.cloudai.records import CaseRecord
from launcher.cloudai.single import SingleJob
from launcher.contract import files
from launcher.rundir import RunDirectory
from launcher.slurm.queue import Job, State, ask_jobs
from launcher.sweep.measure import summarise
from launcher.sweep.rewards import reward_of
from launcher.sweep.trajectory import TrajectoryRow, drawn_text, trajectory_text

GOLDEN = "golden_values.json"
"""What setup_experiment.py has measured: losses, step times and memory by iteration."""

LAST_STEPS = 10
"""Steps that report.txt and the metrics are made of: the last ones."""

MEASURED = {"default": "step_time_s", "step-time": "step_time_s", "tflops-per-gpu": "tflops_per_gpu"}
"""CloudAI's metrics by the names of the engine for sweeps, which measures both."""

_PERCENTILES = (99, 95)


@dataclass(frozen=True)
class TrainedStep:
    """One iteration as the run recorded it."""

    iteration: int
    seconds: float
    loss: float | None
    tflops_per_gpu: float | None
    memory_bytes: float | None


@dataclass(frozen=True)
class CaseResult:
    """What came of one case."""

    case: CaseRecord
    phase: str
    """The run's phase, or `refused`."""
    detail: str
    good: bool
    """All its iterations were done, and its loss is a number."""
    over: bool
    steps: tuple[TrainedStep, ...] = ()
    job: str | None = None
    seconds: float | None = None
    """From the start of the job to its end."""
    start: float | None = None
    end: float | None = None
    job_state: str | None = None
    nodes: str | None = None

    @property
    def measured(self) -> tuple[TrainedStep, ...]:
        """Return the steps that count: the last ones of a run that has finished."""
        return self.steps[-LAST_STEPS:] if self.good else ()

    def metric(self, name: str) -> float | None:
        """Return a metric; None where the run did not finish, or has not measured it."""
        if name not in METRICS:
            return None
        steps = [
            {"iteration": step.iteration, "seconds": step.seconds, "tflops_per_gpu": step.tflops_per_gpu}
            for step in self.measured
        ]
        return summarise(steps, LAST_STEPS).get(MEASURED[name])


def results_of(cases: Sequence[CaseRecord], shell: Shell | None = None) -> list[CaseResult]:
    """Return what came of each case, with one question to Slurm for all. Raises DiskError."""
    from launcher.watch.status import status_of

    shell = shell or LocalShell()
    scripts = {case.name: ExecCase(case.directory.absolute()) for case in cases if case.by_script}
    jobs = exec_mode.ask(list(scripts.values()), shell)
    started = [case for case in cases if case.run_dir is not None and case.run_dir.is_dir()]
    statuses, answer = status_of([RunDirectory.at(Path(str(case.run_dir))) for case in started], shell)
    by_name = {case.name: status for case, status in zip(started, statuses, strict=True)}
    waiting = _single_jobs(cases, shell)
    found = list[CaseResult]()
    for case in cases:
        if (script := scripts.get(case.name)) is not None:
            found.append(_of_script(case, script, jobs[script.directory]))
            continue
        status = by_name.get(case.name)
        if status is None and case.values.get("single") and case.run_dir is None:
            found.append(_not_begun(case, waiting))
            continue
        if status is None:
            gone = "its run directory is gone" if case.run_dir is not None else "; ".join(case.refused)
            found.append(CaseResult(case, "lost" if case.run_dir else "refused", gone, good=False, over=True))
            continue
        job = answer.jobs.get(status.job or "")
        start, end = (job.start, job.end) if job is not None else (None, None)
        steps = steps_of(RunDirectory.at(Path(str(case.run_dir))))
        found.append(
            CaseResult(
                case,
                status.phase.value,
                "; ".join(filter(None, (status.detail, _after(RunDirectory.at(Path(str(case.run_dir))))))),
                good=status.phase.good and all(step.loss is not None for step in steps),
                over=status.phase.over,
                steps=steps,
                job=status.job,
                start=start,
                end=end if status.phase.over else None,
                seconds=end - start if start is not None and end is not None and status.phase.over else None,
                job_state=status.job_state,
                nodes=job.nodes if job is not None else None,
            )
        )
    return found


def _single_jobs(cases: Sequence[CaseRecord], shell: Shell) -> Mapping[str, Job]:
    """Return the job of a scenario that runs its cases one after the other, where one has not begun yet."""
    waiting = [case for case in cases if case.values.get("single") and case.run_dir is None]
    if not waiting:
        return {}
    return ask_jobs({str(case.values["job"]) for case in waiting}, shell, cluster=waiting[0].values["cluster"]).jobs


def _not_begun(case: CaseRecord, jobs: Mapping[str, Job]) -> CaseResult:
    """Return what is known of a case that its scenario's one job has not begun, or could not start."""
    number, job = str(case.values["job"]), jobs.get(str(case.values["job"]))
    if (reason := case.values.get("failed")) is not None:
        return CaseResult(case, "failed", str(reason), good=False, over=True, job=number)
    if job is None or job.state is State.UNKNOWN:
        return CaseResult(case, "unknown", "Slurm does not say how its job is", good=False, over=False, job=number)
    if not job.terminal:
        words = job.reason or "" if job.state.waiting else "behind others of its job"
        return CaseResult(case, "queued", words, good=False, over=False, job=number)
    # CASE is TEST/ITERATION[/STEP] below the results.
    root = case.directory.absolute().parents[len(Path(case.name).parts) - 1]
    why = SingleJob(root).why_not_begun() or f"its job ended as {job.state} before it began"
    return CaseResult(case, "failed", why, good=False, over=True, job=number, job_state=job.state.value)


def _after(run: RunDirectory) -> str:
    """Return what post_test has measured in a run's newest attempt, in words."""
    attempt = run.latest_attempt()
    return words_after(outcomes(attempt.gates)) if attempt is not None else ""


def _of_script(case: CaseRecord, script: ExecCase, job: Job | None) -> CaseResult:
    """Return what came of a case in exec mode."""
    logged = exec_results.steps_of(script)
    verdict = exec_results.judge(script, job, logged)
    known = script.submission()
    start, end = (job.start, job.end) if job is not None else (None, None)
    return CaseResult(
        case,
        verdict.phase,
        verdict.detail,
        good=verdict.good,
        over=verdict.over,
        steps=tuple(
            TrainedStep(step.iteration, step.seconds, step.loss, step.tflops_per_gpu, step.memory_bytes)
            for step in logged
        ),
        job=known.job if known is not None else None,
        start=start,
        end=end if verdict.over else None,
        seconds=end - start if start is not None and end is not None and verdict.over else None,
        job_state=job.state.value if job is not None else None,
        nodes=job.nodes if job is not None else None,
    )


def steps_of(run: RunDirectory) -> tuple[TrainedStep, ...]:
    """Return a run's iterations in their order; of one that a later attempt has repeated, the later."""
    found: dict[int, TrainedStep] = {}
    for attempt in run.attempts():
        for line in files.read_lines(attempt.metrics):
            if isinstance(line.get("iteration"), int) and isinstance(line.get("seconds"), int | float):
                found[line["iteration"]] = TrainedStep(
                    line["iteration"],
                    float(line["seconds"]),
                    line.get("loss"),
                    line.get("tflops_per_gpu"),
                    line.get("memory_bytes"),
                )
    return tuple(found[iteration] for iteration in sorted(found))


def write_case_reports(result: CaseResult) -> None:
    """Write the files of one case: log lines, report.txt, training_report.json, slurm-job.toml. Raises OSError."""
    directory = result.case.directory
    if result.case.by_script:
        _collect(directory)
    config = trained_config_file(result)
    if config is not None:
        (directory / "configs").mkdir(exist_ok=True)
        link = directory / "configs/ConfigContainer.yaml"
        if not os.path.lexists(link):
            link.symlink_to(os.path.relpath(config, link.parent))
    if not result.case.by_script:  # there setup_experiment.py has written it
        files.write_text(directory / LOG, log_text(result))
    files.write_text(directory / "report.txt", report_text(result))
    report = training_report(result)
    if report is not None:
        files.write_json(directory / "training_report.json", report)
    files.write_text(directory / "slurm-job.toml", job_text(result))


def _collect(directory: Path) -> None:
    """Link what a case in exec mode has left to where CloudAI has it, and copy the measured golden values."""
    script = ExecCase(directory.absolute())
    golden, job = exec_results.golden_values(script), exec_results.job_directory(script)
    if golden is not None:
        files.write_text(directory / GOLDEN, golden.read_text())
    if job is not None and (job / "tb_logs").is_dir() and not os.path.lexists(directory / "tb_logs"):
        (directory / "tb_logs").symlink_to(os.path.relpath(job / "tb_logs", directory))


def log_text(result: CaseResult) -> str:
    """Return the step times as CloudAI reads them from a log, written from the run's own measurements."""
    lines = [f"# Step times of {result.case.values.get('run_dir')}, from its metrics.jsonl."]
    for step in result.steps:
        rate = 0.0 if step.tflops_per_gpu is None else step.tflops_per_gpu
        lines.append(
            f"iteration {step.iteration}: Step Time : {step.seconds:.6f}s GPU utilization: {rate:.6f}MODEL_TFLOP/s/GPU"
        )
    return "\n".join(lines) + "\n"


def report_text(result: CaseResult) -> str:
    """Return report.txt."""
    log = result.case.directory / LOG
    if not result.measured:
        return (
            f"MegatronBridge report\nNo step times: the run is {result.phase}"
            f"{f' ({result.detail})' if result.detail else ''}.\n\nSearched file:\n  - {log}\n"
        )
    times = [step.seconds for step in result.measured]
    rates = [step.tflops_per_gpu for step in result.measured if step.tflops_per_gpu is not None]
    return (
        f"Source log: {log}\n\nStep Time (s)\n{_summary(times)}\nTFLOP/s per GPU\n{_summary(rates)}"
        if rates
        else f"Source log: {log}\n\nStep Time (s)\n{_summary(times)}\nTFLOP/s per GPU\n  not measured\n"
    )


def _summary(values: Sequence[float]) -> str:
    found = {
        "avg": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "std": statistics.pstdev(values) if len(values) > 1 else 0.0,
    }
    return "".join(f"  {name}: {value}\n" for name, value in found.items())


def training_report(result: CaseResult) -> dict[str, Any] | None:
    """Return training_report.json: configuration, steps, and statistics over those that are not left out.

    None where the run recorded no step.
    """
    if not result.steps:
        return None
    window = result.case.definition.get("training_report") or {}
    config = _training_config(result, window)
    kept = _counted(result.steps, config)
    return {
        "config": config,
        "steps": [_step_values(step) for step in result.steps],
        "aggregation": {
            name: _statistics([float(value) for value in values])
            for name in ("step_time_sec", "loss", "memory_reserved_bytes", "memory_allocated_bytes", "tflops_per_gpu")
            if (values := [value for step in kept if (value := _step_values(step).get(name)) is not None])
        }
        or None,
        "source": "the log of the job; memory_allocated_bytes is the most that the allocator has held"
        if result.case.by_script
        else "metrics.jsonl of the run; memory_allocated_bytes is the most that the allocator has held",
    }


def _step_values(step: TrainedStep) -> dict[str, Any]:
    return {
        "iteration": step.iteration,
        "step_time_sec": step.seconds,
        "loss": step.loss,
        "memory_reserved_bytes": None,
        "memory_allocated_bytes": step.memory_bytes,
        "tflops_per_gpu": step.tflops_per_gpu,
    }


def _counted(steps: Sequence[TrainedStep], config: Mapping[str, Any]) -> list[TrainedStep]:
    """Return the steps without the first ones, those that were profiled, and some behind them."""
    kept = list(steps[int(config["exclude_start_steps"]) :])
    start, stop = config["profiling_start_step"], config["profiling_stop_step"]
    if config["profiling_enabled"] and start is not None and stop is not None:
        last = stop + int(config["exclude_post_profiling_steps"])
        kept = [step for step in kept if not start <= step.iteration <= last]
    return kept


def _statistics(values: Sequence[float]) -> dict[str, float]:
    found = {
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "std": statistics.pstdev(values),
    }
    for percent in _PERCENTILES:
        single = len(values) == 1
        quantile = values[0] if single else statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
        found[f"t{percent}"] = quantile
    return found


_OF_CONFIG = {
    "micro_batch_size": ("train", "micro_batch_size"),
    "global_batch_size": ("train", "global_batch_size"),
    "seq_length": ("model", "seq_length"),
    "tensor_parallel_size": ("model", "tensor_model_parallel_size"),
    "pipeline_parallel_size": ("model", "pipeline_model_parallel_size"),
    "context_parallel_size": ("model", "context_parallel_size"),
    "virtual_pipeline_parallel_size": ("model", "virtual_pipeline_model_parallel_size"),
    "sequence_parallel": ("model", "sequence_parallel"),
    "expert_parallel_size": ("model", "expert_model_parallel_size"),
    "num_layers": ("model", "num_layers"),
    "hidden_size": ("model", "hidden_size"),
    "num_attention_heads": ("model", "num_attention_heads"),
    "num_query_groups": ("model", "num_query_groups"),
    "ffn_hidden_size": ("model", "ffn_hidden_size"),
    "kv_channels": ("model", "kv_channels"),
    "normalization": ("model", "normalization"),
    "position_embedding_type": ("model", "position_embedding_type"),
    "num_experts": ("model", "num_moe_experts"),
    "moe_router_topk": ("model", "moe_router_topk"),
    "moe_ffn_hidden_size": ("model", "moe_ffn_hidden_size"),
    "moe_grouped_gemm": ("model", "moe_grouped_gemm"),
}
"""Names in the report, with section and field of Bridge's configuration."""


def _training_config(result: CaseResult, window: Mapping[str, Any]) -> dict[str, Any]:
    args, values = result.case.definition["cmd_args"], _trained_config(result)
    found: dict[str, Any] = {name: values.get(section, {}).get(key) for name, (section, key) in _OF_CONFIG.items()}
    nodes, per_node = result.case.values.get("nodes") or 0, result.case.values.get("gpus_per_node") or 0
    world = nodes * per_node
    parallel = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        parallel *= found[name] or 1
    return {
        **found,
        "data_parallel_size": world // parallel if found["tensor_parallel_size"] and world % parallel == 0 else None,
        "model_name": args.get("model_recipe_name", ""),
        "world_size": world or None,
        "num_nodes": nodes,
        "profiling_enabled": bool(args.get("enable_nsys")),
        "profiling_start_step": args.get("profiling_start_step"),
        "profiling_stop_step": args.get("profiling_stop_step"),
        "exclude_start_steps": window.get("exclude_start_steps", 5),
        "exclude_post_profiling_steps": window.get("exclude_post_profiling_steps", 2),
        "test_template_name": result.case.definition["test_template_name"],
    }


def trained_config_file(result: CaseResult) -> Path | None:
    """Return the file of the configuration that was trained with; None where the run left none."""
    if result.case.by_script:
        job = exec_results.job_directory(ExecCase(result.case.directory.absolute()))
        saved = job / "configs/ConfigContainer.yaml" if job is not None else None
        return saved if saved is not None and saved.is_file() else None
    run_dir = result.case.run_dir
    attempt = RunDirectory.at(run_dir).latest_attempt() if run_dir is not None and run_dir.is_dir() else None
    return attempt.config if attempt is not None and attempt.config.is_file() else None


def _trained_config(result: CaseResult) -> dict[str, dict[str, Any]]:
    """Return the sections of the configuration that was trained with; empty where the run left none."""
    path = trained_config_file(result)
    return plain_sections(path.read_text(errors="replace")) if path is not None else {}


def plain_sections(text: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a configuration in YAML; empty for a text that is not YAML.

    Bridge writes objects as tables with their class; no class is imported for them.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): section for name, section in found.items() if isinstance(section, dict)}


def job_text(result: CaseResult) -> str:
    """Return slurm-job.toml: what CloudAI records of the job."""
    record = result.case.values
    return toml_text(
        {
            # Of a task of an array, the array's number.
            "job_id": int((result.job or "0").partition("_")[0]),
            "name": result.case.name,
            "state": result.job_state or result.phase.upper(),
            "start_time": _time(result.start),
            "end_time": _time(result.end),
            "elapsed_time_sec": round(result.seconds or 0),
            "exit_code": "0:0" if result.good else "1:0",
            "srun_cmd": f"{record.get('run_dir')}/sbatch.sh" if record.get("run_dir") else "",
            "test_cmd": str(record.get("recipe") or ""),
            "is_single_sbatch": bool(result.case.values.get("single")),
            "job_root": str(result.case.directory.absolute()),
            "job_steps": [],
        }
    )


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.datetime.fromtimestamp(seconds).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Scored:
    """A point of a sweep with its observation and reward."""

    result: CaseResult
    observation: tuple[float, ...]
    reward: float


def scored(results: Sequence[CaseResult]) -> list[Scored]:
    """Return the points of a sweep that were run and are over, with what CloudAI would note in trajectory.csv.

    A point that a check refused has a number and no row. A metric that was not measured is `metric_failure`.
    """
    found = list[Scored]()
    for result in results:
        if result.phase == "refused" or not result.over:
            continue
        definition = result.case.definition
        settings = AgentConfig.model_validate(definition.get("agent_config") or {})
        measured = [result.metric(name) for name in definition.get("agent_metrics", ["default"])]
        observed = tuple(settings.rewards.metric_failure if value is None else value for value in measured)
        reward = reward_of(definition.get("agent_reward_function", "inverse"))(observed)
        found.append(Scored(result, observed, reward))
    return found


def trajectory(points: Sequence[Scored]) -> tuple[str, str | None]:
    """Return trajectory.csv, and metadata.csv where the environment drew values."""
    rows = [
        TrajectoryRow(
            one.result.case.step or 0,
            one.result.case.action,
            one.reward,
            one.observation,
            one.result.case.values.get("env_params") or {},
        )
        for one in points
    ]
    return trajectory_text(rows), drawn_text(rows) if any(row.drawn for row in rows) else None


def best(points: Sequence[Scored]) -> Scored | None:
    """Return the finished point with the highest reward; None where none has finished."""
    finished = [one for one in points if one.result.good]
    return max(finished, key=lambda one: one.reward) if finished else None


def gpu_of(definition: Mapping[str, Any]) -> str:
    """Return the GPU's name, as the costs have it."""
    return str(definition["cmd_args"].get("gpu_type", "")).upper()


def relative(path: Path, root: Path) -> str:
    """Return a path as a page in `root` names it."""
    return os.path.relpath(path, root)


def require_scenario(root: Path) -> dict[str, Any]:
    """Return the record of a scenario's results. Raises ConfigError for a directory without one."""
    from launcher.cloudai.records import SCENARIO

    values = files.read_object(root / SCENARIO)
    if values is None:
        raise ConfigError(
            "holds no results of `launcher cloudai run`", where=str(root), hint="Name a directory such as NAME_TIME."
        )
    return values
