"""What the process on standby promises: a stage runs, and ends, as if it had been started alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmni.runtime import fork_server as standby

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, as the workflow on Linux")

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from pmni.runtime import fork_server as standby
from pmni.stages import STAGES

standby.STAGES = {"mesh": STAGES["mesh"]}

def run(command):
    _, what, *rest = command
    if what == "tell":
        import torch
        known = dict(command=command, argv=sys.argv[1:], folder=os.getcwd())
        known |= dict(mine=os.environ["MINE"], threads=torch.get_num_threads())
        known["variable"] = os.environ.get(standby.VARIABLE)
        print(json.dumps(known))
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

sys.exit(standby.serve(Path(sys.argv[1]), run))
"""
CLIENT = (
    "import sys; from pmni.runtime import fork_server as standby; "
    "sys.exit(standby.delegated(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process on standby."""
    path = tmp_path_factory.mktemp("standby") / "socket"
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        wait_until(path.exists)
        yield path
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    assert not path.parent.exists()


def wait_until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(server: Path, *command: str, folder: Path | None = None, **more: str):
    environment = {**os.environ, standby.VARIABLE: str(server), **more}
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, "mesh", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_it_has_command_folder_environment_and_output_of_who_asks(server, tmp_path, code):
    more = {"MINE": "like this", "OMP_NUM_THREADS": "2"}
    client = start(server, "tell", str(code), folder=tmp_path, **more)
    output, errors = client.communicate(timeout=60)
    command = ["mesh", "tell", str(code)]
    assert json.loads(output) == {
        "command": command,
        "argv": command,
        "folder": str(tmp_path),
        "mine": "like this",
        "threads": 2,
        "variable": None,  # what it starts is not handed over
    }
    assert errors == "to people\n"
    assert client.returncode == code


def test_it_exits_and_fails_as_python_does(server):
    for what, code in (("exit", 5), ("fail", 1)):
        client = start(server, what)
        errors = client.communicate(timeout=60)[1]
        assert client.returncode == code
        assert ("ValueError: made to fail" in errors) == (what == "fail")


@pytest.mark.parametrize(("what", "left"), [("sleep", None), ("stop", "stopped")])
def test_signals_are_passed_on(server, tmp_path, what, left):
    file = tmp_path / "file"
    client = start(server, what, str(file))
    wait_until(lambda: file.exists() and file.read_text())
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=60)
    assert client.returncode == 128 + signal.SIGTERM
    assert left is None or file.read_text() == left


def test_what_nobody_waits_for_is_ended(server, tmp_path):
    file = tmp_path / "file"
    client = start(server, "stop", str(file))
    wait_until(lambda: file.exists() and file.read_text())
    client.kill()
    client.communicate(timeout=60)
    wait_until(lambda: file.read_text() == "stopped")


def test_a_stage_that_is_killed_is_an_error(server, tmp_path):
    file = tmp_path / "file"
    client = start(server, "sleep", str(file))
    wait_until(lambda: file.exists() and file.read_text())
    os.kill(int(file.read_text()), signal.SIGKILL)
    errors = client.communicate(timeout=60)[1]
    assert client.returncode == 128 + signal.SIGKILL
    assert errors == "pmni: ended by SIGKILL\n"


def test_who_goes_before_it_has_asked_does_no_harm(server):
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(server))
    client = start(server, "tell", "0", MINE="")
    client.communicate(timeout=60)
    assert client.returncode == 0


def test_without_a_process_the_stage_starts_by_itself(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv(standby.VARIABLE, raising=False)
    assert standby.delegated(["mesh"]) is None
    monkeypatch.setenv(standby.VARIABLE, "")
    assert standby.delegated(["mesh"]) is None
    assert not capsys.readouterr().err
    monkeypatch.setenv(standby.VARIABLE, str(tmp_path / "none"))
    assert standby.delegated(["mesh"]) is None
    assert "nothing on standby" in capsys.readouterr().err


def test_it_ends_when_nobody_is_left(tmp_path):
    folder = tmp_path / "standby"
    folder.mkdir()
    command = [sys.executable, "-m", "pmni", "standby", str(folder / "socket")]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120, check=False)
    assert finished.returncode == 0
    assert not folder.exists()
