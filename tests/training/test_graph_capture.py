"""Steps of fixed size, and their capture as CUDA graphs."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from fixtures.training import (
    ALL_TERMS,
    CPU,
    TINY,
    Uncaptured,
    changed,
    fixed_size_trainer,
    run,
    sphere_trainer,
)

from pmni import kernels
from pmni.cli.training_store import load_state, save_state
from pmni.config.training import TrainSettings
from pmni.errors import DivergenceError, InputError
from pmni.sdf.encoding import make_encoding
from pmni.training.buffer_capacities import GRANULARITY
from pmni.training.graph_capture import unsupported_reason
from pmni.training.trainer import Trainer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CAPTURED = changed(
    TINY, steps=60, checkpoints=[], device="cuda", patches=256,
    phases=[{"until": 0.5, "weights": {"depth": 0.1}}, {"weights": {"depth": 0.1, "mask": 2.0}}],
)  # fmt: skip


@pytest.mark.parametrize("gradient", ["directional", "finite_difference", "analytic"])
def test_steps_of_fixed_size_are_the_same(gradient: str) -> None:
    rendering = {**TINY.rendering.model_dump(), "gradient": gradient}
    weights = {**ALL_TERMS, **dict.fromkeys(("depth_robust", "chamfer", "consistency"), 0)}
    settings = changed(TINY, patches=96, rendering=rendering, phases=[{"weights": weights}])
    usual = sphere_trainer(settings)
    sized, capture = fixed_size_trainer(settings)
    for trainer in (usual, sized):
        trainer.warm_start()
    losses = run(usual, 12), run(sized, 12)
    torch.testing.assert_close(*map(torch.tensor, losses), atol=2e-4, rtol=0)
    torch.testing.assert_close(usual.poses(), sized.poses(), atol=1e-4, rtol=0)
    torch.testing.assert_close(usual.occupancy.values, sized.occupancy.values, atol=2e-3, rtol=0)
    capacities = capture.capacities
    assert capacities.planes is not None
    assert capacities.cells is not None
    assert capacities.planes % GRANULARITY == capacities.cells % GRANULARITY == 0
    levels = [key[0] for key in cast(Uncaptured, capture.step).keys]
    assert levels == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4]


def test_a_capacity_that_is_too_small_is_reported_and_enlarged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer, capture = fixed_size_trainer(changed(TINY, steps=100, checkpoints=[]))
    trainer.warm_start()
    run(trainer, 17)
    capacities = capture.capacities
    assert capacities.planes is not None
    assert capacities.planes > GRANULARITY
    capacities.planes = GRANULARITY
    run(trainer, 7)
    assert capacities.planes == GRANULARITY, "checked every 25 steps only"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        report = trainer.step()
    assert "before step 25 there was room for 128 planes, not" in caplog.text
    assert int(report.samples) < GRANULARITY * 9
    assert capacities.planes > 3 * GRANULARITY
    assert int(trainer.step().samples) > GRANULARITY * 9


def test_steps_after_a_divergence_change_nothing_until_it_is_noticed() -> None:
    trainer, _ = fixed_size_trainer(changed(TINY, steps=100, checkpoints=[]))
    trainer.warm_start()
    run(trainer, 17)
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    trainer.views.normals[:] = float("nan")
    run(trainer, 7)
    for parameter, kept in zip(trainer.network.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
    with pytest.raises(DivergenceError, match=r"step 17: the term 'normal' is not finite"):
        trainer.state()
    with pytest.raises(DivergenceError, match=r"step 17: the term 'normal' is not finite"):
        trainer.step()


def test_the_reason_why_steps_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(kernels, "use_triton", lambda device: device.type == "cuda")
    encoding = make_encoding(TINY.field, 0)
    assert unsupported_reason(TINY, encoding, cuda) is None
    phases = [{"until": 0.5}, {"weights": {"consistency": 0.1}}]
    nerfacc = {**TINY.rendering.model_dump(), "backend": "nerfacc"}
    for settings, device, reason in (
        (TINY, CPU, "the device is cpu"),
        (changed(TINY, phases=phases), cuda, "the loss term 'consistency'"),
        (changed(TINY, rendering=nerfacc), cuda, "rendering.backend is nerfacc"),
    ):
        assert reason in (unsupported_reason(settings, encoding, device) or "")
    with pytest.raises(InputError, match="graph is on, but the device is cpu, not a GPU"):
        sphere_trainer(changed(TINY, graph="on"))


@pytest.fixture
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(settings: TrainSettings, graph: str) -> Trainer:
    trainer = sphere_trainer(changed(settings, graph=graph), device=torch.device("cuda"))
    trainer.warm_start()
    return trainer


@pytest.mark.gpu
@gpu
@pytest.mark.usefixtures("_deterministic")
def test_captured_steps_are_the_same_as_others_and_resume_bit_for_bit(tmp_path: Path) -> None:
    usual, whole = on_gpu(CAPTURED, "off"), on_gpu(CAPTURED, "on")
    straight = run(whole, 60)
    others = torch.tensor(run(usual, 15))  # later on, differences by rounding have grown
    torch.testing.assert_close(torch.tensor(straight[:15]), others, atol=1e-3, rtol=5e-3)
    assert whole.graph is not None
    assert whole.graph.step.captures >= 4, "levels, phases"
    first = on_gpu(CAPTURED, "on")
    begun = run(first, 37)
    save_state(tmp_path / "state.pt", first.state())
    second = sphere_trainer(changed(CAPTURED, graph="on"), device=torch.device("cuda"))
    second.restore(load_state(tmp_path / "state.pt", torch.device("cuda")))
    assert begun + run(second, 23) == straight
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@gpu
def test_captured_steps_that_diverge_are_reported() -> None:
    trainer = on_gpu(CAPTURED, "on")
    run(trainer, 30)
    trainer.views.normals[:] = float("nan")
    with pytest.raises(DivergenceError, match=r"step 30: the term 'normal' is not finite"):
        run(trainer, 30)
