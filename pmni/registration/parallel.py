"""Independent tasks in parallel, each in one thread of a process."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from pmni.runtime.workers import worker_pool

Result = TypeVar("Result")


def parallel_map(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of the tasks in their order, computed in as many processes as PyTorch has
    threads.

    Their operations are too small to be split among threads, which would only wait for each other.
    This process does its share of the tasks; the others, and their results, must be picklable.
    """
    threads = torch.get_num_threads()
    processes = min(threads, len(tasks))
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        stack.enter_context(threadpool_limits(1))
        torch.set_num_threads(1)
        submitted: dict[int, Future[Result]] = {}
        if processes > 1:
            pool = stack.enter_context(worker_pool(processes - 1, _in_one_thread))
            for index, task in enumerate(tasks):
                if index % processes:
                    submitted[index] = pool.submit(task)
        local = {index: task() for index, task in enumerate(tasks) if index not in submitted}
        return [
            local[index] if index in local else submitted[index].result()
            for index in range(len(tasks))
        ]


def _in_one_thread() -> None:
    """Limit a worker process to one thread."""
    torch.set_num_threads(1)
    threadpool_limits(1)
