"""Shapes and types of public functions are checked at run time in all tests, but for kernels, which
Triton reads as source. Where there is no GPU, kernels run in Triton's interpreter."""

import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

import pmni

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

rooms = [module.name for module in pkgutil.iter_modules(pmni.__path__) if module.name != "kernels"]
install_import_hook([f"pmni.{name}" for name in rooms], "beartype.beartype")

SLOW_FILES = (
    "registration/test_from_scratch.py",
    "workflow/test_workflow_real.py",
    "workflow/test_workflow.py",
    "training/test_trainer.py",
    "refinement/test_refine.py",
    "runtime/test_reproducible.py",
    "benchmarks/test_benchmarks.py",
    "refinement/test_solver.py",
    "data/test_image_borders.py",
    "refinement/test_concavities.py",
    "refinement/test_report.py",
    "cli/test_train.py",
    "docs/test_notebook.py",
    "reporting/test_viewer.py",
)
"""The slowest test files, the slowest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files start first: else one of them would run alone at the end, on a single core."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def body() -> Any:
    """`fixtures.training.smooth_body`: a capture of an analytic shape, and its grid surface."""
    from fixtures.training import smooth_body

    return smooth_body()


@pytest.fixture(scope="session")
def complete_results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`fixtures.report_results.write_results`: results of a run in which everything worked."""
    from fixtures.report_results import write_results

    return write_results(tmp_path_factory.mktemp("run") / "results")
