"""The same work by a CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch


def captured(work: Callable[[], Any]) -> tuple[Any, torch.cuda.CUDAGraph]:
    """What a graph of the work writes its results into, and the graph, to be replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    return found, graph
