"""One job to a GPU: the device a stage computes on, with a lock so that no two jobs share it."""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from pmni import kernels
from pmni.errors import MissingBackendError

log = logging.getLogger(__name__)


@contextmanager
def acquire_device(setting: Literal["auto", "cpu", "cuda"]) -> Iterator[torch.device]:
    """The device of a job: the CPU, or a GPU that no other job holds until the block ends.

    `auto` takes a GPU when there is one. Of several visible GPUs the first free one is taken; when
    all are held, this waits. What PyTorch keeps of its memory for later is given back with it.
    Raises MissingBackendError for `cuda` without a GPU.
    """
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        yield torch.device("cpu")
        return
    check_device(setting)
    kernels.warm_cache(torch.device("cuda"))
    names = [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]
    with acquire_lock(names) as index:
        torch.cuda.set_device(index)
        try:
            yield torch.device("cuda", index)
        finally:
            torch.cuda.empty_cache()


def check_device(setting: Literal["auto", "cpu", "cuda"]) -> None:
    """Raises MissingBackendError for `cuda` without a GPU."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise MissingBackendError(
            "device 'cuda' is asked for, but PyTorch sees no GPU here; "
            "set `device: cpu` or `auto`, or install a CUDA build of PyTorch"
        )


@contextmanager
def acquire_lock(
    names: Sequence[str], folder: Path | None = None, poll_seconds: float = 0.2
) -> Iterator[int]:
    """The index of a name whose lock file this process alone holds until the block ends.

    The files lie in `folder` (the system's folder for temporary files), so that all processes of a
    machine meet there; a process that dies lets go of its lock. Waits while all are held.
    """
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    waiting = False
    while True:
        for index, name in enumerate(names):
            handle = _open_lock(folder / f"pmni-gpu-{name}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield index
            finally:
                os.close(handle)
            return
        if not waiting:
            log.info("all %d GPUs are in use by other jobs: waiting for one", len(names))
            waiting = True
        time.sleep(poll_seconds)


def _open_lock(path: Path) -> int:
    """A read-only handle on a lock file, made if needed; other users' files can be locked too."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:  # another process made it in between
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return handle
