"""The page of a run: its sections, and the command that writes it."""

import json
import sys
from pathlib import Path

import pytest

from launcher._util.errors import DiskError, LauncherError, RequestError
from launcher.cli.commands.page import main
from launcher.cli.main import command_parser
from launcher.report.page.content import Block, Heading, LogExcerpt, Section, StateBanner, Subject, Table, Text
from launcher.report.page.outcome import outcome, tail
from launcher.report.page.overview import overview
from launcher.report.page.plan import plan_section
from launcher.report.page.render import write_page
from launcher.report.page.sections import SECTIONS, SectionMaker, sections_of
from launcher.report.page.software import software
from launcher.rundir import RunDirectory
from tests.report.blocks import LAUNCHED, of_kind, rows, subject
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

FINISHED = {"outcome": "finished", "reason": None, "iteration": 4, "train_iters": 4, "loss": 6.0, "ended": BEGIN + 40}
SOURCE = {"commit": "abcdef0123456789", "branch": "main", "changed": ["x.py"], "diff": "-a\n+<b>"}
FAILED = {
    "outcome": "failed",
    "reason": "rank 1: ValueError: bad",
    "iteration": 2,
    "first_failing_rank": {"rank": 1, "host": "n2", "what": "ValueError: bad", "where": "x.py:7", "cause": "program"},
    "failed_ranks": [0, 1],
    "missing_ranks": [],
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")


def names(run: RunDirectory) -> list[str]:
    return [section.name for section in sections_of(subject(run))]


# What is there, and what is left out


def test_a_run_that_was_only_prepared_has_its_plan(tmp_path: Path) -> None:
    assert names(make_run(tmp_path / "small" / "0001")) == ["overview", "plan"]


def test_a_run_without_metrics_has_no_plots(run: RunDirectory) -> None:
    make_attempt(run, timeline=({"event": "imports", "time": BEGIN, "seconds": None},), result=FINISHED)
    assert names(run) == ["overview", "outcome", "phases", "plan"]


def test_a_section_that_fails_says_why_and_the_others_are_there(run: RunDirectory) -> None:
    attempt = make_attempt(run, metrics=(iteration(1),))
    (attempt.path / "result.json").write_text("[]")
    made = {section.name: section for section in sections_of(subject(run))}
    assert list(made) == ["overview", "outcome", "training", "plan"]
    (why,) = made["outcome"].blocks
    assert isinstance(why, Text)
    assert (why.tone, "result.json does not hold a JSON object" in why.text) == ("warning", True)


def test_a_further_section_is_a_line_in_the_list(run: RunDirectory) -> None:
    def refuse(_: Subject) -> tuple[Block, ...]:
        raise LauncherError("no", where="here", hint="Do that.")

    more = (SectionMaker("more", "More", lambda of: (Text(of.run.path.name),)), SectionMaker("bad", "Bad", refuse))
    assert sections_of(subject(run), (*more, SectionMaker("none", "None", lambda _: ()))) == (
        Section("more", "More", (Text("0001"),)),
        Section("bad", "Bad", (Text("This section could not be created: here: no\nDo that.", "warning"),)),
    )
    assert len({maker.name for maker in SECTIONS}) == len(SECTIONS)


# How it is doing, and how it ended


def test_the_history_of_attempts_is_that_of_status(run: RunDirectory) -> None:
    for number in range(2):
        make_attempt(
            run,
            number,
            metrics=(iteration(1),),
            timeline=({"event": "train_start", "time": BEGIN, "seconds": None},),
            result={**FAILED, "ended": BEGIN + 40},
        )
    (run.attempt(1).path / "node_check.json").write_text(
        '{"version": 1, "time": 1.0, "needed": 1, "chosen": ["n2"], "everywhere": {}, "nodes": ['
        '{"node": "n1", "answered": true, "failed": {"ecc": "<b>bad</b>"}}, '
        '{"node": "n2", "answered": true, "failed": {}}]}'
    )
    (table,) = of_kind(Table, overview(subject(run)))
    assert table.title == "History"
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(each["Attempt"], each["Iterations"], each["Why"]) for each in found] == [
        ("000", "0 to 2", "rank 1: ValueError: bad"),
        ("001", "0 to 2", "rank 1: ValueError: bad"),
    ]
    assert found[1]["Nodes"] == "1 of 2 nodes train, not n1: ecc: <b>bad</b>"
    (text,) = of_kind(Text, overview(subject(run)))
    assert text.text.startswith("2 attempts, 2 iterations and 0:01:19 lost, goodput ")


