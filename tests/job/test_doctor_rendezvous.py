"""The meeting of nodes over real TCP, with clocks that are wrong on purpose."""

import socket
import threading
import time

from launcher.job.doctor.clock import clock_check
from launcher.job.doctor.rendezvous import Guest, Host, Line, Visitor, listen, missing, visit

HERE = "127.0.0.1"


def door() -> tuple[socket.socket, int]:
    opened = listen(HERE, 0)
    return opened, opened.getsockname()[1]


def come(port: int, node: int, ahead_s: float, results: dict[int, tuple[Visitor, tuple[Guest, ...], float]]) -> None:
    visitor, why = visit(HERE, port, "run-000", 5.0)
    assert visitor is not None, why
    visitor.clock = lambda: time.time() + ahead_s
    offset = clock_check(visitor.samples(), False)
    met = visitor.meet(Guest(node, f"n{node + 1}", ("/fsx",)))
    visitor.leave()
    assert offset.number is not None
    results[node] = visitor, met, offset.number


def test_all_meet_and_a_wrong_clock_is_measured() -> None:
    opened, port = door()
    host = Host(opened, 3, "run-000", 10.0)
    results: dict[int, tuple[Visitor, tuple[Guest, ...], float]] = {}
    threads = [
        threading.Thread(target=come, args=(port, node, ahead, results)) for node, ahead in ((1, 0.0), (2, -3600.0))
    ]
    for thread in threads:
        thread.start()
    met = host.meet(Guest(0, "n1"))
    host.leave()
    for thread in threads:
        thread.join()
    assert [guest.host for guest in met] == ["n1", "n2", "n3"]
    assert missing(met, 3) == []
    assert results[1][1] == met == results[2][1]
    assert abs(results[1][2]) < 0.5
    assert abs(results[2][2] + 3600.0) < 0.5
    # The port is free again for those who come after: torch's own rendezvous.
    listen(HERE, port).close()


def test_one_that_does_not_come_and_a_stranger() -> None:
    opened, port = door()
    host = Host(opened, 2, "run-000", 1.0)
    stranger = Line(socket.create_connection((HERE, port)))
    stranger.send(key="another run")
    silent = socket.create_connection((HERE, port))
    begin = time.monotonic()
    met = host.meet(Guest(0, "n1"))
    assert missing(met, 2) == [1]
    host.leave()
    assert time.monotonic() - begin < 5
    stranger.close()
    silent.close()


def test_nobody_listens() -> None:
    opened, port = door()
    opened.close()
    visitor, why = visit(HERE, port, "run-000", 0.5)
    assert visitor is None
    assert "refused" in why
