"""The same work again and again, without the CPU telling the GPU each time."""

from collections.abc import Callable

import torch


def repeat(work: Callable[[], None], times: int, device: torch.device) -> None:
    """Call `work` so many times. On a GPU only the first call runs it: the others replay a CUDA
    graph of it, so it must always do the same with the same tensors, in place, and never wait for
    the GPU."""
    if device.type != "cuda" or times < 3:
        for _ in range(times):
            work()
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    for _ in range(times - 1):
        graph.replay()
