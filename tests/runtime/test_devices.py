"""GPUs are claimed by one process at a time; processes are real, the devices are pretended."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pmni import kernels
from pmni.errors import MissingBackendError
from pmni.runtime import devices
from pmni.runtime.devices import acquire_device, acquire_lock

HOLD = """
import sys, time
from pathlib import Path
from pmni.runtime.devices import acquire_lock
with acquire_lock(["a", "b"], Path(sys.argv[1])) as index:
    print(index, flush=True)
    sys.stdin.read()
"""


def test_each_claim_gets_a_lock_of_its_own(tmp_path: Path) -> None:
    with acquire_lock(["a", "b"], tmp_path) as first, acquire_lock(["a", "b"], tmp_path) as second:
        assert (first, second) == (0, 1)
    with acquire_lock(["a", "b"], tmp_path) as again:
        assert again == 0


def test_a_claim_waits_until_a_device_is_free(tmp_path: Path) -> None:
    order = []

    def claim() -> None:
        with acquire_lock(["a"], tmp_path, poll_seconds=0.01):
            order.append("second")

    thread = threading.Thread(target=claim)
    with acquire_lock(["a"], tmp_path):
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_the_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), acquire_lock(["a"], tmp_path):
        raise ValueError("boom")
    with acquire_lock(["a"], tmp_path) as index:
        assert index == 0


def test_other_processes_are_seen_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "0\n"
        with acquire_lock(["a", "b"], tmp_path) as index:
            assert index == 1
    finally:
        holder.kill()
        holder.communicate()
    with acquire_lock(["a", "b"], tmp_path) as index:
        assert index == 0


def test_a_lock_file_that_cannot_be_written_can_be_held(tmp_path: Path) -> None:
    (tmp_path / "pmni-gpu-a.lock").touch(mode=0o444)
    with acquire_lock(["a"], tmp_path) as index:
        assert index == 0


def test_the_cpu_needs_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "acquire_lock", None)
    for setting in ("auto", "cpu"):
        with acquire_device(setting) as device:
            assert device == torch.device("cpu")


def test_asking_for_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingBackendError, match="PyTorch sees no GPU"), acquire_device("cuda"):
        pass


@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_with_several_gpus_each_job_takes_another(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        def __init__(self, index: int) -> None:
            self.uuid = f"GPU-{index}"

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    with acquire_device(setting) as first, acquire_device(setting) as second:
        assert [str(first), str(second)] == ["cuda:0", "cuda:1"]
    assert chosen == [0, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "pmni-gpu-GPU-0.lock",
        "pmni-gpu-GPU-1.lock",
    ]


def test_what_the_first_kernel_waits_for_is_begun_beside() -> None:
    cache = pytest.importorskip("triton.runtime.cache")
    if not hasattr(cache, "triton_key"):
        pytest.skip("this version of Triton has its fingerprint elsewhere")
    cache.triton_key.cache_clear()
    before = set(threading.enumerate())
    kernels.warm_cache(torch.device("cpu"))
    assert set(threading.enumerate()) <= before, "there are no kernels on the CPU"
    kernels.warm_cache(torch.device("cuda"))
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert cache.triton_key.cache_info().currsize == 1
