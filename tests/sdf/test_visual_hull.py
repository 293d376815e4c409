"""Visual hulls of masks, tolerant of views that are wrong."""

import torch
from fixtures.training import sphere_capture

from pmni.data.views import Views
from pmni.geometry.silhouettes import signed_distances
from pmni.sdf.grid import grid_nodes
from pmni.sdf.visual_hull import visual_hulls


def test_hull_of_a_sphere_is_nearly_the_sphere_and_tolerates_a_bad_view() -> None:
    capture, _ = sphere_capture(views=12)
    views = Views.of(capture)
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    nodes = grid_nodes(33, torch.device("cpu"))
    radius = torch.linalg.vector_norm(nodes, dim=-1)
    # On the equator of the viewing circle the silhouettes touch the sphere.
    distances = torch.from_numpy(signed_distances(capture.masks))
    hull = visual_hulls(distances, views.intrinsics.float(), c2w, 33, 0)[0]
    assert (hull[radius < 0.46] < 0).all()
    assert (hull[radius > 0.62] > 0).all()
    wrong = c2w.clone()
    wrong[3, :3, 3] += wrong[3, :3, 0] * 0.4  # the view looks past the object
    strict, tolerant = visual_hulls(distances, views.intrinsics.float(), wrong, 33, 1)
    assert (strict[radius < 0.4] > 0).any()
    assert (tolerant[radius < 0.46] < 0).all()


def test_hulls_are_the_values_of_the_views_in_order() -> None:
    capture, _ = sphere_capture(views=6)
    distances = torch.from_numpy(signed_distances(capture.masks))
    K = torch.tensor(capture.intrinsics, dtype=torch.float32)
    c2w = torch.tensor(capture.reference_c2w, dtype=torch.float32)
    views = zip(distances.split(1), K.split(1), c2w.split(1), strict=True)
    single = [visual_hulls(*view, 17, 0) for view in views]
    expected = torch.cat(single).sort(dim=0, descending=True).values[:4]
    assert torch.equal(visual_hulls(distances, K, c2w, 17, 3), expected)
