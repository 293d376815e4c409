"""What makes synthetic captures worse: wrong masks, shading, rigs, order, and poses kept apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from pmni.cli.main import main
from pmni.data.readers import read_capture
from pmni.errors import InputError
from pmni.geometry.mesh import Mesh
from pmni.io.images import read_mask, read_normal_map
from pmni.synthetic.camera_rig import handheld_poses, intrinsics, turntable_poses
from pmni.synthetic.mask_errors import extrapolate, perturb_mask
from pmni.synthetic.mesh_surface import MeshSurface
from pmni.synthetic.noise import angle_between
from pmni.synthetic.rendering import render
from pmni.synthetic.shading import MutualVisibility, shading_errors


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --------------------------------------------------------------------------- masks
RADIUS = 60.0
SECTORS = 48


def disc(size: int = 200) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(x, y) < RADIUS


def displacement(mask: np.ndarray) -> np.ndarray:
    """How far the contour of a disc is moved outwards, in sectors: A = (R + d)^2 angle / 2."""
    y, x = np.indices(mask.shape) - (mask.shape[0] - 1) / 2
    sector = np.floor((np.arctan2(y, x) / (2 * np.pi) % 1) * SECTORS).astype(int)
    areas = [np.bincount(sector[m], minlength=SECTORS) for m in (mask, disc())]
    return np.sqrt(RADIUS**2 * areas[0] / areas[1]) - RADIUS


class TestMasks:
    def test_exact_masks_stay(self):
        np.testing.assert_array_equal(perturb_mask(disc(), 0.0, 0.0, rng()), disc())

    @pytest.mark.parametrize("pixels", [1.0, 2.0])
    def test_offsets_are_shared_by_the_contour_and_zero_on_average(self, pixels):
        moved = np.stack(
            [displacement(perturb_mask(disc(), pixels, 0.0, rng(seed))) for seed in range(80)]
        )
        offset = moved.mean(1)
        assert offset.std() == pytest.approx(pixels, rel=0.2)
        assert abs(offset.mean()) < 3 * pixels / np.sqrt(80)
        assert (moved - offset[:, None]).std() < 0.3  # the pixels' grid

    @pytest.mark.parametrize("pixels", [1.0, 2.0])
    def test_ragged_edges_have_the_deviation_asked_for(self, pixels):
        moved = np.stack(
            [displacement(perturb_mask(disc(), 0.0, pixels, rng(seed))) for seed in range(40)]
        )
        # a sector is 7.9 pixels wide, so its mean is steadier than a point: for a correlation of
        # exp(-d^2 / 4 s^2), s = 4, by a factor of 0.93
        assert moved.std() == pytest.approx(0.93 * pixels, rel=0.1)
        assert abs(moved.mean()) < 0.15 * pixels

    def test_ragged_edges_are_smooth_along_the_contour(self):
        mask = perturb_mask(disc(), 0.0, 2.0, rng(3))
        moved = displacement(mask)
        assert np.std(np.diff(moved)) < moved.std()  # sqrt(2) of it if neighbours were independent
        assert label(mask)[1] == label(~mask)[1] == 1

    def test_an_empty_mask_stays_empty(self):
        assert not perturb_mask(np.zeros((20, 30), bool), 2.0, 2.0, rng()).any()

    def test_outside_is_the_nearest_inside(self):
        image = np.arange(12.0).reshape(3, 4)[..., None] * [1.0, 2.0]
        mask = np.zeros((3, 4), bool)
        mask[1, 1] = mask[1, 2] = True
        found = extrapolate(image, mask)
        np.testing.assert_array_equal(found[..., 0], [[5, 5, 6, 6]] * 3)
        np.testing.assert_array_equal(found[..., 1], 2 * found[..., 0])


# --------------------------------------------------------------------------- shading
def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(
        np.array(shape.vertices),
        np.array(shape.faces, np.int64),
        exact_normals=np.array(shape.vertex_normals),
    )


def ball() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(4, 80.0))


def torus() -> Mesh:
    return mesh_of(trimesh.creation.torus(55.0, 25.0, major_sections=128, minor_sections=64))


def bowl() -> Mesh:
    """A thick half shell, open at the top: radii 60 and 80 mm."""
    angle = np.linspace(0, np.pi / 2, 40)
    arc = np.stack([np.sin(angle), -np.cos(angle)], 1)
    profile = np.concatenate([80 * arc, 60 * arc[::-1]])
    return mesh_of(trimesh.creation.revolve(profile, sections=96))


def seen(mesh: Mesh, points, normals) -> np.ndarray:
    return MutualVisibility(mesh).mean_visible_normal(
        np.array(points, float), np.array(normals, float)
    )


class TestInterreflection:
    def test_a_convex_body_sees_only_sky(self):
        mesh = ball()
        assert not seen(mesh, mesh.vertices, mesh.normals).any()

    def test_a_torus_sees_itself_in_its_hole(self):
        """Inside, the wall across the hole: opposite normals. Outside: sky."""
        found = seen(
            torus(), [[30, 0, 0], [80, 0, 0], [0, -30, 0]], [[-1, 0, 0], [1, 0, 0], [0, 1, 0]]
        )
        assert found[0, 0] > 0.08
        assert found[2, 1] < -0.08
        np.testing.assert_array_equal(found[1], 0)

    def test_every_place_in_a_bowl_sees_the_same(self):
        """Inside a sphere the form factor between any two places is dA / 4 pi R^2, so b is the
        mean normal of the half that is there, halved: (0, 0, 1/2) / 2."""
        angle = np.deg2rad([0, 25, 50, 70])
        normals = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)
        found = seen(bowl(), -60 * normals, normals)
        np.testing.assert_allclose(found, np.tile([0, 0, 0.25], (4, 1)), atol=0.02)

    def test_concavities_get_flatter(self):
        """Normals inside the bowl turn towards its opening."""
        angle = np.deg2rad(50)
        normal = np.array([-np.sin(angle), 0, np.cos(angle)])
        bent = normal + seen(bowl(), [-60 * normal], [normal])[0]
        bent /= np.linalg.norm(bent)
        assert bent[2] > normal[2] + 0.02


class TestShadows:
    def test_attached_and_cast(self):
        light = np.array([np.sin(1.0), 0, np.cos(1.0)])
        around = MutualVisibility(ball())
        normals = ball().normals
        shadow = around.in_shadow(ball().vertices, normals, light)
        np.testing.assert_array_equal(shadow, normals @ light < 0.05)
        around = MutualVisibility(bowl())
        points = np.array([[40, 0, -44.7], [-40, 0, -44.7], [0, 0, -60]])
        up = np.array([0, 0, 1.0])
        normals = -points / 60
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        found = around.in_shadow(points * 0.999, normals, np.array([0.9, 0, np.sqrt(0.19)]))
        assert found.tolist() == [True, False, True]  # attached, lit, cast
        assert not around.in_shadow(points * 0.999, normals, up).any()


@pytest.fixture(scope="module")
def views_of():
    """name -> views of a mesh from 4 sides, and their poses."""

    def make(mesh: Mesh):
        c2w = turntable_poses(4, np.deg2rad(40), 1500.0, 0.0, rng())
        return list(render(MeshSurface(mesh), intrinsics(72, 86), c2w, 72, 86)), c2w

    return make


def angles(views, wrong) -> list[np.ndarray]:
    pairs = zip(views, wrong, strict=True)
    return [np.rad2deg(angle_between(n[v.mask], v.normals[v.mask])) for v, n in pairs]


class TestShading:
    @settings(max_examples=3, deadline=None)
    @given(degrees=st.floats(1.0, 6.0), seed=st.integers(0, 100))
    def test_the_mean_over_all_views_is_as_asked(self, degrees, seed, views_of):
        views, c2w = views_of(bowl())
        wrong = shading_errors(views, c2w, bowl(), np.deg2rad(degrees), rng(seed))
        assert np.concatenate(angles(views, wrong)).mean() == pytest.approx(degrees, rel=0.02)
        for view, normals in zip(views, wrong, strict=True):
            np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), view.mask, atol=1e-9)
            assert (normals * view.rays).sum(-1)[view.mask].max() < 0

    def test_the_lit_side_of_a_ball_is_right(self, views_of):
        views, c2w = views_of(ball())
        wrong = shading_errors(views, c2w, ball(), np.deg2rad(1.0), rng(1))
        azimuth = rng(1).uniform(0, 2 * np.pi)
        flat = np.sin(np.deg2rad(50))
        light = [flat * np.cos(azimuth), flat * np.sin(azimuth), -np.cos(np.deg2rad(50))]
        for view, found in zip(views, angles(views, wrong), strict=True):
            lit = (view.normals @ light)[view.mask] > 0.06
            assert found[lit].max() < 1e-5
            assert found[~lit].max() > 20

    def test_shadows_are_wrong_in_patches(self, views_of):
        views, c2w = views_of(ball())
        wrong = shading_errors(views, c2w, ball(), np.deg2rad(2.0), rng(2))
        outlier = np.zeros((len(views), *views[0].mask.shape), bool)
        outlier[np.stack([view.mask for view in views])] = np.concatenate(angles(views, wrong)) > 1
        inner = outlier[:, 1:-1, 1:-1]
        rows = outlier[:, :-2, 1:-1] | outlier[:, 2:, 1:-1]
        columns = outlier[:, 1:-1, :-2] | outlier[:, 1:-1, 2:]
        assert inner.sum() > 100
        assert (inner & ~rows & ~columns).sum() < 0.05 * inner.sum()

    def test_what_cannot_be_reached_is_said(self, views_of):
        views, c2w = views_of(ball())
        with pytest.raises(InputError, match=r"cannot make this object's normals 40\.0 degrees"):
            shading_errors(views, c2w, ball(), np.deg2rad(40.0), rng())


# --------------------------------------------------------------------------- rigs
def test_handheld_cameras_are_in_their_ranges():
    c2w = np.concatenate([handheld_poses(20, 1500.0, 0.0, rng(seed)) for seed in range(30)])
    x, y, z = c2w[:, :3, 3].T
    distance = np.linalg.norm(c2w[:, :3, 3], axis=1)
    elevation = np.rad2deg(np.arcsin(z / distance))
    assert 5 <= elevation.min() < 6
    assert 49 < elevation.max() <= 50
    assert 1425 <= distance.min() < 1430
    assert 1570 < distance.max() <= 1575
    level = np.cross(c2w[:, :3, 2], [0, 0, 1.0])
    level /= np.linalg.norm(level, axis=1, keepdims=True)
    roll = np.rad2deg(np.arccos(np.clip((level * c2w[:, :3, 0]).sum(1), -1, 1)))
    assert 19 < roll.max() <= 20.001
    azimuths = np.unwrap(np.arctan2(y, x).reshape(30, 20), axis=1)
    step = np.rad2deg(np.abs(np.diff(azimuths)))
    assert step.min() < 8
    assert 28 < step.max() < 31
    assert len({np.sign(s) for s in np.diff(azimuths).ravel()}) == 1


# --------------------------------------------------------------------------- the stage
SETTINGS = {
    "scene": "blob", "views": 5, "height": 48, "width": 58, "pose_jitter": 1.0,
    "normal_noise": 4.0, "seed": 7,
}  # fmt: skip
NOISY = "normal_camera_space_noisy"


def made(output: Path, **changes) -> Path:
    settings = json.dumps(SETTINGS | changes)
    assert main(["synthesize", "--settings", settings, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("plain") / "blob")


@pytest.fixture(scope="module")
def worst(tmp_path_factory) -> Path:
    """Everything at once."""
    return made(
        tmp_path_factory.mktemp("worst") / "blob", shuffle=True, known_poses=False,
        shading_error=2.0, mask_offset=1.0, mask_jitter=1.0,
    )  # fmt: skip


def truth(folder: Path) -> dict:
    return json.loads((folder / "gt/scene.json").read_text())


class TestShuffledViews:
    def test_everything_follows_the_permutation(self, plain, worst):
        order = truth(worst)["order"]
        assert sorted(order) == list(range(5))
        assert order != sorted(order)
        poses = np.array(truth(plain)["poses_c2w"])[order]
        np.testing.assert_array_equal(truth(worst)["poses_c2w"], poses)
        depths = [np.load(folder / "gt/depth.npz")["depth"] for folder in (plain, worst)]
        np.testing.assert_array_equal(depths[0][order], depths[1])
        for view, was in enumerate(order):
            for kind in ("normal_camera_space_GT",):
                there, here = plain / kind / f"{was:02d}.exr", worst / kind / f"{view:02d}.exr"
                np.testing.assert_array_equal(read_normal_map(there), read_normal_map(here))

    def test_without_it_the_order_is_not_mentioned(self, plain):
        assert "order" not in truth(plain)


class TestHiddenPoses:
    def test_nothing_but_gt_tells_them(self, worst):
        made = {str(path.relative_to(worst)) for path in worst.rglob("*") if path.is_file()}
        outside = {name for name in made if not name.startswith("gt/")}
        images = {
            f"{kind}/{view:02d}.{suffix}"
            for view in range(5)
            for kind, suffix in (
                ("mask", "png"), ("normal_camera_space_GT", "exr"), (NOISY, "exr"),
            )
        }  # fmt: skip
        assert outside == images | {"K.txt", "scene.json", "provenance.json"}
        assert made - outside == {
            f"gt/{name}"
            for name in ("cameras_sphere.npz", "mesh_Gt.ply", "depth.npz", "scene.json")
        }
        for name in ("scene.json", "provenance.json"):
            text = (worst / name).read_text()
            assert "c2w" not in text
            assert "order" not in text.replace("reorder", "")

    def test_a_capture_has_them_for_evaluation(self, worst, tmp_path):
        capture, files = read_capture("supernormal", worst, "blob", NOISY)
        scale = np.array(truth(worst)["poses_c2w"])
        scale[:, :3, 3] /= 100
        np.testing.assert_allclose(capture.reference_c2w, scale, atol=1e-9)
        assert capture.ground_truth_vertices is not None
        assert "gt/cameras_sphere.npz" in files
        blind = tmp_path / "blind"
        shutil.copytree(worst, blind)
        shutil.rmtree(blind / "gt")
        without, _ = read_capture("supernormal", blind, "blob", NOISY)
        assert without.reference_c2w is None
        assert without.ground_truth_vertices is None
        for name in ("normals", "masks", "intrinsics"):
            np.testing.assert_array_equal(getattr(capture, name), getattr(without, name))

    def test_poses_in_gt_do_not_turn_world_normals(self, plain, tmp_path):
        folder = tmp_path / "blob"
        shutil.copytree(plain, folder)
        (folder / "cameras_sphere.npz").rename(folder / "gt/cameras_sphere.npz")
        with pytest.raises(InputError, match="world-space normals need poses"):
            read_capture("supernormal", folder, "blob", "normal_world_space_noisy")

    def test_own_layout(self, plain, tmp_path):
        folder = tmp_path / "vase"
        shutil.copytree(plain / NOISY, folder / "normals")
        shutil.copytree(plain / "mask", folder / "masks")
        shutil.copy(plain / "K.txt", folder)
        (folder / "gt").mkdir()
        shutil.copy(plain / "mesh_Gt.ply", folder / "gt")
        poses = {f"{view:02d}": pose for view, pose in enumerate(truth(plain)["poses_c2w"])}
        (folder / "gt/poses.json").write_text(json.dumps({"camera_to_world": poses}))
        capture, files = read_capture("custom", folder, "vase", "normals")
        assert capture.reference_c2w is not None
        assert capture.ground_truth_vertices is not None
        assert {"gt/poses.json", "gt/mesh_Gt.ply"} <= set(files)


class TestMeasuredImages:
    def test_normals_cover_the_wrong_mask(self, worst, plain):
        changed = 0
        for view, was in enumerate(truth(worst)["order"]):
            mask = read_mask(worst / f"mask/{view:02d}.png")
            true = read_mask(plain / f"mask/{was:02d}.png")
            normals = read_normal_map(worst / NOISY / f"{view:02d}.exr")
            np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), mask, atol=2e-3)
            changed += (mask ^ true).sum()
        assert changed > 50

    def test_masks_alone(self, plain, tmp_path):
        """Noise and cameras stay; normals and depth go on outside the true mask."""
        folder = made(tmp_path / "out", mask_offset=1.5)
        for view in range(5):
            name = f"{view:02d}"
            mask, true = (read_mask(f / f"mask/{name}.png") for f in (folder, plain))
            both = mask & true
            normals = [read_normal_map(f / NOISY / f"{name}.exr") for f in (folder, plain)]
            np.testing.assert_array_equal(normals[0][both], normals[1][both])
            depth = np.load(folder / f"integration/perspective/{name}.npy")
            np.testing.assert_array_equal(np.isfinite(depth), mask)
        read_capture("supernormal", folder, "blob", NOISY)

    def test_shading_alone_has_its_mean(self, tmp_path):
        folder = made(tmp_path / "out", normal_noise=0.0, shading_error=3.0)
        scene = json.loads((folder / "scene.json").read_text())
        weights = np.array(scene["covered"])
        mean = (weights * scene["normal_error_deg"]).sum() / weights.sum()
        assert mean == pytest.approx(3.0, rel=0.02)
