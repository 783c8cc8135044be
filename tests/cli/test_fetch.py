"""`launcher fetch`: what a run reads of the hub, fetched before it into the run's cache."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import CommandError, OutsideError, RequestError
from launcher.api.fetch import FetchOutput, fetch_environment
from launcher.cli.main import main
from launcher.cli.progress import TerminalProgress
from tests.backends.running import ROOT, User, user_of
from tests.job.hub_models import RECIPE, tiny
from tests.job.hub_server import Hub, hub

TOKEN = "hf_theValueThatNobodyMayWriteDown"
DATA = """
from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetConfig
from megatron.bridge.data.sources.hf import HFDatasetSourceConfig
from from_hub import configure as from_hub

def configure():
    cfg = from_hub()
    source = HFDatasetSourceConfig(path_or_dataset="org/talk")
    cfg.dataset = GPTSFTDatasetConfig(seq_length=64, hf_dataset=source, do_validation=False, do_test=False)
    return cfg
"""
TALK = {"train.jsonl": b'{"prompt": "w1", "completion": "w2"}\n' * 5}


def user_with_recipe(directory: Path, server: Hub) -> User:
    user = user_of(directory)
    vanilla = ROOT / "recipes/vanilla_gpt_pretrain.py"
    for name, text in (("vanilla_gpt_pretrain", vanilla.read_text()), ("from_hub", RECIPE), ("sft", DATA)):
        (directory / f"{name}.py").write_text(text)
    user.environ.update(HF_ENDPOINT=server.endpoint, HF_TOKEN=TOKEN)
    return user


@pytest.mark.megatron
@pytest.mark.timeout(400)
def test_all_that_a_run_reads_is_fetched_once(tmp_path: Path) -> None:
    cache = tmp_path / "hf"
    with hub(models={"org/tiny": tiny()}, datasets={"org/talk": TALK}, token=TOKEN) as server:
        user = user_with_recipe(tmp_path, server)
        asked = ("fetch", "sft.py", "--env", f"HF_HOME={cache}", "--env", "HF_HUB_OFFLINE=1", "--json")
        done = user.run(*asked)
        answer = json.loads(done.stdout)
        items = {(one["kind"], one["name"]): one for one in answer["items"]}
        assert list(items) == [("configuration", "org/tiny"), ("tokenizer", "org/tiny"), ("data", "org/talk")]
        assert {one["state"] for one in items.values()} == {"fetched"}
        assert items["configuration", "org/tiny"]["bytes"] == len(tiny()["config.json"])
        assert answer["cache"] == str(cache / "hub")
        assert answer["endpoint"] == server.endpoint
        wanted = ["config.json", "tokenizer.json", "tokenizer_config.json", "train.jsonl"]
        assert server.bodies() == Counter(wanted)

        server.asked.clear()
        again = user.run(*asked)
        assert server.asked == []
        assert "nothing to fetch" in again.stderr
        assert {one["state"] for one in json.loads(again.stdout)["items"]} == {"here"}
    assert not list(tmp_path.glob("runs"))
    assert TOKEN not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.megatron
def test_a_hub_that_refuses_is_the_outside_world(tmp_path: Path) -> None:
    with hub() as server:
        user = user_with_recipe(tmp_path, server)
        done = user.run("fetch", "from_hub.py", "--env", f"HF_HOME={tmp_path / 'hf'}", "--json", status=3)
    error = json.loads(done.stdout)["error"]
    assert "org/tiny does not exist on the hub" in error["message"]
    assert "--env HF_TOKEN" in error["hint"]
    assert "Traceback" not in done.stderr


def output(*events: dict[str, Any], err: str = "") -> FetchOutput:
    """What a child has written."""
    found = FetchOutput(TerminalProgress(stream=io.StringIO()))
    found.take("out", "".join(f"{json.dumps(event)}\n" for event in events))
    found.take("err", err)
    return found


def test_the_childs_answer() -> None:
    assert output({"event": "result", "value": {"items": []}}).answer(0) == {"items": []}
    refused = {"event": "error", "message": "no", "where": "x.py:3", "hint": "do", "fault": "request"}
    with pytest.raises(RequestError, match="no"):
        output(refused).answer(2)
    with pytest.raises(OutsideError, match="no"):
        output({**refused, "fault": "outside"}).answer(3)
    with pytest.raises(CommandError, match="status 137: it broke"):
        output(err="Traceback\nit broke\n").answer(137)


def test_the_childs_environment() -> None:
    warnings: list[str] = []
    job = {"PATH": "/bin", "HF_HOME": "/shared", "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://mirror"}
    shell = {"HF_HOME": "/mine", "https_proxy": "http://p", "HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://x", "OTHER": "1"}
    found = fetch_environment(job, shell, warnings.append)
    assert found == {
        "PATH": "/bin",
        "HF_HOME": "/shared",
        "HF_ENDPOINT": "http://mirror",
        "https_proxy": "http://p",
        "HF_TOKEN": TOKEN,
    }
    assert "--env HF_HOME" in warnings[0]


def test_what_the_child_says() -> None:
    written = io.StringIO()
    said = FetchOutput(TerminalProgress(stream=written))
    stage = {"event": "stage", "text": "the tokenizer of x"}
    progress = {"event": "progress", "done": 1024, "total": 2048, "unit": "B"}
    said.take("err", "note: mind this\nlast wo")
    said.take("out", f"{json.dumps(stage)}\n{json.dumps(progress)[:9]}")
    said.take("out", f"{json.dumps(progress)[9:]}\n")
    said.take("err", "rds\n")
    assert written.getvalue() == "  note: mind this\nthe tokenizer of x\n"
    with pytest.raises(CommandError, match="status 1: last words"):
        said.answer(1)


def test_another_entrypoint_cannot_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.py").write_text("def configure(): ...\n")
    program = str(ROOT / "tests/toy/entrypoint.py")
    recipe = str(tmp_path / "small.py")
    assert main(["fetch", recipe, "--cluster", "local", "--entrypoint", program]) == 2
    assert "--entrypoint" in capsys.readouterr().err
