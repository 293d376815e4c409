"""Cameras in other software's formats, read back by readers written from the formats' documents."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fixtures.capture_files import OFFSET, SCALE, spheres, write_supernormal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pmni.cli.export import Result, choose
from pmni.cli.main import main
from pmni.data.capture import Capture, save_capture
from pmni.data.readers import read_capture
from pmni.data.readers.supernormal import decompose, read_cameras
from pmni.errors import InputError
from pmni.exporting.cameras import Cameras, Points, cameras_of, no_points, sample_surface
from pmni.exporting.colmap import quaternion, write_colmap
from pmni.exporting.nerfstudio import write_points, write_transforms
from pmni.exporting.neus import view_numbers, write_cameras_sphere
from pmni.exporting.picture import arrange, frusta, viewpoints
from pmni.exporting.shading import Viewpoint, shade
from pmni.geometry.cameras import look_at
from pmni.geometry.mesh import Mesh
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import Similarity
from pmni.io.ply import write_ply
from pmni.io.poses import read_poses, write_poses
from pmni.synthetic.raytrace import MeshSurface


# ------------------------------------------------------------------------------ readers of formats
def rotation_of(w, x, y, z):
    """The matrix of a unit quaternion, Hamilton's convention."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def lines_of(path):
    return [line for line in path.read_text().split("\n") if not line.startswith("#")]


def read_colmap(folder):
    """By image name: (width, height), (fx, fy, cx, cy), R, t; and the points with colours."""
    models = {}
    for line in filter(None, lines_of(folder / "cameras.txt")):
        number, model, width, height, *parameters = line.split()
        assert model == "PINHOLE"
        models[number] = (int(width), int(height)), [float(value) for value in parameters]
    found = {}
    lines = lines_of(folder / "images.txt")
    for line, features in zip(lines[0::2], lines[1::2], strict=False):
        assert features == ""
        _, *pose, camera, name = line.split()
        w, x, y, z, *t = map(float, pose)
        found[name] = (*models[camera], rotation_of(w, x, y, z), np.array(t))
    points = [line.split()[1:] for line in filter(None, lines_of(folder / "points3D.txt"))]
    assert all(len(point) == 7 for point in points)  # no tracks
    return found, models, np.array(points, float).reshape(-1, 7)


def project_colmap(camera, point):
    """Pixels, the first one's centre at (0.5, 0.5)."""
    _, (fx, fy, cx, cy), R, t = camera
    x, y, z = R @ point + t
    return np.array([fx * x / z + cx, fy * y / z + cy])


def project_nerfstudio(frame, point):
    """Pixels, the first one's centre at (0.5, 0.5); the camera looks along -z, y is up."""
    c2w = np.array(frame["transform_matrix"])
    x, y, z = c2w[:3, :3].T @ (point - c2w[:3, 3])
    return np.array([frame["fl_x"] * x / -z + frame["cx"], frame["fl_y"] * -y / -z + frame["cy"]])


def project_neus(path, number, point):
    """Pixels, the first one's centre at (0, 0), of a point of the normalised world."""
    with np.load(path) as archive:
        projection = archive[f"world_mat_{number}"] @ archive[f"scale_mat_{number}"]
    u, v, w, one = projection @ [*point, 1]
    assert one == 1
    return np.array([u / w, v / w])


# ---------------------------------------------------------------------------------- cases by hand
def one_camera(intrinsics=((100.0, 0, 30.0), (0, 90.0, 20.0), (0, 0, 1.0))):
    """At (10, 0, 0) in dataset units, looking along -x with z up: right is +y, down is -z."""
    c2w = look_at(np.array([10.0, 0, 0]), np.zeros(3))
    np.testing.assert_allclose(c2w[:3, :3], [[0, 0, -1], [1, 0, 0], [0, -1, 0]], atol=1e-15)
    return Cameras(("07",), (48, 64), np.array([intrinsics]), c2w[None], 2.0, np.array([0.5, 0, 0]))


# The point (0, 1, 2) has camera coordinates (1, -2, 10): right 1, up 2, 10 in front.
POINT = np.array([0.0, 1, 2])
PIXEL = np.array([100 * 0.1 + 30, -90 * 0.2 + 20])


