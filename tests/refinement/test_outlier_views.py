"""Views that start far off, while the others come right."""

import numpy as np
import torch
from fixtures.refinement import (
    blob,
    cameras,
    observations_of,
    refined,
    rotation_errors,
    wrong_poses,
)
from scipy.spatial.transform import Rotation

from pmni.refinement.outlier_views import initial_rotations, relocalize_outlier_views

CPU = torch.device("cpu")
OUTLIER = 4


def test_an_outlier_view_is_relocalised() -> None:
    lines: list[str] = []
    solver, _ = refined(blob()[0], wrong_poses(), pixels=500, cells=32)
    c2w = solver.state.c2w()
    turn = Rotation.from_rotvec(np.deg2rad(30) * np.array([0.3, -0.2, 0.93])).as_matrix()
    c2w[OUTLIER, :3] = torch.from_numpy(turn) @ c2w[OUTLIER, :3]
    solver.state = solver.state.with_poses(c2w)
    assert rotation_errors(c2w.numpy(), cameras())[OUTLIER] > 25
    assert relocalize_outlier_views(solver, lines.append) == [OUTLIER]
    assert rotation_errors(solver.state.c2w().numpy(), cameras()).max() < 2
    assert lines == ["view 04 was an outlier and is relocalised"]
    assert relocalize_outlier_views(solver) == []


def test_copies_are_the_view_again_and_again() -> None:
    observations = observations_of(blob()[0])
    copies = observations.repeat_view(2, 3)
    first, last = observations.first_pixel[2:4].tolist()
    count = last - first
    assert copies.first_pixel.tolist() == [0, count, 2 * count, 3 * count]
    assert len(copies.contour) == 3 * int(observations.first_contour_point[2:4].diff())
    for copy in range(3):
        part = slice(copy * count, (copy + 1) * count)
        assert torch.equal(copies.normals[part], observations.normals[first:last])
        u, v = copies.pixels[part].T
        assert copies.pixel_index[copy, v, u].tolist() == list(range(part.start, part.stop))
        assert torch.equal(copies.pixel_index[copy] < 0, observations.pixel_index[2] < 0)
        assert torch.equal(copies.contour_distance[copy], observations.contour_distance[2])


def test_turns_are_none_and_14_by_each_angle() -> None:
    rotations = Rotation.from_matrix(initial_rotations((12.0, 25.0))[:, :3, :3].numpy())
    angles = np.rad2deg(rotations.magnitude())
    np.testing.assert_allclose(angles, [0] + [12] * 14 + [25] * 14, atol=1e-9)
    assert len(np.unique(rotations.as_rotvec().round(6), axis=0)) == 29
