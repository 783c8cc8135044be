"""One process of each node meets the others at MASTER_ADDR:MASTER_PORT, as training's ranks will; lines of JSON.

A visitor says who it is, asks for the time a few times, says that it is ready, and gets the list of all who came. Once
it has looked at what the others left in the shared directories it says so, and leaves when all have.
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
class Guest:
    """Who came: the node's number and name, and the directories into which it has written its mark."""

    node: int
    host: str
    marked: tuple[str, ...] = ()


class Line:
    """One connection, a line of JSON at a time."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._stream = connection.makefile("rw", encoding="utf-8")

    def send(self, **message: Any) -> None:
        """Send one message."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()

    def receive(self, timeout_s: float) -> "dict[str, Any]":
        """The next message. Raises OSError where none comes."""
        self._connection.settimeout(timeout_s)
        try:
            message = json.loads(self._stream.readline())
        except ValueError:
            raise ConnectionError("the other side has hung up") from None
        if not isinstance(message, dict):
            raise ConnectionError("the other side speaks another language")
        return message

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._connection.close()


def listen(address: str, port: int) -> socket.socket:
    """The socket at which the first node waits. Raises OSError where the port is taken."""
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server(("", port), family=family, backlog=1024)


@dataclass
class Host:
    """The first node's part: answers visitors, and takes part itself."""

    door: socket.socket
    nodes: int
    key: str
    """What only processes of this run know."""
    patience_s: float
    clock: Callable[[], float] = time.time
    guests: "dict[int, Guest]" = field(default_factory=dict)
    _left: int = 0
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _until: float = 0.0

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.patience_s
        self._porter = threading.Thread(target=self._open, daemon=True)
        self._porter.start()

    def samples(self) -> "list[Sample]":
        """The first node's clock is what others are compared with."""
        return []

    def meet(self, me: Guest) -> "tuple[Guest, ...]":
        """Wait for the others, at most for `patience_s`."""
        with self._changed:
            self.guests[me.node] = me
            self._changed.notify_all()
        return self._all()

    def leave(self) -> None:
        """Wait until all who came have looked, then close."""
        self._goodbye()
        # The visitors hang up first, so that the port is free for what comes after.
        time.sleep(_RETRY_S)
        self._closed = True
        # Closing alone would leave it open for the thread that waits at it.
        with contextlib.suppress(OSError):
            self.door.shutdown(socket.SHUT_RDWR)
        self._porter.join(timeout=self.patience_s)
        self.door.close()

    def _all(self) -> "tuple[Guest, ...]":
        with self._changed:
            self._changed.wait_for(lambda: len(self.guests) >= self.nodes, max(0.0, self._until - time.monotonic()))
            return tuple(self.guests[node] for node in sorted(self.guests))

    def _goodbye(self) -> None:
        with self._changed:
            self._left += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._left >= len(self.guests), self.patience_s)

    def _open(self) -> None:
        while not self._closed:
            try:
                connection, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One visitor; a stranger, or one that hangs up, changes nothing for the others."""
        line = Line(connection)
        try:
            hello = line.receive(self.patience_s)
            if hello.get("key") != self.key:
                return
            for _ in range(_PINGS):
                line.receive(self.patience_s)
                line.send(time=self.clock())
            ready = line.receive(self.patience_s)
            guest = Guest(int(ready["node"]), str(ready["host"]), tuple(map(str, ready["marked"])))
            with self._changed:
                self.guests[guest.node] = guest
                self._changed.notify_all()
            line.send(met=[asdict(each) for each in self._all()])
            line.receive(self.patience_s * 2)
            self._goodbye()
            line.send(bye=True)
        except (OSError, KeyError, TypeError, ValueError):
            return
        finally:
            line.close()


@dataclass
class Visitor:
    """Any other node's part."""

    line: Line
    key: str
    patience_s: float
    clock: Callable[[], float] = time.time

    def samples(self) -> "list[Sample]":
        """Ask the first node for the time, again and again: the quickest answer is the most exact."""
        self.line.send(key=self.key)
        found = []
        for number in range(_PINGS):
            asked = self.clock()
            self.line.send(ping=number)
            answer = self.line.receive(self.patience_s)
            found.append(Sample(asked, float(answer["time"]), self.clock()))
        return found

    def meet(self, me: Guest) -> "tuple[Guest, ...]":
        """Say who this is, and learn who else came. Raises OSError."""
        self.line.send(**asdict(me))
        met = self.line.receive(self.patience_s * 2)["met"]
        return tuple(Guest(int(each["node"]), str(each["host"]), tuple(each["marked"])) for each in met)

    def leave(self) -> None:
        """Tell that all was looked at, and wait until the others have, too."""
        with contextlib.suppress(OSError):
            self.line.send(done=True)
            self.line.receive(self.patience_s * 2)
        self.line.close()


def visit(address: str, port: int, key: str, patience_s: float) -> "tuple[Optional[Visitor], str]":
    """Connect to the first node, again and again for `patience_s`; a visitor, or why there is none."""
    until = time.monotonic() + patience_s
    why = "not tried"
    while time.monotonic() < until:
        try:
            connection = socket.create_connection((address, port), timeout=max(1.0, patience_s / 4))
            return Visitor(Line(connection), key, patience_s), ""
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(_RETRY_S)
    return None, why


def missing(guests: Sequence[Guest], nodes: int) -> "list[int]":
    """Numbers of the nodes that did not come."""
    return sorted(set(range(nodes)) - {guest.node for guest in guests})
