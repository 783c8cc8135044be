"""The smaller decisions: environment, directives, mounts, settings, place, profiling."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError, OverrideError, PrerequisiteError
from launcher.discovery.host import ShellJob
from launcher.discovery.saves import longest_save_s
from launcher.planning import assignments, backend_choice, environment, slurm_options, time_limit
from launcher.planning.backend import ALLOCATION, BATCH, LOCAL
from launcher.planning.profiler import plan as profiler_plan
from launcher.scripts import scripts
from launcher.slurm.queue import Job, State
from tests.support.building import RECIPE, SHELL, cluster, host, plan


def variables(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "profile": {},
        "inherit": (),
        "recipe": {},
        "user": (),
        "shell": SHELL,
    }
    values |= changes
    values["profile"] = environment.of_profile(cluster(name="c", env=values["profile"]), container=True)
    return {variable.name: variable for variable in environment.plan_environment(**values)}


def test_only_the_listed_names_of_the_shell_are_inherited() -> None:
    assert set(variables()) == {"HOME", "LANG", "PATH", "USER"}
    assert "EDITOR" in variables(inherit=("EDITOR",))


def test_the_user_beats_the_profile_and_the_plan_says_so() -> None:
    found = variables(profile={"NCCL_DEBUG": "WARN"}, user=("NCCL_DEBUG=INFO",))["NCCL_DEBUG"]
    assert (found.value, found.origin, found.overridden) == ("INFO", "--env", (("cluster profile c", "WARN"),))


def test_the_recipe_beats_the_profile_and_the_user_beats_the_recipe() -> None:
    profile = {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "NCCL_DEBUG": "WARN"}
    recipe = {"CUDA_DEVICE_MAX_CONNECTIONS": "32", "NCCL_DEBUG": "INFO", "RANK": "7", "HF_TOKEN": "hf_x"}
    found = variables(profile=profile, recipe=recipe, user=("NCCL_DEBUG=TRACE",))
    assert found["CUDA_DEVICE_MAX_CONNECTIONS"].value == "32"
    assert found["NCCL_DEBUG"].value == "TRACE"
    assert [origin for origin, _ in found["NCCL_DEBUG"].overridden] == ["the recipe's env_vars", "cluster profile c"]
    assert not {"RANK", "HF_TOKEN"} & set(found)


def test_a_value_passed_on_by_name_is_nowhere_in_the_plan() -> None:
    found = variables(user=("HF_TOKEN",), shell={**SHELL, "HF_TOKEN": "hf_canary"})
    assert found["HF_TOKEN"].value is None
    assert "hf_canary" not in repr(found)
    assert "HF_TOKEN" in environment.passed_on(found.values())


def test_passing_on_what_is_not_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="this shell, which has none") as caught:
        variables(user=("HF_TOKEN",))
    assert caught.value.hint == "Set it first (export HF_TOKEN=...).", "a secret is never given by value"
    with pytest.raises(ConfigError, match="this shell, which has none") as caught:
        variables(user=("SEED",))
    assert "--env SEED=VALUE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("profile", "user", "expected"),
    [
        ({"gpus-per-node": True}, {}, [("time", "5"), ("gpus-per-node", "4")]),
        ({"gpus-per-node": True}, {"gpus-per-node": False, "gres": True}, [("time", "5"), ("gres", "gpu:4")]),
        ({"exclusive": True}, {"mem": "0"}, [("time", "5"), ("exclusive", None), ("mem", "0")]),
        ({}, {"time": False}, []),
        ({}, {"time": "7"}, [("time", "7")]),
    ],
)
def test_directives_are_added_and_removed(
    profile: dict[str, Any], user: dict[str, Any], expected: list[tuple[str, str | None]]
) -> None:
    assert (
        list(slurm_options.merge_options(own={"time": "5"}, ranks_per_node=4, profile=profile, user=user)) == expected
    )


@pytest.mark.parametrize("key", ["nodes", "output", "export", "N", "--mem", "", "Mem", "job name", "array"])
def test_directives_that_the_launcher_manages_or_sbatch_lacks_are_refused(key: str) -> None:
    with pytest.raises(ConfigError):
        slurm_options.merge_options(own={}, ranks_per_node=4, profile={}, user={key: True})


APS = '{"APS": {"auto_resume_mode": "requeue"}}'


def test_the_token_stands_beside_what_a_sites_recovery_reads() -> None:
    made = plan("batch", request={"sbatch": {"comment": APS}})
    comment = dict(made.directives)["comment"] or ""
    assert json.loads(comment) == {"APS": {"auto_resume_mode": "requeue"}, "launcher": made.token}
    squeue = f"{made.run_dir}/other.sh|/elsewhere|{comment}"
    assert Job("7", State.RUNNING, origin=squeue).belongs_to(made.token, ("/none/sbatch.sh",)) is True
    assert f"#SBATCH --comment='{comment}'" in scripts(made)["sbatch.sh"]
    assert dict(plan("batch").directives)["comment"] == made.token


@pytest.mark.parametrize("comment", ["my experiment", "[1]", False, '{"APS": '])
def test_another_comment_is_refused(comment: object) -> None:
    with pytest.raises(ConfigError, match="JSON object only"):
        plan("batch", request={"sbatch": {"comment": comment}})


def test_spare_nodes_are_a_range_of_nodes_of_the_job_and_no_part_of_the_step() -> None:
    made = plan("batch", request={"nodes": 4, "spares": 2})
    assert plan("allocation", request={"spares": 2}).spares is None, "a job file or a resumed run may have it"
    assert dict(made.directives)["nodes"] == "4-6"
    assert made.layout.nodes == 4
    assert "--nodes=4" in made.step.srun_args
    text = scripts(made)["sbatch.sh"]
    assert "if ((held > 4)); then" in text
    without = scripts(plan("batch", request={"nodes": 4}))["sbatch.sh"]
    assert "node_check" not in without
    domain = cluster(scheduler="slurm", gpus_per_node=4, nvlink_domain_nodes=18, topology="block", device="gpu")
    with pytest.raises(ConfigError, match="fills NVLink domains"):
        plan(
            "batch", profile=domain, request={"nodes": 4, "spares": 1}, changes=("model.tensor_model_parallel_size=8",)
        )
    segments = {"sbatch": {"segment": 2}}
    with pytest.raises(ConfigError, match="in segments of 2 nodes"):
        plan("batch", request={"nodes": 4, "spares": 1, **segments})
    with pytest.raises(ConfigError, match="in segments of 2 nodes"):
        plan("batch", profile=cluster(directives={"segment": 2}), request={"nodes": 4, "spares": 1})


@pytest.mark.parametrize(
    "request_of",
    [{"srun_args": ["--auto-resume=1"]}, {"srun_args": ["--auto-resume"]}, {"sbatch": {"comment": APS}}],
)
def test_of_two_recoveries_one_is_refused(request_of: dict[str, Any]) -> None:
    made = plan("batch", request=request_of)
    assert set(request_of.get("srun_args", ())) <= set(made.step.srun_args)
    said = [text for text in made.warnings if "second start" in text]
    assert bool(said) == ("srun_args" in request_of)
    with pytest.raises(ConfigError, match="both would act on the same failure"):
        plan("batch", request={**request_of, "keep_going": True})
    plan("batch", request={"srun_args": ["--auto-resume=0"], "keep_going": True})


@pytest.mark.parametrize(
    ("limit", "save_s", "options", "notice", "stop_s"),
    [
        (None, None, {}, "B:USR1@210", 150),
        ("60", 100.0, {}, "B:USR1@240", 180),
        ("5", 600.0, {}, "B:USR1@150", 930),
        ("1-00:00:00", 80_000.0, {}, "B:USR1@43200", 120_030),
        ("UNLIMITED", 80_000.0, {}, "B:USR1@65535", 120_030),
        ("60", 100.0, {"signal": "B:USR2@90"}, "B:USR2@90", 90),
        ("60", 100.0, {"signal": "10"}, "10", 60),
        ("60", 100.0, {"signal": False}, None, 180),
    ],
)
def test_the_notice_before_the_end(
    limit: str | None, save_s: float | None, options: dict[str, Any], notice: str | None, stop_s: int
) -> None:
    """By the measured saves, Slurm's earliness, the limit and the user's own notice."""
    made = plan("batch", request={"time": limit, "sbatch": options}, save_s=save_s)
    assert (dict(made.directives).get("signal"), made.stop_s) == (notice, stop_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:20", 1820),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-0:0:1", 86401),
        ("infinite", None),
        (None, None),
    ],
)
def test_limits_in_slurms_notation(text: str | None, seconds: int | None) -> None:
    assert time_limit.limit_seconds(text) == seconds


def test_saves_are_measured_also_where_they_are_asynchronous(tmp_path: Path) -> None:
    lines = [
        {"event": "save", "time": 100.0, "seconds": 3.0, "iteration": 5},
        {"event": "save", "time": 200.0, "seconds": 1.0, "iteration": 10},
        {"event": "checksums", "time": 230.0, "seconds": 8.0, "iteration": 10},
        {"event": "save", "time": None, "seconds": 99.0, "iteration": 15},
    ]
    path = tmp_path / "timeline.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert longest_save_s([path, tmp_path / "none"]) == 23.0
    assert longest_save_s([]) is None


def test_assignments_are_arguments_where_configure_has_the_parameter() -> None:
    arguments, rest = assignments.split_arguments_and_overrides(
        ("layers=2", "model.num_layers=3", "layers.x=1"), RECIPE
    )
    assert arguments == {"layers": "2"}
    assert rest == ("model.num_layers=3", "layers.x=1")


def test_a_word_that_is_not_an_assignment_is_refused() -> None:
    with pytest.raises(OverrideError, match="is not KEY=VALUE"):
        assignments.split_arguments_and_overrides(("train",), RECIPE)


def test_assignments_of_a_resumed_run_replace_earlier_ones_with_the_same_key() -> None:
    assert assignments.merge_for_resume(("a=1", "b.c=2"), ("+a=3",)) == ("b.c=2", "+a=3")


def test_places() -> None:
    local, slurm = cluster(scheduler="local"), cluster()
    assert backend_choice.choose_backend("run", local, host(has_slurm=False)) is LOCAL
    assert backend_choice.choose_backend("run", slurm, host(job=ShellJob("7"))) is ALLOCATION
    assert backend_choice.choose_backend("submit", slurm, host()) is BATCH
    for verb, profile, here, words in (
        ("run", slurm, host(), "salloc"),
        ("run", slurm, host(job=ShellJob("7", "0", 16)), "without srun"),
        ("run", slurm, host(has_slurm=False), "--cluster local"),
        ("submit", local, host(), "launcher run"),
    ):
        with pytest.raises(PrerequisiteError) as caught:
            backend_choice.choose_backend(verb, profile, here)
        assert words in (caught.value.hint or "")


def test_nsys_completes_the_four_values() -> None:
    found = profiler_plan.plan_for({}, world_size=4)
    assert profiler_plan.overrides(found, ()) == (
        "profiling.use_nsys_profiler=true",
        "profiling.profile_step_start=10",
        "profiling.profile_step_end=12",
        "profiling.profile_ranks=[0]",
    )
    mine = {"profiling.profile_step_start": 3, "profiling.profile_ranks": [0, 2]}
    found = profiler_plan.plan_for(mine, world_size=4)
    assert (found.start, found.stop, found.ranks) == (3, 5, (0, 2))
    assert profiler_plan.overrides(found, tuple(mine)) == (
        "profiling.use_nsys_profiler=true",
        "profiling.profile_step_end=5",
    )


@pytest.mark.parametrize(
    "values",
    [
        {"profiling.use_nsys_profiler": False},
        {"profiling.use_pytorch_profiler": True},
        {"profiling.profile_step_end": 10},
        {"train.train_iters": 11},
        {"profiling.profile_ranks": [4]},
    ],
)
def test_a_profile_that_would_be_empty_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OverrideError):
        profiler_plan.plan_for(values, world_size=4)


def test_a_value_that_only_the_job_knows_is_not_taken_for_one() -> None:
    made = plan(request={"nsys": True}, changes=("profiling.profile_step_start=${oc.env:START}",))
    assert made.profiler is not None
    assert made.profiler.start == 10
    starts = [text for text in made.overrides if "profile_step_start" in text]
    assert starts == ["profiling.profile_step_start=${oc.env:START}"]


def test_slurm_leaves_the_binding_to_ranks_that_bind_themselves() -> None:
    def asked(*srun_args: str, **profile: Any) -> list[str]:
        made = plan(profile=cluster(**profile), request={"srun_args": srun_args})
        return [word for word in made.step.srun_args if "cpu-bind" in word]

    assert asked() == ["--cpu-bind=none"]
    assert asked("--cpu-bind=cores") == ["--cpu-bind=cores"]
    assert asked(srun_args=("--cpu-bind=rank_ldom",)) == ["--cpu-bind=rank_ldom"]
    assert asked(numa_binding=False) == []
    assert asked(device="cpu") == []
