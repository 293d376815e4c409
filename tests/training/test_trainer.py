"""Steps of a training: they resume exactly, and surface and poses are learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.refinement import observations_of
from fixtures.training import (
    ALL_TERMS,
    CPU,
    TINY,
    Body,
    changed,
    lumpy_capture,
    rotated,
    run,
    sphere_trainer,
)
from scipy.spatial.transform import Rotation

from pmni.cli.training_store import load_state, save_state
from pmni.data.views import Views
from pmni.errors import DivergenceError
from pmni.geometry.cameras import invert_rigid
from pmni.geometry.transforms import rotation_angle_deg
from pmni.training.gauss_newton_poses import GaussNewtonPoses
from pmni.training.patches import patch_rays
from pmni.training.rng import StepRng
from pmni.training.trainer import Trainer
from pmni.volume_rendering.marching import march
from pmni.volume_rendering.renderer import render


@pytest.mark.parametrize("gradient", ["directional", "finite_difference", "analytic"])
def test_resumed_training_is_bit_for_bit_the_same(gradient: str, tmp_path: Path) -> None:
    settings = changed(
        TINY,
        phases=[{"weights": ALL_TERMS}],
        rendering={**TINY.rendering.model_dump(), "gradient": gradient},
        poses={"learn_scale": True},
        sharpness={"mode": "learned"},
    )
    whole = sphere_trainer(settings)
    whole.warm_start()
    straight = run(whole, 7)

    first = sphere_trainer(settings)
    first.warm_start()
    begun = run(first, 3)
    save_state(tmp_path / "state.pt", first.state())
    second = sphere_trainer(settings)
    second.restore(load_state(tmp_path / "state.pt", torch.device("cpu")))
    resumed = run(second, 4)

    assert begun + resumed == straight
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.poses(), second.poses())
    assert torch.equal(whole.scales(), second.scales())
    assert torch.equal(whole.occupancy.values, second.occupancy.values)


def test_every_term_reaches_surface_and_poses() -> None:
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


def test_pose_gradient_matches_finite_differences() -> None:
    """The loss of one step, as a function of the pose parameters, with planes held still."""
    settings = changed(TINY, patches=64)
    trainer = sphere_trainer(settings)
    trainer.warm_start()
    run(trainer, 3)
    trainer.step_number = 3
    batch = trainer.sampler.draw(64, StepRng(0, torch.tensor(0)))

    def loss_at(delta: torch.Tensor) -> torch.Tensor:
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
        truncation, step = torch.tensor(0.09), torch.tensor(0.03)
        planes = march(here, trainer.occupancy, truncation, step, torch.full((64,), 0.5).double())
    loss = loss_at(torch.zeros_like(base))
    (gradient,) = torch.autograd.grad(loss, trainer.poses.parameters_)
    for index in ((0, 0), (2, 3), (5, 4)):
        delta = torch.zeros_like(base)
        delta[index] = 1e-6
        with torch.no_grad():
            numeric = (loss_at(delta) - loss_at(-delta)) / 2e-6
        assert gradient[index].item() == pytest.approx(numeric.item(), rel=2e-2, abs=2e-5)


def test_non_finite_normals_stop_with_step_and_term() -> None:
    trainer = sphere_trainer(TINY)
    trainer.warm_start()
    run(trainer, 2)
    trainer.views.normals[:] = float("nan")
    with pytest.raises(DivergenceError, match=r"step 2: the term 'normal' is not finite"):
        trainer.step()


def from_surface(body: Body, **changes: Any) -> Trainer:
    capture, surface = body
    settings = changed(TINY, heldout=0.1, **changes)
    assert capture.reference_c2w is not None
    observations = observations_of(capture, heldout=0.1)
    steps = GaussNewtonPoses(observations, surface.grid.cells, 4)
    moving = settings.poses.method == "gauss_newton"
    start = torch.tensor(rotated(capture.reference_c2w, 1.0), dtype=torch.float32)
    views = Views.of(capture, heldout=0.1)
    return Trainer(views, start, settings, surface, steps if moving else None)


def test_training_starts_with_the_surface_and_stays_near_it(body: Body) -> None:
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
def test_resuming_is_exact(body: Body, tmp_path: Path, method: str) -> None:
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


def test_surface_and_poses_are_learned_together() -> None:
    """From poses that are 2 degrees wrong to nearly half of that, and a surface in place."""
    capture, distances = lumpy_capture(views=16)
    reference = capture.reference_c2w
    assert reference is not None
    generator = np.random.default_rng(0)
    axis = generator.normal(size=(16, 3))
    axis *= np.deg2rad(2.0) / np.linalg.norm(axis, axis=1, keepdims=True)
    start = reference.copy()
    start[:, :3] = Rotation.from_rotvec(axis).as_matrix() @ start[:, :3]
    settings = changed(
        TINY, steps=150, checkpoints=[], patches=64,
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

    def errors(c2w: np.ndarray) -> np.ndarray:
        gauge = Rotation.from_matrix(
            reference[:, :3, :3] @ c2w[:, :3, :3].transpose(0, 2, 1)
        ).mean()
        return rotation_angle_deg(gauge.as_matrix() @ c2w[:, :3, :3], reference[:, :3, :3])

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
        shift = invert_rigid(pose)[:3, 3] - invert_rigid(reference[index])[:3, 3]
        world = (local + np.array([0, 0, shift[2]])) @ pose[:3, :3].T + pose[:3, 3]
        with torch.no_grad():
            off.append(trainer.network(torch.tensor(world).float()).abs().mean().item())
    pixel = 15 / capture.intrinsics[0, 0, 0]
    assert np.mean(off) < pixel / 2
