"""Settings of `train` that YAML writes in its own way."""

import pytest

from pmni.config.training import TrainSettings
from pmni.errors import InputError


def test_yaml_may_say_on_and_off() -> None:
    assert TrainSettings.parse({"graph": True}, "test").graph == "on"
    assert TrainSettings.parse({"graph": False}, "test").graph == "off"
    with pytest.raises(InputError, match="graph"):
        TrainSettings.parse({"graph": "always"}, "test")
