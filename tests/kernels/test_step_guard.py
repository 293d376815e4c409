"""The kernel of the step guard against its reference implementation."""

import pytest
import torch

pytest.importorskip("triton")

from fixtures.kernels import DEVICE

import pmni.kernels.step_guard
from pmni.training.optimizer import step_guard

pytestmark = pytest.mark.usefixtures("reference_is_torch")

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("norms", [(0.5, 20.0), (3.0, 1.0), (NAN, 1.0), (1.0, INF)])
@pytest.mark.parametrize("terms", [(1.0,), (0.1, NAN, 3.0, -INF, 1.0)])
@pytest.mark.parametrize("before", [-1, 4])
def test_updates(norms, terms, before):
    results = []
    for way in (step_guard, pmni.kernels.step_guard.step_guard):
        failed = torch.tensor(before, device=DEVICE)
        finite = torch.ones(16, dtype=torch.bool, device=DEVICE)
        given = [torch.tensor(values, device=DEVICE) for values in (terms, norms, (0.5, 1e-3, 0.0))]
        step = torch.tensor(9, device=DEVICE)
        found = way(step, *given, failed, finite, (1e-2, 3e-2), (1.0, 10.0))
        results.append((*found, failed, finite))
    for reference, other in zip(*results, strict=True):
        proper = (
            ~reference.isnan()
            if reference.is_floating_point()
            else torch.ones_like(reference, dtype=bool)
        )
        torch.testing.assert_close(other[proper], reference[proper])
