"""What the page says of what made the results."""

import os

from fixtures.report_page import page_of
from fixtures.report_results import Tree


def test_the_newest_result_is_dated_by_its_provenance(tree: Tree) -> None:
    for path in tree.results.rglob("*provenance.json"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    newest = tree.results / "free/egg/train/provenance.json"
    os.utime(newest, (1_600_000_000, 1_600_000_000))
    assert "13 September 2020, 12:26 UTC" in page_of(tree)
