"""Charts of the cameras, and facts of the registration."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.report_runs import run_in

from pmni.geometry.poses import Poses
from pmni.io.poses import write_poses
from pmni.reporting import cameras


def test_what_registration_says_of_itself_and_of_each_view() -> None:
    information = {"method": "free", "score": 0.81254, "verified": True, "note": {"a": "text"}}
    information |= {"confidence": {"a": 0.5, "b": 1}, "other": {"z": 1.0}}
    assert cameras.facts_of(information) == ["method free", "score 0.813", "verified: yes"]
    assert cameras.numbers_by_view(information, ("a", "b")) == {"confidence": {"a": 0.5, "b": 1.0}}


def test_the_uncertainty_of_a_rotation_is_that_of_all_its_axes() -> None:
    variances = np.diag(np.deg2rad([1.0, 2.0, 2.0, 9.0, 9.0, 9.0]) ** 2)
    poses = Poses(("a",), np.eye(4)[None], {"covariance": {"a": variances.tolist()}})
    assert cameras.uncertainty_deg(poses) == {"a": pytest.approx(3.0)}
    assert cameras.uncertainty_deg(Poses(("a",), np.eye(4)[None])) == {}


def test_a_rotation_of_the_whole_world_is_no_pose_error(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    random = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (5, 1, 1))
    for index in range(5):
        c2w[index, :3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0]
        c2w[index, :3, :3] *= np.sign(np.linalg.det(c2w[index, :3, :3]))
        c2w[index, :3, 3] = random.normal(size=3)
    world = np.eye(4)
    world[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    views = tuple("abcde")
    turned = c2w.copy()
    angle = np.deg2rad(10)
    turned[0, :3, :3] = c2w[0, :3, :3] @ [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    write_poses(run.folder.registration.poses, Poses(views, world @ turned))
    write_poses(run.folder.poses(10), Poses(views, world @ c2w))
    write_poses(run.folder.poses(20), Poses(views[1:], c2w[1:]))  # one view is held out
    series = cameras.pose_series(run, Poses(views, c2w), (10, 20))
    assert list(series) == ["start", "iteration 10", "iteration 20"]
    assert max(series["iteration 10"].values()) < 1e-5
    assert set(series["iteration 20"]) == set(views[1:])
    # one camera of five is off by 10 degrees: the best common turn shares it out
    assert series["start"]["a"] == pytest.approx(8, abs=0.1)
    assert sum(series["start"].values()) == pytest.approx(16, abs=0.3)
    chart = cameras.view_chart(series)
    assert [trace["name"] for trace in chart["traces"]] == ["start", "iteration 20"]
    assert [len(trace["x"]) for trace in chart["traces"]] == [5, 4]
