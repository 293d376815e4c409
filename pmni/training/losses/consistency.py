"""Multi-view normal consistency: a surface point has one world normal in all views that see it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.data.view_sampling import bilinear_normals, project_into_views
from pmni.sdf.sphere_tracing import visible
from pmni.training.losses.base import (
    Loss,
    LossContext,
    StepInputs,
    at_centre,
    back_project,
    masked_mean,
)
from pmni.training.rng import Stream


class ConsistencyLoss(Loss):
    """Rendered normals at the patches' centres against the measured normals of another view."""

    dynamic_shape = True

    def __init__(self, context: LossContext) -> None:
        super().__init__(context)
        views = context.views
        self.intrinsics = views.intrinsics.float()
        self.masks = (views.masks & ~views.excluded_pixels).float()

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        """The term, for one other view of each patch, drawn at random."""
        batch, rendering, c2w = inputs.batch, inputs.rendering, inputs.c2w
        settings, count = self.context.settings.consistency, len(self.context.views)
        opacity = at_centre(rendering.opacity)
        opaque = (opacity.detach() > settings.min_opacity) & (at_centre(batch.mask) > 0)
        distance = at_centre(rendering.distance) / opacity.clamp(min=0.1)
        pose = c2w[batch.view]
        x = back_project(at_centre(batch.m), distance, pose)
        normal = (pose[:, :3, :3] * at_centre(rendering.normal)[:, None, :]).sum(-1)
        normal = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True).clamp(min=1e-6)
        shift = 1 + inputs.rng.integers(count - 1, Stream.OTHER_VIEW, len(batch.view))
        other = (batch.view + shift) % count
        with torch.no_grad():
            tolerance = settings.visibility_tolerance
            is_visible = opaque & visible(self.context.surface, x, c2w[other, :3, 3], tolerance)
        return consistency_loss(
            x,
            normal,
            other,
            is_visible,
            c2w,
            self.intrinsics,
            self.context.views.normals,
            self.masks,
        )


def consistency_loss(
    x: Float[Tensor, "N 3"],
    normal: Float[Tensor, "N 3"],
    other: Int[Tensor, " N"],
    is_visible: Bool[Tensor, " N"],
    c2w: Float[Tensor, "V 4 4"],
    intrinsics: Float[Tensor, "V 3 3"],
    normals: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"],
) -> Float[Tensor, ""]:
    """Mean |n - R_j n_j(pi_j(x))|^2 over the points that view j = `other` sees.

    x: surface points; normal: their unit world normals; is_visible: whether nothing lies between
    them and the other camera. Points that fall outside the other mask count for nothing.
    """
    pixel = project_into_views(x, other, c2w, intrinsics)
    measured, inside = bilinear_normals(pixel, other, normals, masks)
    world = (c2w[other, :3, :3] * measured[:, None, :]).sum(-1)
    return masked_mean(((normal - world) ** 2).sum(-1), (is_visible & inside).to(x.dtype))
