"""The step guard of the optimisers in one launch; reference: `training.optimizer.step_guard`."""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.kernels.devices import device_guard


def step_guard(
    step: Int[Tensor, ""],
    terms: Float[Tensor, " T"],
    norms: Float[Tensor, "2"],
    schedule: Float[Tensor, "3"],
    failed_step: Int[Tensor, ""],
    finite_terms: Bool[Tensor, " n"],
    learning_rates: tuple[float, float],
    max_norms: tuple[float, float],
) -> tuple[Float[Tensor, "3"], Float[Tensor, "2"], Float[Tensor, "2"]]:
    """Kernel implementation of `training.optimizer.step_guard`."""
    out = torch.empty(7, device=norms.device)
    with device_guard(norms):
        _step_guard[(1,)](
            step,
            terms,
            norms,
            schedule,
            failed_step,
            finite_terms.view(torch.uint8),
            out,
            len(terms),
            *learning_rates,
            *max_norms,
            TERMS=triton.next_power_of_2(len(terms)),
            num_warps=1,
        )
    return out[:3], out[3:5], out[5:]


@triton.jit
def _step_guard(
    step,
    terms,
    norms,
    schedule,
    failed_step,
    finite_terms,
    out,
    count,
    network_rate,
    grid_rate,
    max_network_norm,
    max_pose_norm,
    TERMS: tl.constexpr,
):
    """out (7): three learning rates, two gradient divisors, two flags that forbid a step."""
    network_norm, pose_norm = tl.load(norms), tl.load(norms + 1)
    failed_before = tl.load(failed_step)
    is_invalid = (tl.abs(network_norm + pose_norm) < float("inf")) == 0
    fails_now = is_invalid & (failed_before < 0)
    term = tl.arange(0, TERMS)
    in_range = term < count
    kept = tl.load(finite_terms + term, mask=in_range, other=1)
    is_finite = (tl.abs(tl.load(terms + term, mask=in_range, other=0.0)) < float("inf")).to(
        tl.uint8
    )
    tl.store(finite_terms + term, tl.where(fails_now, is_finite, kept), mask=in_range)
    failed_after = tl.where(fails_now, tl.load(step), failed_before)
    tl.store(failed_step, failed_after)
    found_inf = tl.where(failed_after >= 0, 1.0, 0.0)
    factor = tl.load(schedule)
    tl.store(out, factor * network_rate)
    tl.store(out + 1, factor * grid_rate)
    tl.store(out + 2, tl.load(schedule + 1))
    tl.store(out + 3, tl.maximum(network_norm / max_network_norm, 1.0))
    tl.store(out + 4, tl.maximum(pose_norm / max_pose_norm, 1.0))
    tl.store(out + 5, found_inf)
    tl.store(out + 6, tl.maximum(found_inf, 1.0 - tl.load(schedule + 2)))
