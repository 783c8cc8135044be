"""Tables of reports, from small reports with answers calculated by hand."""

import gzip
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import DiskError, RequestError
from launcher.report.profiles import activities, time_shares
from launcher.report.profiles.time_shares import Top
from tests.support.recorder import Recorder

GEMM, REDUCE, NORM = "gemm<float>(int, int)", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "layer_norm_kernel"


def export_of(path: Path) -> Path:
    """An export with nsys' tables, times in nanoseconds.

    Two streams, steps 10 and 11 from 1000 to 11000 (in us: 1 to 11):

        time (us)   0   1   2   3   4   5   6   7   8   9  10  11  12
        compute    [gemm ======]       [norm ==]                [gemm=]
        nccl                [all-reduce ===]
        copy                                        [cpy]
    """
    made = sqlite3.connect(path)
    made.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL)")
    made.executemany(
        "INSERT INTO StringIds VALUES (?, ?)",
        [(1, GEMM), (2, REDUCE), (3, NORM), (4, "step 11"), (5, "gemm"), (6, "nccl"), (7, "norm")],
    )
    made.execute(
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER, "
        "demangledName INTEGER, shortName INTEGER)"
    )
    made.executemany(
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, 0, ?, ?, ?)",
        [
            (0, 3000, 7, 1, 5),
            (10_500, 12_000, 7, 1, 5),
            (5000, 7000, 7, 3, 7),
            (2500, 6000, 13, 2, 6),
        ],
    )
    made.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, copyKind INTEGER)")
    made.execute("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (8000, 9000, 1)")
    made.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT, textId INTEGER)")
    made.executemany(
        "INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, ?, ?)",
        [(1000, 6000, "step 10", None), (6000, 11_000, None, 4), (0, 12_000, "forward", None), (5, None, "mark", None)],
    )
    made.commit()
    made.close()
    return path


def test_a_report_of_nsys_by_hand(tmp_path: Path) -> None:
    found = activities.read_nsys(export_of(tmp_path / "x.sqlite"))
    assert found.steps == [(10, 1.0, 6.0), (11, 6.0, 11.0)]
    shares = time_shares.shares(found)
    assert (shares.steps, shares.window_us) == (2, 10.0)
    # Busy: 1 to 7, 8 to 9, 10.5 to 11. All-reduce: 2.5 to 6, alone from 3 to 5.
    assert (shares.busy_us, shares.communication_us, shares.exposed_us, shares.idle_us) == (7.5, 3.5, 2.0, 2.5)
    assert shares.to_dict()["idle_share"] == 0.25


def test_the_top_kernels_are_those_of_nsys_stats(tmp_path: Path) -> None:
    database = export_of(tmp_path / "x.sqlite")
    found = time_shares.top(activities.read_nsys(database))
    assert found == [
        Top(GEMM, 2, 4.5, 4.5, 0.45),
        Top(REDUCE, 1, 3.5, 3.5, 0.35),
        Top(NORM, 1, 2.0, 2.0, 0.2),
    ]
    # What the report cuda_gpu_kern_sum of nsys stats asks for.
    query = """SELECT s.value, count(*), sum(k.end - k.start) / 1000.0 AS total FROM CUPTI_ACTIVITY_KIND_KERNEL k
               JOIN StringIds s ON s.id = k.demangledName GROUP BY k.demangledName ORDER BY total DESC"""
    connection = sqlite3.connect(database)
    assert [(one.name, one.calls, one.total_us) for one in found] == connection.execute(query).fetchall()
    connection.close()
    assert len(time_shares.top(activities.read_nsys(database), 1)) == 1


def test_a_report_without_kernels_and_without_ranges(tmp_path: Path) -> None:
    made = sqlite3.connect(tmp_path / "x.sqlite")
    made.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
    made.commit()
    made.close()
    found = activities.read_nsys(tmp_path / "x.sqlite")
    assert time_shares.top(found) == []
    assert time_shares.shares(found).busy_us is None


def test_a_file_that_is_not_an_export_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("not a database, whatever its name says; " * 50)
    with pytest.raises(DiskError, match="cannot be read"):
        activities.read_nsys(tmp_path / "x.sqlite")


