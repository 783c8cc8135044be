"""Rendezvous of one process per node at MASTER_ADDR:MASTER_PORT, as later of training's ranks; lines of JSON.

A client sends the run's key, asks for the time a few times, reports that it is ready, and gets the list of all peers.
Once it has looked for the others' marks in the shared directories it reports that, and leaves when all peers have.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from .clock import Sample

_PINGS = 8
_RETRY_S = 0.2


@dataclass(frozen=True)
class Peer:
    """One node that came: its number and name, and the directories into which it has written its mark."""

    node: int
    host: str
    marked: tuple[str, ...] = ()


class JsonConnection:
    """One connection that carries one JSON object per line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._stream = connection.makefile("rw", encoding="utf-8")

    def send(self, **message: Any) -> None:
        """Send one message."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()

    def receive(self, timeout_s: float) -> "dict[str, Any]":
        """Return the next message. Raises OSError where none comes within `timeout_s`."""
        self._connection.settimeout(timeout_s)
        try:
            message = json.loads(self._stream.readline())
        except ValueError:
            raise ConnectionError("the other side closed the connection") from None
        if not isinstance(message, dict):
            raise ConnectionError("the other side does not speak this protocol")
        return message

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):  # closing flushes, and the other side may be gone
            self._stream.close()
        self._connection.close()


def listen(address: str, port: int) -> socket.socket:
    """Return the socket at which the first node waits. Raises OSError where the port is taken."""
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server(("", port), family=family, backlog=1024)


@dataclass
class RendezvousServer:
    """The first node's part: serves clients, and takes part itself."""

    listener: socket.socket
    nodes: int
    key: str
    """Text that only processes of this run know."""
    timeout_s: float
    clock: Callable[[], float] = time.time
    peers: "dict[int, Peer]" = field(default_factory=dict)
    _finished: int = 0
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _until: float = 0.0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.timeout_s
        self._accept_thread = threading.Thread(target=self._accept, daemon=True)
        self._accept_thread.start()

    def samples(self) -> "list[Sample]":
        """Return nothing: the first node's clock is the reference."""
        return []

    def exchange(self, me: Peer) -> "tuple[Peer, ...]":
        """Wait for the others, at most for `timeout_s`; return all that came."""
        with self._changed:
            self.peers[me.node] = me
            self._changed.notify_all()
        return self._peers_met()

    def finish(self) -> None:
        """Wait until all peers have looked, then close."""
        self._wait_for_all()
        # The clients close first, so that the port is free for the training's own rendezvous.
        time.sleep(_RETRY_S)
        self._closed = True
        # Closing alone would not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self._accept_thread.join(timeout=self.timeout_s)
        self.listener.close()

    def _peers_met(self) -> "tuple[Peer, ...]":
        with self._changed:
            self._changed.wait_for(lambda: len(self.peers) >= self.nodes, max(0.0, self._until - time.monotonic()))
            return tuple(self.peers[node] for node in sorted(self.peers))

    def _wait_for_all(self) -> None:
        with self._changed:
            self._finished += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._finished >= len(self.peers), self.timeout_s)

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return  # the listener was closed
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        """Serve one connection; a stranger, or one that closes early, does not affect the others."""
        connection = JsonConnection(accepted)
        try:
            hello = connection.receive(self.timeout_s)
            if hello.get("key") != self.key:
                return
            for _ in range(_PINGS):
                connection.receive(self.timeout_s)
                connection.send(time=self.clock())
            ready = connection.receive(self.timeout_s)
            peer = Peer(int(ready["node"]), str(ready["host"]), tuple(map(str, ready["marked"])))
            with self._changed:
                self.peers[peer.node] = peer
                self._changed.notify_all()
            connection.send(peers=[asdict(each) for each in self._peers_met()])
            connection.receive(self.timeout_s * 2)
            self._wait_for_all()
            connection.send(bye=True)
        except (OSError, KeyError, TypeError, ValueError):
            return  # the node does not count as met, which the report says
        finally:
            connection.close()


@dataclass
class Client:
    """Any other node's part."""

    connection: JsonConnection
    key: str
    timeout_s: float
    clock: Callable[[], float] = time.time

    def samples(self) -> "list[Sample]":
        """Ask the first node for the time repeatedly: the quickest answer is the most exact."""
        self.connection.send(key=self.key)
        found = []
        for number in range(_PINGS):
            sent = self.clock()
            self.connection.send(ping=number)
            answer = self.connection.receive(self.timeout_s)
            found.append(Sample(sent, float(answer["time"]), self.clock()))
        return found

    def exchange(self, me: Peer) -> "tuple[Peer, ...]":
        """Report that this node is ready, and return all peers. Raises OSError."""
        self.connection.send(**asdict(me))
        peers = self.connection.receive(self.timeout_s * 2)["peers"]
        return tuple(Peer(int(each["node"]), str(each["host"]), tuple(each["marked"])) for each in peers)

    def finish(self) -> None:
        """Report that this node has looked, and wait until the others have too."""
        with contextlib.suppress(OSError):  # the server ended first: it waits for no one any more
            self.connection.send(done=True)
            self.connection.receive(self.timeout_s * 2)
        self.connection.close()


def connect(address: str, port: int, key: str, timeout_s: float) -> "tuple[Optional[Client], str]":
    """Connect to the first node, retrying for `timeout_s`; return a client, or the reason why there is none."""
    until = time.monotonic() + timeout_s
    why = "not tried"
    while time.monotonic() < until:
        try:
            connected = socket.create_connection((address, port), timeout=max(1.0, timeout_s / 4))
            return Client(JsonConnection(connected), key, timeout_s), ""
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(_RETRY_S)
    return None, why


def missing(peers: Sequence[Peer], nodes: int) -> "list[int]":
    """Return the numbers of the nodes that did not come."""
    return sorted(set(range(nodes)) - {peer.node for peer in peers})
