"""Marching, gradients and compositing of patches, against exact answers."""

import numpy as np
import pytest
import torch
from fixtures.training import occupancy_grid

from pmni.config.training import RenderingSettings
from pmni.errors import MissingBackendError
from pmni.geometry.cameras import look_at
from pmni.kernels.types import Patches, Planes
from pmni.volume_rendering.compositing import (
    accumulate,
    interval_alpha,
    weights_nerfacc,
    weights_torch,
)
from pmni.volume_rendering.gradients import central_differences, sample
from pmni.volume_rendering.marching import march, plane_points
from pmni.volume_rendering.occupancy import cell_centres
from pmni.volume_rendering.renderer import render

CPU = torch.device("cpu")
REACH = torch.tensor(0.03)


class Sphere:
    """The exact distance from a sphere."""

    def __init__(self, radius=0.5, centre=(0.0, 0.0, 0.0)):
        self.radius, self.centre = radius, torch.tensor(centre)

    def __call__(self, x, real=None):
        return torch.linalg.vector_norm(x - self.centre.to(x), dim=-1) - self.radius

    def value_and_gradient(self, x, real=None):
        away = x - self.centre.to(x)
        length = torch.linalg.vector_norm(away, dim=-1)
        return length - self.radius, away / length[:, None]


class Plane:
    """A linear f; every difference quotient is exact on it."""

    normal = torch.tensor([0.36, 0.48, -0.8])

    def __call__(self, x, real=None):
        return x @ self.normal.to(x) + 0.1

    def value_and_gradient(self, x, real=None):
        return self(x), self.normal.to(x).expand_as(x)


def make_patches(position=(3.0, -9.0, 4.0), pixels=((60, 40),), size=3, focal=900.0, dtype=None):
    """Patches whose first pixels are `pixels` (column, row) of a camera that sees the origin."""
    dtype = dtype or torch.float32
    c2w = torch.as_tensor(look_at(np.array(position), np.zeros(3)))
    c2w = c2w.to(dtype)
    K = torch.tensor([[focal, 0, 64.0], [0, focal * 1.1, 48.0], [0, 0, 1]], dtype=dtype)
    offsets = torch.arange(size, dtype=dtype)
    rows, columns = torch.meshgrid(offsets, offsets, indexing="ij")
    first = torch.tensor(pixels, dtype=dtype)[:, None, None]
    uv = first + torch.stack([columns, rows], dim=-1)
    m = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1) @ torch.linalg.inv(K).T
    count = len(pixels)
    focals = torch.tensor([[focal, focal * 1.1]], dtype=dtype).expand(count, 2)
    return Patches(m, focals, c2w[:3, :3].expand(count, 3, 3), c2w[:3, 3].expand(count, 3))


def planes_of(patch, z, joined):
    """Planes of some patches, double precision."""
    counts = torch.bincount(torch.tensor(patch))
    first = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    return Planes(
        torch.tensor(patch), torch.tensor(z, dtype=torch.float64), torch.tensor(joined), first
    )


def test_alpha_by_hand():
    f = torch.tensor([[0.2], [-0.2], [0.3]])
    phi = torch.sigmoid(f[:, 0] * 10)
    alpha = interval_alpha(f, torch.tensor([True, True, False]), torch.tensor(10.0))
    expected = (phi[0] - phi[1] + 1e-5) / (phi[0] + 1e-5)
    assert alpha[:, 0].tolist() == pytest.approx([expected.item(), 0.0, 0.0])


def test_weights_by_hand():
    alpha = torch.tensor([[0.5], [0.5], [0.25], [1.0], [0.7]])
    patch = torch.tensor([0, 0, 1, 1, 1])
    weights = weights_torch(alpha, patch)[:, 0]
    assert weights.tolist() == pytest.approx([0.5, 0.25, 0.25, 0.75, 0.0], abs=1e-6)


def test_weights_match_a_loop_and_survive_long_lists():
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


def test_no_planes_no_weights():
    weights = weights_torch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert weights.shape == (0, 4)
    out = accumulate(weights, torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.long), 2)
    assert torch.equal(out, torch.zeros(2, 4, 3))


