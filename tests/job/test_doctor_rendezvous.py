"""The meeting of nodes over real TCP, with clocks that are wrong on purpose."""

import socket
import threading
import time

from launcher.job.doctor.clock import clock_check
from launcher.job.doctor.rendezvous import Client, JsonConnection, Peer, RendezvousServer, connect, listen, missing

HERE = "127.0.0.1"


def listening() -> tuple[socket.socket, int]:
    opened = listen(HERE, 0)
    return opened, opened.getsockname()[1]


def come(port: int, node: int, ahead_s: float, results: dict[int, tuple[Client, tuple[Peer, ...], float]]) -> None:
    client, why = connect(HERE, port, "run-000", 5.0)
    assert client is not None, why
    client.clock = lambda: time.time() + ahead_s
    offset = clock_check(client.samples(), False)
    met = client.exchange(Peer(node, f"n{node + 1}", ("/fsx",)))
    client.finish()
    assert offset.number is not None
    results[node] = client, met, offset.number


def test_all_meet_and_a_wrong_clock_is_measured() -> None:
    opened, port = listening()
    server = RendezvousServer(opened, 3, "run-000", 10.0)
    results: dict[int, tuple[Client, tuple[Peer, ...], float]] = {}
    threads = [
        threading.Thread(target=come, args=(port, node, ahead, results)) for node, ahead in ((1, 0.0), (2, -3600.0))
    ]
    for thread in threads:
        thread.start()
    met = server.exchange(Peer(0, "n1"))
    server.finish()
    for thread in threads:
        thread.join()
    assert [peer.host for peer in met] == ["n1", "n2", "n3"]
    assert missing(met, 3) == []
    assert results[1][1] == met == results[2][1]
    assert abs(results[1][2]) < 0.5
    assert abs(results[2][2] + 3600.0) < 0.5
    # The port is free again for those who come after: torch's own rendezvous.
    listen(HERE, port).close()


def test_one_that_does_not_come_and_a_stranger() -> None:
    opened, port = listening()
    server = RendezvousServer(opened, 2, "run-000", 1.0)
    stranger = JsonConnection(socket.create_connection((HERE, port)))
    stranger.send(key="another run")
    silent = socket.create_connection((HERE, port))
    begin = time.monotonic()
    met = server.exchange(Peer(0, "n1"))
    assert missing(met, 2) == [1]
    server.finish()
    assert time.monotonic() - begin < 5
    stranger.close()
    silent.close()


def test_without_a_listener() -> None:
    opened, port = listening()
    opened.close()
    client, why = connect(HERE, port, "run-000", 0.5)
    assert client is None
    assert "refused" in why
