"""The hash grid's kernels give its reference's features and derivatives; without a GPU, in Triton's
interpreter."""

import pytest
import torch
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.cuda_graph import captured

import pmni.kernels.hash_grid
from pmni import kernels
from pmni.config.training import FieldSettings
from pmni.errors import MissingBackendError
from pmni.kernels.hash_grid import hash_grid_features
from pmni.sdf.encoding import make_encoding
from pmni.sdf.hash_grid import HashGrid, layout_of, runs_kernels
from pmni.sdf.network import NeuralSDF

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COUNT = pmni.kernels.hash_grid.POINTS
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
"""For tables, gradients and directions of order one, in units of the largest value expected."""


@pytest.fixture(autouse=True)
def _short_rows(monkeypatch):
    if DEVICE.type == "cpu":  # the interpreter's time is that of its steps
        monkeypatch.setattr(pmni.kernels.hash_grid, "STEPS", 3)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def make(features: int = 2, levels: int = 2) -> HashGrid:
    """A dense level of scale 3, whose last nodes wrap around, and hashed ones."""
    generator = torch.Generator().manual_seed(0)
    grid = HashGrid(levels, features, 8, 4, 1.9, generator, "torch").to(DEVICE)
    assert [level.dense for level in grid.levels[:2]] == [True, False]
    grid.params.data.copy_(random(len(grid.params), seed=1))
    return grid


def uniform(count: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=generator).to(DEVICE)


def edges() -> torch.Tensor:
    """Corners of the box, points on cells' faces, and points beyond the box."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    faces = (torch.cartesian_prod(*[torch.arange(4.0)] * 3) + 0.5) / 3  # exact at scale 3
    beyond = torch.tensor([[-0.2, 0.5, 1.3], [1.001, -1e-4, 0.2], [-3.0, 5.0, -7.7], [9.0, 9, 9]])
    return torch.cat([corners, faces, beyond]).to(DEVICE)


def by_kernels(grid: HashGrid, active: int = 2, real: torch.Tensor | None = None):
    return lambda x: hash_grid_features(x, grid.kernel_tensors(active, real))


def by_reference(grid: HashGrid, active: int = 2):
    return lambda x: grid(x, active)


def derivatives(encode, grid: HashGrid, points: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features, their derivatives by x, and the derivatives of a function of both."""
    x = points.clone().requires_grad_()
    features = encode(x)
    weights = random(*features.shape, seed=3).requires_grad_()
    (slopes,) = grad(features, x, weights, create_graph=True)
    directions = random(*slopes.shape, seed=4)
    # As a loss of the gradient of a network, which depends on the features, too.
    loss = (slopes * directions).sum() + (features.square() * weights).sum()
    by_x, by_table, by_weights = grad(loss, (x, grid.params, weights))
    return {
        "features": features.detach(),
        "slopes": slopes.detach(),
        "by x": by_x,
        "by table": by_table,
        "by weights": by_weights,
    }