def test_nerfacc_without_a_gpu_is_a_clear_error():
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(MissingBackendError, match="nerfacc"):
        weights_nerfacc(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nerfacc_agrees_with_torch():
    pytest.importorskip("nerfacc")
    patch = torch.sort(torch.randint(50, (700,))).values.cuda()
    alpha = torch.rand(700, 9).cuda() ** 2
    torch.testing.assert_close(
        weights_nerfacc(alpha, patch), weights_torch(alpha, patch), atol=1e-5, rtol=1e-4
    )


def test_occupancy_remembers_f_near_the_surface_and_its_sign_elsewhere():
    sphere = Sphere(0.5, (0.1, 0.0, -0.2))
    grid = occupancy_grid(64, 0.02, CPU)
    assert not grid.values.any(), "nothing is known yet"
    grid.refresh(sphere)
    x = cell_centres(64, CPU).view(-1, 3)
    torch.testing.assert_close(grid.sample(x), grid.values.view(-1))
    value = sphere(x)
    near = value.abs() < 0.1
    torch.testing.assert_close(grid.sample(x)[near], value[near])
    assert torch.equal(grid.sample(x)[~near] > 0, value[~near] > 0)
    anywhere = 2 * torch.rand(20000, 3) - 1
    value, found = sphere(anywhere), grid.sample(anywhere)
    near = value.abs() < 0.08
    torch.testing.assert_close(found[near], value[near], atol=7e-4, rtol=0)
    assert (found[~near].abs() > 0.07).all()
    assert grid.sample(torch.tensor([[1.2, 0, 0]])) > 0.3


def test_half_a_cell_is_what_a_thin_sheet_is_mistaken_by():
    """However it lies; and so much is added to the reach."""
    grid = occupancy_grid(32, 1.0, CPU)
    generator = torch.Generator().manual_seed(0)
    x = 1.6 * torch.rand(5000, 3, generator=generator) - 0.8
    reach = float(grid.truncation(torch.tensor(1e9)))
    for seed in range(10):
        normal = torch.randn(3, generator=generator.manual_seed(seed))
        normal /= normal.norm()
        grid.refresh(lambda x, n=normal, at=seed / 300: (x @ n - at).abs())
        on = x - (x @ normal - seed / 300)[:, None] * normal
        on = on[on.abs().amax(-1) < 0.9]
        assert grid.sample(on).max() < reach
    assert reach == pytest.approx(1 / 32)


def test_the_reach_follows_the_sharpness_down_from_the_shell():
    grid = occupancy_grid(32, 0.03, CPU)
    assert float(grid.truncation(torch.tensor(10.0))) == pytest.approx(0.03 + 1 / 32)
    assert float(grid.truncation(torch.tensor(1000.0))) == pytest.approx(5 / 1000 + 1 / 32)


def test_planes_bracket_the_first_surface_and_stop_behind_it():
    sphere = Sphere()
    grid = occupancy_grid(64, 0.03, CPU)
    grid.refresh(sphere)
    patches = make_patches(pixels=((63, 47), (2, 2)))
    planes = march(patches, grid, REACH, torch.tensor(0.01), torch.tensor([0.3, 0.8]))
    assert (planes.patch == 0).all(), "the second patch misses the object"
    f = sphere(plane_points(patches, planes).view(-1, 3)).view(-1, 3, 3)[:, 1, 1]
    assert f[0] > REACH > f[1], "the first interval ends within reach"
    assert f[-2] > -2 * REACH > -0.2, "planes went on to the back of the sphere"
    assert f[-1] < -REACH
    assert (f.diff() < 0).all()
    gaps = planes.z.diff()[planes.valid[:-1]]
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.01), atol=1e-5, rtol=0)
    assert not planes.valid[-1]


def test_points_project_back_to_their_pixels():
    patches = make_patches(pixels=((10, 20),), dtype=torch.float64)
    planes = planes_of([0, 0], [9.0, 10.0], [True, False])
    x = plane_points(patches, planes)
    local = (x - patches.centre[0]) @ patches.rotation[0]
    torch.testing.assert_close(local[..., 2], planes.z[:, None, None].expand(2, 3, 3))
    u = local[..., 0] / local[..., 2] * 900 + 64
    v = local[..., 1] / local[..., 2] * 990 + 48
    torch.testing.assert_close(u[0, 0], torch.tensor([10.0, 11, 12]).double())
    torch.testing.assert_close(v[1, :, 2], torch.tensor([20.0, 21, 22]).double())


