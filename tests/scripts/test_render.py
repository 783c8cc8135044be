"""Quoting: a program gets exactly the text that was asked for, or the rendering refuses it."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import ConfigError
from launcher.contract.files import JsonLines
from launcher.scripts.render import directive, environment, q, render, scripts
from tests.support.building import cluster, image, plan
from tests.support.quick import few

HOSTILE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.sampled_from(
    [
        "$(touch /tmp/x)",
        "`id`",
        "a;b",
        "a b",
        "*",
        "'",
        '"',
        "\\",
        "\n",
        "{A:1,B:2}",
        "[[a, b],[0.5,0.5]]",
        "-n",
        "--",
        "~",
        "!",
    ]
)


@settings(max_examples=few(60), deadline=None)
@given(st.lists(HOSTILE, max_size=5))
def test_bash_sees_exactly_the_quoted_words(words: list[str]) -> None:
    line = " ".join(["printf", q("%s\\0"), *(q(word) for word in words)]) if words else "true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == words


def test_a_template_that_forgets_to_quote_is_refused() -> None:
    template = environment().from_string("echo {{ name }}")
    with pytest.raises(ConfigError, match="unquoted"):
        template.render(name="a; b")
    assert environment().from_string("echo {{ name|q }}").render(name="a; b") == "echo 'a; b'"


def test_a_value_that_the_plan_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks"):
        render("step.sh.j2")


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "it's"])
def test_what_sbatch_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        directive(text)


def test_a_backslash_is_doubled_for_sbatch() -> None:
    assert directive("DOMAIN\\ada") == "'DOMAIN\\\\ada'"


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(ConfigError):
        q("a\0b")


@pytest.mark.parametrize(
    ("stop_s", "saves", "expected"),
    [(150, (), 150), (150, (9.7, 70.0), 150), (150, (100.9,), 180), (10, (0.0,), 10), (10, (8.0, 6.2), 39)],
)
def test_a_long_save_moves_the_moment_at_which_the_ranks_are_asked(
    tmp_path: Path, stop_s: int, saves: tuple[float, ...], expected: int
) -> None:
    """As rank 0 writes its timeline; the last save counts, where it takes more than half of the time."""
    timeline = JsonLines(tmp_path / "timeline.jsonl")
    for number, seconds in enumerate(saves):
        timeline.append({"time": 1.0, "rank": 0, "event": "save", "seconds": seconds, "iteration": number})
        timeline.append({"time": 1.0, "rank": 0, "event": "evaluation", "seconds": 500.0, "iteration": number})
    measure = re.search(r"^measure\(\) \{.*?^\}$", scripts(plan("batch"))["sbatch.sh"], re.MULTILINE | re.DOTALL)
    assert measure is not None
    program = f"attempt_dir={shlex.quote(str(tmp_path))} stop_s={stop_s}\n{measure[0]}\nmeasure; echo $stop_s"
    done = subprocess.run(["bash", "-uc", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")


def image_environment(profile_file: Path) -> str:
    """What step.sh does with the image's environment, and with the profile's, up to the program."""
    profile = cluster(
        gpus_per_node=1,
        runtime="pyxis",
        env={"CHOSEN": "profile", "NCCL_IB_TC": "41"},
        env_unset=("NCCL_NET_PLUGIN", "CHOSEN"),
        env_prepend={"LD_LIBRARY_PATH": "/usr/local/gib/lib 64", "EMPTY": "/first"},
        env_source=(str(profile_file),),
    )
    text = scripts(plan(profile=profile, request={"nodes": 2, "image": "nemo"}, inside=image()))["step.sh"]
    start, rank = text.index("# ---- the image's environment"), text.index("# ---- rank:")
    own = text.index("# ---- environment:")
    return text[start:rank] + text[own : text.index("# ---- hang watch")].replace("export LAUNCHER_RUN_DIR", "#")


def test_the_images_environment_is_removed_sourced_and_extended_in_this_order(tmp_path: Path) -> None:
    sourced = tmp_path / "set nccl env.sh"
    sourced.write_text(
        "export FROM_FILE=${NCCL_NET_PLUGIN-removed}$NOT_SET\n"
        "export CHOSEN=file NCCL_IB_TC=106 LD_LIBRARY_PATH=/of/file:$LD_LIBRARY_PATH\n"
    )
    shown = 'printf "%s\\n" "$FROM_FILE" "$CHOSEN" "$NCCL_IB_TC" "$LD_LIBRARY_PATH" "$EMPTY" "${NCCL_NET_PLUGIN-none}"'
    image_sets = {"PATH": "/usr/bin:/bin", "NCCL_NET_PLUGIN": "spcx", "CHOSEN": "image", "LD_LIBRARY_PATH": "/of/image"}
    program = f"set -u\n{image_environment(sourced)}\n{shown}"
    done = subprocess.run(["bash", "-c", program], env=image_sets, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "removed",
        "profile",
        "41",
        "/usr/local/gib/lib 64:/of/file:/of/image",
        "/first",
        "none",
    ]


def test_a_file_to_source_that_the_container_lacks_ends_the_rank(tmp_path: Path) -> None:
    program = f"set -u\n{image_environment(tmp_path / 'missing.sh')}\necho on"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"sources {tmp_path}/missing.sh, which the container does not have" in done.stderr
