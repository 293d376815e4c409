"""The network's kernels give what PyTorch's layers give; without a GPU, in Triton's interpreter."""

import pytest
import torch
from torch import nn
from torch.autograd import grad

pytest.importorskip("triton")

from fixtures.cuda_graph import captured

import pmni.kernels.hash_grid
import pmni.kernels.mlp
import pmni.kernels.network
from pmni import kernels
from pmni.config.training import FieldSettings
from pmni.kernels.mlp import values, values_and_slopes
from pmni.runtime.determinism import deterministic
from pmni.sdf.network import NeuralSDF

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
POINTS = pmni.kernels.mlp.POINTS
ON_CPU = DEVICE.type == "cpu"
CLOSE = 2e-5 if ON_CPU else 1e-4
DERIVATIVES_CLOSE = 2e-5 if ON_CPU else 2e-3
"""In units of the largest value expected: those of f, and those of losses."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def example(count: int, features: int, width: int) -> list[torch.Tensor]:
    """Points, features and weights with which many hidden units are where softplus bends."""
    inputs = 3 + features
    tensors = [
        random(count, 3, seed=0) / 2,
        random(count, features, seed=1) / 10,
        random(width, inputs, seed=2) / 10,
        random(width, seed=3) / 100,
        random(1, width, seed=4) / width**0.5,
        random(1, seed=5),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


def by_torch(x, features, first, bias, second, end):
    hidden = nn.functional.linear(torch.cat([x, features], -1), first, bias)
    return nn.functional.linear(nn.functional.softplus(hidden, beta=100), second, end)[:, 0]


def slopes_by_torch(*inputs):
    x, features = inputs[:2]
    f = by_torch(*inputs)
    by_x, by_features = grad(f.sum(), (x, features), create_graph=True, materialize_grads=True)
    return f, by_x, by_features


def loss(f, by_x, by_features):
    """Of values, of directions that all differ, and of the gradient's length."""
    some = (f * random(*f.shape, seed=6).to(f)).sum() + f.abs().sum()
    others = (by_x * random(*by_x.shape, seed=7).to(f)).sum()
    others = others + (by_features * random(*by_features.shape, seed=8).to(f)).sum()
    return some + others + ((by_x.norm(dim=-1) - 1) ** 2).sum()


def in_double(inputs):
    return [tensor.detach().double().requires_grad_() for tensor in inputs]


def assert_close(found, expected, close=CLOSE):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        most = max(float(b.detach().abs().max()), 1e-3) if b.numel() else 1.0
        torch.testing.assert_close(a / most, b.to(a.dtype) / most, atol=close, rtol=0)


def assert_derivatives_close(found, expected):
    assert_close(found, expected, DERIVATIVES_CLOSE)


SHAPES = pytest.mark.parametrize(
    ("count", "features", "width"),
    [(1, 13, 16), (POINTS + 5, 4, 16), (33, 28, 64), (POINTS, 0, 64), (20, 60, 100), (9, 2, 128)],
)


@SHAPES
def test_values_slopes_and_their_derivatives_match_the_reference(count, features, width):
    inputs = example(count, features, width)
    reference_inputs = in_double(inputs)
    found, reference = values_and_slopes(*inputs), slopes_by_torch(*reference_inputs)
    assert_close(found, reference)
    assert_derivatives_close(grad(loss(*found), inputs), grad(loss(*reference), reference_inputs))


@SHAPES
def test_values_alone_and_their_derivatives_match_the_reference(count, features, width):
    inputs = example(count, features, width)
    reference_inputs = in_double(inputs)
    found, reference = values(*inputs), by_torch(*reference_inputs)
    assert_close([found], [reference])
    weights = random(count, seed=6)
    assert_derivatives_close(
        grad(found, inputs, weights), grad(reference, reference_inputs, weights.double())
    )


def test_derivatives_of_values_can_be_differentiated_again():
    inputs = example(10, 4, 16)
    reference_inputs = in_double(inputs)

    def second(f, inputs):
        slopes = grad(f.square().sum(), inputs, create_graph=True)
        return grad(sum(slope.square().sum() for slope in slopes), inputs)

    assert_derivatives_close(
        second(values(*inputs), inputs), second(by_torch(*reference_inputs), reference_inputs)
    )


