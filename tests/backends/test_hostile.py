"""Whatever a user types reaches the program as it is, or the plan refuses it: nothing in between.

Arbitrary strings go as arguments of the recipe, override values, environment values, run names and paths through plan,
script and a real bash, and a sample of them through a real srun.
"""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher.backends.protocol import StartedRun
from launcher.backends.start import start_run
from launcher.config.cluster import Cluster
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.discovery.code_files import code_files
from launcher.discovery.host import HostContext, ShellJob, detect_host
from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.discovery.shipped_code import shipped_code
from launcher.planning import assignments, make
from launcher.planning.backend import ALLOCATION, LOCAL, BackendTraits
from launcher.planning.overrides import check
from launcher.rundir import RunDirectory
from tests.backends.running import RECIPE, TOY
from tests.backends.running import seen as note
from tests.support.quick import few
from tests.support.slurm.virtual_cluster import VirtualCluster

TRAPS = (
    *("$(touch trap)", "`touch trap`", "a; touch trap", "a b  c", "*", "?", "[a]", "{a,b}", "'", '"', "\\", "\\\\n"),
    *("\n", "a\nb", "\t", "-x", "--nodes=9", "~", "$HOME", "!!", "#", "%j", "&", "|", "<", ">", "=", "a=b"),
    *("é", "日本", "\u2028", "\x7f", "\x01", ""),
)
TEXT = st.sampled_from(TRAPS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES") or few(40))


@dataclasses.dataclass(frozen=True)
class Said:
    """What a hostile user says; `quoted` is said in Hydra's quotes, `bare` (None: not at all) without."""

    argument: str = ""
    quoted: str = ""
    bare: str | None = None
    variable: str = ""
    name: str | None = None
    root: str = "runs"


# Most names and bare values are refused: each gets examples of its own, or nothing would ever run.
SAID = st.one_of(
    st.builds(Said, TEXT, TEXT, st.none(), TEXT),
    st.builds(Said, TEXT, st.just(""), TEXT, TEXT),
    st.builds(Said, TEXT, TEXT, st.none(), TEXT, TEXT),
    st.builds(Said, TEXT, TEXT, st.none(), TEXT, st.none(), TEXT.filter(lambda text: text != "")),
)


def carried_out(
    said: Said, directory: Path, host: HostContext, backend: BackendTraits, cluster: Cluster
) -> dict[str, Any] | None:
    """Plan, prepare, run; what the program saw. None: the plan refused it with a reason, and left nothing."""
    before = sorted(directory.rglob("*"))
    quoted = said.quoted.replace("\\", "\\\\").replace("'", "\\'")
    try:
        request = parse(
            Request,
            {
                "recipe": "small.py",
                "assignments": (f"text={said.argument}", f"a.b='{quoted}'", *bare(said)),
                "env": (f"HOSTILE={said.variable}",),
                "name": said.name,
                "run_root": said.root,
                "gpus_per_node": 1,
                "entrypoint": TOY,
            },
            where="test",
        )
        recipe = read_recipe("small.py", directory)
        assert isinstance(recipe, RecipeFile)
        arguments, texts = assignments.split_arguments_and_overrides(request.assignments, recipe)
        plan = make.make_plan(
            make.PlanInputs(
                request,
                cluster,
                host,
                backend,
                recipe,
                arguments,
                check(texts, None),
                code_files(shipped_code(recipe), TOY, directory),
            )
        )
        # In an allocation sbatch.sh is rendered too, which refuses a run root with a single quote.
        started = start_run(plan, host, None, LocalShell(), pytest.fail)
    except RequestError as error:
        assert error.message
        assert sorted(directory.rglob("*")) == before
        return None
    run = started.run
    status = waited(started)
    assert status == 0, (run.path / "sbatch.log").read_text() if backend.slurm_step else status
    seen: dict[str, Any] = note(next(run.path.glob("attempts/000/ranks/*.seen.json")))
    assert not list(directory.rglob("trap"))
    assert Path(seen["cwd"]) == run.path
    assert_logged(run)
    return seen


def bare(said: Said) -> tuple[str, ...]:
    return () if said.bare is None else (f"c.d={said.bare}",)


def waited(step: StartedRun) -> int:
    """The step's status."""
    for _ in range(600):
        if (status := step.poll()) is not None:
            return status
        time.sleep(0.02)
    raise AssertionError("the step did not end")


def assert_logged(run: RunDirectory) -> None:
    """The rank's log is where it belongs, whatever the path is called."""
    assert run.attempt(0).log(0).is_file()


def assert_whole(said: Said, seen: dict[str, Any]) -> None:
    assert seen["request"]["arguments"] == {"text": said.argument}
    assert seen["request"]["overrides"][0]["text"].startswith("a.b='")
    assert tuple(each["text"] for each in seen["request"]["overrides"][1:]) == bare(said)
    assert seen["environment"]["HOSTILE"] == said.variable


def host_in(directory: Path, environ: dict[str, str], job: str | None = None) -> HostContext:
    return dataclasses.replace(detect_host(environ, directory), job=ShellJob(job) if job else None)


TAKEN: list[Said] = []


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SAID)
@example(Said(bare="{A:1,B:2}"))
@example(Said(bare="[[a, b],[0.5,0.5]]"))
@example(Said(bare="${oc.env:HOME}"))
@example(Said(argument="a 'b' \"c\" $(touch trap)", variable="a\nb", root="a 'b' $(touch trap)"))
def test_bash_hands_over_exactly_what_was_said(said: Said) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "small.py").write_text(RECIPE)
        cluster = Cluster(name="test", scheduler="local", device="cpu")
        seen = carried_out(said, directory, host_in(directory, dict(os.environ)), LOCAL, cluster)
        if seen is not None:
            TAKEN.append(said)
            assert_whole(said, seen)


def test_enough_of_it_was_taken_to_say_so() -> None:
    assert len(TAKEN) > EXAMPLES // 4


@pytest.mark.parametrize("value", ["{A:1,B:2}", "[[a, b],[0.5,0.5]]", "${oc.env:HOME}", "a b", "'$(touch trap)'"])
def test_these_override_values_are_taken_and_arrive_whole(tmp_path: Path, value: str) -> None:
    (tmp_path / "small.py").write_text(RECIPE)
    said = Said(argument=value, quoted=value, bare=value, variable=value)
    cluster = Cluster(name="test", scheduler="local", device="cpu")
    seen = carried_out(said, tmp_path, host_in(tmp_path, dict(os.environ)), LOCAL, cluster)
    assert seen is not None
    assert_whole(said, seen)


def test_srun_hands_over_exactly_what_was_said(slurm_cluster: VirtualCluster) -> None:
    job = slurm_cluster.submit("#!/bin/bash\nsleep 600\n", "--nodes=1", "--ntasks=4", "--overcommit")
    slurm_cluster.wait(job, "RUNNING")
    nodes = slurm_cluster.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    environ = {**slurm_cluster.environment, "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": nodes, "SLURM_NNODES": "1"}
    environ |= {"SLURM_JOB_NUM_NODES": "1"}
    taken = 0

    @settings(max_examples=max(8, EXAMPLES // 4), deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(SAID)
    def each(said: Said) -> None:
        nonlocal taken
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "small.py").write_text(RECIPE)
            cluster = Cluster(name="test", device="cpu")
            seen = carried_out(said, directory, host_in(directory, environ, job), ALLOCATION, cluster)
            if seen is not None:
                taken += 1
                assert_whole(said, seen)

    each()
    assert taken > 0
