"""Training that starts from a grid surface: correction, held-out pixels, poses, selection."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, sphere
from fixtures.training import TINY, changed, run, sphere_capture
from scipy.spatial.transform import Rotation

from pmni.cli.main import main
from pmni.cli.training_store import load_state, save_state
from pmni.config.refinement import RefineSettings
from pmni.config.training import FieldSettings, SelectionSettings
from pmni.data.capture import save_capture
from pmni.data.heldout import BLOCK, heldout_blocks
from pmni.data.views import Views
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.poses import read_poses, write_poses
from pmni.refinement.correction import corrected
from pmni.refinement.observations import load_observations
from pmni.refinement.pose_step import pose_step
from pmni.sdf.checkpoint import load_surface, save_band, save_surface
from pmni.sdf.narrow_band import resample
from pmni.sdf.network import NeuralSDF
from pmni.sdf.rendering import render_views
from pmni.sdf.residual import ResidualSDF
from pmni.training.gauss_newton_poses import GaussNewtonPoses
from pmni.training.heldout import heldout_angles, heldout_errors, heldout_pixels
from pmni.training.patches import PatchSampler
from pmni.training.rng import StepRng
from pmni.training.selection import BlockErrors, gain, select
from pmni.training.trainer import Trainer

CPU = torch.device("cpu")
BALLS = (
    sphere(0.4), sphere(0.25, (0.35, 0.1, 0.1)), sphere(0.2, (-0.1, -0.35, 0.25)),
    sphere(0.2, (0.0, 0.1, 0.45)),
)  # fmt: skip
# Smoothly joined.
BODY = Analytic(lambda x: -torch.stack([-15 * ball(x) for ball in BALLS]).logsumexp(0) / 15)


@pytest.fixture(scope="module")
def body():
    """Exact normals and masks of four smoothly joined balls, and their surface on a grid."""
    capture, _ = sphere_capture(views=8)
    height, width = capture.masks.shape[1:]
    images = render_views(
        BODY, capture.intrinsics, capture.reference_c2w, (height, width), 1 << 16, CPU
    )
    masks = (images.normals != 0).any(-1)
    surface = resample(BODY, 64, CPU, 6)
    return replace(capture, name="body", normals=images.normals, masks=masks), surface


def views_of(capture, heldout):
    distances = np.full(capture.masks.shape, np.nan, np.float32)
    return Views.of(capture, distances, heldout=heldout)


def poses_of(capture):
    return torch.tensor(capture.reference_c2w, dtype=torch.float32)


def error_of(sdf, pixels, c2w):
    return float(heldout_angles(sdf, pixels, c2w).double().mean())


def turned(c2w, degrees):
    """Each camera turned about the origin by so much, about random axes."""
    axes = np.random.default_rng(0).normal(size=(len(c2w), 3))
    axes *= np.deg2rad(degrees) / np.linalg.norm(axes, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(axes).as_matrix()
    moved = c2w.copy()
    moved[:, :3] = turn @ c2w[:, :3]
    return moved


# ---------------------------------------------------------------------------------- held out
def test_blocks_are_whole_seen_and_the_right_number():
    masks = np.zeros((3, 50, 70), bool)
    masks[:, 9:41, 17:60] = True
    blocks = heldout_blocks(masks, 0.1)
    assert np.array_equal(blocks, heldout_blocks(masks.copy(), 0.1)), "always the same"
    assert not np.array_equal(blocks[0], blocks[1]), "views differ"
    starts = blocks[:, ::BLOCK, ::BLOCK]
    assert np.array_equal(blocks, starts.repeat(BLOCK, 1).repeat(BLOCK, 2)[:, :50, :70])
    assert starts.sum((1, 2)).tolist() == [3, 3, 3], "a tenth of 5 x 6 blocks"
    assert (masks & blocks).any((1, 2)).all()
    assert heldout_blocks(masks, 0.001).any((1, 2)).all(), "at least one"
    assert not heldout_blocks(masks, 0.0).any()


def test_a_view_is_held_out_alike_whichever_others_are_excluded(body):
    capture, _ = body
    distances = np.zeros(capture.masks.shape, np.float32)
    all_views = Views.of(capture, distances, heldout=0.2)
    some = Views.of(capture, distances, ("01",), 0.2)
    assert torch.equal(some.excluded_pixels[1], all_views.excluded_pixels[2])


def test_held_out_pixels_are_never_drawn(body):
    capture, _ = body
    views = views_of(capture, 0.3)
    sampler = PatchSampler(views, 3, 3, 0.25)
    batch = sampler.draw(5000, StepRng(0, torch.tensor(0)))
    column, row = batch.pixels.unbind(-1)
    assert not views.excluded_pixels[batch.view[:, None, None], row, column].any()
    drawn = torch.zeros_like(views.excluded_pixels)
    drawn[batch.view[:, None, None], row, column] = True
    assert drawn.sum() > 0.5 * (~views.excluded_pixels & (views.masks > 0)).sum(), "others are"


def test_refinement_leaves_the_same_pixels_out(body):
    capture, _ = body
    blocks = heldout_blocks(capture.masks, 0.3)
    measured = load_observations(capture, (), CPU, heldout=0.3)
    view = torch.bucketize(torch.arange(len(measured.pixels)), measured.first_pixel[1:], right=True)
    column, row = measured.pixels.T
    assert not blocks[view, row, column].any()
    assert len(measured.pixels) == (capture.masks & ~blocks).sum()
    everything = load_observations(capture, (), CPU)
    assert 0 < len(measured.contour) < len(everything.contour)


def test_the_error_is_zero_for_the_truth_and_the_angle_for_turned_normals():
    capture, _ = sphere_capture()
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    assert len(pixels.view) > 100
    truth = sphere(0.5)
    assert error_of(truth, pixels, poses_of(capture)) < 0.05
    assert error_of(resample(truth, 64, CPU, 6), pixels, poses_of(capture)) < 0.5
    turn = Rotation.from_rotvec([0.0, 0.0, np.deg2rad(5)]).as_matrix().astype(np.float32)
    wrong = replace(capture, normals=capture.normals @ turn.T)
    sine = np.linalg.norm(pixels.normal[:, :2].numpy(), axis=-1)
    expected = np.rad2deg(2 * np.arcsin(np.sin(np.deg2rad(2.5)) * sine)).mean()
    found = error_of(truth, heldout_pixels(views_of(wrong, 0.3), 2), poses_of(capture))
    assert found == pytest.approx(expected, abs=0.02)


def test_rays_that_miss_count_as_a_right_angle(body):
    capture, _ = body
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    nothing = sphere(0.01, (0.9, 0.9, 0.9))
    assert error_of(nothing, pixels, poses_of(capture)) == pytest.approx(90)


def test_errors_are_summed_block_by_block(body):
    capture, surface = body
    pixels = heldout_pixels(views_of(capture, 0.3), 2)
    angles = heldout_angles(surface, pixels, poses_of(capture)).double().numpy()
    found = heldout_errors(surface, pixels, poses_of(capture))
    assert found.counts.sum() == len(angles)
    assert found.counts.max() <= BLOCK**2
    assert found.mean == pytest.approx(angles.mean())
    blocks = heldout_blocks(capture.masks, 0.3)[:, ::BLOCK, ::BLOCK]
    assert 0.5 * blocks.sum() < len(found.counts) <= blocks.sum()
    v, y, x = np.argwhere(blocks)[len(found.counts) // 2]
    inside = (pixels.view == int(v)).numpy()
    K = torch.tensor(capture.intrinsics[v], dtype=torch.float32)
    m = pixels.direction / pixels.direction[:, 2:] @ K.T
    u, w, _ = m.round().long().numpy().T
    inside &= (u // BLOCK == x) & (w // BLOCK == y)
    assert inside.any()
    (number,) = np.unique(pixels.block[torch.from_numpy(inside)])
    assert found.sums[number] == pytest.approx(angles[inside].sum())


SETTINGS = SelectionSettings()
COUNTS = np.array([4, 2, 2])
BEFORE = BlockErrors(np.array([20.0, 10.0, 12.0]), COUNTS)


def test_the_gain_and_its_standard_error_by_hand():
    # Differences 4, 1, 0 of 8 pixels: 5 / 8. From 5 / 8 a pixel they are 1.5, -0.25, -1.25 off,
    # whose squares sum to 3.875; sqrt(3 / 2 * 3.875) / 8.
    found = gain(BEFORE, BlockErrors(np.array([16.0, 9.0, 12.0]), COUNTS))
    assert found.value == pytest.approx(0.625)
    assert found.standard_error == pytest.approx(0.3013638, abs=1e-6)
    one = BlockErrors(np.array([20.0]), np.array([4]))
    assert gain(one, BlockErrors(np.array([16.0]), np.array([4]))).standard_error is None


@pytest.mark.parametrize(
    ("sums", "chosen"),
    [((16, 9, 12), 40),  # 0.625, 2.07 standard errors
     ((16, 10, 12), 0),  # 0.5, 1.33 standard errors
     ((20, 10, 12), 0), ((24, 12, 14), 0), ((16, 8, 10), 40)],
)  # fmt: skip
def test_the_last_is_chosen_only_if_it_is_significantly_better_than_the_first(sums, chosen):
    after = BlockErrors(np.array(sums, float), COUNTS)
    better = BlockErrors(BEFORE.sums / 2, COUNTS)
    selection = select({0: BEFORE, 20: better, 40: after}, 40, SETTINGS).to_json()
    assert selection["iteration"] == chosen
    assert selection["heldout_error_deg"] == {0: 5.25, 20: 2.625, 40: sum(sums) / 8}
    assert selection["heldout_gain_deg"] == pytest.approx(5.25 - sum(sums) / 8)
    assert selection["heldout_blocks"] == 3


@pytest.mark.parametrize(("after", "chosen"), [(5.995, 0), (5.99, 40)])
def test_a_gain_that_no_mesh_shows_is_none(after, chosen):
    before = BlockErrors(np.full(100, 6.0), np.ones(100, int))
    errors = {0: before, 40: BlockErrors(np.full(100, after), np.ones(100, int))}
    assert select(errors, 40, SETTINGS).iteration == chosen


def test_nothing_to_compare_with_leaves_the_last():
    assert select({}, 40, SETTINGS).to_json() == {"iteration": 40, "heldout_error_deg": {}}
    assert select({40: BEFORE}, 40, SETTINGS).to_json() == {
        "iteration": 40,
        "heldout_error_deg": {40: 5.25},
    }


# -------------------------------------------------------------------------------- correction
@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_correction_begins_at_nothing_and_can_be_saved(body, tmp_path, weight_norm):
    _, surface = body
    field = FieldSettings(levels=4, log2_entries=10, base_resolution=8, weight_norm=weight_norm)
    network = NeuralSDF(field, seed=3)
    network.zero_init(seed=3)
    both = ResidualSDF(surface, network)
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert network(x).abs().max() < 1e-4 * surface.grid.spacing
    assert (network(x) > 0).any()
    assert (network(x) < 0).any()
    (slope,) = torch.autograd.grad(both(x).sum(), network.layers[-1].bias)
    assert slope.abs() > 0
    with torch.no_grad():
        network.layers[-1].bias += 0.125
        torch.testing.assert_close(both(x), surface(x) + 0.125, atol=1e-5, rtol=0)
        value, gradient = both.value_and_gradient(x)
    torch.testing.assert_close(value, both(x))
    torch.testing.assert_close(gradient, surface.value_and_gradient(x)[1], atol=1e-3, rtol=0)
    save_surface(tmp_path / "s.safetensors", both, field, 7)
    again = load_surface(tmp_path / "s.safetensors", CPU)
    assert isinstance(again, ResidualSDF)
    assert torch.equal(again(x), both(x))


def from_surface(body, **changes):
    capture, surface = body
    settings = changed(TINY, heldout=0.1, **changes)
    measurements = load_observations(capture, (), CPU, heldout=0.1)
    steps = GaussNewtonPoses(measurements, surface.grid.cells, 4)
    moving = settings.poses.method == "gauss_newton"
    start = torch.tensor(turned(capture.reference_c2w, 1.0), dtype=torch.float32)
    return Trainer(views_of(capture, 0.1), start, settings, surface, steps if moving else None)


def test_training_starts_with_the_surface_and_stays_near_it(body):
    trainer = from_surface(body)
    assert trainer.warm_start() is None
    _, surface = body
    x = surface.grid.positions()[surface.values.abs() < surface.grid.spacing]
    torch.testing.assert_close(trainer.surface(x), surface(x), atol=1e-5, rtol=0)
    report = trainer.step()
    assert trainer.network.active == TINY.field.levels, "no coarse start"
    assert {"normal", "mask", "eikonal", "correction"} == set(report.terms)
    run(trainer, 11)
    moved = (trainer.surface(x) - surface(x)).abs().mean()
    assert 0 < moved < 0.3 * surface.grid.spacing


@pytest.mark.parametrize("method", ["adam", "gauss_newton", "fixed"])
def test_resuming_is_exact(body, tmp_path, method):
    changes = {"poses": {"method": method, "every": 6}}
    whole = from_surface(body, **changes)
    whole.warm_start()
    straight = run(whole, 7)
    first = from_surface(body, **changes)
    first.warm_start()
    begun = run(first, 3)
    save_state(tmp_path / "state.pt", first.state())
    second = from_surface(body, **changes)
    second.restore(load_state(tmp_path / "state.pt", CPU))
    assert begun + run(second, 4) == straight
    assert torch.equal(whole.poses(), second.poses())
    assert torch.equal(whole.poses(), whole.poses.initial) == (method == "fixed")


# ------------------------------------------------------------------------------------- poses
def pose_errors(capture, c2w):
    """Degrees that each camera is turned from where it should be; the surface fixes the frame."""
    return rotation_angle_deg(np.asarray(c2w)[:, :3, :3], capture.reference_c2w[:, :3, :3])


def test_steps_of_the_poses_alone_converge_to_the_truth(body):
    capture, surface = body
    measurements = load_observations(capture, (), CPU)
    c2w = torch.tensor(turned(capture.reference_c2w, 3.0))
    errors = [pose_errors(capture, c2w).mean()]
    for seed in range(5):
        c2w = pose_step(measurements, surface, c2w, RefineSettings(seed=seed, pixels=800))
        errors.append(pose_errors(capture, c2w).mean())
    assert errors[0] == pytest.approx(3.0)
    assert errors[1] < 0.25 * errors[0], "most of the way in one step"
    assert errors[-1] < 0.5, "of the size of the draws' noise"


# ----------------------------------------------------------------------- what refinement found
def test_normals_and_focal_lengths_are_corrected_as_refinement_found(body):
    capture, surface = body
    bias = np.zeros((8, 3, 3))
    bias[2, 2, 0] = 0.1  # view 2: about the viewing axis
    names = capture.views
    information = {
        "flattening": 0.0,
        "focal_factor": 1.01,
        "normal_bias": dict(zip(names, bias.tolist(), strict=True)),
    }
    refined = Poses(names, capture.reference_c2w, information)
    found = corrected(capture, refined, surface, CPU)
    np.testing.assert_allclose(found.normals[1], capture.normals[1], atol=1e-6)
    turn = Rotation.from_rotvec([0, 0, 0.1]).as_matrix()
    np.testing.assert_allclose(found.normals[2], capture.normals[2] @ turn.T, atol=6e-3)
    assert found.intrinsics[0, 0, 0] == pytest.approx(1.01 * capture.intrinsics[0, 0, 0])
    assert found.intrinsics[0, 0, 2] == capture.intrinsics[0, 0, 2]
    plain = Poses(names, capture.reference_c2w)
    assert corrected(capture, plain, surface, CPU) is capture


# ------------------------------------------------------------------------------------- stage
@pytest.fixture
def stage(body, tmp_path):
    capture, surface = body
    save_capture(tmp_path / "capture", capture)
    (tmp_path / "distances").mkdir()
    distances = np.zeros(capture.masks.shape, np.float32)
    np.savez(tmp_path / "distances/ray_distance.npz", ray_distance=distances, views=capture.views)
    write_poses(tmp_path / "poses.json", Poses(capture.views, capture.reference_c2w))
    save_band(tmp_path / "surface.safetensors", surface)

    def command(settings, surface="surface.safetensors"):
        words = ["train", "--capture", tmp_path / "capture"]
        words += ["--ray-distances", tmp_path / "distances", "--poses", tmp_path / "poses.json"]
        words += ["--surface", tmp_path / surface] if surface else []
        words += ["--settings", settings.model_dump_json()]
        words += ["--state", tmp_path / "state", "--output", tmp_path / "out"]
        return list(map(str, words))

    return command, tmp_path


def test_the_stage_compares_what_it_was_given_with_what_it_made(stage):
    command, folder = stage
    settings = changed(TINY, heldout=0.1, poses={"method": "fixed"})
    assert main(command(settings)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    errors = selection["heldout_error_deg"]
    assert list(errors) == ["0", "4", "12"]
    won, spread = selection["heldout_gain_deg"], selection["heldout_gain_standard_error_deg"]
    assert won == pytest.approx(errors["0"] - errors["12"])
    least = max(2 * spread, 1e-3 * errors["0"])
    assert selection["iteration"] == (12 if won > least else 0)
    kept = load_surface(folder / "out/checkpoints/iter_00000012.safetensors", CPU)
    assert isinstance(kept, ResidualSDF)
    poses = read_poses(folder / "out/poses/iter_00000012.json")
    assert poses.information["learned"] is False


def test_a_bad_training_is_not_chosen(stage):
    command, folder = stage
    fast = {"learning_rate": 0.3, "encoding_learning_rate": 0.3}
    settings = changed(TINY, heldout=0.1, optimizer=fast, poses={"method": "fixed"})
    assert main(command(settings)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    assert selection["iteration"] == 0


def test_without_a_surface_the_last_is_chosen(stage):
    command, folder = stage
    assert main(command(changed(TINY, heldout=0.1), surface=None)) == 0
    selection = json.loads((folder / "out/selection.json").read_text())
    assert selection["iteration"] == 12
    assert list(selection["heldout_error_deg"]) == ["4", "12"]


def test_errors_of_the_surface(stage, capsys):
    command, folder = stage
    needed = changed(TINY, warm_start={**TINY.warm_start.model_dump(), "source": "surface"})
    assert main(command(needed, surface=None)) == 2
    assert "there is none: give --surface" in capsys.readouterr().err
    assert main(command(TINY, surface="none.safetensors")) == 2
    assert "none.safetensors: no such file" in capsys.readouterr().err
    field = FieldSettings(levels=2, log2_entries=8)
    save_surface(folder / "network.safetensors", NeuralSDF(field, 0), field, 1)
    assert main(command(TINY, surface="network.safetensors")) == 2
    assert "not a grid surface" in capsys.readouterr().err
