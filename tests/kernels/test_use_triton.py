"""Whether kernels run, rather than their reference implementations."""

import pytest
import torch

pytest.importorskip("triton")

from pmni import kernels
from pmni.errors import InputError

pytestmark = pytest.mark.usefixtures("reference_is_torch")


def test_which_run(monkeypatch):
    assert not kernels.use_triton(torch.device("cuda"))
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "fast")
    with pytest.raises(InputError, match="PMNI_KERNELS=fast: give triton or torch"):
        kernels.use_triton(torch.device("cuda"))
    monkeypatch.setenv(kernels.BACKEND_VARIABLE, "triton")
    assert kernels.use_triton(torch.device("cuda"))
    assert not kernels.use_triton(torch.device("cpu"))
