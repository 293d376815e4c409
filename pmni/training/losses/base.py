"""The interface of the loss terms, and the quantities of a step that they share."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pmni import kernels
from pmni.config.training import TrainSettings
from pmni.data.views import Views
from pmni.sdf.narrow_band import NarrowBandSDF
from pmni.sdf.network import NeuralSDF
from pmni.sdf.sdf import SDF
from pmni.training.patches import PatchBatch
from pmni.training.poses import ViewScales
from pmni.training.rng import StepRng
from pmni.volume_rendering.compositing import Rendering

TINY = 1e-9
"""Least divisor of ratios of sums."""


@dataclass(frozen=True)
class LossContext:
    """What stays the same over a training."""

    settings: TrainSettings
    views: Views
    surface: SDF
    """The surface that is trained."""
    network: NeuralSDF
    """The network: the surface itself, or its correction of the initial surface."""
    initial_surface: NarrowBandSDF | None
    """The refined surface that the network corrects."""
    scales: ViewScales
    """Learned scales of the views' ray distances."""


@dataclass(frozen=True)
class StepInputs:
    """What one step has drawn and rendered. Derived quantities are computed when first used."""

    context: LossContext
    batch: PatchBatch
    c2w: Float[Tensor, "V 4 4"]
    """Current poses, differentiable if they are learned."""
    rendering: Rendering
    rng: StepRng

    @cached_property
    def depth_scales(self) -> Float[Tensor, " P"]:
        """Scale of the integrated ray distances in each patch's view: learned or closed-form."""
        batch, context = self.batch, self.context
        if context.settings.poses.learn_scale:
            scales = context.scales()
        else:
            scales = closed_form_scales(
                batch.distance,
                self.rendering.distance,
                batch.has_distance,
                batch.view,
                len(context.views),
            )
        return scales.index_select(0, batch.view)

    @cached_property
    def centre_points(self) -> Float[Tensor, "P 3"]:
        """World points of the patches' centre pixels at their integrated ray distances."""
        distance = self.depth_scales * at_centre(self.batch.distance)
        return back_project(at_centre(self.batch.m), distance, self.c2w[self.batch.view])

    @cached_property
    def fused_pixel_terms(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The terms `normal`, `mask` and `eikonal` from one kernel; None where no kernel runs."""
        rendering, batch = self.rendering, self.batch
        if not kernels.use_triton(batch.mask.device) or rendering.normal.dtype != torch.float32:
            return None
        from pmni.kernels.pixel_losses import pixel_losses

        normal, mask, eikonal = pixel_losses(
            rendering.normal,
            rendering.opacity,
            rendering.eikonal_residual,
            rendering.intervals,
            batch.normal,
            batch.mask,
            self.context.settings.normal_norm,
        ).unbind()
        return normal, mask, eikonal


class Loss:
    """A term of the loss: one object for a training, called in each of its steps."""

    dynamic_shape: ClassVar[bool] = False
    """Whether shapes of tensors depend on the data, or the host waits for the device: steps with
    such a term cannot be captured as CUDA graphs."""

    def __init__(self, context: LossContext) -> None:
        self.context = context

    @property
    def applies(self) -> bool:
        """Whether the term exists in this training at all."""
        return True

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The unweighted term, differentiable."""
        raise NotImplementedError


def masked_mean(values: Float[Tensor, "*n"], mask: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """sum(values * mask) / sum(mask); zero when the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def at_centre(values: Float[Tensor, "P h w *C"]) -> Float[Tensor, " P *C"]:
    """Values at the centre pixel of each patch."""
    return values[:, values.shape[1] // 2, values.shape[2] // 2]


def back_project(
    m: Float[Tensor, "N 3"],
    distance: Float[Tensor, " N"],
    c2w: Float[Tensor, "N 4 4"],
) -> Float[Tensor, "N 3"]:
    """World points at ray distances along the rays m (camera frame, any length)."""
    direction = m / torch.linalg.vector_norm(m, dim=-1, keepdim=True)
    local = distance[:, None] * direction
    return (c2w[:, :3, :3] * local[:, None, :]).sum(-1) + c2w[:, :3, 3]


def closed_form_scales(
    integrated: Float[Tensor, "P h w"],
    rendered: Float[Tensor, "P h w"],
    mask: Float[Tensor, "P h w"],
    view: Int[Tensor, " P"],
    views: int,
) -> Float[Tensor, " V"]:
    """alpha = <z_int, z_hat> / <z_int, z_int> of each view (PMNI, eq. 13, with its erratum)."""
    numerator = rendered.new_zeros(views)
    denominator = rendered.new_zeros(views)
    numerator = numerator.index_add(0, view, (integrated * rendered * mask).sum((1, 2)))
    denominator = denominator.index_add(0, view, (integrated**2 * mask).sum((1, 2)))
    return numerator / denominator.clamp(min=TINY)
