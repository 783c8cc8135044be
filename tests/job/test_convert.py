"""Small random models through Megatron and back, bit by bit; and a report that notices when a bit is not."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.conversion import ConversionRequest
from launcher.job.convert import parity, sources
from launcher.job.errors import UserError
from launcher.job.model import hf_files
from tests.job.convert_process import ROOT, convert_all
from tests.support.limits import seconds

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe")
SECOND = "model-00002-of-00002.safetensors"
ALTERED = "model.layers.1.mlp.down_proj.weight"

pytestmark = pytest.mark.timeout(400)


def there_and_back(base: Path, family: str, name: str, **sizes: Any) -> list[dict[str, Any]]:
    """A model into a checkpoint, and that into a directory again."""
    checkpoint, back = str(base / f"{name}.megatron"), str(base / f"{name}.hf")
    return [
        {"do": "import", "source": str(base / family), "target": checkpoint, **sizes},
        {"do": "export", "source": checkpoint, "target": back, **sizes},
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def asked(steps: dict[str, list[dict[str, Any]]], ranks: int) -> dict[str, list[dict[str, Any]]]:
    """The answers by the names that groups of steps have."""
    answers = iter(convert_all([step for group in steps.values() for step in group], ranks))
    return {name: [next(answers) for _ in group] for name, group in steps.items()}


@pytest.fixture(scope="module")
def one(base: Path) -> dict[str, list[dict[str, Any]]]:
    """What one rank finds: all families at TP 1, then everything that can be wrong."""

    def model(name: str, family: str = "llama") -> dict[str, Any]:
        return {"do": "make", "path": str(base / name), "family": family}

    broken, target = str(base / "broken"), str(base / "nothing")
    altered = {"do": "alter", "path": str(base / "again"), "name": ALTERED, "by": 1.0}
    steps = {f"make {family}": [model(family, family)] for family in (*FAMILIES, "gpt2")}
    steps |= {f"{family} 1": there_and_back(base, family, f"{family}-1") for family in FAMILIES}
    steps |= {
        "cast": there_and_back(base, "llama", "cast", dtype="float32"),
        "source altered": [
            model("again"),
            *there_and_back(base, "again", "again"),
            altered,
            {
                "do": "judge",
                "action": "import",
                "source": str(base / "again"),
                "partial": str(base / "again.megatron"),
            },
        ],
        "result altered": [
            {**altered, "path": str(base / "llama-1.hf")},
            {
                "do": "judge",
                "action": "export",
                "source": str(base / "llama-1.megatron" / "iter_0000000"),
                "partial": str(base / "llama-1.hf"),
            },
        ],
        "tensor missing": [
            model("broken"),
            {"do": "alter", "path": broken, "name": ALTERED, "by": None},
            {"do": "import", "source": broken, "target": target},
        ],
        "unknown": [{"do": "import", "source": str(base / "gpt2"), "target": f"{target}2"}],
        "other architecture": [
            {
                "do": "export",
                "source": str(base / "llama-1.megatron"),
                "target": f"{target}3",
                "architecture": str(base / "qwen2"),
            }
        ],
        "nothing to merge": [
            {"do": "export", "source": str(base / "llama-1.megatron"), "target": f"{target}5", "merge": True}
        ],
        "no experts": [{"do": "import", "source": str(base / "llama"), "target": f"{target}4", "ep": 2}],
    }
    return asked(steps, 1)


@pytest.fixture(scope="module")
def two(base: Path, one: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What two ranks over gloo find; a checkpoint of one rank is also read by two."""
    steps = {f"{family} 2": there_and_back(base, family, f"{family}-2", tp=2) for family in FAMILIES}
    steps["experts"] = there_and_back(base, "qwen3_moe", "experts", ep=2)
    steps["stages"] = there_and_back(base, "llama", "stages", pp=2)
    steps["resharded"] = [
        {"do": "export", "source": str(base / "qwen2-1.megatron"), "target": str(base / "resharded"), "tp": 2}
    ]
    return asked(steps, 2)


