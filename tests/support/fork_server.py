"""A Python that has imported torch, Megatron Core and Megatron Bridge, and forks one child for each request.

warm.py starts it as `python fork_server.py FD`, with the number of a listening socket; it runs on Python 3.11 as well.
A request comes from the stand-in interpreter (fork_client.py): arguments, environment, working directory and open files
of a `python ...` command. The child becomes that command: it has a session of its own, and `__main__`, sys.argv,
sys.path and os.environ as in a fresh interpreter. The server ends when its standard input does, that is with the
process that started it; its children end with it.

No torch operation may run before the fork: threads of a pool in the parent are missing in the child, which would wait
for them forever. Nothing of the project under test stays imported either: a child imports it from its own run.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import importlib.machinery
import io
import json
import multiprocessing.spawn
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
STACK = (
    "megatron.bridge",
    "megatron.bridge.recipes",
    "megatron.bridge.training.pretrain",
    "megatron.bridge.training.finetune",
    "megatron.bridge.training.gpt_step",
    "megatron.bridge.training.vlm_step",
    "megatron.bridge.training.callbacks",
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "safetensors.torch",
    "tensorboard",
    "torch.distributed.checkpoint",
    "torch.utils.tensorboard",
)
"""What training, checking and converting import; a module that this release of Bridge lacks is left out."""

_SET_BY_IMPORTS: dict[str, str] = {}
"""Variables that the stack sets where they are not set: it would have done so in the child."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def import_stack() -> None:
    """Import the training stack as it is imported after the CPU back end was enabled, and take the back end out again.

    A few patches must be in place while Megatron is imported (torch.compile, Transformer Engine's absence). A child
    applies all of them itself, from the code of its own run.
    """
    path, environment = list(sys.path), dict(os.environ)
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.utils.data.dataloader

    from launcher.job import cpu
    from launcher.job.cpu import bridge_patches, torch_patches

    finders = list(sys.meta_path)
    iterator = torch.utils.data.dataloader._BaseDataLoaderIter
    patched = (torch, torch.cuda, torch.cuda.random, torch.autograd, torch.nn.Module, iterator)
    with _restored(patched):
        at_import = (*torch_patches.PATCHES, *bridge_patches.BEFORE_IMPORT)
        for patch in cpu.patches():
            if patch in at_import:
                patch.apply()
        for name in STACK:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        while torch.overrides._len_torch_function_stack():
            torch.overrides._pop_mode()
    sys.meta_path[:] = [one for one in sys.meta_path if one in finders or not one.__module__.startswith("launcher")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "launcher"]:
        del sys.modules[name]
    sys.path[:] = path
    _SET_BY_IMPORTS.update({name: value for name, value in os.environ.items() if name not in environment})


@contextlib.contextmanager
def _restored(holders: tuple[Any, ...]) -> Iterator[None]:
    """Set back, after the block, every attribute of `holders` that had another value before it."""
    before = [dict(vars(holder)) for holder in holders]
    try:
        yield
    finally:
        for holder, values in zip(holders, before):  # noqa: B905 zip() of equal lengths
            for name, value in values.items():
                if vars(holder).get(name) is not value:
                    setattr(holder, name, value)


class Request:
    """One command: what fork_client.py sends, with the files that came along."""

    def __init__(self, header: dict[str, Any], files: list[int]) -> None:
        self.header = header
        self.files = dict(zip(header["files"], files))  # noqa: B905 the client sends as many as it names
        self.namespaces = files[len(header["files"]) :]

    def close(self) -> None:
        """Close the files: the child has them."""
        for file in (*self.files.values(), *self.namespaces):
            os.close(file)


def receive(connection: socket.socket) -> Request | None:
    """Return the request on `connection`; None where the client has gone already."""
    prefix, files, _flags, _address = socket.recv_fds(connection, 8, 250)
    text = b""
    if len(prefix) == 8:
        size = int.from_bytes(prefix, "big")
        while len(text) < size and (part := connection.recv(min(1 << 20, size - len(text)))):
            text += part
        if len(text) == size:
            return Request(json.loads(text), files)
    for file in files:
        os.close(file)
    return None


