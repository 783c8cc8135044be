"""Arbitrary paths and values pass through enter.sh and bubblewrap as they are, or the plan refuses them."""

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher.backends.start import start_run
from launcher.config.cluster import Cluster
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.discovery.code_files import code_files
from launcher.discovery.image import resolve_image
from launcher.discovery.recipe import read_recipe
from launcher.discovery.shipped_code import shipped_code
from launcher.planning import make
from launcher.planning.backend import LOCAL
from tests.backends.containers import missing
from tests.backends.running import RECIPE
from tests.backends.test_hostile import TEXT, TRAPS, host_in, waited
from tests.backends.tiny import tiny_image

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "40")) // 2

# What the task is: bash in place of Python, writing down what it was given.
PROGRAM = r"""
here=$LAUNCHER_RUN_DIR/attempts/$LAUNCHER_ATTEMPT
printf '%s\0' "$HOSTILE" "$PASSED" "$PWD" "$OF_THE_IMAGE" "$(<"$TARGET/here")" >"$here/said"
{ : >"$TARGET/new"; } 2>/dev/null && echo "read-only is not" >>"$here/said"
: >/new || exit 1
"""
OF_THE_IMAGE = "it's $(touch trap) `x` \\ \" é"


@dataclasses.dataclass(frozen=True)
class Said:
    """Names of directories (of the image's file, a mount's source and target, the runs, the scratch disk), values."""

    image: str = "image"
    source: str = "source"
    target: str = "target"
    root: str = "runs"
    scratch: str = "scratch"
    variable: str = ""
    passed: str = ""


NAMES = st.sampled_from([trap for trap in TRAPS if trap and "/" not in trap]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0/:,\n"), min_size=1, max_size=20
)
SAID = st.one_of(
    st.builds(Said, image=NAMES, source=NAMES, variable=TEXT, passed=TEXT),
    st.builds(Said, target=NAMES, variable=TEXT),
    st.builds(Said, root=NAMES, passed=TEXT),
    st.builds(Said, scratch=NAMES.filter(lambda name: "$" not in name)),
)
TAKEN: list[Said] = []


@pytest.fixture(scope="module")
def tiny(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := missing("bwrap"):
        pytest.skip(reason)
    return tiny_image(debian, tmp_path_factory.mktemp("tiny") / "tiny.sqsh", f"OF_THE_IMAGE={OF_THE_IMAGE}\n")


def prepared(said: Said, directory: Path, tiny: Path) -> tuple[Path, Path]:
    """The image's file and the mount's source under their hostile names."""
    image, source = directory / "i" / said.image / "x.sqsh", directory / "s" / said.source
    for path in (image.parent, source, directory / "scratches" / said.scratch):
        path.mkdir(parents=True)
    os.link(tiny, image)
    (source / "here").write_text("it is here")
    (directory / "small.py").write_text(RECIPE)
    (directory / "program.sh").write_text(PROGRAM)
    return image, source


def carried_out(said: Said, directory: Path, tiny: Path) -> bytes | None:
    """What the task wrote; None where the plan refused what was said."""
    try:
        image, source = prepared(said, directory, tiny)
    except (OSError, UnicodeEncodeError):  # no name for a file
        return None
    host = host_in(directory, {**os.environ, "PASSED": said.passed})
    target = f"/mnt/{said.target}"
    profile = {"name": "test", "scheduler": "local", "device": "cpu", "gpus_per_node": 1, "runtime": "bwrap"}
    try:
        cluster = parse(
            Cluster, {**profile, "python": "bash", "scratch": f"{directory}/scratches/{said.scratch}"}, where=""
        )
        asked = {
            "recipe": "small.py",
            "env": (f"HOSTILE={said.variable}", f"TARGET={target}", "PASSED"),
            "mounts": (f"{source}:{target}:ro",),
            "run_root": f"r/{said.root}",
            "entrypoint": "program.sh",
        }
        request = parse(Request, asked, where="")
        recipe = read_recipe("small.py", directory)
        found = resolve_image(str(image), cluster=cluster, host=host, shell=LocalShell())
        code = code_files(shipped_code(recipe), request.entrypoint, directory)
        given = make.PlanInputs(request, cluster, host, LOCAL, recipe, {}, (), code, image=found)
        plan = make.make_plan(given)
        started = start_run(plan, host, None, LocalShell(), pytest.fail)
    except RequestError as error:
        assert error.message
        return None
    run = started.run
    assert waited(started) == 0, run.attempt(0).log(0).read_text(errors="replace")
    started.finish(0)
    assert not list(directory.rglob("trap"))
    assert not list((directory / "scratches" / said.scratch).glob("launcher-*/launcher-*"))
    assert not (source / "new").exists()
    return (run.attempt(0).path / "said").read_bytes()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(SAID)
@example(Said(source="a 'b' $(touch trap)", target="--x \\ *", root="a 'b'", variable="a\nb", passed="a\n\nb\n"))
@example(Said(scratch="a 'b' \"c\" \\ * ~", image="-o $HOME"))
@example(Said(source="\\040 \\134 #"))
def test_enter_sh_hands_over_exactly_what_was_said(tiny: Path, said: Said) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name).resolve()
        seen = carried_out(said, directory, tiny)
        if seen is None:
            return
        TAKEN.append(said)
        variable, passed, cwd, image, mounted, rest = seen.decode().split("\0")
        assert (variable, passed, image) == (said.variable, said.passed, OF_THE_IMAGE)
        assert cwd.startswith(f"{directory}/r/")
        assert (mounted, rest) == ("it is here", "")


def test_enough_of_it_was_taken_to_say_so(tiny: Path) -> None:
    assert len(TAKEN) > EXAMPLES // 2
