"""The panels of a run."""

import json

import numpy as np
import pytest
from fixtures.report_page import between, data_of, page_of, section
from fixtures.report_results import Tree


def test_the_page_says_which_surface_is_the_result_and_why(page: str) -> None:
    lowered = "The network lowered the error on held-out normals by 0.269 ± 0.021 degrees (4.91 vs"
    assert f"{lowered} 5.18 degrees), so its surface at iteration 300 is the result." in section(
        page, "pebble"
    )
    kept = "Kept the refined surface: the network&#39;s gain of 0.003 ± 0.010 degrees on held-out"
    assert f"{kept} normals (5.18 vs 5.18 degrees) is not significant." in section(page, "egg")
    for name in ("pebble", "egg"):
        assert section(page, name).count("this experiment trains no network.") == 1
    scenes = data_of(page)["scenes"]
    assert (scenes["part-pebble"]["first"], scenes["part-egg"]["first"]) == ("free/300", "free/0")
    summary = between(page, '<section id="summary">', "</section>")
    assert "<small>iteration 300</small>" in summary
    assert "<small>refined</small>" in summary


@pytest.mark.parametrize(
    ("significance", "shortfall"),
    [(0.25, "too small to matter"), (2.0, "not significant"), (None, "not significant or too")],
)
def test_a_gain_is_judged_by_the_settings_of_its_training(
    tree: Tree, significance: float | None, shortfall: str
) -> None:
    """0.003 degrees are 0.3 standard errors."""
    path = tree.results / "free/egg/train/provenance.json"
    content = json.loads(path.read_text("utf-8"))
    content["settings"]["selection"] = {"significance": significance}
    path.write_text(json.dumps(content), encoding="utf-8")
    assert f"(5.18 vs 5.18 degrees) is {shortfall}" in section(page_of(tree, 1), "egg")


def test_registration_and_refinement_are_shown(page: str) -> None:
    part = section(page, "pebble")
    assert "Registration: method from_scratch · kind equal steps · score 0.812" in part
    charts = data_of(page)["charts"]
    turn = charts["pebble/free/Rotation of the cameras in an iteration, degrees"]
    assert [trace["name"] for trace in turn["traces"]] == ["mean", "largest"]
    assert [(mark["x"], mark["text"]) for mark in turn["marks"]] == [
        (0.5, "64³"),
        (6.5, "128³"),
        (14.5, "256³"),
    ]
    errors = charts["pebble/free/Rotation error of the cameras"]["traces"][0]
    assert errors["x"] == ["start", "refined", "iteration 100", "iteration 300"]
    assert errors["y"] == sorted(errors["y"], reverse=True)
    expected = charts["pebble/free/Uncertainty of the refined cameras, view by view"]["traces"][0]
    np.testing.assert_allclose(expected["y"], 0.2 + 0.02 * np.arange(6), rtol=1e-4)
    assert "focal factor" not in part  # it never changed
