"""Training starts from the weights that were asked for: of a Hugging Face model, of a checkpoint, or random ones."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.job.config import notes
from launcher.job.errors import UserError
from launcher.job.model import hub, weights
from tests.backends.running import LAUNCHER
from tests.job.bridge_process import ROOT, ask
from tests.job.convert_process import convert_all
from tests.job.override_records import override_records
from tests.job.ranks import Run, make_run, train

pytestmark = pytest.mark.timeout(400)

RECIPE = '''
"""Llama of any size in fp32, on a file of tokens."""

from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config


def configure(hf_path: str, tokens: str):
    cfg = llama32_1b_pretrain_config(
        hf_path=hf_path,
        seq_length=16,
        train_iters=5,
        global_batch_size=2,
        micro_batch_size=2,
        lr=1e-3,
        lr_warmup_iters=0,
        save_interval=5,
        eval_iters=0,
        precision_config=None,
        data_paths=[tokens],
    )
    cfg.tokenizer.tokenizer_type, cfg.tokenizer.tokenizer_model, cfg.tokenizer.vocab_size = "NullTokenizer", None, 64
    cfg.tokenizer.hf_tokenizer_kwargs = {}
    cfg.model.gradient_accumulation_fusion = False
    cfg.dataset.num_workers = 0
    cfg.dataset.split = "100,0,0"
    cfg.logger.log_interval = 1
    return cfg
'''

FP32 = ("model.bf16=false", "model.params_dtype=float32", "model.pipeline_dtype=float32")
DOCUMENT = [7, 3, 11, 60, 2, 5, 31, 19, 42, 8, 23, 16, 15, 4, 37, 1]
"""As long as a sample, so that every sample of a file of nothing else is the same."""

LABELS = [*DOCUMENT[1:], DOCUMENT[0]]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A directory with a model, the same as a checkpoint, and a file of tokens; the model's own loss on its sample."""
    base = tmp_path_factory.mktemp("material")
    model = str(base / "model")
    *_, said = convert_all(
        [
            {"do": "make", "path": model, "family": "llama", "dtype": "float32", "std": 0.3},
            {"do": "import", "source": model, "target": str(base / "checkpoint")},
            {"do": "make", "path": str(base / "lacking"), "family": "llama", "dtype": "float32"},
            {"do": "alter", "path": str(base / "lacking"), "name": "model.norm.weight", "by": None},
            {"do": "data", "path": str(base / "tokens"), "document": DOCUMENT, "count": 200},
            {"do": "loss", "path": model, "sample": DOCUMENT, "labels": LABELS},
        ]
    )
    return base, said["loss"]


def start(path: Path, base: Path, model: Path, *overrides: str, expect: int = 0, init: str | None = None) -> Run:
    """A run of the recipe above, on one rank."""
    run = make_run(path, "starting.py", [*FP32, *overrides], {"init": init}, {"starting.py": RECIPE})
    request = json.loads((run.path / "argv.json").read_text())
    request["arguments"] = {"hf_path": str(model), "tokens": str(base / "tokens")}
    (run.path / "argv.json").write_text(json.dumps(request))
    train(run, ranks=1, expect=expect)
    return run


def more_iterations(run: Run, count: int) -> None:
    request = json.loads((run.path / "argv.json").read_text())
    request["overrides"] += override_records([f"train.train_iters={count}"])
    (run.path / "argv.json").write_text(json.dumps(request))


