"""Rays meet surfaces where geometry says they do, and miss those that they pass."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pyexr
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, box, distorted, sphere, torus, union
from hypothesis import given, settings
from hypothesis import strategies as st

from pmni.cli.main import main
from pmni.data.capture import Capture, save_capture
from pmni.errors import DivergenceError
from pmni.geometry.cameras import look_at, pixel_grid, ray_directions, turntable
from pmni.geometry.poses import Poses
from pmni.io.poses import write_poses
from pmni.sdf.rendering import render_views
from pmni.sdf.sphere_tracing import Hits, box_interval, clear_distance, trace, visible

CPU = torch.device("cpu")
DISTANCE = 15.0  # of the camera, as with DiLiGenT-MV


def rays(count: int, seed: int, aim: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from DISTANCE away through points of a ball of radius `aim`."""
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(count, 3))
    origins *= DISTANCE / np.linalg.norm(origins, axis=1, keepdims=True)
    targets = rng.normal(size=(count, 3))
    targets *= aim * rng.uniform(0, 1, (count, 1)) / np.linalg.norm(targets, axis=1, keepdims=True)
    directions = targets - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(origins).float(), torch.from_numpy(directions).float()


def shoot(sdf: Analytic, origins: torch.Tensor, directions: torch.Tensor) -> Hits:
    return trace(sdf, origins, directions, *box_interval(origins, directions))


def sphere_distance(origins, directions, radius: float) -> torch.Tensor:
    """Exact distance along rays to a sphere about the origin, NaN for a miss."""
    o, d = origins.double(), directions.double()
    d = d / d.norm(dim=-1, keepdim=True)
    b = (o * d).sum(-1)
    return -b - (b**2 - (o**2).sum(-1) + radius**2).sqrt()


def test_a_sphere_is_hit_where_it_is() -> None:
    origins, directions = rays(3000, 0)
    exact = sphere_distance(origins, directions, 0.6)
    hits = shoot(sphere(0.6), origins, directions)
    closest = (origins + (-(origins * directions).sum(-1))[:, None] * directions).norm(dim=-1)
    clear = (closest - 0.6).abs() > 1e-5
    assert torch.equal(hits.mask[clear], exact.isfinite()[clear])
    assert 500 < hits.mask.sum() < 2900
    both = hits.mask & exact.isfinite()
    assert (closest < 0.599)[both].sum() > 500
    far_in = both & (closest < 0.599)
    assert (hits.distance - exact)[far_in].abs().max() < 2e-5
    assert hits.distance[~hits.mask].isnan().all()


@pytest.mark.parametrize(("offset", "hit"), [(0.5999, True), (0.6001, False), (0.9, False)])
def test_grazing_rays(offset: float, hit) -> None:
    origin = torch.tensor([[offset, -DISTANCE, 0.0]])
    hits = shoot(sphere(0.6), origin, torch.tensor([[0.0, 1.0, 0.0]]))
    assert bool(hits.mask) is hit
    if hit:
        exact = DISTANCE - np.sqrt(0.6**2 - offset**2)
        assert float(hits.distance) == pytest.approx(exact, abs=3e-4)


@pytest.mark.parametrize(
    "sdf",
    [
        torus(0.6, 0.15),
        box(0.5, 0.3, 0.7),
        union(sphere(0.3, (0.4, 0, 0)), box(0.2, 0.6, 0.1)),
        distorted(torus(0.6, 0.15), 1.0, 0.4),
        distorted(torus(0.6, 0.15), 0.3, 0.0),
    ],
    ids=["torus", "box", "union", "uneven", "slope 0.3"],
)
def test_hits_are_the_first_change_of_sign(sdf: Analytic) -> None:
    """Against steps of 1e-4 along each ray, in float64."""
    origins, directions = rays(150, 1)
    near, far = box_interval(origins, directions)
    hits = shoot(sdf, origins, directions)
    t = torch.linspace(0, 1, 35_000, dtype=torch.float64)
    for i in range(len(origins)):
        if not near[i] < far[i]:
            assert not hits.mask[i]
            continue
        along = near[i].double() + t * (far[i] - near[i]).double()
        inside = sdf(origins[i].double() + along[:, None] * directions[i].double()) < 0
        depth = int(inside.sum())
        if 0 < depth < 10:  # a graze shorter than the least step
            continue
        assert bool(hits.mask[i]) is (depth > 0)
        if depth:
            first = float(along[int(inside.nonzero()[0])])
            assert float(hits.distance[i]) == pytest.approx(first, abs=1.5e-4)


