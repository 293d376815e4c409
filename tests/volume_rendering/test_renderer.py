"""Rendered patches against exact images, and their derivatives."""

import pytest
import torch
from fixtures.rendering import TRUNCATION, SphereSDF, make_patches
from fixtures.training import CPU, occupancy_grid
from torch import Tensor

from pmni.config.training import RenderingSettings
from pmni.kernels.types import Patches
from pmni.volume_rendering.gradients import sample
from pmni.volume_rendering.marching import march
from pmni.volume_rendering.renderer import render


@pytest.mark.parametrize("method", ["analytic", "finite_difference", "directional"])
def test_a_rendered_sphere_is_a_sphere(method: str) -> None:
    sphere = SphereSDF()
    grid = occupancy_grid(64, 0.03, CPU)
    grid.refresh(sphere)
    patches = make_patches(pixels=((63, 47), (50, 40), (2, 2)))
    settings = RenderingSettings(gradient=method, epsilon=1e-3)
    planes = march(patches, grid, TRUNCATION, torch.tensor(2e-3), torch.tensor([0.1, 0.5, 0.9]))
    image = render(sphere, patches, planes, torch.tensor(2000.0), settings)
    ray = patches.m / torch.linalg.vector_norm(patches.m, dim=-1, keepdim=True)
    centre = -patches.rotation.transpose(1, 2) @ patches.centre[..., None]
    along = (ray @ centre[:, None])[..., 0]
    half_chord2 = along**2 - (centre**2).sum((1, 2))[:, None, None] + 0.25
    distance = along - half_chord2.clamp(min=0).sqrt()
    normal = (distance[..., None] * ray - centre[:, None, None, :, 0]) / 0.5
    hit = torch.tensor([True, True, False])
    assert image.opacity[hit].min() > 0.99
    assert (image.opacity[~hit] == 0).all()
    torch.testing.assert_close(image.distance[hit], distance[hit], atol=2e-3, rtol=0)
    unit = torch.nn.functional.normalize(image.normal, dim=-1)
    angle = torch.rad2deg(torch.acos((unit * normal).sum(-1).clamp(max=1)))
    assert angle[hit].max() < 1.0
    gradient = sample(sphere, patches, planes, method, 1e-3).interval_gradients(patches, planes)
    length = torch.linalg.vector_norm(gradient[planes.valid], dim=-1)
    torch.testing.assert_close(length, torch.ones_like(length), atol=0.05, rtol=0)
    assert int(image.intervals) == length.numel()
    error = ((length - 1) ** 2).sum()
    torch.testing.assert_close(image.eikonal_residual.sum(), error, atol=1e-5, rtol=1e-4)


def crossing(*shift: float) -> tuple[Patches, SphereSDF]:
    """Patches of a middle ray, of rays at and beyond the rim, and what they see."""
    radius, scale = 0.5, 900 / 10.3
    pixels = [(64 + scale * part * radius, 48.0) for part in (0.0, 0.7, 0.97, 1.0, 1.01, 1.03, 1.2)]
    return make_patches(pixels=pixels), SphereSDF(radius, shift or (0.0, 0.0, 0.0))


@pytest.mark.parametrize("inv_s", [150.0, 400.0, 1500.0])
def test_what_is_left_out_does_not_matter(inv_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against planes all along the rays: images and derivatives; with a fraction of the samples.

    Without what is added to opacities: that of empty intervals is larger than all that is left out.
    """
    monkeypatch.setattr("pmni.volume_rendering.compositing.ALPHA_EPSILON", 1e-9)
    patches, sphere = crossing()
    grid = occupancy_grid(128, 0.1, CPU)
    grid.refresh(sphere)
    sharpness, step = torch.tensor(inv_s), torch.tensor(min(4e-3, 1 / inv_s))
    jitter = torch.linspace(0, 0.9, 7)
    settings = RenderingSettings()

    def rendered(truncation: Tensor) -> tuple[int, tuple[Tensor, ...], list[Tensor]]:
        planes = march(patches, grid, truncation, step, jitter)
        shift = torch.zeros(3, requires_grad=True)
        moved = Patches(patches.m, patches.focal, patches.rotation, patches.centre + shift)
        image = render(sphere, moved, planes, sharpness, settings)
        parts = image.opacity, image.distance / 10, image.normal
        slopes = [torch.autograd.grad(part.sum(), shift, retain_graph=True)[0] for part in parts]
        return int(image.intervals), parts, slopes

    few, image, slopes = rendered(grid.truncation(sharpness))
    many, whole, true_slopes = rendered(torch.tensor(0.4))
    assert few < 0.4 * many
    for found, expected in zip(image, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=2.5e-3, rtol=0)
    for found, expected in zip(slopes, true_slopes, strict=True):
        assert (found - expected).norm() < 0.02 * true_slopes[2].norm()


def test_rendering_is_differentiable_in_the_pose() -> None:
    """The derivative of a loss with respect to a pose matches finite differences."""
    sphere = SphereSDF(0.5, (0.05, 0.1, 0.0))
    grid = occupancy_grid(64, 0.05, CPU)
    grid.refresh(sphere)
    base = make_patches(pixels=((50, 40), (70, 55)), dtype=torch.float64)
    planes = march(base, grid, TRUNCATION, torch.tensor(5e-3), torch.zeros(2, dtype=torch.float64))
    settings = RenderingSettings()

    def loss(shift: Tensor) -> Tensor:
        moved = Patches(base.m, base.focal, base.rotation, base.centre + shift)
        image = render(sphere, moved, planes, torch.tensor(300.0).double(), settings)
        return image.normal.sum() + image.distance.sum() + image.opacity.sum()

    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (shift,), eps=1e-6, atol=1e-4)
