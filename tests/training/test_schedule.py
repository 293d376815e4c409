"""Learning rates, phases, levels and spacings as functions of the step."""

import pytest

from pmni.config.training import FieldSettings, LossWeights, PhaseSettings, TrainSettings
from pmni.errors import InputError
from pmni.training import schedule


def test_rate_warms_up_then_follows_a_cosine() -> None:
    settings = TrainSettings(steps=1000, optimizer={"warm_up_steps": 100, "final_fraction": 0.05})
    assert schedule.rate_factor(0, settings) == pytest.approx(0.01)
    assert schedule.rate_factor(99, settings) == pytest.approx(1.0)
    assert schedule.rate_factor(550, settings) == pytest.approx((1 + 0.05) / 2)
    assert schedule.rate_factor(1000, settings) == pytest.approx(0.05)


def test_phases_end_where_they_say() -> None:
    phases = (
        PhaseSettings(until=0.25, weights=LossWeights(mask=3)),
        PhaseSettings(until=1.0, weights=LossWeights(mask=5)),
    )
    settings = TrainSettings(steps=8, phases=phases)
    assert [schedule.phase_at(step, settings).weights.mask for step in range(8)] == [3] * 2 + [
        5
    ] * 6


@pytest.mark.parametrize("ends", [(0.5,), (0.5, 0.5, 1.0), (1.0, 0.5)])
def test_phases_must_ascend_to_one(ends: tuple[float, ...]) -> None:
    phases = [{"until": end} for end in ends]
    with pytest.raises(InputError, match=r"here: 'phases'|here: .*ascend"):
        TrainSettings.parse({"phases": phases}, "here")


def test_levels_and_log_linear() -> None:
    field = FieldSettings(levels=6, initial_levels=2, increase_bandwidth_every=10)
    assert [schedule.active_levels(step, field) for step in (0, 9, 10, 39, 40, 99)] == [
        2, 2, 3, 5, 6, 6,
    ]  # fmt: skip
    assert schedule.log_linear(1e-2, 1e-4, 0.5) == pytest.approx(1e-3)
    assert schedule.log_linear(1e-2, 1e-4, 2.0) == pytest.approx(1e-4)


def test_the_table_holds_what_the_functions_say() -> None:
    settings = TrainSettings.parse(
        {
            "steps": 40,
            "phases": [{"until": 0.5, "pose_learning_rate": 2e-3}, {}],
            "poses": {"start": 0.25},
        },
        "test",
    )
    table = schedule.table(settings)
    assert table.shape == (40, 5)
    factor, pose_rate, moving, spacing, width = table[30].tolist()
    assert factor == pytest.approx(schedule.rate_factor(30, settings))
    assert pose_rate == pytest.approx(1e-3 * factor)
    assert table[9, 2] == 0
    assert moving == table[10, 2] == 1
    assert spacing == pytest.approx(1e-2 * 0.4 ** (30 / 39))
    assert width == pytest.approx(150 * (800 / 150) ** (30 / 39))
