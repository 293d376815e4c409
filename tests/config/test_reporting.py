"""The description of a run that is reported on."""

import pytest

from pmni.config.reporting import ReportedExperiment


def test_a_candidate_must_be_one_of_the_steps() -> None:
    with pytest.raises(ValueError, match="5 is not one of the steps"):
        ReportedExperiment(
            name="a", registration_method="from_scratch", steps=(0, 10), candidates=(0, 5)
        )
