"""Steps that wait for nothing: draws, capacities, optimizer, and their recording on a GPU."""

import logging

import pypose
import pytest
import torch
from fixtures.training import ALL_TERMS, TINY, changed, occupancy_grid, run, sphere_trainer
from torch import nn

from pmni import kernels
from pmni.cli.training_store import load_state, save_state
from pmni.config.training import OptimizerSettings, TrainSettings
from pmni.errors import DivergenceError, InputError
from pmni.runtime.cuda_graphs import Recorded
from pmni.sdf.encoding import make_encoding
from pmni.training import schedule
from pmni.training.buffer_capacities import GRANULARITY, BufferCapacities
from pmni.training.graph_capture import unsupported_reason
from pmni.training.optimizer import Optimizer
from pmni.training.poses import LearnedPoses
from pmni.training.rng import StepRng
from pmni.training.trainer import GraphCapture

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def at(step: int, seed: int = 0) -> StepRng:
    return StepRng(seed, torch.tensor(step))


# ----------------------------------------------------------------------------------------- draws
def test_draws_are_uniform():
    count = 1 << 16
    numbers = at(5).uniform(0, 2, count // 2)
    assert numbers.shape == (2, count // 2)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    # A histogram's chi square, of 255 degrees of freedom, and those of pairs and of low bits.
    words = at(5).bits(0, count)
    for what in (words >> 24, (words[::2] >> 28) * 16 + (words[1::2] >> 28), words & 255):
        expected = len(what) / 256
        chi = ((torch.bincount(what, minlength=256) - expected) ** 2).sum() / expected
        assert 170 < chi < 350


def test_draws_of_other_steps_streams_and_seeds_have_nothing_in_common():
    draws = [at(0), at(1), at(2**31), at(0, 1), at(0, 2**32), at(0, 2**40 + 1)]
    words = [one.bits(stream, 4096) for one in draws for stream in (0, 1, 2)]
    for index, one in enumerate(words):
        for other in words[:index]:
            assert (one == other).sum() <= 1
            bits = (one ^ other) & 0x10101010
            assert abs((bits != 0).float().mean() - 15 / 16) < 0.02
    assert torch.equal(words[0], at(0).bits(0, 5000)[:4096]), "a number has its place"


def test_integers_are_below_their_limit_and_all_occur():
    found = at(3).integers(7, 1, 7000)
    assert (torch.bincount(found, minlength=7) - 1000).abs().max() < 150
    assert len(found.unique()) == 7
    assert at(3).integers(2**31, 1, 1000).max() > 2**30


# ------------------------------------------------------------------------------------- schedules
def test_the_table_holds_what_the_functions_say():
    settings = TrainSettings.parse(
        {
            "steps": 40,
            "phases": [{"until": 0.5, "pose_learning_rate": 2e-3}, {}],
            "poses": {"start": 0.25},
        },
        "test",
    )
    table = schedule.table(settings)
    assert table.shape == (40, 5)
    factor, pose_rate, moving, spacing, width = table[30].tolist()
    assert factor == pytest.approx(schedule.rate_factor(30, settings))
    assert pose_rate == pytest.approx(1e-3 * factor)
    assert table[9, 2] == 0
    assert moving == table[10, 2] == 1
    assert spacing == pytest.approx(1e-2 * 0.4 ** (30 / 39))
    assert width == pytest.approx(150 * (800 / 150) ** (30 / 39))


def test_the_exponential_is_pyposes_and_its_derivative_is_smooth_at_zero():
    start = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    poses = LearnedPoses(start, "first", "adam")
    xi = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    xi[0] *= 1e-9
    xi[1, 3:] *= 3.1 / xi[1, 3:].norm()
    torch.testing.assert_close(poses._exponential(xi), pypose.se3(xi).Exp().matrix())
    zero = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(poses._exponential, (zero,))


# ----------------------------------------------------------------------------------- capacities
class Unrecorded(Recorded):
    """Work that could be recorded, done as it is."""

    def __init__(self, work):
        self.work, self.graph, self.keys = work, None, []

    def __call__(self, key, kind):
        self.keys.append(key)
        return self.work()


def with_rooms(settings):
    """A training whose steps are of fixed size, though nothing records them."""
    trainer = sphere_trainer(settings)
    step, refresh = Unrecorded(trainer._train_step), Unrecorded(trainer._refresh_occupancy)
    trainer.capture = GraphCapture(BufferCapacities(CPU), step, refresh)
    return trainer


@pytest.mark.parametrize("gradient", ["directional", "finite_difference", "analytic"])
def test_steps_of_fixed_size_are_the_same(gradient):
    rendering = {**TINY.rendering.model_dump(), "gradient": gradient}
    weights = {**ALL_TERMS, **dict.fromkeys(("depth_robust", "chamfer", "consistency"), 0)}
    settings = changed(TINY, patches=96, rendering=rendering, phases=[{"weights": weights}])
    usual, sized = sphere_trainer(settings), with_rooms(settings)
    for trainer in (usual, sized):
        trainer.warm_start()
    losses = run(usual, 12), run(sized, 12)
    torch.testing.assert_close(*map(torch.tensor, losses), atol=2e-4, rtol=0)
    torch.testing.assert_close(usual.poses(), sized.poses(), atol=1e-4, rtol=0)
    torch.testing.assert_close(usual.occupancy.values, sized.occupancy.values, atol=2e-3, rtol=0)
    capacities = sized.capture.capacities
    assert capacities.planes % GRANULARITY == capacities.cells % GRANULARITY == 0
    levels = [key[0] for key in sized.capture.step.keys]
    assert levels == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4]


def test_too_little_room_is_noticed_told_and_made(caplog):
    trainer = with_rooms(changed(TINY, steps=100, checkpoints=[]))
    trainer.warm_start()
    run(trainer, 17)
    capacities = trainer.capture.capacities
    assert capacities.planes > GRANULARITY
    capacities.planes = GRANULARITY
    run(trainer, 7)
    assert capacities.planes == GRANULARITY, "looked at every now and then only"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        report = trainer.step()
    assert "before step 25 there was room for 128 planes, not" in caplog.text
    assert int(report.samples) < GRANULARITY * 9
    assert capacities.planes > 3 * GRANULARITY
    assert int(trainer.step().samples) > GRANULARITY * 9


def test_rooms_follow_what_is_needed(caplog):
    capacities = BufferCapacities(CPU)
    assert not capacities.is_set
    for needed, expected in ((1000, 1280), (1200, 1280), (1230, 1664), (1000, 1664), (900, 1152)):
        for part in (needed, needed // 2):
            capacities.record_planes(torch.tensor(part))
        capacities.record_cells(torch.tensor(10))
        capacities.adapt(0)
        assert capacities.planes == expected
    assert capacities.cells == GRANULARITY
    capacities.adapt(0)
    assert capacities.planes == 1152, "nothing was noted"
    assert not caplog.records


def test_occupancy_with_enough_room_is_the_same_and_with_too_little_it_is_safe():
    def f(x):
        return torch.linalg.vector_norm(x - 0.1, dim=-1) - 0.5

    grids = [occupancy_grid(32, 0.02, CPU) for _ in range(3)]
    needed = int(grids[0].refresh(f))
    assert int(grids[1].refresh(f, needed + 20)) == needed
    assert torch.equal(grids[1].values, grids[0].values)
    assert int(grids[2].refresh(f, needed // 2)) == needed
    other = grids[2].values != grids[0].values
    assert other.any()
    assert not grids[2].values[other].any(), "zero: samples are taken there"


# --------------------------------------------------------------------------------------- optimizer
def updated(gradients, moving=1.0):
    """Updates of two parameters after steps with these gradients of both."""
    field = nn.Parameter(torch.ones(2))
    pose = nn.Parameter(torch.ones(1))
    optimizer = Optimizer(
        OptimizerSettings(learning_rate=0.1, warm_up_steps=2), [field], [], [pose], [], CPU
    )
    for step, (a, b) in enumerate(gradients):
        field.grad, pose.grad = torch.tensor(a), torch.tensor(b)
        terms = torch.tensor([1.0, float("nan")])
        optimizer.step(torch.tensor(step), terms, torch.tensor([0.5, 0.01, moving]))
    return optimizer, field.detach(), pose.detach()


def test_a_step_is_adams():
    gradients = [([0.3, -0.4], [0.1]), ([0.1, 0.2], [0.3])]
    _, field, pose = updated(gradients)
    for found, index, rate in ((field, 0, 0.05), (pose, 1, 0.01)):
        twin = nn.Parameter(torch.ones(len(found)))
        adam = torch.optim.Adam([twin], lr=rate)
        for gradient in gradients:
            twin.grad = torch.tensor(gradient[index])
            adam.step()
        torch.testing.assert_close(found, twin.detach())


def test_gradients_are_clipped_each_by_its_own_limit():
    assert (TINY.optimizer.clip_network, TINY.optimizer.clip_poses) == (1, 10)
    state = updated([([30.0, 40.0], [5.0])])[0].state()
    torch.testing.assert_close(state["network"]["means"][0], torch.tensor([0.06, 0.08]))
    torch.testing.assert_close(state["poses"]["means"][0], torch.tensor([0.5]))


@pytest.mark.parametrize("broken", [([float("nan"), 0.0], [0.1]), ([0.1, 0.1], [float("inf")])])
def test_nothing_moves_from_the_first_broken_gradient_on(broken):
    fine = ([0.3, -0.4], [0.1])
    before, field, pose = updated([fine])
    after, *others = updated([fine, broken, fine, broken])
    assert torch.equal(others[0], field)
    assert torch.equal(others[1], pose)
    assert int(before.failed_step) == -1
    assert int(after.failed_step) == 1
    assert after.finite_terms.tolist()[:3] == [True, False, True]
    assert float(after.state()["network"]["steps"][0]) == 1


def test_poses_stay_until_they_move():
    _, field, pose = updated([([0.3, -0.4], [0.1])], moving=0.0)
    assert pose.item() == 1
    assert field[0].item() == pytest.approx(0.95)


def test_what_diverges_without_being_looked_at_is_as_it_was_before():
    trainer = with_rooms(changed(TINY, steps=100, checkpoints=[]))
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


# -------------------------------------------------------------------------------------- settings
def test_what_cannot_be_recorded_is_said(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(kernels, "chosen", lambda device: device.type == "cuda")
    encoding = make_encoding(TINY.field, 0)
    assert unsupported_reason(TINY, encoding, cuda) is None
    assert "the device is cpu" in unsupported_reason(TINY, encoding, CPU)
    phases = [{"until": 0.5}, {"weights": {"consistency": 0.1}}]
    assert "the loss term 'consistency'" in unsupported_reason(
        changed(TINY, phases=phases), encoding, cuda
    )
    nerfacc = {**TINY.rendering.model_dump(), "backend": "nerfacc"}
    assert "rendering.backend is nerfacc" in unsupported_reason(
        changed(TINY, rendering=nerfacc), encoding, cuda
    )
    with pytest.raises(InputError, match="graph is on, but the device is cpu, not a GPU"):
        sphere_trainer(changed(TINY, graph="on"))


def test_yaml_may_say_on_and_off():
    assert TrainSettings.parse({"graph": True}, "test").graph == "on"
    assert TrainSettings.parse({"graph": False}, "test").graph == "off"
    with pytest.raises(InputError, match="graph"):
        TrainSettings.parse({"graph": "always"}, "test")


# ------------------------------------------------------------------------------------- on a GPU
RECORDED = changed(
    TINY, steps=60, checkpoints=[], device="cuda", patches=256,
    phases=[{"until": 0.5, "weights": {"depth": 0.1}}, {"weights": {"depth": 0.1, "mask": 2.0}}],
)  # fmt: skip


@pytest.fixture
def _bit_for_bit(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(settings, graph):
    trainer = sphere_trainer(changed(settings, graph=graph), device=torch.device("cuda"))
    trainer.warm_start()
    return trainer


@pytest.mark.gpu
@gpu
@pytest.mark.usefixtures("_bit_for_bit")
def test_recorded_steps_are_the_same_as_others_and_resume_bit_for_bit(tmp_path):
    usual, whole = on_gpu(RECORDED, "off"), on_gpu(RECORDED, "on")
    straight = run(whole, 60)
    others = torch.tensor(run(usual, 15))  # later on, differences by rounding have grown
    torch.testing.assert_close(torch.tensor(straight[:15]), others, atol=1e-3, rtol=5e-3)
    assert whole.capture.step.recordings >= 4, "levels, phases"
    first = on_gpu(RECORDED, "on")
    begun = run(first, 37)
    save_state(tmp_path / "state.pt", first.state())
    second = sphere_trainer(changed(RECORDED, graph="on"), device=torch.device("cuda"))
    second.restore(load_state(tmp_path / "state.pt", torch.device("cuda")))
    assert begun + run(second, 23) == straight
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@gpu
def test_recorded_steps_that_diverge_are_told_of():
    trainer = on_gpu(RECORDED, "on")
    run(trainer, 30)
    trainer.views.normals[:] = float("nan")
    with pytest.raises(DivergenceError, match=r"step 30: the term 'normal' is not finite"):
        run(trainer, 30)
