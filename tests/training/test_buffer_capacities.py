"""Capacities follow what is needed."""

import pytest
import torch
from fixtures.training import CPU

from pmni.training.buffer_capacities import GRANULARITY, BufferCapacities


def test_capacities_follow_what_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    capacities = BufferCapacities(CPU)
    assert not capacities.is_set
    for needed, expected in ((1000, 1280), (1200, 1280), (1230, 1664), (1000, 1664), (900, 1152)):
        for part in (needed, needed // 2):
            capacities.record_planes(torch.tensor(part))
        capacities.record_cells(torch.tensor(10))
        capacities.adapt(0)
        assert capacities.planes == expected
    assert capacities.cells == GRANULARITY
    capacities.adapt(0)
    assert capacities.planes == 1152, "nothing was noted"
    assert not caplog.records
