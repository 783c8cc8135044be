"""From a scenario to runs: axes and points, what is drawn, sizes, nodes, profiles, mounts, the order of tests."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.cases import RunChoices, axes_of, cases_of, is_sweep, run_name
from launcher.cloudai.models import System
from launcher.cloudai.nodes import choose, expand
from launcher.cloudai.profile import toml_text
from launcher.cloudai.run import in_order
from tests.cloudai.files import ARGS, BRIDGE, SYSTEM, planned, workspace

ENTRY = {"iterations": 3}


def fields(found: list[Any]) -> dict[str, str]:
    return {note.field: note.text for note in found}


def test_lists_are_axes_in_cloudais_order(tmp_path: Path) -> None:
    """Fields in their own order, then nested ones that CloudAI does not know, then variables, then nodes."""
    test = {
        "cmd_args": {**ARGS, "mb": [1, 2], "tp": [1, 2], "own": {"inner": [1, 2]}, "profiling_ranks": [0, 1]},
        "extra_env_vars": {"A": ["x", "y"], "B": "z"},
        "dse_excluded_args": ["cmd_args.profiling_ranks"],
    }
    found = workspace(tmp_path, {"num_nodes": [1, 2]}, test=test).scenario.tests[0]
    assert [(axis.key, axis.values) for axis in axes_of(found)] == [
        ("tp", (1, 2)),
        ("mb", (1, 2)),
        ("own.inner", (1, 2)),
        ("extra_env_vars.A", ("x", "y")),
        ("NUM_NODES", (1, 2)),
    ]
    cases = cases_of(found)
    assert len(cases) == 32
    assert [case.step for case in cases] == list(range(1, 33))
    # The last axis varies fastest, and each case has one value for each field.
    assert cases[1].action == {"tp": 1, "mb": 1, "own.inner": 1, "extra_env_vars.A": "x", "NUM_NODES": 2}
    assert cases[-1].test.cmd_args.model_extra == {"own": {"inner": 2}}
    assert cases[-1].test.extra_env_vars == {"A": "y", "B": "z"}
    assert cases[-1].test.cmd_args.profiling_ranks == [0, 1]
    assert cases[-1].name == "T1/0/32"


@pytest.mark.parametrize(
    ("excluded", "axes"),
    [
        ([], ["tp", "own.inner", "own.outer.a"]),
        (["cmd_args.tp"], ["own.inner", "own.outer.a"]),
        (["cmd_args.own"], ["tp"]),
        (["cmd_args.own.outer"], ["tp", "own.inner"]),
        (["cmd_args.ow"], ["tp", "own.inner", "own.outer.a"]),
        ("cmd_args.own.inner", ["tp", "own.outer.a"]),
    ],
)
def test_excluded_lists_are_values(excluded: Any, axes: list[str], tmp_path: Path) -> None:
    args = {**ARGS, "tp": [1, 2], "own": {"inner": [1], "outer": {"a": [1, 2]}}}
    found = workspace(tmp_path, test={"cmd_args": args, "dse_excluded_args": excluded}).scenario.tests[0]
    assert [axis.key for axis in axes_of(found)] == axes


def test_a_list_of_what_could_be_one_value_is_said_to_be_an_axis(tmp_path: Path) -> None:
    test = {"cmd_args": {**ARGS, "dataset_paths": ["/a", "/b"]}}
    texts = [note.text for note in planned(workspace(tmp_path, test=test), tmp_path)[0].notes]
    assert any("dse_excluded_args = ['cmd_args.dataset_paths']" in text for text in texts)
    assert is_sweep(workspace(tmp_path, test=test).scenario.tests[0])


def test_points_that_a_check_refuses_have_a_number(tmp_path: Path) -> None:
    cases = cases_of(workspace(tmp_path, {"cmd_args": {"tp": [1, 3, 4]}}).scenario.tests[0])
    assert [(case.step, case.refused) for case in cases] == [
        (1, ()),
        (2, ("check 1: num_gpus=16 cannot be divided by tp x pp x cp = 3 x 1 x 1",)),
        (3, ()),
    ]


def test_a_value_that_its_field_does_not_take_is_named(tmp_path: Path) -> None:
    found = workspace(tmp_path, {"cmd_args": {"own": [1]}, "extra_env_vars": {"A": ["x"]}}).scenario.tests[0]
    assert len(cases_of(found)) == 1
    with pytest.raises(ConfigError, match=r"cmd_args.tp"):
        workspace(tmp_path, {"cmd_args": {"tp": [1, "x"]}})
    with pytest.raises(ConfigError, match="a sweep over it has no points"):
        axes_of(workspace(tmp_path, {"cmd_args": {"tp": []}}).scenario.tests[0])


def test_iterations_are_runs_of_their_own(tmp_path: Path) -> None:
    assert [case.name for case in cases_of(workspace(tmp_path, ENTRY).scenario.tests[0])] == ["T1/0", "T1/1", "T1/2"]


@pytest.mark.parametrize("weights", [None, [0.7, 0.2, 0.1]])
@pytest.mark.parametrize("seed", [None, 7])
def test_the_environment_draws_as_cloudai_does(weights: list[float] | None, seed: int | None, tmp_path: Path) -> None:
    """random.Random('SEED:NAME:TRIAL'), whose seed is 0 where the file states none."""
    test = {
        "cmd_args": {**ARGS, "tp": [1, 2, 4, 8], "seq_length": [512, 1024, 2048]},
        "env_params": {"seq_length": {"weights": weights} if weights else {}},
        "agent": "random_search",
        "agent_steps": 4,
        "agent_config": {"random_seed": seed} if seed is not None else {},
    }
    cases = cases_of(workspace(tmp_path, test=test).scenario.tests[0])
    assert len(cases) == 4
    for trial, case in enumerate(cases, 1):
        generator = random.Random(f"{seed or 0}:seq_length:{trial}")  # noqa: S311
        values = [512, 1024, 2048]
        drawn = generator.choices(values, weights=weights)[0] if weights else generator.choice(values)
        assert case.drawn == {"seq_length": drawn}
        assert case.test.cmd_args.seq_length == drawn
        assert list(case.action) == ["tp"]


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        ({"cmd_args": {**ARGS, "mb": [1, 2]}, "env_params": {"mb": {}}}, "nothing is swept"),
        (
            {"cmd_args": {**ARGS, "mb": [1, 2], "tp": [1, 2]}, "env_params": {"mb": {}}},
            "the agent grid_search does not",
        ),
    ],
)
def test_values_that_no_agent_would_draw_are_refused(test: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        cases_of(workspace(tmp_path, test=test).scenario.tests[0])
    assert str(raised.value.where).startswith(str(tmp_path / "tests/t.toml"))


def test_agent_steps_have_no_effect_on_a_grid(tmp_path: Path) -> None:
    test = {"cmd_args": {**ARGS, "tp": [1, 2, 4]}, "agent_steps": 1}
    assert len(cases_of(workspace(tmp_path, test=test).scenario.tests[0])) == 3


def test_an_agent_may_begin_with_the_first_values(tmp_path: Path) -> None:
    args = {**ARGS, "tp": [1, 2, 4, 8]}
    test = {"cmd_args": args, "agent": "random_search", "agent_steps": 2, "agent_config": {"start_action": "first"}}
    cases = cases_of(workspace(tmp_path, test=test).scenario.tests[0])
    assert cases[0].action == {"tp": 1}
    assert len(cases) == 2


@pytest.mark.parametrize(
    ("gpus", "per_node", "nodes", "ranks"), [(16, 8, 2, 8), (8, 8, 1, 8), (12, 8, 2, 8), (4, 8, 1, 4), (8, None, 1, 8)]
)
def test_num_gpus_makes_the_nodes(gpus: int, per_node: int | None, nodes: int, ranks: int, tmp_path: Path) -> None:
    system = {"gpus_per_node": per_node} if per_node else {"gpus_per_node": 8}
    found = workspace(tmp_path, {"cmd_args": {"num_gpus": gpus}, "num_nodes": 5}, system=system)
    if per_node is None:
        found.system.gpus_per_node = None
    one = planned(found, tmp_path)[0]
    assert (one.request.nodes, one.request.gpus_per_node) == (nodes, ranks)
    notes = fields(list(one.notes))
    # All three numbers are named.
    assert notes["num_nodes"] == f"is 5 and has no effect: num_gpus={gpus} at gpus_per_node=8 makes {nodes}"
    assert any("do not fill nodes of 8" in note.text for note in one.notes) == (gpus == 12)


def test_what_containers_get(tmp_path: Path) -> None:
    """The image, the clone, the file's own mounts, and the case's directory as /nemo_run."""
    test = {
        "git_repos": [{**BRIDGE, "mount_as": "/opt/Megatron-Bridge"}],
        "extra_container_mounts": ["/data:/data:ro"],
        "cmd_args": {**ARGS, "container_image": "nvcr.io#nvidia/nemo:26.02.00"},
    }
    one = planned(workspace(tmp_path, test=test), tmp_path / "root")[0]
    assert one.request.image == "nvcr.io#nvidia/nemo:26.02.00"
    assert one.request.mounts == (
        "/data:/data:ro",
        f"{tmp_path}/install/Megatron-Bridge__v0.6.0:/opt/Megatron-Bridge",
        f"{tmp_path}/root/T1/0:/nemo_run",
    )
    assert one.profile.values["runtime"] == "pyxis"
    assert "logger.tensorboard_dir=/nemo_run/tb_logs" in one.request.assignments


def test_without_a_container_what_needs_one_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/bare.toml").write_text('extends = "slurm"\nruntime = "none"\n')
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    test = {
        "git_repos": [{**BRIDGE, "mount_as": "/opt/Megatron-Bridge"}],
        "extra_container_mounts": ["/data:/data"],
        "cmd_args": {**ARGS, "container_image": "nvcr.io#nvidia/nemo:26.02.00"},
    }
    one = planned(workspace(tmp_path, test=test), tmp_path / "root", RunChoices(mode="native", profile="bare"))[0]
    assert one.request.image is None
    assert one.request.mounts == ()
    notes = fields(list(one.notes))
    for name in ("cmd_args.container_image", "extra_container_mounts", "git_repos"):
        assert "no effect: the profile's runtime enters no container" in notes[name]
    assert f"logger.tensorboard_dir={tmp_path}/root/T1/0/tb_logs" in one.request.assignments


def test_the_image_trains_where_the_clone_is_not_mounted(tmp_path: Path) -> None:
    test = {"cmd_args": {**ARGS, "container_image": "nvcr.io#nvidia/nemo:26.02.00"}}
    notes = [note.text for note in planned(workspace(tmp_path, test=test), tmp_path)[0].notes]
    wanted = (
        "without mount_as the image's own Megatron Bridge trains, not https://example.com/Megatron-Bridge.git at v0.6.0"
    )
    assert wanted in notes


def test_a_dry_run_plans_only(tmp_path: Path) -> None:
    assert planned(workspace(tmp_path, {"cmd_args": {"dryrun": True}}), tmp_path)[0].plan_only
    assert not planned(workspace(tmp_path), tmp_path)[0].plan_only


def test_the_profile_of_a_system(tmp_path: Path) -> None:
    system = {
        "account": "a",
        "distribution": "block",
        "extra_sbatch_args": ["--constraint=gpu", "--exclusive", "--nodes=3"],
        "extra_srun_args": "--qos high",
        "mpi": "pmi2",
        "global_env_vars": {"NVIDIA_VISIBLE_DEVICES": "all", "OTHER": 1},
        "monitor_interval": 5,
        "data_repository": {"endpoint": "e"},
    }
    found = planned(workspace(tmp_path, {"extra_srun_args": "--reservation r"}, system=system), tmp_path)[0]
    values = found.profile.values
    expected = {"extends": "slurm", "partition": "main", "account": "a", "gpus_per_node": 8, "mpi": "pmi2"}
    assert expected.items() <= values.items()
    assert values["directives"] == {"distribution": "block", "constraint": "gpu", "exclusive": True, "qos": "high"}
    assert values["host_env"] == {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert values["image_directories"][-1] == f"{tmp_path}/install"
    assert found.request.sbatch == {"reservation": "r"}
    assert found.request.env == ("NVIDIA_VISIBLE_DEVICES=all", "OTHER=1")
    notes = fields(list(found.notes))
    assert "--nodes has no effect" in notes["system.extra_sbatch_args"]
    assert {"system.monitor_interval", "system.data_repository"} <= notes.keys()
    assert toml_text(values).startswith('description = "CloudAI')


def test_retries_are_the_profiles(tmp_path: Path) -> None:
    once = planned(workspace(tmp_path, {"cmd_args": {"max_retries": 2}}), tmp_path)[0]
    assert once.request.keep_going is True
    assert once.profile.values["retry"] == {"without_progress": 3}
    # CloudAI's default of 1 is not a wish of the file.
    assert planned(workspace(tmp_path), tmp_path)[0].request.keep_going is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node-[001-003]", ["node-001", "node-002", "node-003"]),
        ("a[1,3-4]b,c", ["a1b", "a3b", "a4b", "c"]),
        ("x", ["x"]),
        ("", []),
    ],
)
def test_ranges_of_nodes(text: str, names: list[str]) -> None:
    assert expand(text) == names


def test_nodes_of_a_group(tmp_path: Path) -> None:
    system = System.model_validate(SYSTEM)
    chosen = choose(["main:g:2"], ["n1"], system, 2, where="w", shell=None)
    assert (chosen.partition, chosen.names) == ("main", ("n2", "n3"))
    chosen = choose(["main:g:4"], [], system, 2, where="w", shell=None)
    assert chosen.notes == ("nodes asks for 4 of main:g, and num_gpus needs 2, which counts",)
    assert choose(["n[1-2]"], [], system, 2, where="w", shell=None).names == ("n1", "n2")
    assert choose([], ["n[1-2]"], system, 2, where="w", shell=None).exclude == ("n1", "n2")
    for stated, sentence in (
        ("other:g:1", "has no partition 'other'"),
        ("main:h:1", "has no group 'h'"),
        ("main:g", "not PARTITION:GROUP:NUMBER"),
        ("main:g:x", "neither a number nor max_avail"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            choose([stated], [], system, 1, where="w", shell=None)
    with pytest.raises(ConfigError, match="3 nodes are named, and the test needs 2"):
        choose(["n[1-3]"], [], system, 2, where="w", shell=None)


def test_tests_come_behind_those_that_they_wait_for(tmp_path: Path) -> None:
    after = {"dependencies": [{"type": "start_post_comp", "id": "T2"}, {"type": "start_post_comp", "id": "T3"}]}
    found = workspace(tmp_path, after, {}, {"dependencies": [{"type": "start_post_init", "id": "T2"}]})
    assert [test.entry.id for test in in_order(found.scenario.tests)] == ["T2", "T3", "T1"]
    # Two of one type are two: CloudAI keeps the last alone.
    circle = workspace(tmp_path, after, {}, {"dependencies": [{"type": "start_post_init", "id": "T1"}]})
    with pytest.raises(ConfigError, match="in a circle: T1, T3"):
        in_order(circle.scenario.tests)


@pytest.mark.parametrize(("text", "name"), [("mbridge.1", "mbridge.1"), ("a b/c", "a-b-c"), ("_x", "x"), ("é", "t")])
def test_a_runs_name(text: str, name: str) -> None:
    assert run_name(text) == name


def test_time_limits_and_names(tmp_path: Path) -> None:
    one = planned(workspace(tmp_path, {"time_limit": "30m"}), tmp_path)[0]
    assert (one.request.time, one.request.name) == ("00:30:00", "T1")
    assert os.path.isabs(str(one.request.cluster))  # noqa: PTH117
