"""The gain of the trained surface and what is selected."""

import numpy as np
import pytest

from pmni.config.training import SelectionSettings
from pmni.training.selection import BlockErrors, gain, select

SETTINGS = SelectionSettings()
COUNTS = np.array([4, 2, 2])
BEFORE = BlockErrors(np.array([20.0, 10.0, 12.0]), COUNTS)


def test_the_gain_and_its_standard_error_by_hand() -> None:
    # Differences 4, 1, 0 of 8 pixels: 5 / 8. From 5 / 8 a pixel they are 1.5, -0.25, -1.25 off,
    # whose squares sum to 3.875; sqrt(3 / 2 * 3.875) / 8.
    found = gain(BEFORE, BlockErrors(np.array([16.0, 9.0, 12.0]), COUNTS))
    assert found.value == pytest.approx(0.625)
    assert found.standard_error == pytest.approx(0.3013638, abs=1e-6)
    one = BlockErrors(np.array([20.0]), np.array([4]))
    assert gain(one, BlockErrors(np.array([16.0]), np.array([4]))).standard_error is None


@pytest.mark.parametrize(
    ("sums", "chosen"),
    [((16, 9, 12), 40),  # 0.625, 2.07 standard errors
     ((16, 10, 12), 0),  # 0.5, 1.33 standard errors
     ((20, 10, 12), 0), ((24, 12, 14), 0), ((16, 8, 10), 40)],
)  # fmt: skip
def test_the_last_is_chosen_only_if_it_is_significantly_better_than_the_first(
    sums: tuple[int, ...], chosen: int
) -> None:
    after = BlockErrors(np.array(sums, float), COUNTS)
    better = BlockErrors(BEFORE.sums / 2, COUNTS)
    selection = select({0: BEFORE, 20: better, 40: after}, 40, SETTINGS).to_json()
    assert selection["iteration"] == chosen
    assert selection["heldout_error_deg"] == {0: 5.25, 20: 2.625, 40: sum(sums) / 8}
    assert selection["heldout_gain_deg"] == pytest.approx(5.25 - sum(sums) / 8)
    assert selection["heldout_blocks"] == 3


@pytest.mark.parametrize(("after", "chosen"), [(5.995, 0), (5.99, 40)])
def test_a_gain_that_no_mesh_shows_is_none(after: float, chosen: int) -> None:
    before = BlockErrors(np.full(100, 6.0), np.ones(100, int))
    errors = {0: before, 40: BlockErrors(np.full(100, after), np.ones(100, int))}
    assert select(errors, 40, SETTINGS).iteration == chosen


def test_nothing_to_compare_with_leaves_the_last() -> None:
    assert select({}, 40, SETTINGS).to_json() == {"iteration": 40, "heldout_error_deg": {}}
    assert select({40: BEFORE}, 40, SETTINGS).to_json() == {
        "iteration": 40,
        "heldout_error_deg": {40: 5.25},
    }
