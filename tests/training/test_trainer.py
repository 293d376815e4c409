"""The training as a whole: it learns, it resumes exactly, it stops in good order."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from fixtures.analytic_sdfs import Analytic, sphere
from fixtures.training import (
    ALL_TERMS,
    TINY,
    changed,
    occupancy_grid,
    run,
    sphere_capture,
    sphere_trainer,
)
from scipy.spatial.transform import Rotation

from pmni.cli.main import main
from pmni.cli.training_store import load_state, save_state
from pmni.data.capture import Capture, save_capture
from pmni.data.views import Views
from pmni.errors import DivergenceError, InputError
from pmni.geometry.cameras import invert_rigid, turntable
from pmni.geometry.poses import Poses
from pmni.geometry.transforms import rotation_angle_deg
from pmni.io.hashing import verify_checksum
from pmni.io.poses import read_poses, write_poses
from pmni.runtime import provenance
from pmni.sdf.checkpoint import load_surface, save_surface
from pmni.training.convergence import ConvergenceTest
from pmni.training.patches import patch_rays
from pmni.training.rng import StepRng
from pmni.training.trainer import Trainer
from pmni.volume_rendering.marching import march
from pmni.volume_rendering.renderer import render

CPU = torch.device("cpu")


@pytest.mark.parametrize("gradient", ["directional", "finite_difference", "analytic"])
def test_resumed_training_is_bit_for_bit_the_same(gradient, tmp_path):
    settings = changed(
        TINY,
        phases=[{"weights": ALL_TERMS}],
        rendering={**TINY.rendering.model_dump(), "gradient": gradient},
        poses={"learn_scale": True},
        sharpness={"mode": "learned"},
    )
    whole = sphere_trainer(settings)
    whole.warm_start()
    straight = run(whole, 12)

    first = sphere_trainer(settings)
    first.warm_start()
    begun = run(first, 7)
    save_state(tmp_path / "state.pt", first.state())
    second = sphere_trainer(settings)
    second.restore(load_state(tmp_path / "state.pt", torch.device("cpu")))
    resumed = run(second, 5)

    assert begun + resumed == straight
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.poses(), second.poses())
    assert torch.equal(whole.scales(), second.scales())
    assert torch.equal(whole.occupancy.values, second.occupancy.values)


def test_every_term_reaches_surface_and_poses():
    settings = changed(TINY, phases=[{"weights": ALL_TERMS}], poses={"learn_scale": True})
    for name in ALL_TERMS:
        alone = changed(settings, phases=[{"weights": {**dict.fromkeys(ALL_TERMS, 0), name: 1.0}}])
        trainer = sphere_trainer(alone)
        trainer.warm_start()
        report = trainer.step()
        assert list(report.terms) == [name]
        assert report.terms[name] > 0
        moved = trainer.poses.parameters_.grad
        if name == "eikonal":  # a property of f, though the samples move with the cameras
            continue
        assert moved is not None, name
        assert (moved.abs() > 0).any(), name


def test_pose_gradient_matches_finite_differences():
    """The loss of one step, as a function of the pose parameters, with planes held still."""
    settings = changed(TINY, patches=64)
    trainer = sphere_trainer(settings)
    trainer.warm_start()
    run(trainer, 3)
    trainer.step_number = 3
    batch = trainer.sampler.draw(64, StepRng(0, torch.tensor(0)))

    def loss_at(delta):
        trainer.poses.parameters_.data = base + delta
        c2w = trainer.poses()
        patches = patch_rays(batch, c2w)
        image = render(network, patches, planes, torch.tensor(100.0).double(), settings.rendering)
        wanted = batch.normal.double()
        return ((image.normal - wanted) ** 2 * batch.mask[..., None]).mean() + image.opacity.mean()

    network = trainer.network.double()
    trainer.poses.double()
    base = trainer.poses.parameters_.data.clone()
    with torch.no_grad():
        here = patch_rays(batch, trainer.poses())
        reach, step = torch.tensor(0.09), torch.tensor(0.03)
        planes = march(here, trainer.occupancy, reach, step, torch.full((64,), 0.5).double())
    loss = loss_at(torch.zeros_like(base))
    (gradient,) = torch.autograd.grad(loss, trainer.poses.parameters_)
    for index in ((0, 0), (2, 3), (5, 4)):
        delta = torch.zeros_like(base)
        delta[index] = 1e-6
        with torch.no_grad():
            numeric = (loss_at(delta) - loss_at(-delta)) / 2e-6
        assert gradient[index].item() == pytest.approx(numeric.item(), rel=2e-2, abs=2e-5)


def test_non_finite_normals_stop_with_step_and_term():
    trainer = sphere_trainer(TINY)
    trainer.warm_start()
    run(trainer, 2)
    trainer.views.normals[:] = float("nan")
    with pytest.raises(DivergenceError, match=r"step 2: the term 'normal' is not finite"):
        trainer.step()


# ---------------------------------------------------------------------------------- checkpoints
def test_a_checkpoint_is_the_same_surface_and_a_flipped_byte_is_noticed(tmp_path):
    trainer = sphere_trainer(TINY)
    trainer.warm_start()
    path = tmp_path / "iter_00000001.safetensors"
    save_surface(path, trainer.network, TINY.field, 1)
    x = torch.rand(20, 3)
    loaded = load_surface(path, torch.device("cpu"))
    assert loaded.active == trainer.network.active
    assert torch.equal(loaded(x), trainer.network(x))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"iter_00000001\.safetensors: corrupted"):
        load_surface(path, torch.device("cpu"))
    path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(InputError, match=r"checksum .* is missing"):
        load_surface(path, torch.device("cpu"))


# ------------------------------------------------------------------------------------ the stage
@pytest.fixture
def stage(tmp_path):
    """The files and the command line of a tiny training."""
    capture, distances = sphere_capture()
    save_capture(tmp_path / "capture", capture)
    (tmp_path / "distances").mkdir()
    np.savez(
        tmp_path / "distances" / "ray_distance.npz", ray_distance=distances, views=capture.views
    )
    write_poses(tmp_path / "poses.json", Poses(capture.views, capture.reference_c2w))

    def command(settings=TINY, **options):
        arguments = {
            "capture": tmp_path / "capture",
            "ray-distances": tmp_path / "distances",
            "poses": tmp_path / "poses.json",
            "settings": settings.model_dump_json(),
            "state": tmp_path / "state",
            "output": tmp_path / "out",
            **options,
        }
        return ["train", *(str(word) for key, value in arguments.items()
                           for word in (f"--{key}", value))]  # fmt: skip

    return command, tmp_path


def test_stage_writes_everything_it_promises(stage):
    command, folder = stage
    assert main(command()) == 0
    out = folder / "out"
    for step in (4, 12):
        verify_checksum(out / "checkpoints" / f"iter_{step:08d}.safetensors")
        poses = read_poses(out / "poses" / f"iter_{step:08d}.json")
        assert poses.information["iteration"] == step
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["pose_rotation_deg"]) > 0
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["device"] == "cpu"
    assert provenance["backend"] == "torch"
    assert provenance["train_seconds"] > 0
    assert any((out / "tensorboard").iterdir())
    assert not any((folder / "state").iterdir()), "the state is gone when the training is done"


def test_a_training_whose_surface_rests_stops_early_and_says_so(stage, caplog):
    command, folder = stage
    settings = changed(TINY, steps=200, checkpoints=[60, 120], convergence={"threshold": 1e3})
    caplog.set_level("INFO")
    assert main(command(settings)) == 0
    assert "stopped at step 100 of 200: in 50 steps the surface has moved by" in caplog.text
    out = folder / "out"
    assert json.loads((out / "provenance.json").read_text())["stopped_at"] == 100
    with (out / "history.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) == 100
    checkpoints = {
        step: out / f"checkpoints/iter_{step:08d}.safetensors" for step in (60, 120, 200)
    }
    early, later, last = (load_surface(path, CPU) for path in checkpoints.values())
    x = torch.rand(50, 3) - 0.5
    assert torch.equal(later(x), last(x))
    assert not torch.equal(early(x), last(x))


def test_a_surface_that_moves_is_trained_on(stage):
    command, folder = stage
    assert (
        main(command(changed(TINY, steps=101, checkpoints=[], convergence={"threshold": 1e-9})))
        == 0
    )
    assert "stopped_at" not in json.loads((folder / "out/provenance.json").read_text())


def test_test_is_the_distance_between_surfaces():
    occupancy = occupancy_grid(32, 0.1, CPU)
    occupancy.refresh(sphere(0.5))
    test = ConvergenceTest(TINY.convergence)
    assert test.surface_motion(sphere(0.5), occupancy) == np.inf
    assert test.surface_motion(sphere(0.5), occupancy) == pytest.approx(0, abs=1e-6)
    assert test.surface_motion(sphere(0.53), occupancy) == pytest.approx(0.03, rel=1e-4)
    again = ConvergenceTest(TINY.convergence, test.points)
    assert again.surface_motion(Analytic(lambda x: 2 * sphere(0.5)(x)), occupancy) == pytest.approx(
        0.03, rel=1e-4
    )


def test_sigterm_saves_and_the_next_run_goes_on(stage):
    command, folder = stage
    settings = changed(TINY, steps=150, checkpoints=[], save_every=1000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pmni", *command(settings)],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    for line in process.stderr:
        if "fitted to the visual hull" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "state saved at step" in log
    assert not (folder / "out").exists()
    (state,) = (folder / "state").glob("*/state.pt")
    reached = load_state(state, torch.device("cpu"))["trainer"]["step"]
    assert 0 < reached < 150
    again = subprocess.run(
        [sys.executable, "-m", "pmni", *command(settings)],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert f"going on from step {reached} of 150" in again.stderr
    with (folder / "out" / "history.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 150


def test_a_damaged_state_is_a_clear_error(stage, capsys):
    command, folder = stage
    assert main(command(changed(TINY, steps=12))) == 0
    inputs = folder / "state"
    # Interrupt by hand: keep a state as a stopped run would.
    trainer = sphere_trainer(TINY)
    fingerprint = provenance.fingerprint(
        "train",
        TINY,
        {
            "capture": folder / "capture" / "capture.npz",
            "ray_distances": folder / "distances" / "ray_distance.npz",
            "poses": folder / "poses.json",
        },
    )
    path = inputs / fingerprint / "state.pt"
    save_state(path, {"trainer": trainer.state(), "rows": [], "seconds": 0.0})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(command()) == 2
    assert "state.pt: corrupted" in capsys.readouterr().err


def test_full_disk_is_a_clear_error_and_leaves_nothing(stage, capsys, monkeypatch):
    command, folder = stage
    real = pathlib.Path.write_bytes

    def full(self, data):
        if self.suffix == ".safetensors":
            raise OSError(28, "No space left on device", str(self))
        return real(self, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    assert main(command()) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert not list((folder / "state").rglob("*.safetensors"))


def test_errors_of_the_stage(stage, capsys, monkeypatch):
    command, folder = stage
    assert main(command(poses=folder / "none.json")) == 2
    assert "none.json: no such file" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(command(changed(TINY, device="cuda"))) == 2
        assert "PyTorch sees no GPU" in capsys.readouterr().err
    assert main(command(settings=changed(TINY, exclude_views=["77"]))) == 2
    assert "exclude_views names '77'" in capsys.readouterr().err
    np.savez(
        folder / "distances" / "ray_distance.npz", ray_distance=np.zeros((1, 2, 2)), views=["0"]
    )
    assert main(command()) == 2
    assert "made for other views than sphere's" in capsys.readouterr().err
    assert not (folder / "out").exists()


# ------------------------------------------------------------------------------------ it learns
def lumpy_capture(views=10, height=64, width=76):
    """An ellipsoid with bumps, sphere-traced: exact normals, masks, distances."""
    focal = 3760 / 512 * height
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    c2w = turntable(np.arange(views) * 2 * np.pi / views, 0.44, 15.0)
    directions = torch.randn(14, 3, generator=torch.Generator().manual_seed(1)).double()
    bumps = 0.45 * torch.nn.functional.normalize(directions, dim=-1)

    def f(x):
        body = torch.linalg.vector_norm(x / torch.tensor([0.5, 0.4, 0.45]).double(), dim=-1) - 1
        lumps = torch.exp(-((x[:, None] - bumps) ** 2).sum(-1) / 0.01).sum(-1)
        return 0.3 * (body - 0.4 * lumps)

    v, u = np.mgrid[:height, :width].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    rays = torch.tensor(rays / np.linalg.norm(rays, axis=-1, keepdims=True)).view(-1, 3)
    normals, masks, distances = [], [], []
    for pose in torch.tensor(c2w):
        direction = rays @ pose[:3, :3].T
        t = torch.full((len(rays),), 14.0).double()
        for _ in range(120):
            t = t + 0.7 * f(pose[:3, 3] + t[:, None] * direction)
        x = (pose[:3, 3] + t[:, None] * direction).requires_grad_()
        value = f(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        mask = (value.abs() < 1e-5) & (t < 16)
        normal = torch.nn.functional.normalize(gradient, dim=-1) @ pose[:3, :3]
        normals.append((normal * mask[:, None]).view(height, width, 3))
        masks.append(mask.view(height, width))
        distances.append(torch.where(mask, t, torch.nan).detach().view(height, width))
    return (
        Capture(
            name="lumpy",
            views=tuple(f"{i:02d}" for i in range(views)),
            normals=torch.stack(normals).float().numpy(),
            masks=torch.stack(masks).numpy(),
            intrinsics=np.repeat(K[None], views, 0),
            reference_c2w=c2w,
        ),
        torch.stack(distances).float().numpy(),
    )


def test_surface_and_poses_are_learned_together():
    """From poses that are 2 degrees wrong to nearly half of that, and a surface in place."""
    capture, distances = lumpy_capture(views=16)
    generator = np.random.default_rng(0)
    axis = generator.normal(size=(16, 3))
    axis *= np.deg2rad(2.0) / np.linalg.norm(axis, axis=1, keepdims=True)
    start = capture.reference_c2w.copy()
    start[:, :3] = Rotation.from_rotvec(axis).as_matrix() @ start[:, :3]
    settings = changed(
        TINY, steps=200, checkpoints=[], patches=96,
        optimizer={"learning_rate": 2e-3, "warm_up_steps": 10, "encoding_learning_rate": 5e-3},
        field={"levels": 5, "initial_levels": 3, "increase_bandwidth_every": 40,
               "log2_entries": 14, "base_resolution": 12},
        rendering={"step_start": 0.02, "step_end": 0.012,
                   "occupancy": {"resolution": 48, "refresh_every": 16, "truncation": 0.04}},
        warm_start={"steps": 100, "resolution": 48, "points": 4096},
        sharpness={"start": 80, "end": 250},
        phases=[{"pose_learning_rate": 2e-3}],
    )  # fmt: skip
    views = Views.of(capture, distances)
    trainer = Trainer(views, torch.tensor(start, dtype=torch.float32), settings)
    trainer.warm_start()
    run(trainer, settings.steps)
    found = trainer.poses().detach().double().numpy()

    def errors(c2w):
        gauge = Rotation.from_matrix(
            capture.reference_c2w[:, :3, :3] @ c2w[:, :3, :3].transpose(0, 2, 1)
        ).mean()
        return rotation_angle_deg(
            gauge.as_matrix() @ c2w[:, :3, :3], capture.reference_c2w[:, :3, :3]
        )

    assert errors(start).mean() > 1.5
    assert errors(found).mean() < 0.6 * errors(start).mean()
    # True surface points of all views, brought into the learned world view by view, lie on f = 0.
    off = []
    for index, (pose, mask) in enumerate(zip(found, capture.masks, strict=True)):
        rows, columns = np.nonzero(mask)
        pixels = np.stack([columns, rows, np.ones_like(rows)], -1).astype(float)
        rays = pixels @ np.linalg.inv(capture.intrinsics[index]).T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        local = rays * distances[index][mask][:, None]
        shift = invert_rigid(pose)[:3, 3] - invert_rigid(capture.reference_c2w[index])[:3, 3]
        world = (local + np.array([0, 0, shift[2]])) @ pose[:3, :3].T + pose[:3, 3]
        with torch.no_grad():
            off.append(trainer.network(torch.tensor(world).float()).abs().mean().item())
    pixel = 15 / capture.intrinsics[0, 0, 0]
    assert np.mean(off) < pixel / 2
