"""How long calls take, what phases a whole is made of, and how much memory it needs."""

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
"""Calls at most that are not counted; at least one is not."""
SAMPLED_EVERY = 0.005
"""Seconds between looks at a process's memory."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    call: Callable[..., object],
    device: torch.device,
    repeats: int,
    prepare: Callable[[], tuple[Any, ...]] = tuple,
    most_seconds: float = 5.0,
) -> float:
    """The median of so many calls, or of those that begin within `most_seconds`.

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


def _seconds(call: Callable[..., object], given: tuple[Any, ...], device: torch.device) -> float:
    synchronise(device)
    if device.type != "cuda":
        start = time.perf_counter()
        call(*given)
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call(*given)
    after.record()
    synchronise(device)
    return before.elapsed_time(after) / 1000


class Stopwatch:
    """Seconds by phase. A phase within another counts to itself alone.

    The device is waited for where a phase begins and ends: so the phases of a GPU's work are each
    as long as alone, and together longer than the whole.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spent: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        """What has passed since the last turn belongs to the innermost phase."""
        synchronise(self.device)
        now = time.perf_counter()
        if self._open:
            self._spent[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block belongs to a phase."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    @contextmanager
    def watching(self, *calls: tuple[Any, str, str]) -> Iterator[None]:
        """Within the block, the calls of each (owner, attribute, phase) belong to that phase."""
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
        """The seconds of each phase since the last time."""
        self._turn()
        taken, self._spent = dict(self._spent), defaultdict(float)
        return taken


class PeakMemory:
    """The most memory within the block: on a GPU what PyTorch has allocated there, on a CPU the
    whole process."""

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
            gc.collect()  # captured graphs are in reference cycles
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