def event(name: str, category: str, start: float, end: float, thread: int = 1) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": category, "ts": start, "dur": end - start, "pid": 1, "tid": thread}


def trace_of(path: Path, events: list[dict[str, Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": [{"ph": "M", "name": "process_name"}, *events]}, file)
    return path


def test_a_trace_of_torch_on_a_gpu(tmp_path: Path) -> None:
    path = trace_of(
        tmp_path / "x.gz",
        [
            event("step 3", "user_annotation", 0, 10),
            event("aten::mm", "cpu_op", 0, 1),
            event(GEMM, "kernel", 1, 4),
            event(REDUCE, "kernel", 3, 8, 2),
            event("Memcpy HtoD", "gpu_memcpy", 9, 10, 3),
            event("step 3", "gpu_user_annotation", 1, 10),
        ],
    )
    found = activities.read_activities(path, "torch", Recorder())
    shares = time_shares.shares(found)
    assert (shares.device, shares.steps, shares.window_us) == ("gpu", 1, 10)
    assert (shares.busy_us, shares.communication_us, shares.exposed_us, shares.idle_us) == (8, 5, 4, 2)
    assert [one.name for one in time_shares.top(found)] == [REDUCE, GEMM], "a copy is not a kernel"


def test_a_trace_of_torch_on_cpu_counts_each_call_without_those_in_it(tmp_path: Path) -> None:
    path = trace_of(
        tmp_path / "x.gz",
        [
            event("step 3", "user_annotation", 0, 10),
            event("aten::linear", "cpu_op", 0, 5),
            event("aten::mm", "cpu_op", 0, 4),
            event("aten::mm", "cpu_op", 6, 7),
            event("gloo:all_reduce", "user_annotation", 4, 9, 2),
            event("Optimizer.step#Adam.step", "user_annotation", 0, 10),
        ],
    )
    found = activities.read_activities(path, "torch", Recorder())
    assert time_shares.top(found) == [
        Top("aten::mm", 2, 5, 5, 0.454545454545454545),
        Top("gloo:all_reduce", 1, 5, 5, 0.454545454545454545),
        Top("aten::linear", 1, 5, 1, 1 / 11),
    ]
    shares = time_shares.shares(found)
    assert (shares.device, shares.communication_us, shares.exposed_us, shares.idle_us) == ("cpu", 5, 3, 1)


def test_a_trace_of_viztracer(tmp_path: Path) -> None:
    path = trace_of(
        tmp_path / "x.gz",
        [
            event("step 2 (builtin.py:77)", "FEE", 0, 10),
            event("forward (model.py:3)", "FEE", 1, 9),
            event("torch.matmul", "FEE", 2, 8),
            event("torch.matmul", "FEE", 1, 9, 2),
        ],
    )
    found = activities.read_activities(path, "viztracer", Recorder())
    assert [(one.name, one.calls, one.total_us, one.own_us) for one in time_shares.top(found)] == [
        ("torch.matmul", 2, 14, 14),
        ("forward (model.py:3)", 1, 8, 2),
    ]
    shares = time_shares.shares(found)
    assert (shares.steps, shares.window_us, shares.idle_us) == (1, 10, None)


@pytest.mark.parametrize("seed", range(20))
def test_unions_against_counting_each_moment(seed: int) -> None:
    numbers = random.Random(seed)  # noqa: S311 - to repeat a test, not for secrecy
    pairs = [
        (start := numbers.randrange(100), start + numbers.randrange(1, 20)) for _ in range(numbers.randrange(1, 30))
    ]
    assert time_shares.union(pairs) == len({moment for start, end in pairs for moment in range(start, end)})


def test_a_snapshot_of_memory_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no table for reports of memory"):
        activities.read_activities(tmp_path / "x.pickle", "memory", Recorder())


def test_a_trace_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = trace_of(tmp_path / "x.gz", [event("step 3", "user_annotation", 0, 10)] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DiskError, match="the trace cannot be read"):
        activities.read_activities(path, "torch", Recorder())
