"""The colour scale of the galleries."""

import numpy as np

from pmni.reporting.gallery import error_scale


def test_the_error_scale_is_round_and_none_without_errors() -> None:
    assert error_scale([np.array([[[11.9, 11.9, np.nan]]])]) == 15
    assert error_scale([]) is None
    assert error_scale([np.full((1, 2, 2), np.nan)]) is None
