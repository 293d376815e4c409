"""NeuS weights and their accumulation."""

import pytest
import torch

from pmni.errors import MissingBackendError
from pmni.volume_rendering.compositing import (
    accumulate,
    interval_alpha,
    weights_nerfacc,
    weights_torch,
)


def test_alpha_by_hand() -> None:
    f = torch.tensor([[0.2], [-0.2], [0.3]])
    phi = torch.sigmoid(f[:, 0] * 10)
    alpha = interval_alpha(f, torch.tensor([True, True, False]), torch.tensor(10.0))
    expected = (phi[0] - phi[1] + 1e-5) / (phi[0] + 1e-5)
    assert alpha[:, 0].tolist() == pytest.approx([expected.item(), 0.0, 0.0])


def test_weights_by_hand() -> None:
    alpha = torch.tensor([[0.5], [0.5], [0.25], [1.0], [0.7]])
    patch = torch.tensor([0, 0, 1, 1, 1])
    weights = weights_torch(alpha, patch)[:, 0]
    assert weights.tolist() == pytest.approx([0.5, 0.25, 0.25, 0.75, 0.0], abs=1e-6)


def test_weights_match_a_loop_and_survive_long_lists() -> None:
    generator = torch.Generator().manual_seed(0)
    patch = torch.sort(torch.randint(2000, (40000,), generator=generator)).values
    alpha = torch.rand(40000, 2, generator=generator) ** 3
    weights = weights_torch(alpha, patch)
    for chosen in (0, 777, int(patch[-1])):
        rows = (patch == chosen).nonzero()[:, 0]
        transmittance = torch.ones(2, dtype=torch.float64)
        for row in rows:
            expected = alpha[row].double() * transmittance
            torch.testing.assert_close(weights[row].double(), expected, atol=1e-6, rtol=1e-5)
            transmittance = transmittance * (1 - alpha[row].double())


def test_no_planes_no_weights() -> None:
    weights = weights_torch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert weights.shape == (0, 4)
    out = accumulate(weights, torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.long), 2)
    assert torch.equal(out, torch.zeros(2, 4, 3))


def test_nerfacc_without_a_gpu_is_a_clear_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(MissingBackendError, match="nerfacc"):
        weights_nerfacc(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nerfacc_agrees_with_torch() -> None:
    pytest.importorskip("nerfacc")
    patch = torch.sort(torch.randint(50, (700,))).values.cuda()
    alpha = torch.rand(700, 9).cuda() ** 2
    torch.testing.assert_close(
        weights_nerfacc(alpha, patch), weights_torch(alpha, patch), atol=1e-5, rtol=1e-4
    )
