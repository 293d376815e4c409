"""Volume rendering of patches: opacity, normal and ray distance of each pixel."""

from jaxtyping import Float
from torch import Tensor

from pmni.config.training import RenderingSettings
from pmni.kernels.types import Patches, Planes
from pmni.sdf.sdf import SampledSDF
from pmni.volume_rendering.compositing import Rendering, composite
from pmni.volume_rendering.gradients import sample


def render(
    sdf: SampledSDF,
    patches: Patches,
    planes: Planes,
    inv_s: Float[Tensor, ""],
    settings: RenderingSettings,
) -> Rendering:
    """The images of the patches of a signed distance function."""
    samples = sample(sdf, patches, planes, settings.gradient, settings.epsilon)
    return composite(samples, patches, planes, inv_s, settings.backend)
