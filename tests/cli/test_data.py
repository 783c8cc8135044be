"""`launcher data` as its users meet it: the same bytes as Megatron's own way, killed and gone on with, refused."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launcher.contract import data_request, preparation
from tests.backends.running import LAUNCHER, ROOT, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

pytestmark = pytest.mark.timeout(300)

MATERIAL = r"""
import json, random, sys
from pathlib import Path
import datasets, pyarrow, pyarrow.parquet
from launcher.job import cpu
cpu.allow_import()
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

base = Path(sys.argv[1])
names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{n}" for n in range(60))]
special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
for directory, tokens, given in (
    ("tokenizer", names, special), ("small", names[:20], special), ("endless", names, {"unk_token": "<unk>"})
):
    made = Tokenizer(models.WordLevel({name: n for n, name in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if directory == "tokenizer":  # as Llama's: a token for the beginning, which Megatron keeps
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=made, **given).save_pretrained(base / directory)

chance = random.Random(1)
texts = [" ".join(f"w{chance.randrange(60)}" for _ in range(chance.randrange(1, 40))) for _ in range(600)]
(base / "corpus.jsonl").write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
table = pyarrow.table({"id": list(range(600)), "text": texts})
pyarrow.parquet.write_table(table, base / "corpus.parquet", row_group_size=50)
(base / "corpus.txt").write_text("\n".join(texts) + "\n")
(base / "parts").mkdir()
for number in range(3):
    lines = (json.dumps({"text": text}) + "\n" for text in texts[200 * number : 200 * (number + 1)])
    (base / "parts" / f"{number}.jsonl").write_text("".join(lines))
rows = datasets.Dataset.from_dict({"text": texts[::-1], "id": list(range(600))})
# Its rows lie on the disk in another order: an index says which comes first.
datasets.DatasetDict({"train": rows.select(range(599, -1, -1)), "test": rows}).save_to_disk(base / "saved")

# As tools/preprocess_data.py of Megatron-LM does it: document by document, with --append-eod.
tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
builder = IndexedDatasetBuilder(str(base / "reference.bin"), dtype=DType.optimal_dtype(len(tokenizer)))
for line in (base / "corpus.jsonl").open(encoding="utf-8"):
    ids = tokenizer(json.loads(line)["text"]).input_ids
    ids.append(tokenizer.eos_token_id)
    builder.add_document(ids, [len(ids)])
builder.finalize(str(base / "reference.idx"))
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers, the same 600 documents in every format, and what Megatron's own way makes of them."""
    base = tmp_path_factory.mktemp("material")
    command = [warm_python(), "-c", MATERIAL, str(base)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (base / "corpus.jsonl.gz").write_bytes(gzip.compress((base / "corpus.jsonl").read_bytes()))
    return base


def prepare(
    user: User, source: Path, target: str, *options: str, status: int = 0
) -> "subprocess.CompletedProcess[str]":
    base = source.parent
    words = () if "--tokenizer" in options else ("--tokenizer", str(base / "tokenizer"))
    python = () if "--in-job-on" in options else ("--python", warm_python())
    return user.run("data", "prepare", str(source), target, *words, *python, *options, status=status)


def same_as_reference(base: Path, prefix: Path) -> bool:
    return all(
        prefix.with_suffix(end).read_bytes() == (base / f"reference{end}").read_bytes() for end in (".bin", ".idx")
    )


FORMATS = ("corpus.jsonl", "corpus.jsonl.gz", "corpus.parquet", "corpus.txt", "parts", "saved")


@pytest.mark.megatron
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_bytes_that_megatron_writes(name: str, tmp_path: Path, material: Path) -> None:
    user = user_of(tmp_path)
    done = prepare(user, material / name, "out", "--shard-size", "15K", "--processes", "2", "--json")
    report = json.loads(done.stdout)
    assert same_as_reference(material, tmp_path / "out/data")
    assert report["documents"] == report["sequences"] == 600 and report["skipped"] == 0
    assert report["tokens"] * 2 == (material / "reference.bin").stat().st_size
    assert report["shards"] > 1 or name.endswith(".gz")
    assert report == {**json.loads((tmp_path / "out/manifest.json").read_text())} | {
        "target": str(tmp_path / "out"),
        "data": str(tmp_path / "out/data"),
        "made": report["shards"],
        "kept": 0,
    }
    assert f"train on it: data={tmp_path}/out/data" in done.stderr
    # The ids of the shards are in the whole, so theirs are gone, and nothing is left half-made.
    left = {path.suffix for path in (tmp_path / "out/shards").iterdir()}
    assert left == {".json"} and not list((tmp_path / "out").rglob(".*"))


@pytest.mark.megatron
def test_what_is_prepared_can_be_looked_at(tmp_path: Path, material: Path) -> None:
    user = user_of(tmp_path)
    options = ("--python", warm_python())
    prepare(user, material / "corpus.jsonl", "apart", "--shard-size", "15K", "--no-merge")
    blend = (tmp_path / "apart/blend.txt").read_text()
    prefixes = data_request.parse(blend).paths
    assert len(prefixes) > 2 and all(data_request.is_indexed(prefix) for prefix in prefixes)

    shown = user.run("data", "inspect", "apart", "--verify", *options).stdout
    assert "documents   600" in shown and "1 to 63; the vocabulary has 64" in shown
    assert re.search(r"600 tokens are the end of a document \(2\)", shown)
    assert re.search(r"\n +8-15 +\d+ #+\n +16-31 +\d+ #{40}\n", shown)
    text = json.loads((material / "corpus.jsonl").read_text().splitlines()[0])["text"]
    assert f"document 0: '<s> {text} </s>'"[:60] in shown
    found = json.loads(user.run("data", "inspect", "apart", "--json", *options).stdout)
    assert found["documents"] == 600 == sum(found["lengths"]["histogram"]) and found["ok"]

    # The reference's files have no manifest; with a smaller vocabulary its ids are beyond that.
    words = ("data", "inspect", str(material / "reference"), "--tokenizer", str(material / "small"), *options)
    refused = user.run(*words, status=1).stdout
    assert "ids are not in the vocabulary of 20" in refused and "?>" in refused

    data = tmp_path / "apart/shards/00001.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-4] + b"\x05\x00" + whole[-2:])
    shown = user.run("data", "inspect", "apart", "--verify", *options, status=1).stdout
    assert "shards/00001.bin has other bytes than its manifest says" in shown
    data.write_bytes(whole[:-2])
    refused = user.run("data", "inspect", "apart", *options, status=2).stderr
    assert "00001.bin: this file has" in refused and "its index counts" in refused


@pytest.fixture(scope="module")
def large(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of which a shard takes long enough to be killed in, and its tokenizer."""
    base = tmp_path_factory.mktemp("large")
    (base / "corpus.jsonl").write_bytes((material / "corpus.jsonl").read_bytes() * 60)
    shutil.copytree(material / "tokenizer", base / "tokenizer")
    return base


def worker(shards: Path, number: int) -> int:
    """The process that works on a shard, by the name of its hidden file; waits for it."""
    end = time.monotonic() + seconds(150)  # two cold starts of Megatron-Core in jobs
    while time.monotonic() < end:
        for path in shards.glob(f".{number:05d}.*.partial.bin"):
            return int(path.name.split(".")[2].split("-")[1])
        time.sleep(0.01)
    raise AssertionError(f"nothing works on shard {number}")


@pytest.mark.megatron
def test_a_killed_preparation_goes_on_where_it_was(tmp_path: Path, large: Path) -> None:
    user = user_of(tmp_path)
    words = ("--shard-size", "400K", "--processes", "1")
    command = [str(LAUNCHER), "data", "prepare", str(large / "corpus.jsonl"), "out"]
    command += ["--tokenizer", str(large / "tokenizer"), "--python", warm_python(), *words]
    started = subprocess.Popen(command, cwd=tmp_path, env=user.environ, stderr=subprocess.DEVNULL)
    try:
        pid = worker(tmp_path / "out/shards", 2)
    finally:
        started.kill()
        started.wait()
    end = time.monotonic() + seconds(30)
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists(), "a worker outlives its launcher"
    plan = preparation.read_plan(tmp_path / "out")
    assert plan is not None and preparation.missing_shards(tmp_path / "out", plan)[:1] >= [1]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/shards").glob("[0-9]*.json")}
    assert (
        not (tmp_path / "out/manifest.json").exists()
        and "not finished" in user.run("data", "inspect", "out", "--python", warm_python(), status=2).stderr
    )

    again = json.loads(prepare(user, large / "corpus.jsonl", "out", *words, "--json").stdout)
    whole = json.loads(prepare(user, large / "corpus.jsonl", "other", *words, "--json").stdout)
    assert again["kept"] == len(kept) >= 1 and again["made"] == again["shards"] - again["kept"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again["files"] == whole["files"] and again["documents"] == 600 * 60
    assert not list((tmp_path / "out").rglob(".*"))
    # A call for what is whole changes nothing.
    before = (tmp_path / "out/manifest.json").stat().st_mtime_ns
    assert "prepared" in prepare(user, large / "corpus.jsonl", "out", *words).stderr
    assert (tmp_path / "out/manifest.json").stat().st_mtime_ns == before


@pytest.mark.megatron
def test_a_killed_worker_is_begun_once_more(tmp_path: Path, large: Path) -> None:
    user = user_of(tmp_path)
    command = [str(LAUNCHER), "data", "prepare", str(large / "corpus.jsonl"), "out", "--json", "--processes", "2"]
    command += ["--tokenizer", str(large / "tokenizer"), "--python", warm_python(), "--shard-size", "1M"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=user.environ, stdout=pipe, stderr=pipe, text=True) as started:
        os.kill(worker(tmp_path / "out/shards", 1), signal.SIGKILL)
        out, err = started.communicate(timeout=seconds(120))
    assert started.returncode == 0, err
    assert "the process of shard 1 ended with SIGKILL; it is begun once more" in err
    found = json.loads(out)
    assert found["documents"] == 600 * 60 and found["made"] == found["shards"]


@pytest.mark.megatron
@pytest.mark.timeout(600)  # four cold starts of Megatron-Core in jobs
def test_an_array_of_jobs_goes_on_after_a_task_is_killed(
    tmp_path: Path, large: Path, slurm_cluster: VirtualCluster
) -> None:
    user = user_of(tmp_path, slurm_cluster)
    command = [str(LAUNCHER), "data", "prepare", str(large / "corpus.jsonl"), "out", "--json", "--shard-size", "1M"]
    command += ["--tokenizer", str(large / "tokenizer"), "--in-job-on", "virtual", "--tasks", "2", "--cpus", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=user.environ, stdout=pipe, stderr=pipe, text=True) as started:
        # The whole task, as by a lost node: its function leaves no result.
        worker(tmp_path / "out/shards", 1)
        task = next(tmp_path.glob(".launcher-tasks/*/*_1_0_log.out")).name.removesuffix("_0_log.out")
        user.call(["scancel", "--signal=KILL", "--full", task])
        out, err = started.communicate(timeout=seconds(240))
    assert started.returncode == 0, err
    assert "ended without a result" in err and "the tasks 1 are submitted again" in err
    found = json.loads(out)
    assert found["documents"] == 600 * 60 and found["shards"] > 2


ROWS = (
    ("nowhere.jsonl", (), "there is no such file or directory"),
    ("empty.jsonl", (), "there is nothing in it"),
    ("odd.dat", (), "the name of this file does not say its format"),
    ("mixed", (), "files of several formats: 1 of jsonl, 1 of text"),
    ("nothing", (), "this directory has no file with an ending of"),
    ("broken.jsonl", (), "this line is not JSON"),
    ("corpus.jsonl", ("--field", "content"), "has no field 'content'; it has 'id', 'text'"),
    ("corpus.jsonl", ("--field", "id"), "the field 'id' is not text but int"),
    ("corpus.parquet", ("--field", "id"), "the column 'id' is not text but int64"),
    ("corpus.parquet", ("--field", "words"), "there is no column 'words'"),
    ("not.parquet", (), "this is not a Parquet file"),
    ("saved", ("--split", "dev"), "this data set has no split 'dev'"),
    ("cut.jsonl.gz", (), "this file is not whole"),
    ("corpus.jsonl", ("--tokenizer", "nowhere"), "there is no such directory"),
    ("corpus.jsonl", ("--tokenizer", "nothing"), "this directory has no tokenizer"),
    ("corpus.jsonl", ("--tokenizer", "bad"), "the tokenizer cannot be loaded"),
    ("corpus.jsonl", ("--tokenizer", "endless"), "this tokenizer has no token for the end of a document"),
    ("latin.txt", (), "this is not UTF-8"),
    ("half.jsonl", (), "half of a surrogate pair"),
    ("corpus.jsonl", ("--shard-size", "0"), "'0' is not a size"),
    ("corpus.jsonl", ("--tasks", "2"), "--tasks"),
    ("corpus.jsonl", ("--format", "saved"), "a saved data set is a directory"),
)


@pytest.fixture(scope="module")
def wrong(material: Path) -> Path:
    """The material with what is wrong in many ways beside it."""
    for name in ("mixed", "nothing", "bad"):
        (material / name).mkdir()
    (material / "empty.jsonl").write_text("")
    (material / "odd.dat").write_text("text")
    (material / "mixed/a.jsonl").write_text('{"text": "w1"}\n')
    (material / "mixed/b.txt").write_text("w1\n")
    (material / "broken.jsonl").write_text('{"text": "w1"}\n{"text": \n')
    (material / "not.parquet").write_text("PAR0")
    (material / "cut.jsonl.gz").write_bytes((material / "corpus.jsonl.gz").read_bytes()[:-100])
    (material / "bad/tokenizer.json").write_text("{}")
    (material / "latin.txt").write_bytes("w1\ncaf\xe9\n".encode("latin-1"))
    (material / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    return material


@pytest.mark.megatron
@pytest.mark.parametrize(("source", "options", "says"), ROWS)
def test_what_is_wrong_is_said_in_a_few_lines(
    source: str, options: tuple[str, ...], says: str, tmp_path: Path, wrong: Path
) -> None:
    user = user_of(tmp_path)
    if options[:1] == ("--tokenizer",):
        options = ("--tokenizer", str(wrong / options[1]))
    refused = prepare(user, wrong / source, "out", *options, status=2).stderr
    lines = [line for line in refused.splitlines() if line.startswith(("error:", "Traceback")) or says in line]
    assert says in refused and len(lines) == 1 and "Traceback" not in refused
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.megatron
def test_rows_that_are_broken_can_be_left_out(tmp_path: Path, wrong: Path) -> None:
    user = user_of(tmp_path)
    report = json.loads(prepare(user, wrong / "broken.jsonl", "out", "--bad-rows", "skip", "--json").stdout)
    assert (report["documents"], report["skipped"], report["tokens"]) == (1, 1, 3)
    # Nothing but broken rows is refused all the same.
    refused = prepare(user, wrong / "half.jsonl", "none", "--bad-rows", "skip", status=2).stderr
    assert "there is not one token in it: 0 documents, 1 rows left out" in refused


@pytest.mark.megatron
def test_a_directory_that_was_begun_takes_only_the_same_request(tmp_path: Path, wrong: Path) -> None:
    user = user_of(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("keep")
    assert "is not empty" in prepare(user, wrong / "corpus.jsonl", "mine", status=2).stderr
    source = tmp_path / "text.jsonl"
    source.write_text('{"text": "w1"}\n')
    options = ("--tokenizer", str(wrong / "tokenizer"))
    prepare(user, source, "out", *options)
    other = ("--tokenizer", str(wrong / "small"))
    assert "begun with another tokenizer" in prepare(user, source, "out", *other, status=2).stderr
    assert "begun with eod=True" in prepare(user, source, "out", *options, "--no-eod", status=2).stderr
    source.write_text('{"text": "w1"}\n{"text": "w2"}\n')
    assert "the source has changed" in prepare(user, source, "out", *options, status=2).stderr
    assert "with blanks or commas" in prepare(user, source, "a b", *options, status=2).stderr
    assert "inside the source" in prepare(user, wrong, str(wrong / "out"), *options, status=2).stderr
    assert (tmp_path / "mine/notes").read_text() == "keep"
