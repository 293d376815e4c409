"""Planes along the rays of patches, and the points on them."""

import torch
from fixtures.rendering import TRUNCATION, SphereSDF, make_patches, planes_of
from fixtures.training import CPU, occupancy_grid

from pmni.volume_rendering.marching import march, plane_points


def test_planes_bracket_the_first_surface_and_stop_behind_it() -> None:
    sphere = SphereSDF()
    grid = occupancy_grid(64, 0.03, CPU)
    grid.refresh(sphere)
    patches = make_patches(pixels=((63, 47), (2, 2)))
    planes = march(patches, grid, TRUNCATION, torch.tensor(0.01), torch.tensor([0.3, 0.8]))
    assert (planes.patch == 0).all(), "the second patch misses the object"
    f = sphere(plane_points(patches, planes).view(-1, 3)).view(-1, 3, 3)[:, 1, 1]
    assert f[0] > TRUNCATION > f[1], "the first interval ends within truncation"
    assert f[-2] > -2 * TRUNCATION > -0.2, "planes went on to the back of the sphere"
    assert f[-1] < -TRUNCATION
    assert (f.diff() < 0).all()
    gaps = planes.z.diff()[planes.valid[:-1]]
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.01), atol=1e-5, rtol=0)
    assert not planes.valid[-1]


def test_points_project_back_to_their_pixels() -> None:
    patches = make_patches(pixels=((10, 20),), dtype=torch.float64)
    planes = planes_of([0, 0], [9.0, 10.0], [True, False])
    x = plane_points(patches, planes)
    local = (x - patches.centre[0]) @ patches.rotation[0]
    torch.testing.assert_close(local[..., 2], planes.z[:, None, None].expand(2, 3, 3))
    u = local[..., 0] / local[..., 2] * 900 + 64
    v = local[..., 1] / local[..., 2] * 990 + 48
    torch.testing.assert_close(u[0, 0], torch.tensor([10.0, 11, 12]).double())
    torch.testing.assert_close(v[1, :, 2], torch.tensor([20.0, 21, 22]).double())
