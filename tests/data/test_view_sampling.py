"""What other views show at points of the surface."""

import numpy as np
import torch

from pmni.data.view_sampling import bilinear_normals, nearest_normals, project_into_views
from pmni.geometry.cameras import invert_rigid, look_at, project

K = np.array([[50.0, 0, 7], [0, 60, 4], [0, 0, 1]])


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of 3 x 4 pixels; view 1 has normals (column, row, 1) normalised, all in its mask
    but the last column."""
    v, u = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    second = torch.nn.functional.normalize(torch.stack([u, v, torch.ones_like(u)], -1), dim=-1)
    masks = torch.ones(2, 3, 4)
    masks[1, :, 3] = 0
    normals = torch.stack([torch.zeros(3, 4, 3), second])
    return normals * masks[..., None], masks


def test_points_are_projected_each_into_its_view() -> None:
    rng = np.random.default_rng(0)
    c2w = np.stack([look_at(np.array(p), np.zeros(3)) for p in ([5.0, 0, 1], [0.0, 6, 2])])
    x, view = rng.uniform(-1, 1, (5, 3)), np.array([0, 1, 1, 0, 1])
    w2c = invert_rigid(c2w)[view]
    expected, _ = project((w2c[:, :3, :3] @ x[..., None])[..., 0] + w2c[:, :3, 3], K)
    arrays = (x, view, c2w, np.stack([K, K]))
    pixel = project_into_views(*(torch.from_numpy(array) for array in arrays))
    np.testing.assert_allclose(pixel, expected)


def test_nearest_normals_are_zero_outside_the_images() -> None:
    normals, _ = maps()
    pixel = torch.tensor([[1.4, 0.6], [-0.6, 1.0], [1.0, 2.6], [2.0, 1.0]])
    found = nearest_normals(pixel, torch.tensor([1, 1, 1, 0]), normals)
    torch.testing.assert_close(found[0], normals[1, 1, 1])
    assert not found[1:].any()


def test_bilinear_normals_are_unit_and_inside_where_all_four_pixels_are() -> None:
    normals, masks = maps()
    pixel = torch.tensor([[1.0, 1.0], [0.5, 0.0], [2.5, 1.0], [-0.5, 1.0]])
    found, inside = bilinear_normals(pixel, torch.ones(4, dtype=torch.long), normals, masks)
    torch.testing.assert_close(found[0], normals[1, 1, 1])
    middle = normals[1, 0, 0] + normals[1, 0, 1]
    torch.testing.assert_close(found[1], middle / middle.norm())
    assert inside.tolist() == [True, True, False, False]
