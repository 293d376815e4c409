"""Patches rendered: opacity, normal and ray distance of each pixel."""

from jaxtyping import Float
from torch import Tensor

from pmni.config.training import RenderingSettings
from pmni.fields.sdf import SampledSDF
from pmni.rendering.compositing import Rendering, composite
from pmni.rendering.gradients import sample
from pmni.rendering.marching import Patches, Planes


def render(
    sdf: SampledSDF,
    patches: Patches,
    planes: Planes,
    inv_s: Float[Tensor, ""],
    settings: RenderingSettings,
) -> Rendering:
    """What the patches show of f."""
    samples = sample(sdf, patches, planes, settings.gradient, settings.epsilon)
    return composite(samples, patches, planes, inv_s, settings.backend)
