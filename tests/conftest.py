"""Shapes and types of public functions are checked at run time in all tests, but for kernels, which
Triton reads as source. Where there is no GPU, kernels run in Triton's interpreter."""

import os
import pkgutil
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

import pmni

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

rooms = [module.name for module in pkgutil.iter_modules(pmni.__path__) if module.name != "kernels"]
install_import_hook([f"pmni.{name}" for name in rooms], "beartype.beartype")


@pytest.fixture(scope="session")
def body() -> Any:
    """`fixtures.training.smooth_body`: a capture of an analytic shape, and its grid surface."""
    from fixtures.training import smooth_body

    return smooth_body()
