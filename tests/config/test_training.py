"""Settings of `train`: YAML's own way of writing them, and what is refused."""

import pytest

from pmni.config.training import TrainSettings
from pmni.errors import InputError


def test_yaml_may_say_on_and_off() -> None:
    assert TrainSettings.parse({"graph": True}, "test").graph == "on"
    assert TrainSettings.parse({"graph": False}, "test").graph == "off"
    with pytest.raises(InputError, match="graph"):
        TrainSettings.parse({"graph": "always"}, "test")


@pytest.mark.parametrize("step", [0, -1])
def test_checkpoints_come_after_the_start(step: int) -> None:
    """Iteration 0 is the refined surface."""
    with pytest.raises(InputError, match=rf"'checkpoints': .*step {step}: must be 1 or more"):
        TrainSettings.parse({"checkpoints": [5, step]}, "test")
    settings = TrainSettings.parse({"steps": 9, "checkpoints": [5, 1]}, "test")
    assert settings.kept_steps() == (1, 5, 9)