@pytest.mark.megatron
def test_a_run_starts_from_a_model_goes_on_without_it_and_gives_a_model_back(
    tmp_path: Path, material: tuple[Path, float]
) -> None:
    base, loss = material
    model = tmp_path / "model"
    shutil.copytree(base / "model", model)
    run = start(tmp_path / "run", base, model)
    losses = run.losses()
    assert not math.isclose(loss, math.log(100), rel_tol=0.05), "the model should not look like a random one"
    assert math.isclose(losses[1], loss, rel_tol=1e-6)
    assert losses[5] < 0.9 * loss
    assert f"note: weights: from the Hugging Face model {model}" in run.log(0)
    # The tokenizer has 64 tokens.
    assert "note: model.vocab_size=100: from the weights" in run.log(0)

    (model / "model.safetensors").unlink()
    more_iterations(run, 6)
    train(run, ranks=1, attempt="001")
    assert "note: weights: from the checkpoint" in run.log(0, "001")
    sixth = run.losses("001")
    assert set(sixth) == {6} and sixth[6] < losses[5]

    back = str(tmp_path / "back")
    exported, read = convert_all(
        [
            {"do": "export", "source": str(run.path / "checkpoints" / "iter_0000005"), "target": back},
            {"do": "loss", "path": back, "sample": DOCUMENT, "labels": LABELS},
        ]
    )
    assert exported["ok"], exported
    # The sixth iteration begins with what the fifth has saved.
    assert math.isclose(read["loss"], sixth[6], rel_tol=1e-5)
    assert (tmp_path / "back" / "model.safetensors").read_bytes() != (base / "model/model.safetensors").read_bytes()


@pytest.mark.megatron
def test_a_run_starts_from_an_imported_checkpoint(tmp_path: Path, material: tuple[Path, float]) -> None:
    base, loss = material
    checkpoint = base / "checkpoint"
    run = start(
        tmp_path / "run",
        base,
        base / "model",
        f"checkpoint.pretrained_checkpoint={checkpoint}",
        "train.train_iters=1",
        "checkpoint.save_interval=0",
    )
    assert math.isclose(run.losses()[1], loss, rel_tol=1e-6)
    assert f"note: weights: from the Megatron checkpoint {checkpoint}" in run.log(0)


@pytest.mark.megatron
def test_a_tensor_that_is_not_there_is_no_reason_to_train_from_a_random_one(
    tmp_path: Path, material: tuple[Path, float]
) -> None:
    base, _ = material
    run = start(tmp_path / "run", base, base / "lacking", expect=2)
    assert "the weights lack a tensor of the model: Can't find model.norm.weight" in run.log(0)
    assert run.losses() == {}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, material: tuple[Path, float]) -> dict[str, dict[str, Any]]:
    """What --check-config answers to each way to say where weights come from."""
    base, _ = material
    here = tmp_path_factory.mktemp("checked")
    (here / "starting.py").write_text(RECIPE)
    shutil.copy(ROOT / "recipes" / "vanilla_gpt_pretrain.py", here)
    bare = here / "bare"
    bare.mkdir()
    shutil.copy(base / "model" / "config.json", bare)

    def request(model: Path, init: str | None = None, *overrides: str, recipe: str = "starting.py") -> dict[str, Any]:
        arguments = {"hf_path": str(model), "tokens": str(base / "tokens")} if recipe == "starting.py" else {}
        return {
            "recipe": {"path": recipe, "function": "configure"},
            "base": str(here),
            "arguments": arguments,
            "overrides": [*FP32, *overrides],
            "options": {"device": "cpu", "init": init},
            "world_size": 1,
            "ranks_per_node": 1,
        }

    def fine_tuned(*more: str, init: str | None = None) -> dict[str, Any]:
        made = request(base, init, *more)
        return {**made, "recipe": {"bridge": "llama32_1b_sft_config"}, "arguments": {}}

    def adapted(init: str) -> dict[str, Any]:
        made = request(base, init)
        return {**made, "recipe": {"bridge": "llama32_1b_peft_config"}, "arguments": {}}

    requests = {
        "model": request(base / "model"),
        "random": request(base / "model", "random"),
        "bare": request(bare),
        "bare random": request(bare, "random"),
        "deeper": request(base / "model", None, "model.num_layers=1"),
        "deeper random": request(base / "model", "random", "model.num_layers=1"),
        "checkpoint": request(base / "model", None, f"checkpoint.pretrained_checkpoint={base / 'checkpoint'}"),
        "nowhere": request(base / "model", None, "checkpoint.pretrained_checkpoint=/no/such/place"),
        "nothing": request(base, None, recipe="vanilla_gpt_pretrain.py"),
        "nothing pretrained": request(base, "pretrained", recipe="vanilla_gpt_pretrain.py"),
        "fine-tuning": fine_tuned(),
        "fine-tuning random": fine_tuned(init="random"),
        "adapters random": adapted("random"),
    }
    return dict(zip(requests, ask(list(requests.values())), strict=True))