def assert_close(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    for name, value in reference.items():
        most = max(float(value.abs().max()), 1.0) if value.numel() else 1.0
        torch.testing.assert_close(
            found[name] / most, value / most, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("features", [1, 2, 3, 4, 8])
def test_features_and_derivatives_match_the_reference(features):
    grid = make(features)
    points = uniform(COUNT + 5 if features == 2 else 40)
    assert_close(
        derivatives(by_kernels(grid), grid, points), derivatives(by_reference(grid), grid, points)
    )


def test_each_derivative_equals_the_reference():
    grid = make()
    x = uniform(30).requires_grad_()
    weights, directions = random(30, 4, seed=3).requires_grad_(), random(30, 3, seed=4)

    def each(encode):
        features = encode(x)
        names = ["first by x", "first by table"]
        found = dict(zip(names, grad(features, (x, grid.params), weights, True), strict=True))
        (slopes,) = grad(features, x, weights, create_graph=True)
        second = grad(slopes, (x, grid.params, weights), directions)
        names = ["second by x", "second by table", "second by weights"]
        return found | dict(zip(names, second, strict=True))

    reference = each(by_reference(grid))
    assert min(value.abs().max() for value in reference.values()) > 1
    assert_close(each(by_kernels(grid)), reference)


def test_edges_match_the_reference():
    grid = make()
    points = edges()
    assert_close(
        derivatives(by_kernels(grid), grid, points), derivatives(by_reference(grid), grid, points)
    )


def test_sums_of_points_that_share_cells_match_the_reference():
    grid = make()
    runs = uniform(30).repeat_interleave(3, dim=0) + 1e-3 * random(90, 3, seed=5)
    to_and_fro = torch.cat([uniform(1, seed=6), uniform(1, seed=7)]).repeat(8, 1)
    points = torch.cat([runs, to_and_fro, to_and_fro[:1].expand(20, 3)])
    assert_close(
        derivatives(by_kernels(grid), grid, points), derivatives(by_reference(grid), grid, points)
    )


@pytest.mark.parametrize("active", [0, 1])
def test_idle_levels_are_zero_and_get_no_gradient(active):
    grid = make()
    points = uniform(20)
    found = derivatives(by_kernels(grid, active), grid, points)
    if active:
        assert_close(found, derivatives(by_reference(grid, active), grid, points))
    idle = grid.levels[active].offset * grid.features
    assert not found["features"][:, active * grid.features :].any()
    assert not found["by table"][idle:].any()


@pytest.mark.parametrize("count", [0, 13])
def test_points_that_are_not_real_are_left_out(count):
    grid, points = make(), uniform(COUNT // 2 + 20)
    kept = (torch.arange(len(points), device=DEVICE) < count)[:, None].float()
    reference = derivatives(lambda x: by_reference(grid)(x) * kept, grid, points)
    points[count:] = torch.nan
    real = torch.tensor(count, device=DEVICE)
    assert_close(derivatives(by_kernels(grid, real=real), grid, points), reference)


def test_no_points():
    grid = make()
    found = derivatives(by_kernels(grid), grid, uniform(0))
    assert found["features"].shape == (0, 4)
    assert found["slopes"].shape == found["by x"].shape == (0, 3)
    assert not found["by table"].any()


def test_only_the_derivatives_asked_for_are_computed(monkeypatch):
    launched = []
    launch, add = pmni.kernels.hash_grid._launch, pmni.kernels.hash_grid.table_derivatives

    def record(kernel, *rest):
        launched.append(kernel.__name__ if hasattr(kernel, "__name__") else kernel.fn.__name__)
        launch(kernel, *rest)

    def record_addition(*rest):
        launched.append("add_to_entries")
        return add(*rest)

    monkeypatch.setattr(pmni.kernels.hash_grid, "_launch", record)
    monkeypatch.setattr(pmni.kernels.hash_grid, "table_derivatives", record_addition)
    grid = make()
    x = uniform(8).requires_grad_()
    features = by_kernels(grid)(x)
    (slopes,) = grad(features.sum(), x, create_graph=True)
    assert launched == ["features", "x_derivatives"]
    grad(slopes.sum() + features.sum(), grid.params)
    twice = ["add_to_entries"] * 2
    assert sorted(launched[2:]) == [*twice, "features", "x_derivatives"]
    by_kernels(grid)(uniform(8)).sum().backward()
    assert launched[6:] == ["features", "add_to_entries"]
    with torch.no_grad():
        assert not by_kernels(grid)(x).requires_grad


def test_points_and_gradients_in_any_layout():
    grid = make()
    points = uniform(12)
    across = points.t().contiguous().t().requires_grad_()
    slopes = grad(by_kernels(grid)(across).sum(), across, create_graph=True)[0]
    reference = grad(by_reference(grid)(across).sum(), across)[0]
    torch.testing.assert_close(slopes, reference, atol=1e-4, rtol=1e-4)
    slopes.sum().backward()


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
def test_sums_in_fixed_point_do_not_depend_on_the_order():
    grid = make()
    points = torch.cat([uniform(40), edges()])
    weights = torch.exp(4 * random(len(points), 4, seed=5))  # several orders of magnitude

    def sums(order):
        x = points[order].requires_grad_()
        features = by_kernels(grid)(x)
        (slopes,) = grad(features, x, weights[order], create_graph=True)
        (second,) = grad(slopes.square().sum(), grid.params, retain_graph=True)
        return grad(features, grid.params, weights[order])[0], second

    forth = torch.arange(len(points), device=DEVICE)
    first, second = sums(forth)
    first_back, second_back = sums(forth.flip(0))
    assert torch.equal(first, first_back)
    assert torch.equal(second, second_back)
    torch.use_deterministic_algorithms(False)
    fast, second_fast = sums(forth)
    unit = float(weights.max()) * len(points) * 2.0**-61
    torch.testing.assert_close(first, fast, atol=20 * unit, rtol=3e-6)  # all terms are positive
    largest = second_fast.abs().max()
    torch.testing.assert_close(second / largest, second_fast / largest, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20, float("nan"), float("inf")])
def test_fixed_point_takes_gradients_of_any_size(size):
    grid = make()
    features = by_kernels(grid)(uniform(40))
    weights = torch.ones_like(features) * size
    (found,) = grad(features, grid.params, weights)
    if weights.isfinite().all():
        reference = grad(by_reference(grid)(uniform(40)), grid.params, weights)[0]
        torch.testing.assert_close(found, reference, atol=0, rtol=1e-4 if size != 1e-30 else 1e-2)
    else:
        assert not found.isfinite().any()


def test_reference_has_right_second_derivatives():
    # Those of both factors: the table's and the gradient's of the features.
    grid = HashGrid(2, 2, 4, 2, 1.7, torch.Generator().manual_seed(0), "torch").double()
    params = torch.randn_like(grid.params).requires_grad_()
    x = uniform(4).cpu().double().requires_grad_()

    def features(points, table):
        return torch.func.functional_call(grid, {"params": table}, (points, 2))

    assert torch.autograd.gradcheck(features, (x, params), eps=1e-7, atol=1e-5)
    assert torch.autograd.gradgradcheck(features, (x, params), eps=1e-7, atol=1e-5)


def test_network_trains_alike_on_both(monkeypatch):
    settings = FieldSettings(
        levels=2, log2_entries=8, base_resolution=4, growth=1.9, backend="torch"
    )
    network = NeuralSDF(settings, seed=0).to(DEVICE)
    network.encoding.params.data.copy_(random(len(network.encoding.params), seed=1) * 0.1)
    network.layers[0].parametrizations.weight.original1.data.normal_(std=0.2)
    points = uniform(50) * 2 - 1

    def gradients():
        value, slope = network.value_and_gradient(points)
        loss = (slope.norm(dim=-1) - 1).square().mean() + value.square().mean()
        return grad(loss, list(network.parameters()))

    reference = gradients()
    encode = by_kernels(network.encoding)
    monkeypatch.setattr(network.encoding, "forward", lambda x, active, real: encode(x))
    for found, expected in zip(gradients(), reference, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=1e-4)


def test_third_derivatives_are_refused():
    grid = make()
    x = uniform(4).requires_grad_()
    (slopes,) = grad(by_kernels(grid)(x).square().sum(), x, create_graph=True)
    for source in (x, grid.params):
        (second,) = grad(slopes.sum(), source, create_graph=True)
        for further in (x, grid.params):
            with pytest.raises(NotImplementedError, match=r"no further.*backend: torch"):
                grad(second.sum(), further, retain_graph=True)


def test_other_types_are_refused():
    grid = make().double()
    with pytest.raises(TypeError, match="float32"):
        by_kernels(grid)(uniform(3))


def test_layout_keeps_the_scales_bits():
    grid = make()
    scales = [level.scale for level in grid.levels]
    assert torch.equal(layout_of(grid.levels)[:, 0].view(torch.float32), torch.tensor(scales))
    assert grid.double().layout.dtype == torch.int32
    assert set(grid.state_dict()) == {"params"}


def test_which_backend_runs(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    auto, triton = FieldSettings(), FieldSettings(backend="triton")
    assert auto.backend == "auto"
    monkeypatch.delenv(kernels.BACKEND_VARIABLE, raising=False)

    def backend_on(settings: FieldSettings, device: torch.device) -> str:
        return make_encoding(settings, seed=0).backend_on(device)

    assert (backend_on(auto, cpu), backend_on(auto, gpu)) == ("torch", "triton")
    assert backend_on(FieldSettings(backend="torch"), gpu) == "torch"
    assert backend_on(FieldSettings(backend="triton", encoding="none"), cpu) == "torch"
    assert backend_on(triton, gpu) == "triton"
    with pytest.raises(MissingBackendError, match=r"CUDA device \(this is cpu\).*backend: auto"):
        NeuralSDF(triton, seed=0)(torch.zeros(1, 3))
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "torch")
    assert not runs_kernels("auto", gpu)
    with pytest.raises(MissingBackendError, match="PMNI_KERNELS not to be torch"):
        runs_kernels("triton", gpu)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_second_derivatives_are_captured_in_a_graph():
    grid = make()
    encode = by_kernels(grid)
    static = uniform(500)

    def gradients():
        x = static.clone().requires_grad_()
        (slopes,) = grad(encode(x).square().sum(), x, create_graph=True)
        return grad(slopes.square().sum(), grid.params)[0]

    found, graph = captured(gradients)
    static.copy_(uniform(500, seed=9))
    graph.replay()
    torch.testing.assert_close(found, gradients(), atol=1e-2, rtol=1e-4)
