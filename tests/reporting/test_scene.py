"""The 3D scenes."""

import numpy as np
import pytest
from fixtures.report_page import data_of, page_of, section
from fixtures.report_results import Tree

from pmni.geometry.mesh import Mesh
from pmni.io.ply import write_ply

RUN = "free/pebble"

STEP = "iter_00000300"


def test_the_scene_holds_every_surface_and_camera_in_the_frame_of_the_truth(page: str) -> None:
    scene = data_of(page)["scenes"]["part-pebble"]
    keys = [surface["key"] for surface in scene["surfaces"]]
    assert keys == ["free/0", "free/100", "free/300", "fast/0", "calibrated/300", "truth"]
    labels = {surface["key"]: surface["label"] for surface in scene["surfaces"]}
    assert (labels["free/0"], labels["free/300"]) == ("refined", "iteration 300 (result)")
    assert labels["fast/0"] == "refined"
    assert scene["first"] == "free/300"
    assert scene["radius"] == pytest.approx(45, abs=0.5)  # the longest semi-axis, 0.9 * 50 mm
    sets = {each["group"]: each["sets"] for each in scene["cameras"]}
    assert list(sets["free"]) == ["start", "0", "100", "300"]
    reference = np.array(list(scene["reference"].values())).reshape(-1, 3, 4)
    ours = np.array(list(sets["calibrated"]["start"].values())).reshape(-1, 3, 4)
    np.testing.assert_allclose(ours, reference, atol=1e-3)
    # eight normalised units of 50 mm away; the world is centred on the object
    np.testing.assert_allclose(np.linalg.norm(reference[:, :, 3], axis=1), 400, rtol=2e-3)
    up = np.array(scene["up"]) / np.linalg.norm(scene["up"])
    assert up[2] > 0.99
    assert 0 < scene["valueTop"] < 5


def test_a_mesh_of_another_evaluation_is_not_coloured_with_its_errors(tree: Tree) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    write_ply(tree.results / RUN / f"meshes/{STEP}.ply", Mesh(vertices, faces))
    part = section(page_of(tree), "pebble")
    assert f"results/{RUN}/metrics/{STEP}.errors.npz: belongs to another mesh" in part
