"""Fixtures of several kernels' tests."""

import pytest
from fixtures.analytic_sdfs import torus
from fixtures.kernels import DEVICE
from fixtures.padded_planes import Scene, make_scene

from pmni import kernels
from pmni.sdf.narrow_band import NarrowBandSDF, resample


@pytest.fixture
def reference_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that choose an implementation take the reference implementation."""
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "torch")


@pytest.fixture(scope="module", params=[32, 128])
def band(request: pytest.FixtureRequest) -> NarrowBandSDF:
    """A dense grid, and one with inactive blocks."""
    return resample(torus(0.55, 0.25), request.param, DEVICE, sweeps=4)


@pytest.fixture(params=[1, 2, 3, 5])
def scene(request: pytest.FixtureRequest) -> Scene:
    """`fixtures.padded_planes.make_scene` of patches of several widths."""
    return make_scene(request.param)