class Server:
    """Accepts requests, forks, passes signals to the children and their exit statuses to the clients."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.selector = selectors.DefaultSelector()
        self.clients: dict[int, tuple[socket.socket, int]] = {}
        """By the child's process id: the client's connection, and the child's pidfd."""

    def serve(self) -> Request | None:
        """Serve until standard input ends (None); return in each child, with its request."""
        self.selector.register(self.listening, selectors.EVENT_READ, None)
        self.selector.register(0, selectors.EVENT_READ, None)
        while True:
            for key, _events in self.selector.select():
                if key.fileobj is self.listening:
                    request = self._accept()
                    if request is not None:
                        return request
                elif key.fileobj == 0:
                    if not os.read(0, 4096):
                        self._end_all()
                        return None
                elif key.data[0] == "ended":
                    self._ended(key.data[1])
                else:
                    self._heard(key.data[1])

    def _accept(self) -> Request | None:
        connection, _address = self.listening.accept()
        try:
            request = receive(connection)
        except (OSError, ValueError):
            request = None
        if request is None:
            connection.close()
            return None
        child = os.fork()
        if child == 0:
            self._leave()
            become_session(connection, request)
            return request
        request.close()
        pidfd = os.pidfd_open(child)
        self.clients[child] = (connection, pidfd)
        self.selector.register(pidfd, selectors.EVENT_READ, ("ended", child))
        self.selector.register(connection, selectors.EVENT_READ, ("heard", child))
        return None

    def _ended(self, child: int) -> None:
        _pid, status = os.waitpid(child, 0)
        connection, pidfd = self.clients.pop(child)
        self.selector.unregister(pidfd)
        os.close(pidfd)
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.sendall(b"exit %d\n" % status)
        connection.close()

    def _heard(self, child: int) -> None:
        """Pass on the signals that the client names, one byte each; without a client the child ends, too."""
        if child not in self.clients:
            return  # it has ended in the same moment
        connection = self.clients[child][0]
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self.selector.unregister(connection)
            os.kill(child, signal.SIGKILL)
        for number in numbers:
            os.kill(child, number)

    def _end_all(self) -> None:
        """End all children; nothing is left of this server, even where the process that started it was killed."""
        shutil.rmtree(Path(self.listening.getsockname()).parent, ignore_errors=True)
        for child in self.clients:
            os.kill(child, signal.SIGKILL)

    def _leave(self) -> None:
        """Close in the child what belongs to the server."""
        self.selector.close()
        self.listening.close()
        for connection, pidfd in self.clients.values():
            connection.close()
            os.close(pidfd)


def become_session(connection: socket.socket, request: Request) -> None:
    """Give this child its session, namespaces, files, signals, directory and environment, in that order.

    Where it may not enter the client's namespaces, the client is asked to start a real interpreter instead.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    header = request.header
    for namespace in request.namespaces:
        if _libc.setns(namespace, 0) != 0:
            connection.sendall(b"cold\n")
            os._exit(0)
    connection.close()
    above = {number: _move_up(file) for number, file in request.files.items()}
    for file in request.namespaces:
        os.close(file)
    for number, file in above.items():
        os.dup2(file, number, inheritable=True)
        os.close(file)
    os.umask(header["umask"])
    os.sched_setaffinity(0, header["cpus"])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = number in header["ignored"] or number in (signal.SIGPIPE, signal.SIGXFSZ)
        default: Any = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if ignored else default)
    signal.pthread_sigmask(signal.SIG_SETMASK, header["blocked"])
    os.chdir(header["directory"])
    os.environ.clear()
    os.environ.update({**_SET_BY_IMPORTS, **header["environment"]})


def _move_up(file: int) -> int:
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 1000)
    os.close(file)
    return moved


def become_program(request: Request) -> None:
    """Run the command in this process, as `python ARGUMENTS` would."""
    arguments: list[str] = request.header["arguments"]
    environment = os.environ
    if environment.get("PYTHONUNBUFFERED"):
        for name, file in (("stdout", 1), ("stderr", 2)):
            before = getattr(sys, name)
            raw: Any = os.fdopen(file, "wb", buffering=0, closefd=False)
            text = io.TextIOWrapper(raw, before.encoding, before.errors, write_through=True)
            setattr(sys, name, text)
            setattr(sys, f"__{name}__", text)
    if environment.get("PYTHONDONTWRITEBYTECODE"):
        sys.dont_write_bytecode = True
    if environment.get("OMP_NUM_THREADS", "").isdigit():
        # The library has read the variable when it was loaded.
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.orig_argv[:] = [sys.executable, *arguments]
    # A process that multiprocessing spawns (the writer of checkpoints) would import torch once more: two CPU seconds.
    multiprocessing.spawn.set_executable(request.header["stand_in"])
    python_path = [one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.path[:] = [*python_path, *(one for one in sys.path if one != str(Path(__file__).parent))]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    if arguments[0] == "-m":
        sys.argv[:] = ["-m", *arguments[2:]]
        sys.path.insert(0, str(Path.cwd()))
        runpy._run_module_as_main(arguments[1])  # type: ignore[attr-defined]
        return
    if arguments[0] == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        code = compile(arguments[1], "<string>", "exec", dont_inherit=True)
    else:
        script = arguments[0]
        sys.argv[:] = arguments
        sys.path.insert(0, str(Path(script).resolve().parent))
        main.__file__ = str(Path(script).absolute())
        code = compile(Path(script).read_bytes(), main.__file__, "exec", dont_inherit=True)
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
    exec(code, main.__dict__)  # noqa: S102 this is an interpreter


def main() -> Request | None:
    """Import, then serve; in a child, return its request."""
    server = Server(socket.socket(fileno=int(sys.argv[1])))
    import_stack()
    threads = [thread.name for thread in threading.enumerate()]
    assert len(threads) == 1, f"threads that a fork would lose: {threads}"
    gc.collect()
    gc.freeze()
    return server.serve()


def end_as(request: Request) -> NoReturn:
    """Run the command and end this process as the interpreter would, but without taking its modules apart.

    That would touch every page that the child shares with the server, more than a second of work for nothing.
    """
    try:
        become_program(request)
        status = 0
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(status)


def _exit_status(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    asked = main()
    if asked is not None:
        end_as(asked)
