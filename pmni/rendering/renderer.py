"""Patches rendered: opacity, normal and ray distance of each pixel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pmni.config.training import RenderingSettings
from pmni.fields.sdf import SDF
from pmni.rendering.compositing import WEIGHTS, accumulate, interval_alpha
from pmni.rendering.gradients import between_planes, sample
from pmni.rendering.marching import Patches, Planes


@dataclass(frozen=True)
class Rendering:
    """What P patches of h x w pixels show."""

    opacity: Float[Tensor, "P h w"]
    normal: Float[Tensor, "P h w 3"]
    """Camera frame, weighted by opacity: not of unit length."""
    distance: Float[Tensor, "P h w"]
    """Along the ray, normalised units, weighted by opacity."""
    gradient: Float[Tensor, "I h w 3"]
    """Gradients of f in all intervals, for the eikonal term."""


def render(
    sdf: SDF,
    patches: Patches,
    planes: Planes,
    inv_s: Float[Tensor, ""],
    settings: RenderingSettings,
) -> Rendering:
    """Volume rendering with NeuS weights (NeurIPS 2021, eq. 11-13)."""
    count, h, w = patches.m.shape[:3]
    f, gradient = sample(sdf, patches, planes, settings.gradient, settings.epsilon)
    alpha = interval_alpha(f.flatten(1), planes.joined, inv_s)
    weights = WEIGHTS[settings.backend](alpha, planes.patch)  # (M, h w)
    length = torch.linalg.vector_norm(patches.m, dim=-1)[planes.patch]  # ray distance at z = 1
    distance = length * between_planes(planes.z)[:, None, None]
    values = torch.cat(
        [torch.ones_like(f)[..., None], distance[..., None], gradient], dim=-1
    ).flatten(1, 2)
    total = accumulate(weights, values, planes.patch, count).view(count, h, w, 5)
    return Rendering(
        opacity=total[..., 0],
        distance=total[..., 1],
        normal=total[..., 2:],
        gradient=gradient[planes.joined],
    )
