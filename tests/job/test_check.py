"""The table of wrong requests, and --check-config as a program, with the real Megatron Bridge on CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.job.bridge_process import ROOT, answers_to_all
from tests.job.override_records import override_records
from tests.job.wrong_requests import TABLE, Wrong
from tests.support.limits import seconds

pytestmark = pytest.mark.megatron


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each row of the table is answered, by what it must say."""
    return answers_to_all(tmp_path_factory)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.says[:60])
def test_wrong_request_is_refused_with_its_own_sentence(row: Wrong, answers: dict[str, dict[str, Any]]) -> None:
    answer = answers[row.says]
    assert not answer["ok"], f"accepted: {answer}"
    assert answer["type"] == "UserError", answer["error"]
    assert row.says in answer["error"]
    assert "\n" not in answer["error"]
    assert (answer["where"] or "").endswith(row.where)
    assert row.hint in (answer["hint"] or "")


def test_no_two_rows_have_the_same_message(answers: dict[str, dict[str, Any]]) -> None:
    assert len(TABLE) >= 30
    for row in TABLE:
        told = [other.says for other in TABLE if row.says in answers[other.says]["error"]]
        assert told == [row.says], f"{row.says!r} is also said to {told}"


def test_place_of_an_override_names_it(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["train.lr is unknown"]["where"] == "override 1: train.lr=1e-3"


def check_config(request: dict[str, Any], **environ: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "entrypoint.py"), "--check-config"],
        input=json.dumps({**request, "overrides": override_records(request.get("overrides", ()))}),
        capture_output=True,
        text=True,
        timeout=seconds(200),
        env={**os.environ, **environ},
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_check_config_answers_on_stdout_alone(tmp_path: Path) -> None:
    recipe = tmp_path / "talking_recipe.py"
    recipe.write_text(
        "import os\nimport sys\n"
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r})\n"
        "import vanilla_gpt_pretrain\n"
        "def configure(layers: int):\n"
        "    print('from python')\n"
        "    os.write(1, b'from below\\n')\n"
        "    cfg = vanilla_gpt_pretrain.configure()\n"
        "    cfg.model.num_layers = layers\n"
        "    cfg.env_vars['SEEN'] = os.environ['WORLD_SIZE'] + os.environ['RANK']\n"
        "    return cfg\n"
    )
    status, answer, stderr = check_config(
        {
            "recipe": {"path": str(recipe), "function": "configure"},
            "arguments": {"layers": "4"},
            "overrides": [
                "model.tensor_model_parallel_size=2",
                "model.pipeline_model_parallel_size=2",
                "model.bf16=false",
            ],
            "options": {"device": "gpu"},
            "world_size": 8,
            "ranks_per_node": 4,
        }
    )
    assert status == 0
    assert "from python" in stderr and "from below" in stderr
    resolved = answer["resolved"]
    assert resolved.pop("env_vars")["SEEN"] == "80"
    config = resolved.pop("config")
    assert (config["model"]["num_layers"], config["model"]["hidden_size"]) == (4, 128)
    assert config["scheduler"]["lr_decay_iters"] == 30
    assert resolved == {
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 2,
        "context_parallel_size": 1,
        "expert_model_parallel_size": 1,
        "expert_tensor_parallel_size": 2,
        "data_parallel_size": 2,
        "global_batch_size": 16,
        "micro_batch_size": 1,
        "train_iters": 30,
        "seq_length": 64,
        "moe_token_dispatcher_type": "allgather",
        "moe_flex_dispatcher_backend": "deepep",
        "moe_enable_deepep": False,
    }
    assert "model.bf16=false has no effect: Megatron Bridge changes it to true" in answer["warnings"]


def test_check_for_a_job_on_cpu_refuses_what_only_gpus_can_train(answers: dict[str, dict[str, Any]]) -> None:
    assert not answers["on cpu"]["ok"]
    assert "model.context_parallel_size=2 does not run on CPU" in answers["on cpu"]["error"]


@pytest.mark.parametrize(
    ("text", "says"), [("{", "is not the JSON object that"), ('{"recipe": {}}', "lacks world_size")]
)
def test_check_config_refuses_a_request_that_it_cannot_read(text: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "entrypoint.py"), "--check-config"],
        input=text,
        capture_output=True,
        text=True,
        timeout=seconds(60),
        check=False,
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 2
    assert says in answer["error"]
