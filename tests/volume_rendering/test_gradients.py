"""Gradients of f at the samples: three methods."""

import pytest
import torch
from fixtures.rendering import LinearSDF, SphereSDF, make_patches, planes_of

from pmni.volume_rendering.gradients import central_differences, sample
from pmni.volume_rendering.marching import plane_points


@pytest.mark.parametrize("method", ["analytic", "finite_difference", "directional"])
def test_gradients_of_a_linear_function_are_exact(method: str) -> None:
    patches = make_patches(pixels=((10, 20), (90, 70)), dtype=torch.float64)
    valid = [True, True, False, True, False]
    planes = planes_of([0, 0, 0, 1, 1], [9.0, 9.5, 10.0, 9.2, 9.3], valid)
    samples = sample(LinearSDF(), patches, planes, method, 1e-3)
    x = plane_points(patches, planes).view(-1, 3)
    torch.testing.assert_close(samples.f.view(-1), LinearSDF()(x))
    in_camera = patches.rotation[0].T @ LinearSDF.normal.double()
    found = samples.interval_gradients(patches, planes)[planes.valid]
    torch.testing.assert_close(found, in_camera.expand(3, 3, 3, 3), atol=1e-8, rtol=1e-8)


def test_directional_gradient_of_a_curved_function_is_second_order() -> None:
    """Inside the patch the differences are central: the error falls with the pixel squared."""
    sphere = SphereSDF()
    errors = []
    for focal in (400.0, 800.0):
        first = (64 + 0.03 * focal, 48 - 0.02 * focal)  # the same ray for both
        patches = make_patches(focal=focal, pixels=(first,), dtype=torch.float64)
        spacing = 4.0 / focal
        z = 9.7 + (torch.arange(3, dtype=torch.float64) - 0.5) * spacing
        valid = [True, False, False]
        planes = planes_of([0, 0, 0], z.tolist(), valid)
        directional = sample(sphere, patches, planes, "directional", 0.0).gradient
        middle = planes_of([0, 0, 0], (z + spacing / 2).tolist(), valid)
        _, exact = sphere.value_and_gradient(plane_points(patches, middle).view(-1, 3))
        exact = exact.view(3, 3, 3, 3) @ patches.rotation[0]
        errors.append((directional - exact)[0, 1, 1].abs().max())
    assert errors[0] > 1e-5
    assert errors[1] < 0.3 * errors[0]


def test_central_differences_match_the_gradient() -> None:
    x = torch.rand(50, 3, dtype=torch.float64) + 0.1
    _, exact = SphereSDF().value_and_gradient(x)
    torch.testing.assert_close(central_differences(SphereSDF(), x, 1e-4), exact, atol=1e-7, rtol=0)
