"""A process that has imported everything, stays ready, and forks for each stage asked of it.

To import what a stage needs takes seconds, often longer than what it does. The workflow therefore
starts `pmni standby SOCKET`, and names the socket to its jobs in the variable PMNI_STANDBY. There
the command `pmni` hands over its command line, environment, folder and output, and ends as the
forked process ends. Without the variable each stage starts by itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pmni.runtime.stages import STAGES

VARIABLE = "PMNI_STANDBY"
FORWARDED = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
LENGTH = struct.Struct("!I")
END = struct.Struct("!BB")
"""The exit code, and the signal if one has ended it."""


def delegated(command: Sequence[str]) -> int | None:
    """The exit code of a stage that a process on standby has run; None if there is no such process.

    Signals that ask this process to end are passed on to that one.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
    except OSError as error:
        print(f"pmni: nothing on standby at {path} ({error}); starting anew", file=sys.stderr)
        return None
    request = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(request).encode()
    socket.send_fds(server, [LENGTH.pack(len(text))], [1, 2])
    server.sendall(text)

    def forward(number: int, _: Any) -> None:
        with contextlib.suppress(OSError):  # it has just ended
            server.sendall(bytes([number]))

    for signal_number in FORWARDED:
        signal.signal(signal_number, forward)
    answer = server.recv(END.size)
    if len(answer) < END.size:
        print("pmni: the process that kept watch over this stage has gone", file=sys.stderr)
        return 1
    code, number = END.unpack(answer)
    if number:
        print(f"pmni: ended by {signal.Signals(number).name}", file=sys.stderr)
    return int(code)


def serve(path: Path, run: Callable[[list[str]], int]) -> int:
    """Be ready at a socket until standard input is closed; forked processes `run` what is asked.

    The socket's folder, which is to be its own, goes with it.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing is asked of those that keep watch
    waiting = [stage.module for stage in STAGES.values()] + ["pmni.kernels"]
    while True:
        ready = select.select([listener, sys.stdin], [], [], 0 if waiting else None)[0]
        if listener in ready:
            client = listener.accept()[0]
            request = _received(client)
            if request is not None:
                _import(STAGES[request["command"][0]].module)
                if os.fork() == 0:
                    listener.close()
                    _fork_again(client, request, run)
                _close(request["output"])
            client.close()
        elif ready:  # nobody writes there: its end has come
            break
        else:
            _import(waiting.pop(0))
    path.unlink()
    path.parent.rmdir()
    return 0


def _import(module: str) -> None:
    """A stage's module; or all kernels, where PyTorch is made for GPUs."""
    with contextlib.suppress(ImportError):  # the stage itself will say so
        package = importlib.import_module(module)
        if module == "pmni.kernels" and package.torch.version.cuda:
            for part in pkgutil.iter_modules(package.__path__, "pmni.kernels."):
                importlib.import_module(part.name)
            package.take_fingerprint()
    gc.freeze()  # what forked processes do not touch is not copied


def _received(client: socket.socket) -> dict[str, Any] | None:
    """What somebody asks for; None if it has gone meanwhile."""
    head, output, _, _ = socket.recv_fds(client, LENGTH.size, 2)
    text, missing = b"", LENGTH.unpack(head)[0] if len(output) == 2 else 0
    while missing and (part := client.recv(missing)):  # no more: signals come next
        text, missing = text + part, missing - len(part)
    if not text or missing:
        _close(output)
        return None
    return {**json.loads(text), "output": output}


def _fork_again(
    client: socket.socket, request: dict[str, Any], run: Callable[[list[str]], int]
) -> NoReturn:
    """Into a process that runs the stage, and one that keeps watch over it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    alive, held = os.pipe()  # what the stage's process holds is closed when it ends
    process = os.fork()
    if process:
        _close([held, *request["output"]])
        _keep_watch(client, process, alive)
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
    # What is left of an exit is to take all imported modules apart, which takes a second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _take_over(request: dict[str, Any]) -> None:
    """Make this process as if it had been started by who asks."""
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
    """As libraries would if they were loaded now."""
    if count.isdigit():
        import threadpoolctl
        import torch

        torch.set_num_threads(int(count))
        threadpoolctl.threadpool_limits(int(count))


def _keep_watch(client: socket.socket, process: int, alive: int) -> NoReturn:
    """Pass signals on to a process, end it when nobody waits for it any more, and tell its end."""
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