@pytest.mark.parametrize("method", ["analytic", "finite_difference", "directional"])
def test_gradients_of_a_linear_function_are_exact(method):
    patches = make_patches(pixels=((10, 20), (90, 70)), dtype=torch.float64)
    joined = [True, True, False, True, False]
    planes = planes_of([0, 0, 0, 1, 1], [9.0, 9.5, 10.0, 9.2, 9.3], joined)
    samples = sample(Plane(), patches, planes, method, 1e-3)
    x = plane_points(patches, planes).view(-1, 3)
    torch.testing.assert_close(samples.f.view(-1), Plane()(x))
    in_camera = patches.rotation[0].T @ Plane.normal.double()
    found = samples.interval_gradients(patches, planes)[planes.valid]
    torch.testing.assert_close(found, in_camera.expand(3, 3, 3, 3), atol=1e-8, rtol=1e-8)


def test_directional_gradient_of_a_curved_function_is_second_order():
    """Inside the patch the differences are central: the error falls with the pixel squared."""
    sphere = Sphere()
    errors = []
    for focal in (400.0, 800.0):
        first = (64 + 0.03 * focal, 48 - 0.02 * focal)  # the same ray for both
        patches = make_patches(focal=focal, pixels=(first,), dtype=torch.float64)
        spacing = 4.0 / focal
        z = 9.7 + (torch.arange(3, dtype=torch.float64) - 0.5) * spacing
        joined = [True, False, False]
        planes = planes_of([0, 0, 0], z.tolist(), joined)
        directional = sample(sphere, patches, planes, "directional", 0.0).gradient
        middle = planes_of([0, 0, 0], (z + spacing / 2).tolist(), joined)
        _, exact = sphere.value_and_gradient(plane_points(patches, middle).view(-1, 3))
        exact = exact.view(3, 3, 3, 3) @ patches.rotation[0]
        errors.append((directional - exact)[0, 1, 1].abs().max())
    assert errors[0] > 1e-5
    assert errors[1] < 0.3 * errors[0]


def test_central_differences_match_the_gradient():
    x = torch.rand(50, 3, dtype=torch.float64) + 0.1
    _, exact = Sphere().value_and_gradient(x)
    torch.testing.assert_close(central_differences(Sphere(), x, 1e-4), exact, atol=1e-7, rtol=0)


@pytest.mark.parametrize("method", ["analytic", "finite_difference", "directional"])
def test_a_rendered_sphere_is_a_sphere(method):
    sphere = Sphere()
    grid = occupancy_grid(64, 0.03, CPU)
    grid.refresh(sphere)
    patches = make_patches(pixels=((63, 47), (50, 40), (2, 2)))
    settings = RenderingSettings(gradient=method, epsilon=1e-3)
    planes = march(patches, grid, REACH, torch.tensor(2e-3), torch.tensor([0.1, 0.5, 0.9]))
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


def crossing(*shift: float) -> tuple[Patches, Sphere]:
    """Patches of a middle ray, of rays at and beyond the rim, and what they see."""
    radius, scale = 0.5, 900 / 10.3
    pixels = [(64 + scale * part * radius, 48.0) for part in (0.0, 0.7, 0.97, 1.0, 1.01, 1.03, 1.2)]
    return make_patches(pixels=pixels), Sphere(radius, shift or (0.0, 0.0, 0.0))


@pytest.mark.parametrize("inv_s", [150.0, 400.0, 1500.0])
def test_what_is_left_out_does_not_matter(inv_s, monkeypatch):
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

    def rendered(reach):
        planes = march(patches, grid, reach, step, jitter)
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


def test_rendering_is_differentiable_in_the_pose():
    """The derivative of a loss with respect to a pose matches finite differences."""
    sphere = Sphere(0.5, (0.05, 0.1, 0.0))
    grid = occupancy_grid(64, 0.05, CPU)
    grid.refresh(sphere)
    base = make_patches(pixels=((50, 40), (70, 55)), dtype=torch.float64)
    planes = march(base, grid, REACH, torch.tensor(5e-3), torch.zeros(2, dtype=torch.float64))
    settings = RenderingSettings()

    def loss(shift):
        moved = Patches(base.m, base.focal, base.rotation, base.centre + shift)
        image = render(sphere, moved, planes, torch.tensor(300.0).double(), settings)
        return image.normal.sum() + image.distance.sum() + image.opacity.sum()

    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (shift,), eps=1e-6, atol=1e-4)
