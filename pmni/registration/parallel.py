"""Independent parts of a search at the same time, each in a process and a thread of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Found = TypeVar("Found")


def side_by_side(tasks: Sequence[Callable[[], Found]]) -> list[Found]:
    """What the tasks return, in their order: in as many processes as PyTorch has threads.

    Their operations are too small to be shared out: threads would only wait for each other. This
    process does its part of the tasks; those of others, and what they find, must be picklable.
    """
    threads = torch.get_num_threads()
    processes = min(threads, len(tasks))
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        stack.enter_context(threadpool_limits(1))
        torch.set_num_threads(1)
        elsewhere: dict[int, Future[Found]] = {}
        if processes > 1:
            pool = ProcessPoolExecutor(processes - 1, get_context("spawn"), _in_one_thread)
            stack.enter_context(pool)
            for index, task in enumerate(tasks):
                if index % processes:
                    elsewhere[index] = pool.submit(task)
        here = {index: task() for index, task in enumerate(tasks) if index not in elsewhere}
        return [
            here[index] if index in here else elsewhere[index].result()
            for index in range(len(tasks))
        ]


def _in_one_thread() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
