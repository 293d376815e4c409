"""Steps that wait for nothing: draws, rooms, updates, and their recording on a GPU."""

import logging

import pypose
import pytest
import torch
from fixtures.training import TINY, changed, occupancy_grid
from torch import nn
from training.test_trainer import ALL_TERMS, make_trainer, run

from pmni import kernels
from pmni.config.training import TrainSettings
from pmni.errors import DivergenceError, InputError
from pmni.runtime.cuda_graphs import Recorded
from pmni.training import schedule
from pmni.training.checkpoint import load_state, save_state
from pmni.training.draws import Draws
from pmni.training.graph import hindrance
from pmni.training.poses import LearnedPoses
from pmni.training.rooms import UNIT, Rooms
from pmni.training.trainer import Recording
from pmni.training.updates import Updates

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def at(step: int, seed: int = 0) -> Draws:
    return Draws(seed, torch.tensor(step))


# ----------------------------------------------------------------------------------------- draws
def test_draws_are_uniform():
    count = 1 << 16
    numbers = at(5).uniform(0, 2, count // 2)
    assert numbers.shape == (2, count // 2)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    # A histogram's chi square, of 255 degrees of freedom, and those of pairs and of low bits.
    words = at(5).words(0, count)
    for what in (words >> 24, (words[::2] >> 28) * 16 + (words[1::2] >> 28), words & 255):
        expected = len(what) / 256
        chi = ((torch.bincount(what, minlength=256) - expected) ** 2).sum() / expected
        assert 170 < chi < 350


def test_draws_of_other_steps_streams_and_seeds_have_nothing_in_common():
    draws = [at(0), at(1), at(2**31), at(0, 1), at(0, 2**32), at(0, 2**40 + 1)]
    words = [one.words(stream, 4096) for one in draws for stream in (0, 1, 2)]
    for index, one in enumerate(words):
        for other in words[:index]:
            assert (one == other).sum() <= 1
            bits = (one ^ other) & 0x10101010
            assert abs((bits != 0).float().mean() - 15 / 16) < 0.02
    assert torch.equal(words[0], at(0).words(0, 5000)[:4096]), "a number has its place"


def test_integers_are_below_their_limit_and_all_occur():
    found = at(3).below(7, 1, 7000)
    assert (torch.bincount(found, minlength=7) - 1000).abs().max() < 150
    assert len(found.unique()) == 7
    assert at(3).below(2**31, 1, 1000).max() > 2**30


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


# ----------------------------------------------------------------------------------------- rooms
class Unrecorded(Recorded):
    """Work that could be recorded, done as it is."""

    def __init__(self, work):
        self.work, self.graph, self.keys = work, None, []

    def __call__(self, key, kind):
        self.keys.append(key)
        return self.work()


def with_rooms(settings):
    """A training whose steps are of fixed size, though nothing records them."""
    trainer = make_trainer(settings)
    step, refresh = Unrecorded(trainer._body), Unrecorded(trainer._occupy)
    trainer.recording = Recording(Rooms(CPU), step, refresh)
    return trainer


@pytest.mark.parametrize("gradient", ["directional", "finite_difference", "analytic"])
def test_steps_of_fixed_size_are_the_same(gradient):
    rendering = {**TINY.rendering.model_dump(), "gradient": gradient}
    weights = {**ALL_TERMS, **dict.fromkeys(("depth_robust", "chamfer", "consistency"), 0)}
    settings = changed(TINY, patches=96, rendering=rendering, phases=[{"weights": weights}])
    usual, sized = make_trainer(settings), with_rooms(settings)
    for trainer in (usual, sized):
        trainer.warm_start()
    losses = run(usual, 12), run(sized, 12)
    torch.testing.assert_close(*map(torch.tensor, losses), atol=2e-4, rtol=0)
    torch.testing.assert_close(usual.poses(), sized.poses(), atol=1e-4, rtol=0)
    torch.testing.assert_close(usual.occupancy.values, sized.occupancy.values, atol=2e-3, rtol=0)
    rooms = sized.recording.rooms
    assert rooms.planes % UNIT == rooms.cells % UNIT == 0
    levels = [key[0] for key in sized.recording.step.keys]
    assert levels == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4]


def test_too_little_room_is_noticed_told_and_made(caplog):
    trainer = with_rooms(changed(TINY, steps=100, checkpoints=[]))
    trainer.warm_start()
    run(trainer, 17)
    rooms = trainer.recording.rooms
    assert rooms.planes > UNIT
    rooms.planes = UNIT
    run(trainer, 7)
    assert rooms.planes == UNIT, "looked at every now and then only"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        report = trainer.step()
    assert "before step 25 there was room for 128 planes, not" in caplog.text
    assert int(report.samples) < UNIT * 9
    assert rooms.planes > 3 * UNIT
    assert int(trainer.step().samples) > UNIT * 9


def test_rooms_follow_what_is_needed(caplog):
    rooms = Rooms(CPU)
    assert not rooms.known
    for needed, expected in ((1000, 1280), (1200, 1280), (1230, 1664), (1000, 1664), (900, 1152)):
        for part in (needed, needed // 2):
            rooms.note_planes(torch.tensor(part))
        rooms.note_cells(torch.tensor(10))
        rooms.adapt(0)
        assert rooms.planes == expected
    assert rooms.cells == UNIT
    rooms.adapt(0)
    assert rooms.planes == 1152, "nothing was noted"
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


# --------------------------------------------------------------------------------------- updates
def updated(gradients, moving=1.0):
    """Updates of two parameters after steps with these gradients of both."""
    field = nn.Parameter(torch.ones(2))
    pose = nn.Parameter(torch.ones(1))
    updates = Updates(changed(TINY, optimizer={"learning_rate": 0.1}), [field], [], [pose], [], CPU)
    for step, (a, b) in enumerate(gradients):
        field.grad, pose.grad = torch.tensor(a), torch.tensor(b)
        terms = torch.tensor([1.0, float("nan")])
        updates.make(torch.tensor(step), terms, torch.tensor([0.5, 0.01, moving]))
    return updates, field.detach(), pose.detach()


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
    assert int(before.failed) == -1
    assert int(after.failed) == 1
    assert after.finite.tolist()[:3] == [True, False, True]
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
    assert hindrance(TINY, cuda) is None
    assert "the device is cpu" in hindrance(TINY, CPU)
    phases = [{"until": 0.5}, {"weights": {"consistency": 0.1}}]
    assert "term 'consistency'" in hindrance(changed(TINY, phases=phases), cuda)
    nerfacc = {**TINY.rendering.model_dump(), "backend": "nerfacc"}
    assert "rendering.backend is nerfacc" in hindrance(changed(TINY, rendering=nerfacc), cuda)
    with pytest.raises(InputError, match="graph is on, but the device is cpu, not a GPU"):
        make_trainer(changed(TINY, graph="on"))


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
    trainer = make_trainer(changed(settings, graph=graph), device=torch.device("cuda"))
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
    assert whole.recording.step.recordings >= 4, "levels, phases"
    first = on_gpu(RECORDED, "on")
    begun = run(first, 37)
    save_state(tmp_path / "state.pt", first.state())
    second = make_trainer(changed(RECORDED, graph="on"), device=torch.device("cuda"))
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
