"""Jobs that are queued behind another one of their run."""

from pathlib import Path

from launcher._util.shell import Result
from launcher.backends.batch import queue_successors
from launcher.rundir import RunDirectory
from tests.support.building import host, plan
from tests.support.recorder import Recorder


def test_a_comment_of_the_users_goes_with_each_job(tmp_path: Path) -> None:
    """A site's own recovery reads it; only the launcher's token differs from job to job."""
    made = plan("batch", request={"sbatch": {"comment": '{"APS": {"auto_requeue_mode": "none"}}'}})
    comment = dict(made.directives)["comment"]
    assert comment is not None
    assert made.token in comment
    shell = Recorder({"sbatch": Result(("sbatch",), 0, "13\n", ""), "scontrol": Result(("scontrol",), 0, "", "")})
    (queued,) = queue_successors(made, host(), RunDirectory(tmp_path), shell, behind=("12",), count=1)
    assert queued.job == "13"
    (sbatch,) = (asked for asked in shell.asked if asked[0] == "sbatch")
    token = sbatch[-1]
    assert token != made.token
    assert sbatch[2] == f"--comment={comment.replace(made.token, token)}"
