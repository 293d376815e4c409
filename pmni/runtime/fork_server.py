"""A fork server: a process that has imported all stages, and forks for each stage asked of it.

To import what a stage needs takes seconds, often longer than what the stage does. The workflow
therefore starts `pmni fork-server FOLDER` and names the folder to its jobs in the environment
variable PMNI_FORK_SERVER. In the folder is a socket for each environment of Python that has a
server. There the command `pmni` hands over its command line, environment, folder and output, and
ends as the forked process ends. Without a socket for its environment a stage starts by itself, and
says so.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pmni.runtime.stages import STAGES

VARIABLE = "PMNI_FORK_SERVER"
"""Environment variable: the folder of the sockets; set to nothing, each stage starts by itself."""
FORWARDED = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
"""Signals that are passed on to the process of a stage."""
LENGTH = struct.Struct("!I")
"""Format of a request's length, in bytes, which precedes it."""
END = struct.Struct("!BB")
"""Format of the answer: the exit code, and the signal that has ended the process, or 0."""
START_SECONDS = 60
"""Longest time that `start` waits for a server's socket."""


def put_command_on_path() -> None:
    """Let child processes find the command `pmni` beside this Python, if they find no other."""
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([*filter(None, [os.environ.get("PATH")]), folder])


def start() -> None:
    """Start a fork server that ends with this process, and set the variable for child processes.

    Does nothing where the variable is set, the command `pmni` is not on the path, or the system is
    not Linux. Returns when the socket is there; the server goes on to import the stages.
    """
    if VARIABLE in os.environ or sys.platform != "linux" or shutil.which("pmni") is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="pmni-"))
    command = ["pmni", "fork-server", str(folder)]
    # The end of its input tells the server that this process has ended, in whatever way.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(server.stdin.close)  # type: ignore[union-attr]
    deadline = time.monotonic() + START_SECONDS
    while folder.is_dir() and not any(folder.iterdir()):
        if server.poll() is not None or time.monotonic() > deadline:
            print("pmni: the fork server has not started", file=sys.stderr)
            return shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)
    os.environ[VARIABLE] = str(folder)


def socket_in(folder: Path) -> Path:
    """The socket of the fork server of this environment of Python."""
    return folder / hashlib.sha256(os.path.realpath(sys.prefix).encode()).hexdigest()[:8]


def forward(command: Sequence[str]) -> int | None:
    """The exit code of a stage that the fork server has run; None if it is to start by itself.

    Where a server is named but cannot be used, a line on standard error says why. Signals that ask
    this process to end are passed on to that of the stage.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    server, path = socket.socket(socket.AF_UNIX), socket_in(Path(folder))
    try:
        server.connect(str(path))
    except OSError as error:
        server.close()
        reason = _why_not(path, error)
        print(f"pmni: starts without the fork server: {reason}", file=sys.stderr)
        return None
    request = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(request).encode()
    socket.send_fds(server, [LENGTH.pack(len(text))], [1, 2])
    server.sendall(text)

    def pass_on(number: int, _: Any) -> None:
        with contextlib.suppress(OSError):  # the process has just ended
            server.sendall(bytes([number]))

    for signal_number in FORWARDED:
        signal.signal(signal_number, pass_on)
    answer = server.recv(END.size)
    if len(answer) < END.size:
        print("pmni: the process that watched over this stage has gone", file=sys.stderr)
        return 1
    code, number = END.unpack(answer)
    if number:
        print(f"pmni: ended by {signal.Signals(number).name}", file=sys.stderr)
    return int(code)


def _why_not(path: Path, error: OSError) -> str:
    """Why there is no connection to the fork server's socket."""
    if not path.parent.is_dir():
        return f"{path.parent} is not on this machine, or the server has ended"
    if not path.exists():
        return f"it has none for the Python in {sys.prefix}"
    return f"{path}: {error.strerror or error}"


def serve(folder: Path, run: Callable[[list[str]], int]) -> int:
    """Answer at a socket in `folder` until standard input is closed; forked processes `run` stages.

    Imports the stages one after the other while nothing is asked. The folder goes with the server.
    """
    path = socket_in(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that watch are not waited for
    to_import = [stage.module for stage in STAGES.values()] + ["pmni.kernels"]
    while True:
        ready = select.select([listener, sys.stdin], [], [], 0 if to_import else None)[0]
        if listener in ready:
            client = listener.accept()[0]
            request = _receive(client)
            if request is not None:
                _import(STAGES[request["command"][0]].module)
                if os.fork() == 0:
                    listener.close()
                    _fork_stage(client, request, run)
                _close(request["output"])
            client.close()
        elif ready:  # nobody writes there: the end of input
            break
        else:
            _import(to_import.pop(0))
    path.unlink()
    path.parent.rmdir()
    return 0


def _import(module: str) -> None:
    """Import the module of a stage; or all kernels, where PyTorch is made for GPUs."""
    with contextlib.suppress(ImportError):  # the stage itself will say so
        package = importlib.import_module(module)
        if module == "pmni.kernels" and package.torch.version.cuda:
            for part in pkgutil.iter_modules(package.__path__, "pmni.kernels."):
                importlib.import_module(part.name)
            package.hash_triton()
    gc.freeze()  # memory that forked processes do not write to stays shared


def _receive(client: socket.socket) -> dict[str, Any] | None:
    """The request of a client; None if the client has gone meanwhile."""
    head, output, _, _ = socket.recv_fds(client, LENGTH.size, 2)
    text, missing = b"", LENGTH.unpack(head)[0] if len(output) == 2 else 0
    while missing and (part := client.recv(missing)):  # not beyond it: signals come next
        text, missing = text + part, missing - len(part)
    if not text or missing:
        _close(output)
        return None
    return {**json.loads(text), "output": output}


def _fork_stage(
    client: socket.socket, request: dict[str, Any], run: Callable[[list[str]], int]
) -> NoReturn:
    """Fork again, into a process that runs the stage, and this one, which watches over it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    alive, held = os.pipe()  # `held` is closed when the process of the stage ends
    process = os.fork()
    if process:
        _close([held, *request["output"]])
        _watch(client, process, alive)
    client.close()
    os.close(alive)
    _take_over(request)
    try:
        code = run(request["command"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # A regular exit would also take all imported modules apart, which takes a second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _take_over(request: dict[str, Any]) -> None:
    """Give this process the streams, folder, environment and arguments of the client."""
    streams = [os.open(os.devnull, os.O_RDONLY), *request["output"]]
    for number, file in enumerate(streams):
        os.dup2(file, number)
    _close(streams)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    del os.environ[VARIABLE]
    _use_threads(os.environ.get("OMP_NUM_THREADS", ""))
    sys.argv[1:] = request["command"]


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _use_threads(count: str) -> None:
    """Set the number of threads that libraries read from the environment when they are loaded."""
    if count.isdigit():
        import threadpoolctl
        import torch

        torch.set_num_threads(int(count))
        threadpoolctl.threadpool_limits(int(count))


def _watch(client: socket.socket, process: int, alive: int) -> NoReturn:
    """Pass signals on to the process, end it when the client is gone, and tell how it has ended."""
    watched: list[Any] = [alive, client]
    while alive not in select.select(watched, [], [])[0]:
        signals = client.recv(64)
        for number in signals or [signal.SIGTERM]:
            os.kill(process, number)
        if not signals:
            watched.remove(client)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        client.send(END.pack(128 - code, -code) if code < 0 else END.pack(code, 0))
    os._exit(0)
