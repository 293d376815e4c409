"""Experiments and selections in words."""

import pytest

from pmni.reporting import descriptions


@pytest.mark.parametrize(
    ("refined", "trained", "result", "errors", "gain", "words_of_it"),
    [
        (True, True, 0, {0: 5.18, 20: 5.21}, (-0.03, 0.01), "Kept the refined surface: the network "
         "did not lower the error on held-out normals (5.21 vs 5.18 degrees)."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.01, 2.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.010 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001, 2.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "too small to matter."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001, 4.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant or too small to matter."),
        (True, True, 20, {0: 5.18, 20: 5.0}, (0.18, 0.02), "The network lowered the error on "
         "held-out normals by 0.180 ± 0.020 degrees (5.00 vs 5.18 degrees), so its surface at "
         "iteration 20 is the result."),
        (True, True, 20, {0: 5.18, 20: 5.0}, (None, None), "The network lowered the error on "
         "held-out normals by 0.180 degrees (5.00 vs 5.18 degrees), so its surface at iteration "
         "20 is the result."),
        (True, True, 20, {}, (None, None), "The result is the surface at iteration 20."),
        (True, True, 0, {}, (None, None), "The result is the refined surface."),
        (True, False, 0, {}, (None, None), "The refined surface is the result; this experiment "
         "trains no network."),
        (False, True, 20, {}, (None, None), ""),
    ],
)  # fmt: skip
def test_the_verdict_is_said_in_words(
    refined: bool,
    trained: bool,
    result: int,
    errors: dict[int, float],
    gain: tuple[float | None, ...],
    words_of_it: str,
) -> None:
    assert descriptions.selection_text(refined, trained, result, 20, errors, *gain) == words_of_it


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("reference", "given"),
        ("noisy", "disturbed"),
        ("turntable", "free"),
        ("from_scratch", "free"),
    ],
)
def test_experiments_that_know_the_poses_are_told_apart(method: str, kind: str) -> None:
    assert descriptions.pose_kind(method).kind == kind
