"""Kinds of nodes of a partition, and a SLURM_CONF that names nothing."""

from collections.abc import Sequence

import pytest

from launcher._util.shell import Result
from launcher.slurm import info
from launcher.slurm.ask import SlurmUnavailableError, answer
from launcher.slurm.nodes import NodeKind, node_kinds, parse_kinds
from launcher.slurm.submit import refusal
from tests.support.recorder import Recorder

SINFO = """\
batch*|4|192|2|gpu:h100:8(S:0-1)|gb[01-04]
batch*|1|192|2|gpu:h100:8(S:0-1)|gb07
batch*|2|64|1|(null)|rack[1-2]n[3-4],x1
debug|1|32|1|gpu:2|d1
"""
NODES = """\
NodeName=gb01 Arch=x86_64
   CPUAlloc=0 CPUEfctv=176 CPUTot=192 CPULoad=0.1

NodeName=rack1n3 Arch=x86_64
   CPUTot=64 CoreSpecCount=2
   ThreadsPerCore=1
"""


def said(text: str = "", status: int = 0, stderr: str = "") -> Result:
    return Result(("x",), status, text, stderr)


def test_kinds_of_the_default_partition_without_what_nodes_keep_for_themselves() -> None:
    shell = Recorder({"sinfo": said(SINFO), "scontrol": said(NODES)})
    assert node_kinds(None, shell) == (NodeKind(5, 176, 8, 2), NodeKind(2, 62, 0, 1))
    assert shell.asked[1] == ("scontrol", "show", "node", "gb01,rack1n3")
    assert node_kinds(None, Recorder({"sinfo": said()})) == ()


def test_kinds_of_named_partitions() -> None:
    assert [kind for _, kind in parse_kinds(SINFO, "batch,debug")] == [
        NodeKind(5, 192, 8, 2),
        NodeKind(2, 64, 0, 1),
        NodeKind(1, 32, 2, 1),
    ]


@pytest.mark.parametrize("question", [lambda shell: answer(["sinfo"], shell), info.mpi_types])
def test_a_slurm_conf_that_is_not_there_is_said_before_slurm_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, question: object
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    shell = Recorder({"sinfo": said(), "srun": said()})
    with pytest.raises(SlurmUnavailableError, match="SLURM_CONF names /nowhere/slurm") as caught:
        question(shell)  # type: ignore[operator]
    assert "unset SLURM_CONF" in (caught.value.hint or "")
    assert shell.asked == []


@pytest.mark.parametrize(
    ("words", "rendered", "status", "hint"),
    [
        (
            "sbatch: error: Please name the account.\nsbatch: error: Batch job submission failed: Unspecified error",
            (),
            2,
            "--account",
        ),
        ("sbatch: error: Batch job submission failed: Unspecified error", (), 3, "job_submit"),
        (
            "sbatch: warning: can't honor --ntasks-per-node\nsbatch: error: Batch job submission failed: "
            "Unspecified error",
            (),
            3,
            "Another try",
        ),
        ("sbatch: error: Batch job submission failed: Something that only a later Slurm knows", (), 3, "Another try"),
        (
            "sbatch: error: Welcome.\nsbatch: error: Batch job submission failed: Error generating job credential",
            (),
            3,
            "Another try",
        ),
        (
            "sbatch: error: Add --account and try again later.\nsbatch: error: Batch job submission failed: "
            "Unspecified error",
            (),
            2,
            "--account",
        ),
        ("sbatch: error: a cli_filter plugin wants more", (), 2, "--account"),
        ("sbatch: fatal: Unable to process configuration file", (), 3, "scontrol ping"),
        ("", (), 3, "Another try"),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            (),
            3,
            "when some have ended",
        ),
        (
            "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
            (),
            3,
            "queue",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification",
            ("nodes", "gpus-per-node"),
            2,
            "--unset-sbatch gpus-per-node leaves it out for this job, gpus-per-node = false",
        ),
        (
            "sbatch: error: Invalid generic resource (gres) specification",
            ("gres",),
            2,
            "--unset-sbatch gres leaves it out",
        ),
        ("sbatch: error: Batch job submission failed: I/O error writing script/environment to file", (), 3, "queue"),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", (), 3, ""),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", (), 2, "QOS"),
        (
            "sbatch: unrecognized option '--segment=4'\nTry \"sbatch --help\" for more information",
            ("nodes", "segment"),
            2,
            "--unset-sbatch segment leaves it out for this job, segment = false below [directives]",
        ),
        ("sbatch: unrecognized option '--mine=4'", ("nodes",), 2, "--unset-sbatch KEY"),
        (
            "sbatch: error: Batch job submission failed: Requested topology configuration is not available",
            ("segment",),
            2,
            "--unset-sbatch segment",
        ),
        # As 26.05 words it; sbatch itself looks.
        (
            "sbatch: fatal: --segment=2 does not fit the job size (3): node count must be evenly divisible by segment "
            "size",
            ("segment",),
            2,
            "--sbatch segment=NODES",
        ),
        ("sbatch: fatal: --gpus-per-node and --gres=gpu are mutually exclusive.", (), 2, "--unset-sbatch KEY"),
        (
            "sbatch: fatal: --gpus-per-node and --gres=gpu are mutually exclusive.",
            ("gpus-per-node", "gres"),
            2,
            "--unset-sbatch gpus-per-node or --unset-sbatch gres",
        ),
        ("sbatch: error: Batch job submission failed: MaxJobCount limit reached", (), 3, "when some have ended"),
    ],
)
def test_a_refusal_is_a_wrong_request_unless_slurm_could_not(
    words: str, rendered: Sequence[str], status: int, hint: str
) -> None:
    error = refusal(Result(("sbatch",), 1, "", words), rendered)
    assert error.exit_status == status
    assert hint in (error.hint or "")
