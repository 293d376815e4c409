"""Worker processes of a script that does not guard its lines by `__name__`."""

import subprocess
import sys

import pytest

SCRIPT = """
import os
from pmni.runtime.workers import worker_pool

print("once")
with worker_pool(2) as pool:
    processes = {pool.submit(os.getpid).result() for _ in range(4)}
assert os.getpid() not in processes
assert __spec__ is None
"""


@pytest.mark.parametrize("interactive", [False, True])
def test_a_script_runs_once(tmp_path, interactive):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + ("" if interactive else "assert __file__\n"))
    command = [sys.executable, "-"] if interactive else [sys.executable, str(script)]
    result = subprocess.run(
        command,
        input=script.read_text() if interactive else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["once"]


def test_a_module_runs_once(tmp_path):
    (tmp_path / "module.py").write_text(
        SCRIPT.replace("__spec__ is None", "__spec__.name == 'module'")
    )
    result = subprocess.run(
        [sys.executable, "-m", "module"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["once"]
