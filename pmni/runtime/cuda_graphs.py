"""Work on a GPU that is recorded once and then replayed: one launch, whatever it consists of."""

from collections.abc import Callable, Hashable
from functools import cache
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Recorded(Generic[Result]):
    """Runs work as it is the first time, records it the second time, and replays it from then on.

    The work has to be of the same size each time, must not wait for the device, and reads and
    writes the same tensors; what it returns is overwritten by the next run.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self.work = work
        self.stream = _stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.key: Hashable = None
        self.result: Result
        self.run: set[Hashable] = set()
        self.recordings = 0

    def __call__(self, key: Hashable, kind: Hashable) -> Result:
        """Do the work.

        Args:
            key: stands for all that matters and is not in tensors; with another one the work is
                recorded anew.
            kind: work of another kind is done by other kernels, or allocates what stays.
        """
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            if kind not in self.run:
                self.forget()
                self.run.add(kind)
                found = self.work()
            else:
                if self.graph is None or key != self.key:
                    self._record(key)
                assert self.graph is not None
                self.graph.replay()
                found = self.result
        outside.wait_stream(self.stream)
        return found

    def _record(self, key: Hashable) -> None:
        self.forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.result = self.work()
        self.graph, self.key = graph, key
        self.recordings += 1

    def forget(self) -> None:
        """Drop the recording."""
        if self.graph is not None:
            self.graph = None
            del self.result


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one on which everything is recorded: cuBLAS keeps memory of its own for each stream that
    it has worked on, and none of a stream's free memory serves another."""
    return torch.cuda.Stream(device)


def repeat(work: Callable[[], None], times: int, device: torch.device) -> None:
    """Call `work` so many times; on a GPU it is recorded, and has to be as `Recorded` asks."""
    if device.type != "cuda" or times < 3:
        for _ in range(times):
            work()
        return
    recorded = Recorded(work, device)
    for _ in range(times):
        recorded(key=None, kind=None)