@pytest.mark.parametrize("programs", [1, 2])
def test_sums_over_several_blocks(monkeypatch, programs):
    monkeypatch.setattr(pmni.kernels.mlp, "PROGRAMS", programs)
    monkeypatch.setattr(pmni.kernels.mlp, "GRAD_PROGRAMS", programs)
    inputs = example(3 * POINTS - 7, 3, 16)
    reference_inputs = in_double(inputs)
    found = grad(loss(*values_and_slopes(*inputs)), inputs)
    assert_derivatives_close(
        found, grad(loss(*slopes_by_torch(*reference_inputs)), reference_inputs)
    )


def test_softplus_far_from_where_it_bends():
    inputs = example(40, 2, 16)
    inputs[3].data.copy_(torch.linspace(-30, 30, 16))
    reference_inputs = in_double(inputs)
    found, reference = values_and_slopes(*inputs), slopes_by_torch(*reference_inputs)
    assert_close(found, reference)
    assert_derivatives_close(grad(loss(*found), inputs), grad(loss(*reference), reference_inputs))


def test_points_that_are_not_real_are_left_out():
    inputs = example(2 * POINTS + 9, 5, 16)
    for count in (POINTS + 7, POINTS, 3, 0):
        real = torch.tensor(count, device=DEVICE)
        for spare in inputs[:2]:
            spare.data[count:] = torch.nan
        found = values_and_slopes(*inputs, real)
        few = [tensor[:count] for tensor in inputs[:2]] + inputs[2:]
        reference = slopes_by_torch(*few)
        assert_close([part[:count] for part in found], reference)
        assert not any(part[count:].any() for part in found)
        weights = [random(*part.shape, seed=6) for part in found]
        for weight in weights:
            weight[count:] = 0  # what is done with the others does not depend on them
        derivatives = grad(found, inputs, weights)
        assert_derivatives_close(
            derivatives, grad(reference, inputs, [weight[:count] for weight in weights])
        )
        alone, reference = values(*inputs, real), by_torch(*few)
        weight = weights[0]
        assert_derivatives_close(
            grad(alone, inputs, weight), grad(reference, inputs, weight[:count])
        )


def test_no_points():
    inputs = example(0, 5, 16)
    f, by_x, by_features = values_and_slopes(*inputs)
    assert (f.shape, by_x.shape, by_features.shape) == ((0,), (0, 3), (0, 5))
    for found in (grad(loss(f, by_x, by_features), inputs), grad(values(*inputs).sum(), inputs)):
        assert [part.shape for part in found] == [part.shape for part in inputs]
        assert not any(part.any() for part in found)


def test_tensors_in_any_layout():
    inputs = example(12, 4, 16)
    across = [
        tensor.detach().t().contiguous().t().requires_grad_() if tensor.ndim == 2 else tensor
        for tensor in inputs
    ]
    assert not across[0].is_contiguous()
    assert_derivatives_close(
        grad(loss(*values_and_slopes(*across)), across),
        grad(loss(*values_and_slopes(*inputs)), inputs),
    )
    (slope,) = grad(values(*across).sum(), across[0], create_graph=True)
    slope.square().sum().backward()


def test_only_the_derivatives_asked_for_are_computed(monkeypatch):
    inputs = [tensor.detach() for tensor in example(5, 4, 16)]
    inputs[0].requires_grad_()
    launched = []
    kernel = pmni.kernels.mlp.head_derivatives

    class Watched:
        def __getitem__(self, programs):
            return lambda *rest, **kind: launched.append(kind) or kernel[programs](*rest, **kind)

    monkeypatch.setattr(pmni.kernels.mlp, "head_derivatives", Watched())
    f, by_x, _ = values_and_slopes(*inputs)
    grad(f.sum() + by_x.square().sum(), inputs[0])
    assert [kind["WEIGHTS"] for kind in launched] == [False]
    with torch.no_grad():
        assert not values(*inputs).requires_grad


