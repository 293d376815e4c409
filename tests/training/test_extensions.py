"""Loss terms and encodings of other packages need a registration and nothing else."""

import pytest
import torch
from fixtures.training import CPU, TINY, changed, sphere_capture
from jaxtyping import Float, Int
from torch import Tensor

from pmni.config.extensions import ENCODINGS, LOSSES
from pmni.config.training import FieldSettings
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.sdf.encoding import Encoding
from pmni.sdf.network import NeuralSDF
from pmni.training.losses.base import Loss, StepInputs
from pmni.training.train import TrainingResult, train


class TotalOpacity(Loss):
    """The mean opacity, a term that shrinks the object."""

    def __call__(self, inputs: StepInputs) -> Float[Tensor, ""]:
        return inputs.rendering.opacity.mean()


class Sinusoids(Encoding):
    """Sine and cosine of the coordinates (NeRF's encoding with one frequency)."""

    width = 6

    def __init__(self, settings: FieldSettings, seed: int) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "N 3"], active: int, num_valid: Int[Tensor, ""] | None = None
    ) -> Float[Tensor, "N 6"]:
        return torch.cat([torch.sin(torch.pi * x), torch.cos(torch.pi * x)], dim=-1)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._added, "total_opacity", TotalOpacity)
    monkeypatch.setitem(ENCODINGS._added, "sinusoids", Sinusoids)


def trained(device: torch.device = CPU, **changes: object) -> TrainingResult:
    capture, distances = sphere_capture()
    assert capture.reference_c2w is not None
    initial = Poses(capture.views, capture.reference_c2w)
    settings = changed(TINY, **{"steps": 4, "checkpoints": [2], "device": device.type, **changes})
    return train(capture, distances, initial, None, settings, device)


def test_a_loss_has_a_weight_in_the_settings_a_column_in_the_history_and_an_effect() -> None:
    usual = trained()
    weighted = trained(phases=[{"weights": {"total_opacity": 0.5}}])
    row, usual_row = weighted.history[0], usual.history[0]
    assert "total_opacity" not in usual_row
    assert row["loss"] == pytest.approx(usual_row["loss"] + 0.5 * row["total_opacity"])
    assert weighted.history[-1]["normal"] != usual.history[-1]["normal"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_loss_is_captured_with_the_steps_on_a_gpu() -> None:
    phases = [{"weights": {"total_opacity": 0.5}}]
    result = trained(torch.device("cuda", 0), steps=40, graph="on", phases=phases)
    assert 0 < result.history[-1]["total_opacity"] < 1


def test_the_weight_of_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(InputError, match="unknown loss 'sharpness'; known: normal, mask"):
        changed(TINY, phases=[{"weights": {"sharpness": 1.0}}])
    with pytest.raises(InputError, match=r"total_opacity.*greater than or equal to 0"):
        changed(TINY, phases=[{"weights": {"total_opacity": -1.0}}])


def test_an_encoding_is_named_in_the_settings() -> None:
    result = trained(field={"encoding": "sinusoids"})
    assert isinstance(result.final.surface, NeuralSDF)
    assert isinstance(result.final.surface.encoding, Sinusoids)
    assert result.final.surface(torch.rand(5, 3)).shape == (5,)
    with pytest.raises(InputError, match="unknown encoding 'wavelets'; known: hash_grid, none"):
        changed(TINY, field={"encoding": "wavelets"})
