"""Iterations read from records and from the logs of both frameworks."""

from launcher.correlate.history import read_log

STAMP = "[2026-08-01 10:00:00"


def line(iteration: int, loss: float, *, micro: bool, rate: float = 1e-4, norm: float = 1.5) -> str:
    """Return a line as Megatron-LM (with microseconds) or Bridge prints it."""
    stamp = f"{STAMP}.123456]" if micro else f"{STAMP}]"
    return (
        f" {stamp} iteration {iteration:8d}/      10 | consumed samples: {32 * iteration:12d} | "
        "elapsed time per iteration (ms): 812.5 | throughput per GPU (TFLOP/s/GPU): 12.3 | "
        f"learning rate: {rate:.6E} | global batch size:    32 | lm loss: {loss:.6E} | loss scale: 1.0 | "
        f"grad norm: {norm:.3f} | number of skipped iterations:   0 | "
        "number of nan iterations:   0 |"
    )


def test_megatron_lms_second_value_is_the_mean_of_two() -> None:
    """The numbers of an H100: 10.41902 and 10.41698 are printed as 10.41902 and 10.41800."""
    log = [line(1, 10.41902, micro=True), line(2, 10.41800, micro=True), line(3, 10.27511, micro=True)]
    assert [round(point.loss or 0, 5) for point in read_log(log)] == [10.41902, 10.41698, 10.27511]
    assert [point.printed_loss for point in read_log(log, as_printed=True)][1] == "1.041800E+01"


def test_bridges_values_are_those_of_one_iteration_each() -> None:
    log = [line(1, 10.4, micro=False), "Step Time : 0.81s GPU utilization: 4.1", line(2, 10.3, micro=False)]
    assert [point.loss for point in read_log(log)] == [10.4, 10.3]


def test_a_resumed_process_begins_with_two_again() -> None:
    log = [
        *(line(number, 10.0 - number, micro=True) for number in (1, 2, 3, 4)),
        "done with setup ...",
        line(5, 5.0, micro=True),
        line(6, 4.5, micro=True),
        line(7, 3.0, micro=True),
    ]
    points = {point.iteration: point.loss for point in read_log(log)}
    assert points[2] == 2 * 8.0 - 9.0
    assert points[3] == 7.0
    assert points[5] == 5.0
    assert points[6] == 2 * 4.5 - 5.0
    assert points[7] == 3.0


def test_all_numbers_of_a_line_are_read() -> None:
    (point,) = read_log(["noise", line(7, 9.5, micro=False, rate=2e-4, norm=0.25), "Step Time : 0.81s"])
    assert (point.iteration, point.loss, point.grad_norm, point.next_rate) == (7, 9.5, 0.25, 2e-4)
    assert (point.seconds, point.tflops) == (0.8125, 12.3)


def test_an_older_megatron_lm_is_known_by_its_arguments() -> None:
    """Before 0.16 its time stamps have no microseconds, as Bridge's."""
    log = [f"{'-' * 24} arguments {'-' * 24}", line(1, 10.4, micro=False), line(2, 10.3, micro=False)]
    assert [round(point.loss or 0, 5) for point in read_log(log)] == [10.4, 10.2]


def test_a_second_loss_that_may_be_a_mean_is_not_shown_as_known() -> None:
    log = [line(number, 11.0 - number, micro=False) for number in (1, 2, 3)]
    assert [point.loss for point in read_log(log)] == [10.0, None, 8.0]
    assert [point.loss for point in read_log(log, as_printed=True)] == [10.0, 9.0, 8.0]


def test_lines_that_are_cut_or_not_finite_are_read_as_far_as_they_go() -> None:
    (cut,) = read_log([line(1, 10.0, micro=True)[:150]])
    assert (cut.iteration, cut.loss, cut.seconds) == (1, None, 0.8125)
    (bad,) = read_log([f" {STAMP}.1] iteration 1/ 10 | lm loss: nan | grad norm: inf |"])
    assert (str(bad.loss), str(bad.grad_norm)) == ("nan", "inf")