def test_third_derivatives_are_refused():
    inputs = example(4, 4, 16)
    f, by_x, _ = values_and_slopes(*inputs)
    (second,) = grad(by_x.square().sum() + f.sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no further.*backend: torch"):
        grad(second.sum(), inputs[2])


def test_what_kernels_do_not_take_is_refused():
    with pytest.raises(TypeError, match="float32"):
        values(*in_double(example(2, 4, 16)))
    with pytest.raises(ValueError, match="16 to 128 hidden units and at most 63 inputs, not 8"):
        values_and_slopes(*example(2, 4, 8))
    with pytest.raises(ValueError, match="not 16 and 64"):
        values(*example(2, 61, 16))


GRID = {"levels": 2, "log2_entries": 8, "base_resolution": 4, "growth": 1.9}
FIELDS = {
    "hash grid": FieldSettings(**GRID, width=16),
    "no encoding": FieldSettings(encoding="none", levels=1, width=32, weight_norm=False),
}


@pytest.fixture
def _kernels_everywhere(monkeypatch):
    monkeypatch.delenv(kernels.BACKEND_VARIABLE, raising=False)
    if DEVICE.type == "cpu":
        monkeypatch.setattr(pmni.kernels.hash_grid, "STEPS", 3)
        monkeypatch.setattr(kernels, "use_triton", lambda device: True)


def networks(settings: FieldSettings) -> tuple[NeuralSDF, NeuralSDF]:
    """The same network, by kernels and by PyTorch, with features and weights of order one."""
    fields = [NeuralSDF(settings, seed=0)]
    fields.append(NeuralSDF(settings.model_copy(update={"backend": "torch"}), seed=0))
    for field in fields:
        for index, parameter in enumerate(field.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.data += 0.1 * noise
    return fields[0].to(DEVICE), fields[1].to(DEVICE)


def steps(field: NeuralSDF, moving: bool):
    """Values, gradients, and the derivatives of losses of both, as training takes them."""
    x = random(POINTS + 3, 3, seed=9).clamp(-0.9, 0.9)
    x.requires_grad_(moving)
    value, gradient = field.value_and_gradient(x)
    eikonal = ((gradient.norm(dim=-1) - 1) ** 2).mean()
    normal = (gradient * random(*gradient.shape, seed=10)).mean()
    sources = [*field.parameters(), *([x] if moving else [])]
    both = grad(eikonal + normal + value.abs().mean(), sources)
    alone = field(x)
    first = grad((alone * random(len(x), seed=11)).mean(), sources)
    with torch.no_grad():
        still = field.value_and_gradient(x)
        assert not still[0].requires_grad
        assert not still[1].requires_grad
    return [value, gradient, *both, alone, *first, *still]


@pytest.mark.usefixtures("_kernels_everywhere")
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("settings", FIELDS.values(), ids=FIELDS)
def test_network_is_the_same_on_both(settings, moving, monkeypatch):
    launched = []
    launch = pmni.kernels.mlp.forward
    monkeypatch.setattr(
        pmni.kernels.mlp,
        "forward",
        lambda *rest, **kind: launched.append(kind) or launch(*rest, **kind),
    )
    # With the rounding of single tf32 products, what nearly cancels would differ.
    monkeypatch.setattr(pmni.kernels.mlp, "GRAD_PRECISION", pmni.kernels.mlp.PRECISION)
    ours, reference = networks(settings)
    assert_close(steps(ours, moving), steps(reference, moving))
    assert [kind["slopes"] for kind in launched] == [True, False, True]


@pytest.mark.usefixtures("_kernels_everywhere")
@pytest.mark.parametrize("real", [None, 5, 13])
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_points_of_several_nodes(real, is_deterministic, monkeypatch):
    field, _ = networks(FIELDS["hash grid"])
    x = random(15, 3, seed=9).clamp(-0.9, 0.9).requires_grad_()
    real = None if real is None else torch.tensor(real, device=DEVICE)

    def found():
        value, gradient = field.value_and_gradient(x, real)
        loss = value.square().sum() + (gradient * random(15, 3, seed=10)).sum()
        return [value, gradient, *grad(loss, [x, *field.parameters()])]

    with deterministic(is_deterministic):  # which fills with NaN what is not initialised
        at_once = found()
        monkeypatch.setattr(pmni.kernels.network, "CHUNK", 6)
        by_parts = found()
    for part, expected in zip(by_parts, at_once, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("_kernels_everywhere")
@pytest.mark.parametrize(
    "change", [{"layers": 2}, {"layers": 2, "skip": 1}, {"width": 200}, {"backend": "torch"}]
)
def test_other_networks_keep_pytorch(change, monkeypatch):
    monkeypatch.setattr(pmni.kernels.mlp, "forward", None)
    field = NeuralSDF(FIELDS["no encoding"].model_copy(update=change), seed=0).to(DEVICE)
    _, gradient = field.value_and_gradient(torch.zeros(2, 3, device=DEVICE))
    gradient.square().sum().backward()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_network_is_captured_in_a_graph():
    field, _ = networks(FIELDS["hash grid"])
    static = random(500, 3, seed=1).clamp(-0.9, 0.9)

    def gradients():
        value, gradient = field.value_and_gradient(static)
        return grad(value.square().sum() + gradient.square().sum(), list(field.parameters()))

    found, graph = captured(gradients)
    static.copy_(random(500, 3, seed=2).clamp(-0.9, 0.9))
    graph.replay()
    assert_close(found, gradients())