@pytest.mark.parametrize("angle", [0.0, 60.0, 85.0])
def test_a_thin_plate_is_not_passed_through(angle) -> None:
    # 0.004 thick: 0.2 mm in an object of 100 mm
    plate = box(0.7, 0.7, 0.002)
    tilt = np.deg2rad(angle)
    direction = torch.tensor([[np.sin(tilt), 0.0, -np.cos(tilt)]]).float().expand(200, 3)
    spots = torch.from_numpy(np.random.default_rng(2).uniform(-0.5, 0.5, (200, 3))).float()
    spots[:, 2] = 0.002
    hits = shoot(plate, spots - DISTANCE * direction, direction)
    assert hits.mask.all()
    assert (hits.distance - DISTANCE).abs().max() < 5e-5


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(0.3, 1.3), st.integers(0, 10_000))
def test_a_function_that_is_no_distance_has_the_same_surface(radius, slope, seed) -> None:
    origins, directions = rays(40, seed, aim=0.9 * radius)
    exact = sphere_distance(origins, directions, radius)
    hits = shoot(distorted(sphere(radius), slope, 0.0), origins, directions)
    assert hits.mask.all()
    assert (hits.distance - exact).abs().max() < 5e-5


def test_rays_that_miss_the_box_ask_for_no_values() -> None:
    asked = []
    sdf = Analytic(lambda x: asked.append(len(x)) or x.norm(dim=-1) - 0.5)
    origins = torch.tensor([[0.0, 0.0, DISTANCE], [1.5, 0.0, DISTANCE]])
    directions = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
    hits = shoot(sdf, origins, directions)
    assert not hits.mask.any()
    assert sum(asked) == 0


def test_few_values_are_asked_for() -> None:
    asked = []
    sdf = Analytic(lambda x: asked.append(len(x)) or torus(0.6, 0.2)(x))
    origins, directions = rays(5000, 3)
    shoot(sdf, origins, directions)
    assert sum(asked) < 25 * len(origins)


@pytest.mark.parametrize(
    ("origin", "direction", "near", "far"),
    [
        ((0, 0, -5), (0, 0, 1), 4, 6),
        ((0, 0, 0), (0, 0, 1), 0, 1),
        ((0, 0, 0), (0.6, 0.8, 0), 0, 1.25),
        ((-3, 0.5, 0.5), (1, 0, 0), 2, 4),
    ],
)
def test_box_interval(origin, direction, near, far) -> None:
    found = box_interval(torch.tensor([origin]).float(), torch.tensor([direction]).float())
    assert [float(value) for value in found] == pytest.approx([near, far])


@pytest.mark.parametrize(
    ("origin", "direction"),
    [((0, 0, 5), (0, 0, 1)), ((3, 0, 0), (0, 1, 0)), ((-3, 1.5, 0), (1, 0, 0))],
    ids=["behind", "parallel and beside", "past"],
)
def test_box_interval_of_a_miss(origin, direction) -> None:
    near, far = box_interval(torch.tensor([origin]).float(), torch.tensor([direction]).float())
    assert near >= far


def test_a_ray_that_starts_inside_hits_at_once() -> None:
    ball = sphere(0.5)
    origin, direction = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    assert float(shoot(ball, origin, direction).distance) == 0.0
    # the surface leaves the box: its inside begins at the side of the box
    wide = shoot(sphere(1.3), torch.tensor([[-5.0, 0.1, 0.2]]), direction)
    assert float(wide.distance) == pytest.approx(4.0)


def test_nothing_is_found_before_near_or_behind_far() -> None:
    ball, direction = sphere(0.5), torch.tensor([[1.0, 0.0, 0.0]])
    origin = torch.tensor([[-5.0, 0.0, 0.0]])

    def mask(near: float, far: float) -> bool:
        return bool(trace(ball, origin, direction, torch.tensor([near]), torch.tensor([far])).mask)

    assert mask(4.0, 4.51)
    assert not mask(4.0, 4.49)
    assert not mask(5.6, 9.0)


def test_values_that_are_not_finite_stop_it() -> None:
    broken = Analytic(lambda x: sphere(0.3)(x) * torch.nan)
    origin, direction = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    with pytest.raises(DivergenceError, match="1 non-finite"):
        shoot(broken, origin, direction)


