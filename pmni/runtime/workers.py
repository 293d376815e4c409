"""Worker processes that leave the caller's script alone."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any


def worker_pool(workers: int, initializer: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool of new processes; tasks and results must be picklable.

    A spawned process usually imports the script that has started it, which would run a script that
    has no `if __name__ == "__main__":` once more. These do not, so that tasks must not be defined
    in the script itself.
    """
    return ProcessPoolExecutor(workers, _Context(), initializer)


class _Process(SpawnProcess):
    def start(self) -> None:
        with _hidden_script():
            super().start()


class _Context(SpawnContext):
    Process = _Process


@contextmanager
def _hidden_script() -> Iterator[None]:
    """Let `__main__` look as in an interactive session, which a new process has nothing of."""
    attributes = vars(sys.modules["__main__"])
    names = [name for name in ("__spec__", "__file__") if name in attributes]
    hidden: dict[str, Any] = {name: attributes.pop(name) for name in names}
    attributes["__spec__"] = None
    try:
        yield
    finally:
        attributes.update(hidden)
