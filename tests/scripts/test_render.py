"""Quoting: a program gets exactly the text that was asked for, or the rendering refuses it."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import ConfigError
from launcher.scripts.render import directive, environment, q, render

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


@settings(max_examples=60, deadline=None)
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