def same_files(one: Path, other: Path) -> bool:
    """Whether two models' directories hold the same tensors, bit by bit."""
    return {name: (t.dtype, t.shape) for name, t in hf_files.read_weights(one).tensors.items()} == {
        name: (t.dtype, t.shape) for name, t in hf_files.read_weights(other).tensors.items()
    } and _content(one / "model.safetensors") == _content(other / "model.safetensors")


def _content(path: Path) -> dict[str, bytes]:
    """Each tensor's bytes, read without any library."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    begin = 8 + length
    return {name: raw[begin + one["data_offsets"][0] : begin + one["data_offsets"][1]] for name, one in header.items()}


@pytest.mark.megatron
@pytest.mark.parametrize("family", FAMILIES)
def test_one_rank_gives_every_bit_back(family: str, base: Path, one: dict[str, list[dict[str, Any]]]) -> None:
    into, back = one[f"{family} 1"]
    _require_equal(into, back)
    if family != "llama":  # that one is altered later
        assert same_files(base / family, base / f"{family}-1.hf")
    assert json.loads((base / f"{family}-1.hf" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.megatron
@pytest.mark.parametrize("name", [*(f"{family} 2" for family in FAMILIES), "experts", "stages"])
def test_two_ranks_give_every_bit_back(name: str, base: Path, two: dict[str, list[dict[str, Any]]]) -> None:
    into, back = two[name]
    assert into["parallel"]["ranks"] == 2
    _require_equal(into, back, logits=name != "stages")
    family = {"experts": "qwen3_moe", "stages": "llama"}.get(name, name.removesuffix(" 2"))
    assert same_files(base / family, base / (f"{name}.hf" if " " not in name else f"{family}-2.hf"))


def _require_equal(into: dict[str, Any], back: dict[str, Any], logits: bool = True) -> None:
    for report in (into, back):
        assert report["ok"] and report["answer"], report
        assert report["bit_exact"] == report["tensors"] > 10 and report["cast"] == 0
        assert not (report["missing"] or report["unexpected"] or report["shapes"] or report["largest_difference"])
        assert report["logits"]["compared"] == logits, report["logits"]
        if logits:
            assert report["logits"]["max_difference"] < 1e-5 < report["logits"]["largest_logit"]
        else:
            assert "pipeline" in report["logits"]["reason"]
    assert not any(back["transformers"].values())


@pytest.mark.megatron
def test_a_checkpoint_does_not_depend_on_the_ranks_that_wrote_it(
    base: Path, two: dict[str, list[dict[str, Any]]]
) -> None:
    assert two["resharded"][0]["ok"]
    assert same_files(base / "qwen2", base / "resharded")


@pytest.mark.megatron
def test_another_type_is_said_and_compared_in_it(base: Path, one: dict[str, list[dict[str, Any]]]) -> None:
    into, back = one["cast"]
    assert into["ok"] and into["cast"] == into["bit_exact"] == into["tensors"]
    assert back["ok"]
    kinds = {tensor.dtype for tensor in hf_files.read_weights(base / "cast.hf").tensors.values()}
    assert kinds == {"F32"}


@pytest.mark.megatron
def test_an_altered_tensor_is_named_with_its_difference(one: dict[str, list[dict[str, Any]]]) -> None:
    source = one["source altered"][-1]
    assert not source["ok"] and source["differing"] == 1
    assert source["largest_difference"]["name"] == ALTERED
    assert 0.9 < source["largest_difference"]["value"] < 1.1
    assert not source["logits"]["ok"] and source["logits"]["max_difference"] > 0.01
    result = one["result altered"][-1]
    assert not result["ok"] and result["differing"] == 1
    assert result["largest_difference"]["name"].endswith("layers.1.mlp.linear_fc2.weight")
    # Both models are made of the altered files: what they answer is the same.
    assert result["logits"]["ok"]


@pytest.mark.megatron
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensor missing", "the weights lack a tensor of the model: Can't find model.layers.1.mlp.down_proj"),
        ("unknown", "Megatron Bridge cannot convert this model: Model architecture not supported by AutoBridge"),
        ("other architecture", "the checkpoint's model differs from"),
        ("nothing to merge", "--merge has no effect: this checkpoint holds a whole model"),
        ("no experts", "--ep 2 has no effect: this model has no experts"),
    ],
)
def test_what_cannot_be_converted_is_said(name: str, says: str, one: dict[str, list[dict[str, Any]]]) -> None:
    assert says in one[name][-1]["error"]


@pytest.mark.megatron
def test_a_tally_counts_what_is_lost_and_what_is_new() -> None:
    torch = pytest.importorskip("torch")
    tally = parity.Tally()
    nan, zero = torch.tensor([float("nan"), 0.0]), torch.tensor([0.0])
    tally.add("same", nan, nan.clone())
    assert tally.ok
    tally.add("sign", zero, -zero)
    tally.add("shape", zero, nan)
    tally.add("nan", zero, torch.tensor([float("nan")]))
    found = tally.to_dict()
    assert not found["ok"]
    assert (found["bit_exact"], found["differing"], found["shapes_count"]) == (1, 2, 1)
    assert found["largest_difference"] == {"name": "nan", "value": float("inf")}
    other = parity.Tally(missing=["a"])
    assert not parity.combined([other, parity.Tally(tensors=1, bit_exact=1)]).ok


# What needs no Megatron: files that are not whole are found before anything is loaded.


def model_directory(path: Path, shards: int = 2) -> Path:
    """A directory as Hugging Face has it, of `shards` files with an index."""
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    names = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        header = json.dumps({f"t{number}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        (path / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        names[f"t{number}"] = name
    (path / hf_files.INDEX).write_text(json.dumps({"weight_map": names}))
    return path


def test_whole_files_are_read_by_their_headers(tmp_path: Path) -> None:
    found = hf_files.read_weights(model_directory(tmp_path / "model"))
    assert found.tensors["t2"] == hf_files.Tensor("F32", (2,), "model-00002-of-00002.safetensors")


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is missing": (
        lambda path: (path / SECOND).unlink(),
        "weight files are missing: 1, the first is model-00002",
    ),
    "a shard is missing and no index": (
        lambda path: remove(path / SECOND, path / hf_files.INDEX),
        "weight files are missing: 1",
    ),
    "a shard is cut short": (lambda path: shorten(path / SECOND), "is incomplete: it has"),
    "a shard is something else": (lambda path: (path / SECOND).write_text("<html>"), "cannot be read as safetensors"),
    "the index names more": (
        lambda path: (path / hf_files.INDEX).write_text(json.dumps({"weight_map": {"x": SECOND}})),
        "lists 1 tensors that their files lack; the first is x",
    ),
    "no config.json": (lambda path: (path / "config.json").unlink(), "has no config.json"),
    "no weights": (
        lambda path: remove(*path.glob("model*")),
        "this model's directory has no weights",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_found_before_anything_is_loaded(name: str, tmp_path: Path) -> None:
    path = model_directory(tmp_path / "model")
    spoil, says = BROKEN[name]
    spoil(path)
    done = start("import", path, tmp_path / "result")
    answer = json.loads(done.stdout)
    assert done.returncode == 2 and answer["fault"] == "request"
    assert says in answer["message"]
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_that_is_not_whole_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no Megatron checkpoint here"):
        sources.iteration(tmp_path)
    (tmp_path / "iter_0000005").mkdir()
    with pytest.raises(UserError, match=r"no checkpoint here is complete \(iterations: 5\)"):
        sources.iteration(tmp_path)
    with pytest.raises(UserError, match="a file is missing or shorter"):
        sources.iteration(tmp_path / "iter_0000005")


def test_ranks_of_a_request() -> None:
    def ranks(**sizes: int) -> int:
        return ConversionRequest("import", "a", "b", **sizes).ranks  # type: ignore[arg-type]

    assert [ranks(), ranks(tp=2), ranks(tp=2, pp=2), ranks(ep=4), ranks(tp=2, ep=4), ranks(tp=4, ep=2, pp=2)] == [
        *(1, 2, 4, 4, 4),
        8,
    ]


def start(action: str, source: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    text = ConversionRequest(action, str(source), str(target)).to_json()
    command = [sys.executable, str(ROOT / "entrypoint.py"), "--convert", text]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(60))
