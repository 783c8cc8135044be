"""Real Megatron on CPU: what a run does with its network's expectation, and what it does not load without one."""

import json
from pathlib import Path

import pytest

from tests.job.ranks import Ranks, make_run, train

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]

LOGS = Path(__file__).with_name("nccl_logs")
SHORT = ("train.train_iters=3", "checkpoint.save=null")

LOADED = """
import atexit, os, sys
from pathlib import Path
from vanilla_gpt_pretrain import configure

@atexit.register
def tell():
    ours = [name for name in sys.modules if name.startswith("launcher.")]
    Path(os.environ["LAUNCHER_RUN_DIR"], f"loaded.{os.getpid()}").write_text("\\n".join(ours))
"""

# Bridge's own variables make a second start necessary; each start notes itself and writes what NCCL would.
AGAIN = """
import os
from pathlib import Path
from vanilla_gpt_pretrain import configure as vanilla

def configure(said: str):
    run = Path(os.environ["LAUNCHER_RUN_DIR"])
    with (run / "starts").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")
    Path(os.environ["NCCL_DEBUG_FILE"]).write_text(Path(said).read_text())
    cfg = vanilla()
    cfg.env_vars = {"OMP_NUM_THREADS": "2"}
    return cfg
"""


def test_a_run_without_an_expected_network_and_a_profiler_loads_neither(tmp_path: Path) -> None:
    settings = {"network": None, "numa_binding": False, "profiler": None}
    run = make_run(tmp_path / "run", "loaded.py", SHORT, settings, {"loaded.py": LOADED})
    train(run, 1)
    loaded = max((path.read_text() for path in run.path.glob("loaded.*")), key=len).splitlines()
    assert "launcher.job.watch.events" in loaded, "the list is one of a rank that trained"
    assert not [name for name in loaded if any(word in name for word in ("network", "numa", "gpus", "profil"))]
    for pattern in ("network*", "placement*", "profiles/*"):
        assert not list(run.attempt().glob(pattern))


@pytest.mark.parametrize(("log", "word"), [("efa", "good"), ("efa_socket", "bad")])
def test_a_process_that_starts_anew_is_watched_once(tmp_path: Path, log: str, word: str) -> None:
    expected = {"policy": "warn", "fabric": "efa", "nodes": 2, "ranks_per_node": 8, "nvlink_domain": False}
    settings = {"network": expected, "numa_binding": True, "device": "cpu"}
    run = make_run(tmp_path / "run", "again.py", SHORT, settings, {"again.py": AGAIN})
    request = json.loads((run.path / "argv.json").read_text())
    request["arguments"] = {"said": str(LOGS / f"{log}.log")}
    (run.path / "argv.json").write_text(json.dumps(request))
    # One of the two is a real start: its variables must be there before NCCL is loaded, and its CPUs bound.
    environment = {"NCCL_DEBUG_FILE": str(tmp_path / "nccl.log")}
    with Ranks(run, 1, environment=environment, cold=word == "bad") as ranks:
        assert ranks.wait() == [0], ranks.tails()
    starts = (run.path / "starts").read_text().splitlines()
    assert [line.split()[1] for line in starts] == ["1", "2"]
    assert len({line.split()[0] for line in starts}) == 1
    events = [line for line in run.lines("timeline.jsonl") if line["event"] == "network"]
    assert [event["verdict"] for event in events] == [word]
    assert run.end(0)["outcome"] == "finished"
    assert run.log(0).count("network: rank 0: node ") == 1
    assert (run.attempt() / "network/0000.warning").exists() == (word == "bad")
