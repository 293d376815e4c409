"""Results of a complete run, a copy of them, and their page."""

from pathlib import Path

import pytest
from fixtures.report_page import page_of
from fixtures.report_results import Tree, copy_results


@pytest.fixture
def tree(complete_results: Tree, tmp_path: Path) -> Tree:
    """A copy of the results of a complete run, to break."""
    return copy_results(complete_results, tmp_path)


@pytest.fixture(scope="session")
def page(complete_results: Tree) -> str:
    """The page of a complete run."""
    return page_of(complete_results)
