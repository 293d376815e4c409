"""What the fork server promises: a stage runs, and ends, as if it had been started alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pmni.runtime import fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, as the workflow on Linux")

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from pmni.runtime import fork_server
from pmni.runtime.stages import STAGES

fork_server.STAGES = {"mesh": STAGES["mesh"]}

def run(command):
    _, what, *rest = command
    if what == "tell":
        import torch
        told = dict(command=command, argv=sys.argv[1:], folder=os.getcwd())
        told |= dict(own=os.environ["OWN_VARIABLE"], threads=torch.get_num_threads())
        told["variable"] = os.environ.get(fork_server.VARIABLE)
        print(json.dumps(told))
        print("to people", file=sys.stderr)
        return int(rest[0])
    if what == "exit":
        raise SystemExit(5)
    if what == "fail":
        raise ValueError("made to fail")
    if what == "stop":
        def stopped(number, frame):
            Path(rest[0]).write_text("stopped")
            raise SystemExit(128 + number)
        signal.signal(signal.SIGTERM, stopped)
    Path(rest[0]).write_text(str(os.getpid()))
    time.sleep(60)

sys.exit(fork_server.serve(Path(sys.argv[1]), run))
"""
CLIENT = (
    "import sys; from pmni.runtime import fork_server; sys.exit(fork_server.forward(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a fork server."""
    folder = tmp_path_factory.mktemp("fork_server")
    command = [sys.executable, "-c", SERVER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        wait_until(fork_server.socket_in(folder).exists)
        yield folder
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    assert not folder.exists()


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds; fail after a minute."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(
    server: Path, *command: str, folder: Path | None = None, **variables: str
) -> subprocess.Popen[str]:
    """A client that asks for the stage `mesh` with further words."""
    environment = {**os.environ, fork_server.VARIABLE: str(server), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, "mesh", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_stage_has_command_folder_environment_and_output_of_the_client(
    server: Path, tmp_path: Path, code: int
) -> None:
    variables = {"OWN_VARIABLE": "like this", "OMP_NUM_THREADS": "2"}
    client = start(server, "tell", str(code), folder=tmp_path, **variables)
    output, errors = client.communicate(timeout=60)
    command = ["mesh", "tell", str(code)]
    assert json.loads(output) == {
        "command": command,
        "argv": command,
        "folder": str(tmp_path),
        "own": "like this",
        "threads": 2,
        "variable": None,  # what it starts is not handed over
    }
    assert errors == "to people\n"
    assert client.returncode == code


def test_a_stage_exits_and_fails_as_python_does(server: Path) -> None:
    for what, code in (("exit", 5), ("fail", 1)):
        client = start(server, what)
        errors = client.communicate(timeout=60)[1]
        assert client.returncode == code
        assert ("ValueError: made to fail" in errors) == (what == "fail")


@pytest.mark.parametrize(("what", "left"), [("sleep", None), ("stop", "stopped")])
def test_signals_are_passed_on(server: Path, tmp_path: Path, what: str, left: str | None) -> None:
    file = tmp_path / "file"
    client = start(server, what, str(file))
    wait_until(lambda: file.exists() and file.read_text())
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=60)
    assert client.returncode == 128 + signal.SIGTERM
    assert left is None or file.read_text() == left


def test_a_stage_whose_client_has_gone_is_ended(server: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    client = start(server, "stop", str(file))
    wait_until(lambda: file.exists() and file.read_text())
    client.kill()
    client.communicate(timeout=60)
    wait_until(lambda: file.read_text() == "stopped")


def test_a_stage_that_is_killed_is_an_error(server: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    client = start(server, "sleep", str(file))
    wait_until(lambda: file.exists() and file.read_text())
    os.kill(int(file.read_text()), signal.SIGKILL)
    errors = client.communicate(timeout=60)[1]
    assert client.returncode == 128 + signal.SIGKILL
    assert errors == "pmni: ended by SIGKILL\n"


def test_a_client_that_goes_before_it_has_asked_does_no_harm(server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(fork_server.socket_in(server)))
    client = start(server, "tell", "0", OWN_VARIABLE="")
    client.communicate(timeout=60)
    assert client.returncode == 0


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_server_a_stage_starts_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str | None
) -> None:
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(fork_server.VARIABLE, value)
    assert fork_server.forward(["mesh"]) is None
    assert not capsys.readouterr().err


def test_a_stage_says_why_it_starts_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is of another machine; or its server has been killed, and its socket is left."""
    monkeypatch.setenv(fork_server.VARIABLE, "/nowhere")
    assert fork_server.forward(["mesh"]) is None
    assert capsys.readouterr().err == (
        "pmni: starts without the fork server: "
        "/nowhere is not on this machine, or the server has ended\n"
    )
    path = fork_server.socket_in(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    monkeypatch.setenv(fork_server.VARIABLE, str(tmp_path))
    assert fork_server.forward(["mesh"]) is None
    assert capsys.readouterr().err == (
        f"pmni: starts without the fork server: {path}: Connection refused\n"
    )


def test_a_server_of_another_environment_is_not_asked(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(fork_server.VARIABLE, str(server))
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert fork_server.forward(["mesh"]) is None
    assert capsys.readouterr().err == (
        "pmni: starts without the fork server: it has none for the Python in /another/environment\n"
    )


def test_a_server_ends_when_nobody_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "fork_server"
    folder.mkdir()
    command = [sys.executable, "-m", "pmni", "fork-server", str(folder)]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120, check=False)
    assert finished.returncode == 0
    assert not folder.exists()


STARTER = """
import os, subprocess, sys
from pmni.runtime import fork_server
fork_server.start()
print(os.environ.get(fork_server.VARIABLE, "not set"))
"""


def test_a_server_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    (tmp_path / "pmni").write_text(f'#!/bin/sh\nexec {sys.executable} -m pmni "$@"\n')
    (tmp_path / "pmni").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {name: os.environ[name] for name in os.environ if name != fork_server.VARIABLE}

    def started(**variables: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", STARTER],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()

    folder = Path(started(PATH=path))
    assert folder.is_absolute()
    wait_until(lambda: not folder.exists())
    assert started(PATH=path, PMNI_FORK_SERVER="") == ""
    assert started(PATH="/nowhere") == "not set"