def test_the_overview_agrees_with_status(run: RunDirectory) -> None:
    speed = {"tflops_per_gpu": 412.345, "tokens_per_second": 81920.4}
    make_attempt(run, metrics=(iteration(1), iteration(2, of=4, **speed)), result={**FINISHED, "started": BEGIN + 1})
    (run.path / "plan.json").write_text(
        json.dumps({**run.plan, "layout": {"nodes": 2}, "peak_tflops": 989.0, "source": SOURCE})
    )
    (run.attempt(0).path / "nodes").write_text("n1\nn2\n")
    blocks = overview(subject(run))
    assert of_kind(StateBanner, blocks) == [StateBanner("finished", "good", "iteration 4/4, loss 6")]
    assert rows(blocks) == {
        "Recipe": "small.py",
        "Cluster": "c",
        "Nodes": "2: n1, n2",
        "Ranks": "2",
        "Attempts": "1",
        "Iteration": "4 of 4",
        "Loss": "6",
        "Seconds per iteration": "0.5",
        "TFLOP/s per GPU": "412.3",
        "MFU": "41.7% of 989 TFLOP/s",
        "Tokens per second": "81,920",
        "Elapsed": "0:00:39",
        "Code": "abcdef012345 on main, 1 changed file",
        "Run directory": str(run.path),
    }


def test_the_overview_asks_slurm_and_says_if_it_is_silent(tmp_path: Path) -> None:
    blocks = overview(subject(make_run(tmp_path / "small" / "1", *submitted())))
    (state,) = of_kind(StateBanner, blocks)
    assert (state.word, state.tone) == ("unknown", "attention")
    assert of_kind(Text, blocks)[0].text.startswith("Slurm did not answer: ")


def test_two_attempts_of_which_the_first_failed(run: RunDirectory) -> None:
    first = make_attempt(run, result=FAILED)
    first.log(1).write_text("".join(f"line {number}\n" for number in range(99)) + "ValueError: bad")
    make_attempt(run, 1, result=FINISHED)
    blocks = outcome(subject(run))
    (table,) = of_kind(Table, blocks)
    assert [row[:3] for row in table.rows] == [("000", "failed", "2"), ("001", "finished", "4")]
    assert [each.text for each in of_kind(Heading, blocks)] == ["What failed in attempt 000"]
    assert rows(blocks) == {
        "First failing rank": "1",
        "Host": "n2",
        "Where": "x.py:7",
        "Cause": "program",
        "Failed ranks": "0, 1",
    }
    (log,) = of_kind(LogExcerpt, blocks)
    assert log.title == "The end of attempts/000/logs/rank-0001.log"
    assert (len(log.lines), log.lines[0], log.lines[-1]) == (60, "line 40", "ValueError: bad")


def words_of(section: Section) -> str:
    """All text of a section but that of logs, which repeat what programs said."""
    return " ".join(map(str, (block for block in section.blocks if not isinstance(block, LogExcerpt))))


@pytest.mark.parametrize("attempts", [1, 3])
def test_why_it_failed_stands_once(run: RunDirectory, attempts: int) -> None:
    for number in range(attempts):
        reason = f"rank 1: ValueError: bad {number}"
        first = {**FAILED["first_failing_rank"], "what": f"ValueError: bad {number}"}  # type: ignore[dict-item]
        evidence = {"line": reason, "todo": "Mend it.", "node": None}
        attempt = make_attempt(
            run, number, result={**FAILED, "reason": reason, "first_failing_rank": first, "evidence": evidence}
        )
        attempt.log(1).write_text(reason)
    text = " ".join(map(words_of, sections_of(subject(run))))
    for number in range(attempts):
        assert text.count(f"ValueError: bad {number}") == 1, number
    assert text.count("Mend it.") == min(attempts, 3)


@pytest.mark.parametrize(("outcome", "tone"), [("finished", "good"), ("failed", "bad"), ("stopped", "attention")])
def test_a_state_has_its_colour_and_its_word(run: RunDirectory, outcome: str, tone: str) -> None:
    make_attempt(run, result={**FINISHED, "outcome": outcome})
    (state,) = of_kind(StateBanner, overview(subject(run)))
    assert (state.word, state.tone) == (outcome, tone)