@pytest.mark.megatron
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model", "weights: from the Hugging Face model {base}/model"),
        ("random", "weights: the model starts from random weights (--init random), not from {base}/model"),
        ("bare random", "weights: the model starts from random weights (--init random), not from "),
        ("deeper random", "weights: the model starts from random weights"),
        ("checkpoint", "weights: from the Megatron checkpoint {base}/checkpoint"),
        ("nothing", "weights: random, as no others are named"),
        (
            "fine-tuning random",
            "weights: this recipe fine-tunes, and its model starts from random weights",
        ),
    ],
)
def test_the_check_says_which_weights_will_be_read(
    name: str, says: str, checked: dict[str, dict[str, Any]], material: tuple[Path, float]
) -> None:
    answer = checked[name]
    assert answer["ok"], answer
    assert any(note.startswith(says.format(base=material[0])) for note in answer["notes"]), answer["notes"]


@pytest.mark.megatron
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bare", "has no weights that can be read: only an architecture"),
        ("deeper", "do not fit this model: num_layers is 1 in the model and 2 in the weights"),
        ("nowhere", "checkpoint.pretrained_checkpoint=/no/such/place is not a directory here"),
        ("nothing pretrained", "--init pretrained: no weights to start from are named"),
        ("fine-tuning", "this recipe fine-tunes, but no weights to start from are named"),
        ("adapters random", "this recipe trains adapters (peft), which are useless on random weights"),
    ],
)
def test_weights_that_are_not_there_are_refused(name: str, says: str, checked: dict[str, dict[str, Any]]) -> None:
    answer = checked[name]
    assert not answer["ok"] and says in answer["error"], answer
    assert answer["type"] == "UserError" and answer["hint"]


NOTHING: dict[str, Any] = {
    "peft": None,
    "model": SimpleNamespace(),
    "dataset": SimpleNamespace(),
    "tokenizer": SimpleNamespace(),
}


def test_init_travels_from_the_command_line_to_the_job(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes" / "vanilla_gpt_pretrain.py")
    command = [str(LAUNCHER), "plan", recipe, "--cluster", "local", "--run-root", str(tmp_path), "--json"]

    def planned(*more: str) -> Any:
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["plan"]["argv"]["options"]["init"]

    assert planned() is None
    assert [planned("--init", wish) for wish in ("pretrained", "random")] == ["pretrained", "random"]
    refused = subprocess.run([*command, "--init", "zero"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "invalid choice: 'zero'" in refused.stderr


def test_a_name_of_the_hub_is_left_to_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot", lambda *_: None)
    section = SimpleNamespace(pretrained_checkpoint="meta/Tiny", load=None)
    config = SimpleNamespace(**NOTHING, checkpoint=section)
    notes.take()
    weights.choose(config, None)
    assert section.pretrained_checkpoint == "meta/Tiny"
    assert notes.take() == (
        "weights: from the Hugging Face model meta/Tiny, from the hub (the Hugging Face cache does not have all of "
        "them)",
    )
    weights.choose(config, None, job=False)
    assert Path(section.pretrained_checkpoint).is_dir()
    notes.take()


def test_half_a_model_in_the_cache_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    monkeypatch.setattr(hub, "snapshot", lambda *_: tmp_path)
    section = SimpleNamespace(pretrained_checkpoint="meta/Tiny", load=None)
    weights.choose(SimpleNamespace(**NOTHING, checkpoint=section), None, check_files=False)
    assert section.pretrained_checkpoint == "meta/Tiny"
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"")
    weights.choose(SimpleNamespace(**NOTHING, checkpoint=section), None, check_files=False)
    assert section.pretrained_checkpoint == str(tmp_path)
    notes.take()


def test_a_checkpoint_that_lost_a_shard_is_not_a_start(tmp_path: Path) -> None:
    (tmp_path / "iter_0000003").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3")
    section = SimpleNamespace(pretrained_checkpoint=str(tmp_path), load=None)
    with pytest.raises(UserError, match=r"no checkpoint in .* is complete"):
        weights.choose(SimpleNamespace(**NOTHING, checkpoint=section), None)
