"""Tasks in processes of their own."""

import os
from functools import partial

import pytest
import torch

from pmni.errors import InputError
from pmni.registration.parallel import parallel_map


def told(word: str) -> tuple[str, int, int]:
    """The word, the process and its threads."""
    return word, os.getpid(), torch.get_num_threads()


def failing() -> tuple[str, int, int]:
    raise InputError("view 3: is black")


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
class TestSideBySide:
    def test_what_they_return_in_their_order(self):
        found = parallel_map([partial(told, word) for word in "abc"])
        assert [word for word, *_ in found] == ["a", "b", "c"]
        here, there, again = (process for _, process, _ in found)
        assert here == again == os.getpid() != there
        assert [threads for *_, threads in found] == [1, 1, 1]
        assert torch.get_num_threads() == 2

    def test_one_thread_needs_no_other_process(self):
        torch.set_num_threads(1)
        assert {process for _, process, _ in parallel_map([partial(told, "a")] * 3)} == {
            os.getpid()
        }

    def test_errors_arrive(self):
        for tasks in ([failing, partial(told, "b")], [partial(told, "a"), failing]):
            with pytest.raises(InputError, match="view 3: is black"):
                parallel_map(tasks)
            assert torch.get_num_threads() == 2
