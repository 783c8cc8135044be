"""The calls that an attempt of many ranks makes, counted on 96 of them: in a larger one each rank costs as much."""

from pathlib import Path

from benchmarks import scale
from tests.support.file_calls import FileCalls


def test_the_end_of_a_rank_costs_few_calls_at_any_number_of_ranks() -> None:
    few, many = scale.ended(96), scale.ended(192)
    assert few.ends == {"create": 2 * 96, "fsync": 96, "open": 96}
    assert many.ends == {name: 2 * count for name, count in few.ends.items()}
    assert "fsync of a directory" not in few.ends


def test_the_verdict_opens_one_file_of_each_node() -> None:
    for failed, word in ((False, "finished"), (True, "failed")):
        few, many = (scale.ended(ranks, failed=failed) for ranks in (96, 192))
        assert (few.word, many.word) == (word, word)
        nodes = 96 // scale.PER_NODE
        assert many.verdict["open"] - few.verdict["open"] == nodes
        assert sum(many.verdict.values()) - sum(few.verdict.values()) == nodes
        assert sum(few.verdict.values()) <= nodes + 30


def test_the_verdict_reads_nodes_at_the_same_time() -> None:
    """With 20 ms a call, 64 nodes one after the other would take 1.3 s; what does not depend on them takes 0.5 s."""
    few, many = (scale.ended(ranks, 0.02) for ranks in (8, 8 * 64))
    assert many.verdict_s - few.verdict_s < 0.6


def test_calls_are_counted_by_kind(tmp_path: Path) -> None:
    with FileCalls(tmp_path) as calls:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").read_text()
        assert (tmp_path / "a").exists()
        (tmp_path / "a").rename(tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        (scale.ROOT / "pyproject.toml").read_text()
    (tmp_path / "b").unlink()
    assert calls.counts == {"create": 1, "list": 1, "open": 1, "rename": 1, "stat": 1}