def test_packages_changes_and_configuration(run: RunDirectory) -> None:
    assert software(subject(run)) == []
    (run.path / "plan.json").write_text(json.dumps({**run.plan, "source": SOURCE}))
    make_attempt(run)
    noted = {"core": "0.19.2", "bridge": None, "core_commit": "0123", "packages": {"torch": "2.11", "python": "3.12"}}
    (run.attempt(0).path / "megatron.json").write_text(json.dumps(noted))
    (run.attempt(0).path / "config.yaml").write_text("model:\n  num_layers: 2\n")
    make_attempt(run, 1)
    packages, diff, configuration = software(subject(run))
    assert isinstance(packages, Table)
    assert packages.rows == (
        ("megatron-core", "0.19.2"),
        ("python", "3.12"),
        ("torch", "2.11"),
        ("megatron-core commit", "0123"),
    )
    assert diff == LogExcerpt("Changes of the code since abcdef0123456789", ("-a", "+<b>"), folded=True)
    assert configuration == LogExcerpt("Configuration of attempt 000", ("model:", "  num_layers: 2"), folded=True), (
        "the newest attempt has none yet"
    )
    (run.attempt(0).path / "config.yaml").write_text("x" * ((1 << 20) + 1))
    assert "is larger than 1 MiB" in words_of(Section("s", "S", tuple(software(subject(run)))))


def test_many_failed_attempts_are_listed_and_the_newest_explained(run: RunDirectory) -> None:
    for number in range(5):
        make_attempt(run, number, result={**FAILED, "failed_ranks": list(range(1024))})
    blocks = outcome(subject(run))
    assert [each.text[-3:] for each in of_kind(Heading, blocks)] == ["004", "003", "002"]
    assert of_kind(Text, blocks)[0].text == "2 earlier attempts failed; see `launcher logs --attempt`."
    assert rows(blocks)["Failed ranks"].endswith("14, 15 and 1008 more")


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert tail(log) == ()
    log.write_text(f"{'first ' * 20_000}\nlast")
    assert tail(log) == ("last",), "the rest of a line whose beginning was skipped is not a line"


# The plan


def test_the_plan_with_the_origin_of_every_value(run: RunDirectory) -> None:
    variables = [
        {"name": "A", "value": "1", "origin": "--env", "scope": "task", "overridden": [["the profile", "0"]]},
        {"name": "HOME", "value": None, "origin": "the shell", "scope": "inherited", "overridden": []},
        {"name": "HF_TOKEN", "value": None, "origin": "--env", "scope": "task", "overridden": []},
    ]
    plan = {**run.plan, "backend": "batch", "overrides": ["train.train_iters=4"], "environment": variables}
    plan |= {"argv": {"arguments": {"size": "2"}}, "directives": [["nodes", "1"], ["requeue", None]]}
    plan |= {
        "image": {"name": "megatron", "digest": "sha256:1"},
        "step": {"srun_args": ["--wait=3"]},
        "warnings": ["w"],
    }
    plan |= {"mounts": [{"source": "/a", "target": "/b", "read_only": True}], "warnings": ["a warning"]}
    (run.path / "plan.json").write_text(json.dumps(plan))
    blocks = plan_section(subject(run))
    assert of_kind(Text, blocks) == [Text("Warning of the plan: a warning", "warning")]
    settings, environment = of_kind(Table, blocks)
    assert settings.rows == (("argument", "size=2"), ("override", "train.train_iters=4"))
    assert environment.rows == (
        ("A", "1", "--env", "0 of the profile"),
        ("HOME", "(passed on)", "the shell", ""),
        ("HF_TOKEN", "(value not shown)", "--env", ""),
    )
    assert rows(blocks)["Image"] == "megatron (sha256:1)"
    assert rows(blocks)["Mounts"] == "/a at /b (read-only)"
    assert [(log.title, log.lines) for log in of_kind(LogExcerpt, blocks)] == [
        ("sbatch", ("--nodes=1", "--requeue")),
        ("srun", ("--wait=3",)),
    ]


# The command


def test_the_command(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    make_attempt(run, result=FINISHED)
    parser = command_parser("page")
    assert main(parser.parse_args([str(run.path)])) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"page: {run.page}\n")
    assert main(parser.parse_args([str(run.path), "--json", "--output", str(tmp_path / "x.html")])) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "page": str(tmp_path / "x.html")}
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_page_that_cannot_be_written_names_the_option(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    with pytest.raises(DiskError, match="cannot write") as disk:
        write_page(run, Recorder(), tmp_path / "nowhere" / "x.html")
    assert "--output" in str(disk.value.hint)
    with pytest.raises(RequestError, match="this is not a file"):
        write_page(run, Recorder(), tmp_path)


def test_without_plotly_the_hint_says_what_to_install(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(RequestError, match="needs plotly") as caught:
        write_page(run, Recorder())
    assert caught.value.hint == "Install the launcher with its extra `analysis` (launcher help install)."
    assert not (run.page).exists()
