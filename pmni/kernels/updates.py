"""What the optimisers are to do, in one launch: the twin is `training.optimizer.step_guard`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.kernels.devices import device_of


def step_guard(
    step: Int[Tensor, ""],
    terms: Float[Tensor, " T"],
    norms: Float[Tensor, "2"],
    now: Float[Tensor, "3"],
    failed: Int[Tensor, ""],
    finite: Bool[Tensor, " n"],
    rates: tuple[float, float],
    limits: tuple[float, float],
) -> tuple[Float[Tensor, "3"], Float[Tensor, "2"], Float[Tensor, "2"]]:
    """As `training.optimizer.step_guard`."""
    out = torch.empty(7, device=norms.device)
    with device_of(norms):
        _decide[(1,)](
            step,
            terms,
            norms,
            now,
            failed,
            finite.view(torch.uint8),
            out,
            len(terms),
            *rates,
            *limits,
            TERMS=triton.next_power_of_2(len(terms)),
            num_warps=1,
        )
    return out[:3], out[3:5], out[5:]


@triton.jit
def _decide(
    step,
    terms,
    norms,
    now,
    failed,
    finite,
    out,
    count,
    network_rate,
    grid_rate,
    field_limit,
    pose_limit,
    TERMS: tl.constexpr,
):
    """out (7): three rates, two divisors, two that say whether all stays."""
    field, poses = tl.load(norms), tl.load(norms + 1)
    before = tl.load(failed)
    broken = (tl.abs(field + poses) < float("inf")) == 0
    first = broken & (before < 0)
    term = tl.arange(0, TERMS)
    real = term < count
    known = tl.load(finite + term, mask=real, other=1)
    good = (tl.abs(tl.load(terms + term, mask=real, other=0.0)) < float("inf")).to(tl.uint8)
    tl.store(finite + term, tl.where(first, good, known), mask=real)
    after = tl.where(first, tl.load(step), before)
    tl.store(failed, after)
    still = tl.where(after >= 0, 1.0, 0.0)
    factor = tl.load(now)
    tl.store(out, factor * network_rate)
    tl.store(out + 1, factor * grid_rate)
    tl.store(out + 2, tl.load(now + 1))
    tl.store(out + 3, tl.maximum(field / field_limit, 1.0))
    tl.store(out + 4, tl.maximum(poses / pose_limit, 1.0))
    tl.store(out + 5, still)
    tl.store(out + 6, tl.maximum(still, 1.0 - tl.load(now + 2)))