def test_neus_by_hand(tmp_path):
    write_cameras_sphere(tmp_path / "cameras_sphere.npz", one_camera())
    with np.load(tmp_path / "cameras_sphere.npz") as archive:
        assert sorted(archive) == [
            "scale_mat_7", "scale_mat_inv_7", "world_mat_7", "world_mat_inv_7",
        ]  # fmt: skip
        expected = [[2, 0, 0, 0.5], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
        assert archive["scale_mat_7"].tolist() == expected
        for name in ("scale_mat", "world_mat"):
            product = archive[f"{name}_7"] @ archive[f"{name}_inv_7"]
            np.testing.assert_allclose(product, np.eye(4), atol=1e-12)
        u, v, w, _ = archive["world_mat_7"] @ [*POINT, 1]
    np.testing.assert_allclose([u, v, w], [400, 20, 10], atol=1e-12)
    normalised = (POINT - [0.5, 0, 0]) / 2
    pixel = project_neus(tmp_path / "cameras_sphere.npz", 7, normalised)
    np.testing.assert_allclose(pixel, PIXEL)


def test_colmap_by_hand(tmp_path):
    write_colmap(tmp_path, one_camera(), ["07.png"], Points(POINT[None], np.array([[0.0, 0, 1]])))
    assert lines_of(tmp_path / "cameras.txt") == ["1 PINHOLE 64 48 100 90 30.5 20.5", ""]
    image, features, _ = lines_of(tmp_path / "images.txt")
    number, *pose, camera, name = image.split()
    assert (number, camera, name, features) == ("1", "1", "07.png", "")
    # w2c takes x to -z, y to x, z to -y: a turn by 120 degrees about (1, 1, -1)
    expected = [0.5, 0.5, 0.5, -0.5, 0, 0, 10]
    np.testing.assert_allclose(np.array(pose, float), expected, atol=1e-12)
    assert lines_of(tmp_path / "points3D.txt") == ["1 0 1 2 128 128 255 -1", ""]
    found, _, _ = read_colmap(tmp_path)
    assert found["07.png"][0] == (64, 48)
    np.testing.assert_allclose(project_colmap(found["07.png"], POINT), PIXEL + 0.5)


def test_nerfstudio_by_hand(tmp_path):
    names = (["a/07.png"], ["m/07.png"], ["n/07.png"])
    write_transforms(tmp_path / "transforms.json", one_camera(), *names, "points.ply")
    content = json.loads((tmp_path / "transforms.json").read_text())
    (frame,) = content.pop("frames")
    assert content == {
        "camera_model": "PINHOLE",
        "applied_transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        "ply_file_path": "points.ply",
    }
    # columns: right (+y), up (+z), backwards (+x), position
    np.testing.assert_allclose(
        frame.pop("transform_matrix"),
        [[0, 0, 1, 10], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
        atol=1e-15,
    )
    assert frame == {
        "file_path": "a/07.png", "mask_path": "m/07.png", "normal_file_path": "n/07.png",
        "fl_x": 100, "fl_y": 90, "cx": 30.5, "cy": 20.5, "w": 64, "h": 48,
    }  # fmt: skip


def test_quaternion_has_its_real_part_first_and_not_negative():
    w2c = np.eye(4)
    assert quaternion(w2c).tolist() == [1, 0, 0, 0]
    w2c[:2, :2] = [[0, -1], [1, 0]]  # a quarter turn about z
    np.testing.assert_allclose(quaternion(w2c), [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    for rotation in Rotation.random(20, random_state=0).as_matrix():
        w2c[:3, :3] = rotation
        assert quaternion(w2c)[0] >= 0


# -------------------------------------------------------------------------------- any camera at all
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_every_format_sees_a_point_in_the_same_pixel_and_gives_the_poses_back(
    tmp_path_factory, seed
):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("exports")
    count = int(rng.integers(1, 5))
    views = tuple(f"{number:03d}" for number in range(count))
    intrinsics = np.zeros((count, 3, 3))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = rng.uniform(50, 5000, (2, count))
    intrinsics[:, :2, 2] = rng.uniform(-100, 900, (count, 2))
    intrinsics[:, 2, 2] = 1
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, :3] = Rotation.random(count, random_state=rng).as_matrix()
    scale, offset = float(rng.uniform(0.01, 500)), rng.normal(0, 100, 3)
    c2w[:, :3, 3] = offset - scale * 5 * c2w[:, :3, 2] + scale * rng.normal(0, 0.1, (count, 3))
    cameras = Cameras(views, (480, 640), intrinsics, c2w, scale, offset)
    point = rng.uniform(-0.5, 0.5, 3)
    in_dataset = scale * point + offset

    images = [f"{view}.png" for view in views]
    write_cameras_sphere(folder / "cameras_sphere.npz", cameras)
    write_transforms(folder / "transforms.json", cameras, images, images, images, None)
    write_colmap(folder, cameras, images, no_points())
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    found, _, points = read_colmap(folder)
    matrices, sphere = read_cameras(folder / "cameras_sphere.npz")
    assert len(points) == 0
    assert list(found) == images
    assert sphere.scale == scale
    assert np.array_equal(sphere.offset, offset)
    for index, image in enumerate(images):
        local = c2w[index, :3, :3].T @ (in_dataset - c2w[index, :3, 3])
        u, v, w = intrinsics[index] @ local
        expected = np.array([u, v]) / w
        pixel = project_neus(folder / "cameras_sphere.npz", index, point)
        np.testing.assert_allclose(pixel, expected, atol=1e-6)
        np.testing.assert_allclose(
            project_colmap(found[image], in_dataset), expected + 0.5, atol=1e-5
        )
        np.testing.assert_allclose(
            project_nerfstudio(frames[index], in_dataset), expected + 0.5, atol=1e-6
        )
        _, _, R, t = found[image]
        np.testing.assert_allclose(R.T, c2w[index, :3, :3], atol=1e-11)
        np.testing.assert_allclose(-R.T @ t, c2w[index, :3, 3], rtol=1e-9, atol=1e-7)
        opengl = np.array(frames[index]["transform_matrix"])
        np.testing.assert_allclose(opengl * [1, -1, -1, 1], c2w[index], atol=1e-12)
        K, pose = decompose(matrices[index], image)
        np.testing.assert_allclose(K, intrinsics[index], atol=1e-6)
        np.testing.assert_allclose(pose[:3, :3], c2w[index, :3, :3], atol=1e-9)
        np.testing.assert_allclose(pose[:3, 3], c2w[index, :3, 3], rtol=1e-8, atol=1e-6)


def test_views_of_the_same_intrinsics_share_a_camera(tmp_path):
    K = np.array([[100.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    other = np.array([[101.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    intrinsics = np.stack([K, other, K * (1 + 1e-15)])
    cameras = Cameras(
        ("0", "1", "2"), (48, 64), intrinsics, np.tile(np.eye(4), (3, 1, 1)), 1.0, np.zeros(3)
    )
    write_colmap(tmp_path, cameras, ["0.png", "1.png", "2.png"], no_points())
    found, models, _ = read_colmap(tmp_path)
    assert len(models) == 2
    assert [found[f"{i}.png"][1][0] for i in range(3)] == [100, 101, 100]


@pytest.mark.parametrize(
    ("views", "numbers"),
    [
        (("00", "01", "05"), [0, 1, 5]),
        (("view_01", "view_02"), [1, 2]),
        (("front", "back"), [0, 1]),
        (("a1", "b1"), [0, 1]),
    ],
)
def test_numbers_are_those_of_the_names(views, numbers):
    assert view_numbers(views) == numbers


# ------------------------------------------------------------------------------------------ points
def test_points_lie_on_the_surface_evenly_and_are_the_same_each_time():
    ball = trimesh.creation.icosphere(4, 50)
    points = sample_surface(np.array(ball.vertices), np.array(ball.faces), 5000)
    radius = np.linalg.norm(points.positions, axis=1)
    assert 49.8 < radius.min() < radius.max() <= 50
    outward = (points.positions / radius[:, None] * points.normals).sum(1)
    assert outward.min() > 0.99
    assert np.abs(points.positions.mean(0)).max() < 2
    again = sample_surface(np.array(ball.vertices), np.array(ball.faces), 5000)
    assert np.array_equal(points.positions, again.positions)


def test_point_cloud_is_a_ply_with_colours(tmp_path):
    points = Points(np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[1.0, 0, 0], [0, 0, -1]]))
    write_points(tmp_path / "p.ply", points)
    read = trimesh.load(tmp_path / "p.ply")
    assert np.asarray(read.vertices).tolist() == points.positions.tolist()
    assert np.asarray(read.colors)[:, :3].tolist() == [[255, 128, 128], [128, 128, 0]]


# ------------------------------------------------------------------------------------- the picture
def spheres_capture(reference=True):
    scene = spheres()
    return Capture(
        name="ball",
        views=tuple(f"{view:02d}" for view in range(5)),
        normals=scene.normals.astype(np.float32),
        masks=scene.masks,
        intrinsics=np.tile(scene.K, (5, 1, 1)),
        reference_c2w=scene.normalised_c2w if reference else None,
        scale=SCALE if reference else 1.0,
        offset=OFFSET if reference else np.zeros(3),
    )


GAUGE = Similarity(1.3, Rotation.from_rotvec([0.3, -0.2, 1.0]).as_matrix(), np.array([0.1, 0.2, 0]))


def test_the_picture_puts_everything_into_the_references_frame():
    capture = spheres_capture()
    truth = Poses(capture.views, capture.reference_c2w)
    moved = Poses(capture.views, GAUGE.move_cameras(capture.reference_c2w))
    cameras = cameras_of(capture, moved, Path("poses.json"))
    initial = cameras_of(capture, truth, Path("initial.json"))
    mesh = spheres().mesh
    vertices = np.asarray(mesh.vertices, float)
    gauge_vertices = capture.to_dataset(GAUGE(capture.to_normalised(vertices)))
    picture = arrange(capture, cameras, initial, Mesh(gauge_vertices, np.asarray(mesh.faces)))
    assert [drawn.label for drawn in picture.sets] == ["reference", "initial", "result"]
    for drawn in picture.sets[1:]:
        np.testing.assert_allclose(drawn.c2w, picture.sets[0].c2w, atol=1e-9)
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = np.linalg.norm(vertices - centre, axis=1).max()
    assert np.abs(picture.surface.mesh.vertices - (vertices - centre) / radius).max() < 1e-6
    far = np.linalg.norm(spheres().c2w[:, :3, 3] - centre, axis=1)
    near = np.linalg.norm(picture.sets[0].c2w[:, :3, 3], axis=1)
    np.testing.assert_allclose(near * picture.shortened * radius, far)


def test_all_frusta_and_the_surface_are_in_the_picture():
    capture = spheres_capture()
    cameras = cameras_of(capture, Poses(capture.views, capture.reference_c2w), Path("p.json"))
    mesh = spheres().mesh
    picture = arrange(
        capture, cameras, cameras, Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    )
    corners = frusta(picture.sets[-1].c2w, picture.aspect)
    for viewpoint in viewpoints(picture):
        for points in (corners, picture.surface.mesh.vertices):
            pixels, depth = viewpoint.project(points)
            assert pixels.min() > 0
            assert pixels.max() < viewpoint.side
            assert depth.min() > 0


def test_a_shaded_ball_is_a_disc_lit_from_the_left_above():
    ball = trimesh.creation.icosphere(4, 1.0)
    surface = MeshSurface(Mesh(np.asarray(ball.vertices), np.asarray(ball.faces)))
    K = np.array([[100.0, 0, 45], [0, 100, 40], [0, 0, 1]])
    image = shade(surface, Viewpoint(look_at(np.array([5.0, 0, 0]), np.zeros(3)), K, 90))
    v, u = np.mgrid[:90, :90]
    away = np.hypot(u - 45, v - 40)
    radius = 100 / np.sqrt(5**2 - 1)  # of the disc, in pixels
    assert (image[away < radius - 1.5, 3] == 1).all()
    assert (image[away > radius + 1.5] == 0).all()
    assert image[..., 3].sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    lit, dark = image[30, 35, :3], image[50, 55, :3]
    assert (lit > 1.5 * dark).all()


def test_a_frustum_has_its_apex_in_the_centre_and_its_roof_on_the_upper_side():
    corners = frusta(np.eye(4)[None], 2.0)[0]
    assert corners[0].tolist() == [0, 0, 0]
    width, height = np.ptp(corners[1:5, :2], axis=0)
    assert width / height == pytest.approx(2)
    assert (corners[1:, 2] > 0).all()
    assert (corners[5:, 1] < corners[1:5, 1].min()).all()  # y is down


# --------------------------------------------------------------------------------------- the stage
@pytest.fixture
def run_folder(tmp_path):
    """A capture, a result that lies in its own frame, where it began, and a mesh."""
    capture = spheres_capture()
    save_capture(tmp_path / "capture", capture)
    write_poses(tmp_path / "poses.json", Poses(capture.views, capture.reference_c2w))
    start = GAUGE.move_cameras(capture.reference_c2w)
    write_poses(tmp_path / "initial.json", Poses(capture.views, start))
    mesh = spheres().mesh
    write_ply(tmp_path / "mesh.ply", Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    return tmp_path


def export(folder, *more, poses="poses.json"):
    command = ["export", "--capture", str(folder / "capture"), "--poses", str(folder / poses)]
    return main([*command, *more, "--output", str(folder / "out")])


def test_the_exports_are_a_data_set_that_the_project_reads(run_folder):
    more = ["--mesh", str(run_folder / "mesh.ply"), "--points", "500"]
    assert export(run_folder, *more, "--initial-poses", str(run_folder / "initial.json")) == 0
    out = run_folder / "out"
    capture, _ = read_capture("supernormal", out, "ball", "normal_camera_space")
    scene = spheres()
    assert capture.views == ("00", "01", "02", "03", "04")
    assert np.array_equal(capture.masks, scene.masks)
    assert np.abs(capture.normals - scene.normals).max() < 1e-4
    np.testing.assert_allclose(capture.intrinsics, np.tile(scene.K, (5, 1, 1)), atol=1e-8)
    np.testing.assert_allclose(capture.reference_c2w, scene.normalised_c2w, atol=1e-9)
    assert capture.scale == SCALE
    np.testing.assert_allclose(capture.offset, OFFSET)

    poses = read_poses(out / "poses.json")
    np.testing.assert_allclose(poses.c2w, scene.c2w, atol=1e-9)
    np.testing.assert_allclose(poses.information["intrinsics"]["00"], scene.K)
    assert poses.information["image_size"] == [56, 48]
    found, models, points = read_colmap(out / "sparse/0")
    assert len(found) == 5
    assert len(models) == 1
    assert len(points) == 500
    content = json.loads((out / "transforms.json").read_text())
    for frame in content["frames"]:
        for key in ("file_path", "mask_path", "normal_file_path"):
            assert (out / frame[key]).is_file()
    assert (out / content["ply_file_path"]).is_file()
    assert (out / "cameras.png").read_bytes().startswith(b"\x89PNG")
    said = json.loads((out / "provenance.json").read_text())
    assert (said["stage"], said["views"], said["points"]) == ("export", 5, 500)
    assert said["left_out"] == {}


def test_a_data_set_that_lost_its_cameras_is_completed(run_folder, tmp_path):
    assert export(run_folder) == 0
    folder = write_supernormal(tmp_path / "lost", spheres(), cameras=False)
    bare, _ = read_capture("supernormal", folder, "ball", "normal_camera_space_x")
    assert bare.reference_c2w is None
    exported = (run_folder / "out/cameras_sphere.npz").read_bytes()
    (folder / "cameras_sphere.npz").write_bytes(exported)
    for normals in ("normal_camera_space_x", "normal_world_space_x"):
        capture, _ = read_capture("supernormal", folder, "ball", normals)
        np.testing.assert_allclose(capture.reference_c2w, spheres().normalised_c2w, atol=1e-9)


def test_without_mesh_and_reference_and_with_some_of_the_views(tmp_path):
    capture = spheres_capture(reference=False)
    save_capture(tmp_path / "capture", capture)
    c2w = spheres().normalised_c2w[[3, 1]]
    write_poses(tmp_path / "poses.json", Poses(("03", "01"), c2w))
    assert export(tmp_path) == 0
    back = read_poses(tmp_path / "out/poses.json")
    assert back.views == ("01", "03")
    np.testing.assert_allclose(back.c2w, c2w[::-1], atol=1e-12)
    again, _ = read_capture("supernormal", tmp_path / "out", "ball", "normal_camera_space")
    assert again.views == ("01", "03")
    assert again.scale == 1
    assert not (tmp_path / "out/points.ply").exists()
    assert "ply_file_path" not in (tmp_path / "out/transforms.json").read_text()


def test_one_camera_has_a_picture_too(run_folder):
    write_poses(run_folder / "one.json", Poses(("02",), spheres().normalised_c2w[2:3]))
    assert export(run_folder, poses="one.json") == 0


@pytest.mark.parametrize(("iteration", "chosen"), [(0, 0), (200, 1)])
def test_the_selected_candidate_is_exported(tmp_path, iteration, chosen):
    (tmp_path / "selection.json").write_text(json.dumps({"iteration": iteration}))
    poses, meshes = [Path("a.json"), Path("b.json")], [Path("a.ply"), Path("b.ply")]
    result = choose(poses, meshes, [0, 200], tmp_path / "selection.json")
    assert result == Result(poses[chosen], meshes[chosen], iteration)


# ------------------------------------------------------------------------------------------ errors
def test_a_skew_is_named_and_only_neus_holds_it(tmp_path):
    skewed = one_camera(((100.0, 0.5, 30.0), (0, 90.0, 20.0), (0, 0, 1.0)))
    for software, write in (
        ("COLMAP", lambda: write_colmap(tmp_path, skewed, ["07.png"], no_points())),
        ("nerfstudio", lambda: write_transforms(tmp_path / "t", skewed, ["a"], ["b"], ["c"], None)),
    ):
        with pytest.raises(InputError, match=rf"view 07: K has a skew of 0\.5, which {software}"):
            write()
    write_cameras_sphere(tmp_path / "c.npz", skewed)
    matrices, _ = read_cameras(tmp_path / "c.npz")
    assert decompose(matrices[7], "")[0][0, 1] == pytest.approx(0.5)


def test_the_stage_leaves_out_what_cannot_hold_the_cameras_and_says_so(run_folder, caplog):
    capture = spheres_capture()
    capture.intrinsics[:, 0, 1] = 0.5
    save_capture(run_folder / "capture", capture)
    with caplog.at_level("WARNING"):
        assert export(run_folder) == 0
    assert not (run_folder / "out/sparse").exists()
    assert not (run_folder / "out/transforms.json").exists()
    assert (run_folder / "out/cameras_sphere.npz").exists()
    assert "sparse is left out: view 00: K has a skew" in caplog.text
    left_out = json.loads((run_folder / "out/provenance.json").read_text())["left_out"]
    assert sorted(left_out) == ["sparse", "transforms.json"]


def test_colmap_takes_no_names_with_spaces(tmp_path):
    with pytest.raises(InputError, match="view 07: COLMAP cannot hold names with spaces"):
        write_colmap(tmp_path, one_camera(), ["view 07.png"], no_points())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mesh", "{}/no.ply"], r"no\.ply: not a mesh"),
        (["--points", "0"], "--points: must be 1 or more, not 0"),
        (["--initial-poses", "{}/other.json"], r"other\.json: has no pose of any view of 'ball'"),
        (["--initial-poses", "{}/no.json"], r"no\.json: cannot be read"),
        (["--selection", "{}/s.json"], "several --poses need --iterations and --selection"),
        (["--selection", "{}/s.json", "--iterations", "0"], r"s\.json: 'iteration' must be one of"),
        (["--selection", "{}/no.json", "--iterations", "0"], r"no\.json: cannot be read"),
        (["--iterations", "0", "1"], "--iterations: 2 numbers for the 1 of --poses"),
        (["--mesh", "a.ply", "b.ply"], "--mesh: 2 files for the 1 of --poses"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(run_folder, capsys, more, message):
    write_poses(run_folder / "other.json", Poses(("x",), np.eye(4)[None]))
    (run_folder / "s.json").write_text('{"iteration": 7}')
    assert export(run_folder, *(word.format(run_folder) for word in more)) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (run_folder / "out").exists()