def test_no_rays() -> None:
    hits = shoot(sphere(0.5), torch.zeros(0, 3), torch.zeros(0, 3))
    assert hits.mask.shape == hits.distance.shape == torch.Size([0])


def test_the_front_of_a_sphere_is_visible_and_its_back_is_not() -> None:
    rng = np.random.default_rng(4)
    normals = rng.normal(size=(2000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    centre = np.array([DISTANCE, 0.0, 0.0])
    cosine = ((centre - 0.6 * normals) * normals).sum(1) / np.linalg.norm(
        centre - 0.6 * normals, axis=1
    )
    seen = visible(
        sphere(0.6),
        torch.from_numpy(0.6 * normals).float(),
        torch.from_numpy(centre).float().expand(2000, 3),
    ).numpy()
    assert seen[cosine > 0.01].all()
    assert not seen[cosine < -0.1].any()


def test_a_point_behind_another_part_is_hidden() -> None:
    two = union(sphere(0.2, (0.5, 0, 0)), sphere(0.2, (-0.5, 0, 0)))
    behind = torch.tensor([[-0.3, 0.0, 0.0], [-0.5, 0.0, 0.2], [-0.3, 0.0, 0.0]])
    cameras = torch.tensor([[DISTANCE, 0, 0], [DISTANCE, 0, 0.0], [0.0, DISTANCE, 0.0]])
    cameras[1] = torch.tensor([0.0, 0.0, DISTANCE])
    # straight through the other sphere; from above; from the side, past both
    assert visible(two, behind, cameras).tolist() == [False, True, True]


def test_visible_points_may_be_a_little_off_the_surface() -> None:
    camera = torch.tensor([[DISTANCE, 0.0, 0.0]])
    for offset, seen in ((0.004, True), (-0.004, True), (-0.05, False)):
        point = torch.tensor([[0.6 + offset, 0.0, 0.0]])
        assert bool(visible(sphere(0.6), point, camera)) is seen


def two_cameras() -> tuple[np.ndarray, np.ndarray]:
    K = np.array([[[300.0, 0, 19.5], [0, 310.0, 15.0], [0, 0, 1]]] * 2)
    K[1, 0, 0] = 280
    centres = np.array([[9.0, -10.0, 5.0], [-3.0, 12.0, 6.0]])
    return K, np.stack([look_at(centre, np.zeros(3), roll=0.3) for centre in centres])


@pytest.mark.parametrize("chunk", [700, 100_000])
def test_a_rendered_sphere(chunk) -> None:
    intrinsics, poses = two_cameras()
    images = render_views(sphere(0.6), intrinsics, poses, (31, 40), chunk, CPU)
    assert images.normals.shape == (2, 31, 40, 3)
    for K, c2w, normals, distance in zip(
        intrinsics, poses, images.normals, images.distance, strict=True
    ):
        directions = ray_directions(pixel_grid(31, 40), np.linalg.inv(K))
        world = torch.from_numpy((directions @ c2w[:3, :3].T).reshape(-1, 3))
        exact = sphere_distance(torch.from_numpy(c2w[:3, 3]).expand_as(world), world, 0.6)
        exact = exact.numpy().reshape(31, 40)
        hit = np.isfinite(distance)
        np.testing.assert_array_equal(hit, np.isfinite(exact))
        assert 200 < hit.sum() < 31 * 40
        points = exact[..., None] * directions + c2w[:3, :3].T @ c2w[:3, 3]
        steep = hit & (np.abs((points * directions).sum(-1) / 0.6) > 0.2)
        np.testing.assert_allclose(distance[steep], exact[steep], atol=3e-5)
        np.testing.assert_allclose(normals[steep], points[steep] / 0.6, atol=1e-4)
        assert (normals[~hit] == 0).all()
        # in the camera frame the normals of what is seen look back at the camera
        assert ((normals * directions).sum(-1)[steep] < 0).all()


@pytest.mark.parametrize("sdf", [torus(0.6, 0.15), box(0.6, 0.6, 0.01)], ids=["torus", "plate"])
def test_cones_end_in_front_of_what_their_rays_meet(sdf: Analytic) -> None:
    origins, axes = rays(300, 5)
    spread = torch.from_numpy(np.random.default_rng(5).uniform(1e-4, 5e-3, 300)).float()
    clear = clear_distance(sdf, origins, axes, spread)
    off = torch.from_numpy(np.random.default_rng(6).normal(size=(20, 300, 3))).float()
    off *= spread[:, None] / off.norm(dim=-1, keepdim=True) * 0.99
    directions = torch.nn.functional.normalize(axes + off, dim=-1)
    t = torch.linspace(0, 1, 400)[:, None, None]
    x = origins + t[..., None] * clear[:, None] * directions
    assert sdf(x.reshape(-1, 3)).min() > 0
    # and not much: about as far off as the cone is wide
    hits = shoot(sdf, origins, axes)
    missed = ~hits.mask & (clear > DISTANCE + 1.7)
    ended = sdf(origins + clear[:, None] * axes)
    assert 50 < missed.sum() < 250
    assert (ended < 3 * spread * clear)[~missed].all()


def test_what_a_plate_shows_is_what_each_ray_alone_meets() -> None:
    plate, (intrinsics, poses) = box(0.7, 0.5, 0.004), two_cameras()
    images = render_views(plate, intrinsics, poses, (31, 40), 100_000, CPU)
    for K, c2w, distance in zip(intrinsics, poses, images.distance, strict=True):
        local = ray_directions(pixel_grid(31, 40).reshape(-1, 3), np.linalg.inv(K))
        directions = torch.from_numpy(local @ c2w[:3, :3].T).float()
        origins = torch.from_numpy(c2w[:3, 3]).float().expand_as(directions)
        alone = shoot(plate, origins, directions).distance.numpy()
        np.testing.assert_allclose(distance.ravel(), alone, atol=2e-5)
        assert np.isfinite(distance).sum() > 100


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A capture of three views, poses of two of them, and a checkpoint that is a sphere."""
    masks = np.ones((3, 12, 16), bool)
    normals = np.zeros((3, 12, 16, 3), np.float32)
    normals[..., 2] = -1
    K = np.array([[110.0, 0, 8], [0, 110.0, 6], [0, 0, 1]])
    capture = Capture(normals, masks, np.tile(K, (3, 1, 1)), ("a", "b", "c"), "ball", None, 50.0)
    save_capture(tmp_path / "capture", capture)
    c2w = turntable(np.array([0.0, 1.0]), 0.4, DISTANCE)
    write_poses(tmp_path / "poses.json", Poses(("a", "c"), c2w))
    (tmp_path / "surface.safetensors").write_bytes(b"weights")
    module = SimpleNamespace(load_surface=lambda path, device: sphere(0.6))
    monkeypatch.setitem(sys.modules, "pmni.sdf.checkpoint", module)
    return tmp_path


def render_command(files, **changed):
    options = {
        "capture": files / "capture",
        "checkpoint": files / "surface.safetensors",
        "poses": files / "poses.json",
        "settings": '{"chunk": 50, "device": "cpu"}',
        "output": files / "renders",
    } | changed
    return ["render", *(str(word) for key in options for word in (f"--{key}", options[key]))]


def test_the_stage_writes_every_view_that_has_a_pose(files) -> None:
    assert main(render_command(files)) == 0
    names = {path.name for path in (files / "renders").iterdir()}
    assert names == {"a.exr", "a.png", "c.exr", "c.png", "depth.npz", "provenance.json"}
    depth = np.load(files / "renders/depth.npz")
    assert depth["views"].tolist() == ["a", "c"]
    assert depth["ray_distance"].shape == (2, 12, 16)
    # dataset units: 50 in a unit; the sphere's nearest point lies at 14.4
    assert np.nanmin(depth["ray_distance"]) == pytest.approx(50 * 14.4, abs=1e-2)
    normals = pyexr.read(str(files / "renders/a.exr"))
    hit = np.isfinite(depth["ray_distance"][0])
    assert (normals[~hit] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(normals[hit], axis=-1), 1, atol=1e-5)
    # files are x right, y up, z towards the camera
    assert (normals[hit][:, 2] > 0).all()
    assert normals[3, 8, 1] > 0.5
    assert normals[6, 11, 0] > 0.5
    said = json.loads((files / "renders/provenance.json").read_text())
    assert (said["stage"], said["device"], said["views"]) == ("render", "cpu", 2)


def test_the_stage_needs_a_pose_of_some_view(files, capsys: pytest.CaptureFixture[str]) -> None:
    write_poses(files / "other.json", Poses(("x",), np.eye(4)[None]))
    assert main(render_command(files, poses=files / "other.json")) == 2
    assert "no pose of any view" in capsys.readouterr().err
    assert not (files / "renders").exists()
