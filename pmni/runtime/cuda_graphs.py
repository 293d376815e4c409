"""Functions captured as CUDA graphs: one launch, however many kernels they consist of."""

from collections.abc import Callable, Hashable
from functools import cache
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class CapturedFunction(Generic[Result]):
    """A function that runs normally at its first call, is captured at the second, then replayed.

    It must have the same shapes at each call, must not wait for the device, and must read and write
    the same tensors; the next call overwrites what it returns.
    """

    def __init__(self, function: Callable[[], Result], device: torch.device) -> None:
        self.function = function
        self.stream = _capture_stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.key: Hashable = None
        self.result: Result
        self.warmed_up: set[Hashable] = set()
        self.captures = 0

    def __call__(self, key: Hashable, kind: Hashable) -> Result:
        """Run the function.

        Args:
            key: all that matters and is not in tensors; the function is captured anew when it
                changes.
            kind: which kernels run and which memory is allocated for good; the first call of each
                kind is not captured.
        """
        outer_stream = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outer_stream)
        with torch.cuda.stream(self.stream):
            if kind not in self.warmed_up:
                self.reset()
                self.warmed_up.add(kind)
                result = self.function()
            else:
                if self.graph is None or key != self.key:
                    self._capture(key)
                assert self.graph is not None
                self.graph.replay()
                result = self.result
        outer_stream.wait_stream(self.stream)
        return result

    def _capture(self, key: Hashable) -> None:
        self.reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.result = self.function()
        self.graph, self.key = graph, key
        self.captures += 1

    def reset(self) -> None:
        """Drop the captured graph."""
        if self.graph is not None:
            self.graph = None
            del self.result


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a device on which graphs are captured: cuBLAS keeps a workspace for each
    stream, and the free memory of one stream does not serve another."""
    return torch.cuda.Stream(device)


def repeat(function: Callable[[], None], times: int, device: torch.device) -> None:
    """Call a function `times` times; on a GPU captured, with what `CapturedFunction` asks of it."""
    if device.type != "cuda" or times < 3:
        for _ in range(times):
            function()
        return
    captured = CapturedFunction(function, device)
    for _ in range(times):
        captured(key=None, kind=None)
