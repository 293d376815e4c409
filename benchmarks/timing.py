"""Time of calls, time by phase, and peak memory."""

import gc
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from types import TracebackType
from typing import Any
from unittest import mock

import psutil  # type: ignore[import-untyped]
import torch

WARM_UP = 3
"""Largest number of calls before the timed ones; at least one is made."""
SAMPLED_EVERY = 0.005
"""Seconds between two samples of a process's memory."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    call: Callable[..., object],
    device: torch.device,
    repeats: int,
    prepare: Callable[[], tuple[Any, ...]] = tuple,
    most_seconds: float = 5.0,
) -> float:
    """Median time of `repeats` calls, or of those that begin within `most_seconds`.

    The arguments of each call are what `prepare` returns, which is not timed. The first call is
    never counted. On a GPU the time is that between two events of its stream.
    """
    begin = time.perf_counter()
    for _ in range(min(WARM_UP, repeats)):
        call(*prepare())
        synchronise(device)
        if time.perf_counter() - begin > most_seconds / 4:
            break
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begin < most_seconds):
        times.append(_seconds(call, prepare(), device))
    return median(times)


def _seconds(
    call: Callable[..., object], arguments: tuple[Any, ...], device: torch.device
) -> float:
    synchronise(device)
    if device.type != "cuda":
        start = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call(*arguments)
    after.record()
    synchronise(device)
    return before.elapsed_time(after) / 1000


class Stopwatch:
    """Times by phase. The time of a nested phase is not part of the outer one.

    The device is synchronised at the start and end of each phase, so that phases on a GPU do not
    overlap and their sum exceeds the time of an untimed run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spent: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def _lap(self) -> None:
        """Add the time since the last call to the innermost phase."""
        synchronise(self.device)
        now = time.perf_counter()
        if self._open:
            self._spent[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context whose time belongs to a phase."""
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    @contextmanager
    def watching(self, *calls: tuple[Any, str, str]) -> Iterator[None]:
        """Context in which calls of each (owner, attribute, phase) are timed as that phase."""
        with ExitStack() as stack:
            for owner, attribute, phase in calls:
                timed = self._timed(getattr(owner, attribute), phase)
                stack.enter_context(mock.patch.object(owner, attribute, timed))
            yield

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*args, **named)

        return timed

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call of `take`."""
        self._lap()
        taken, self._spent = dict(self._spent), defaultdict(float)
        return taken


class PeakMemory:
    """Peak memory within the block: PyTorch's allocations on a GPU, the whole process on a CPU."""

    megabytes: float

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._most = 0

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self._most = max(self._most, process.memory_info().rss)
            if self._ended.wait(SAMPLED_EVERY):
                return

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            gc.collect()  # CUDA graphs and the functions that hold them form cycles
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self._most = torch.cuda.max_memory_allocated(self.device)
        else:
            self._ended.set()
            self._thread.join()
        self.megabytes = self._most / 2**20
