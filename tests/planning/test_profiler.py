"""The profiler plan: options and overrides, contradictions, and what is refused before submission."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util.errors import ConfigError, ImageError, OverrideError, PrerequisiteError, RequestError
from launcher.discovery.profiler import find_nsys_below, read_profiler_class
from launcher.planning.profiler import plan as profiler_plan
from launcher.planning.profiler.model import CustomProfiler, ProfilerContext, ProfilerOptions, ProfilerPlan
from tests.support.building import overrides

NSYS = ProfilerOptions(nsys=True)


def capture(options: ProfilerOptions, values: dict[str, Any] | None = None, **more: Any) -> ProfilerPlan | None:
    arguments: dict[str, Any] = {"world_size": 16, "ranks_per_node": 8, "context": ProfilerContext(), **more}
    return profiler_plan.plan_profiler(options, values or {}, **arguments)


def decided(options: ProfilerOptions, values: dict[str, Any] | None = None, **more: Any) -> ProfilerPlan:
    found = capture(options, values, **more)
    assert found is not None
    return found


def test_a_run_without_a_profiler_captures_nothing() -> None:
    assert capture(ProfilerOptions(), {"profiling.profile_step_start": 3}) is None


def test_one_switch_is_enough_and_sets_what_bridge_needs() -> None:
    found = decided(NSYS)
    assert (found.name, found.start, found.stop, found.ranks, found.finish_timeout_s) == ("nsys", 10, 12, (0,), 900)
    assert profiler_plan.overrides(found, ()) == (
        "profiling.use_nsys_profiler=true",
        "profiling.profile_step_start=10",
        "profiling.profile_step_end=12",
        "profiling.profile_ranks=[0]",
    )


def test_the_options_and_the_overrides_say_the_same() -> None:
    by_option = decided(ProfilerOptions(nsys=True, steps="3:7", ranks="0,8"))
    values = {
        "profiling.use_nsys_profiler": True,
        "profiling.profile_step_start": 3,
        "profiling.profile_step_end": 7,
        "profiling.profile_ranks": [0, 8],
    }
    assert decided(ProfilerOptions(), values) == by_option
    assert decided(ProfilerOptions(nsys=True, steps="3:7", ranks="0,8"), values) == by_option, (
        "saying it twice is not a contradiction"
    )
    assert profiler_plan.overrides(by_option, tuple(values)) == ()


def test_torch_and_viztracer_have_the_usual_overrides_too() -> None:
    torch = decided(ProfilerOptions(), {"profiling.use_pytorch_profiler": True})
    assert torch == decided(ProfilerOptions(profiler="torch"))
    assert torch.nsys is None
    assert "profiling.use_nsys_profiler=true" not in profiler_plan.overrides(torch, ())
    rest, said = profiler_plan.extract_viztracer_key(overrides("train.train_iters=20", "profiling.use_viztracer=true"))
    assert (rest, said) == (overrides("train.train_iters=20"), True), "Bridge has no such key"
    assert decided(ProfilerOptions(), viztracer=said) == decided(ProfilerOptions(profiler="viztracer"))


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("0", (0,)), ("8,0", (0, 8)), ("nodes", (0, 8)), ("3,nodes", (0, 3, 8)), ("all", ()), ("0,all", ())],
)
def test_ranks(text: str, ranks: tuple[int, ...]) -> None:
    assert decided(ProfilerOptions(nsys=True, ranks=text)).ranks == ranks


@given(nodes=st.integers(1, 64), each=st.integers(1, 16), more=st.sets(st.integers(0, 1023), max_size=5))
def test_nodes_are_the_first_ranks_of_all_nodes(nodes: int, each: int, more: set[int]) -> None:
    text = ",".join(["nodes", *map(str, more)])
    found = profiler_plan.parse_ranks(text, world_size=nodes * each, ranks_per_node=each)
    assert set(found) == more | {node * each for node in range(nodes)}
    assert list(found) == sorted(found)


def test_what_the_job_is_given() -> None:
    options = ProfilerOptions(nsys=True, trace="cuda,osrt", args=("--cuda-memory-usage=true",), gpu_metrics=True)
    told = decided(options, context=ProfilerContext(fabric="efa")).job_options()
    assert (told["name"], told["extension"], told["finish_timeout_s"]) == ("nsys", "nsys-rep", 900)
    assert told["nsys"] == {
        "program": "nsys",
        "trace": "cuda,osrt",
        "args": ["--cuda-memory-usage=true"],
        "gpu_metrics": True,
        "fabric": "efa",
    }


def test_an_nsys_of_the_host_is_mounted_into_the_image(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nsys").write_text("#!/bin/sh\n")
    program = find_nsys_below(str(tmp_path))
    place = ProfilerContext(image="a.sqsh", packages={"torch": "2.9"}, nsys_from=program)
    found = decided(ProfilerOptions(nsys=True, nsys_from=str(tmp_path)), context=place)
    assert found.mounts == (str(tmp_path),)
    nsys = found.job_options()["nsys"]
    assert nsys is not None
    assert nsys["program"] == str(tmp_path / "bin/nsys")


def test_what_is_not_known_is_listed_and_not_refused() -> None:
    assert decided(NSYS, context=ProfilerContext(image="a.sqsh")).unchecked == (
        "that the profiled steps lie within train.train_iters: the recipe decides",
        "that nsys is in the image",
    )
    known = ProfilerContext(image="a.sqsh", packages={"nsys": "2025.5"})
    assert decided(NSYS, {"train.train_iters": 20}, context=known).unchecked == ()


TORCH = ProfilerOptions(profiler="torch")
WRONG: dict[str, tuple[ProfilerOptions, dict[str, Any], dict[str, Any], type[RequestError], str]] = {
    "switch and override": (
        NSYS,
        {"profiling.use_nsys_profiler": False},
        {},
        OverrideError,
        "--nsys and profiling.use_nsys_profiler=false contradict each other",
    ),
    "steps twice": (
        ProfilerOptions(nsys=True, steps="10:12"),
        {"profiling.profile_step_start": 11},
        {},
        OverrideError,
        "--profile-steps 10:12 and profiling.profile_step_start=11 contradict each other",
    ),
    "ranks twice": (
        ProfilerOptions(nsys=True, ranks="nodes"),
        {"profiling.profile_ranks": [0]},
        {},
        OverrideError,
        "--profile-ranks nodes and profiling.profile_ranks=[0] contradict each other",
    ),
    "no window": (ProfilerOptions(nsys=True, steps="10-12"), {}, {}, ConfigError, "'10-12' is not a window of steps"),
    "empty window": (ProfilerOptions(nsys=True, steps="12:12"), {}, {}, OverrideError, "the window 12:12 has no steps"),
    "after the run": (NSYS, {"train.train_iters": 11}, {}, OverrideError, "the run ends at train.train_iters=11"),
    "before the resume point": (
        NSYS,
        {},
        {"context": ProfilerContext(resume_step=50)},
        OverrideError,
        "the run resumes at step 50",
    ),
    "no such rank": (
        ProfilerOptions(nsys=True, ranks="16"),
        {},
        {},
        OverrideError,
        "names rank 16, but ranks are 0 to 15",
    ),
    "no ranks": (ProfilerOptions(nsys=True, ranks="0-3"), {}, {}, ConfigError, "'0-3' is not a list of ranks"),
    "ranks of the job's": (
        NSYS,
        {},
        {"unknown": ("profiling.profile_ranks",)},
        OverrideError,
        "is known only in the job",
    ),
    "two profilers": (
        NSYS,
        {"profiling.use_pytorch_profiler": True},
        {},
        OverrideError,
        "--nsys and profiling.use_pytorch_profiler=true request two profilers",
    ),
    "two profilers by option": (
        ProfilerOptions(nsys=True, profiler="viztracer"),
        {},
        {},
        OverrideError,
        "two profilers",
    ),
    "two profilers by override": (TORCH, {}, {"viztracer": True}, OverrideError, "use_viztracer=true request two"),
    "fault tolerance": (
        NSYS,
        {"ft.enable_ft_package": True},
        {},
        OverrideError,
        "--nsys and ft.enable_ft_package=true exclude each other",
    ),
    "no nsys in the image": (
        NSYS,
        {},
        {"context": ProfilerContext(image="a.sqsh", packages={})},
        ImageError,
        "the image has no nsys",
    ),
    "no nsys here": (
        NSYS,
        {},
        {"context": ProfilerContext(local=True)},
        PrerequisiteError,
        "there is no nsys on this machine",
    ),
    "nsys without a GPU": (
        NSYS,
        {},
        {"context": ProfilerContext(device="cpu")},
        PrerequisiteError,
        "CUDA starts the capture of nsys",
    ),
    "memory without a GPU": (
        ProfilerOptions(profiler="memory"),
        {},
        {"context": ProfilerContext(device="cpu")},
        PrerequisiteError,
        "the memory profiler records CUDA's allocator",
    ),
    "no VizTracer in the image": (
        ProfilerOptions(profiler="viztracer"),
        {},
        {"context": ProfilerContext(image="a.sqsh", packages={"nsys": "1"})},
        ImageError,
        "the image has no VizTracer",
    ),
    "no VizTracer here": (
        ProfilerOptions(profiler="viztracer"),
        {},
        {"context": ProfilerContext(local=True, viztracer=False)},
        PrerequisiteError,
        "this Python has no VizTracer",
    ),
    "unknown": (ProfilerOptions(profiler="vtune"), {}, {}, ConfigError, "there is no profiler 'vtune'"),
    "steps of nothing": (ProfilerOptions(steps="1:2"), {}, {}, ConfigError, "--profile-steps needs a profiler"),
    "nsys' options for another": (
        ProfilerOptions(profiler="torch", gpu_metrics=True),
        {},
        {},
        ConfigError,
        "--gpu-metrics is an option of nsys",
    ),
    "nsys' sampling": (
        ProfilerOptions(nsys=True, args=("--sample=cpu",)),
        {},
        {},
        ConfigError,
        "--sample of nsys cannot be set: CPU sampling hangs",
    ),
    "nsys' output": (
        ProfilerOptions(nsys=True, args=("-o x",)),
        {},
        {},
        ConfigError,
        "-o of nsys cannot be set: the launcher names",
    ),
    "nsys' positional": (
        ProfilerOptions(nsys=True, args=("python3",)),
        {},
        {},
        ConfigError,
        "'python3' is not a long option",
    ),
    "nsys' empty trace": (
        ProfilerOptions(nsys=True, trace="cuda,"),
        {},
        {},
        ConfigError,
        "is not a list of what to trace",
    ),
    "mount without an image": (
        ProfilerOptions(nsys=True, nsys_from="/opt/nsys"),
        {},
        {},
        ConfigError,
        "--nsys-from mounts nsys into an image",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_is_refused_with_a_message_of_its_own(name: str) -> None:
    options, values, more, kind, words = WRONG[name]
    with pytest.raises(kind) as caught:
        capture(options, values, **more)
    assert words in caught.value.message
    assert caught.value.exit_status == 2


def test_no_two_wrong_uses_have_the_same_message() -> None:
    assert len(WRONG) >= 10
    messages = set()
    for options, values, more, kind, _words in WRONG.values():
        with pytest.raises(kind) as caught:
            capture(options, values, **more)
        messages.add(caught.value.message)
    assert len(messages) == len(WRONG)


def test_the_hint_for_a_late_resume_is_itself_accepted() -> None:
    place = ProfilerContext(resume_step=50)
    with pytest.raises(OverrideError) as caught:
        capture(NSYS, context=place)
    steps = str(caught.value.hint).rpartition("--profile-steps ")[2].partition(". ")[0]
    assert decided(ProfilerOptions(nsys=True, steps=steps), context=place).start >= 50


def test_use_viztracer_takes_a_truth_value() -> None:
    with pytest.raises(OverrideError, match="takes true or false, not the string 'yes'"):
        profiler_plan.extract_viztracer_key(overrides("profiling.use_viztracer=yes"))


OWN = """
class Mine:
    extension = ".txt"
    def start(self): ...
    def stop(self): ...
    def save(self, path): ...
"""


def test_a_profiler_of_ones_own_is_one_small_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    custom = read_profiler_class("mine.py:Mine", tmp_path)
    assert (custom.class_name, custom.extension) == ("Mine", "txt")
    place = ProfilerContext(
        custom=CustomProfiler(str(custom.path), "profiler/mine.py", custom.class_name, custom.extension)
    )
    told = decided(ProfilerOptions(profiler="mine.py:Mine"), context=place).job_options()
    assert (told["name"], told["own"]) == ("Mine", {"path": "profiler/mine.py", "class": "Mine"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none.py:Mine", "there is no file 'none.py'"),
        ("mine.py:Other", "has no class 'Other'"),
        ("half.py:Mine", "has no stop(), save()"),
        ("broken.py:Mine", "not valid Python"),
    ],
)
def test_a_broken_profiler_of_ones_own_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "half.py").write_text("class Mine:\n    def start(self): ...\n")
    (tmp_path / "broken.py").write_text("class Mine\n")
    with pytest.raises(ConfigError) as caught:
        read_profiler_class(text, tmp_path)
    assert words in caught.value.message
