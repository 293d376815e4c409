"""Settings with former names and values, which work for one release."""

import warnings
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from pmni.config import experiment as experiments
from pmni.config.base import (
    DeprecatedSetting,
    Settings,
    merge,
    plain_deprecations,
    settings_group,
)
from pmni.errors import InputError


class Inner(Settings):
    """A nested group."""

    deprecated_names: ClassVar = {"step_count": "steps"}

    steps: int = 3


class Outer(Settings):
    """A group that has got a new method's name, a new setting's name and a nested group."""

    deprecated_names: ClassVar = {"pace": "rate", "count": "inner.steps"}
    deprecated_values: ClassVar = {"method": {"ring": "turntable"}}

    inner: Inner = Inner()
    rate: float = 0.5
    method: Literal["turntable", "reference"] = "turntable"
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("former", "present", "message"),
    [
        ({"pace": 1.0}, {"rate": 1.0}, "setting 'pace' is now called 'rate'"),
        ({"count": 7}, {"inner": {"steps": 7}}, "setting 'count' is now called 'inner.steps'"),
        ({"count": 7, "inner": None}, {"inner": {"steps": 7}}, "now called 'inner.steps'"),
        ({"inner": {"step_count": 7}}, {"inner": {"steps": 7}}, "'step_count' is now called 'st"),
        ({"maybe": {"step_count": 7}}, {"maybe": {"steps": 7}}, "'step_count' is now called 'st"),
        ({"several": [{"step_count": 7}]}, {"several": [{"steps": 7}]}, "'step_count' is now"),
        ({"by_name": {"a": {"step_count": 7}}}, {"by_name": {"a": {"steps": 7}}}, "'step_count'"),
        ({"method": "ring"}, {"method": "turntable"}, "method: 'ring' is now called 'turntable'"),
    ],
)
def test_former_names_and_values_work_with_a_warning(
    former: dict[str, object], present: dict[str, object], message: str
) -> None:
    with pytest.warns(DeprecatedSetting, match=message):
        assert Outer.parse(former, "here") == Outer.parse(present, "here")
    with pytest.warns(DeprecatedSetting, match=message):
        assert Outer.translate_deprecated(former, "here") == present


def test_present_names_and_values_give_no_warning() -> None:
    values = {"inner": {"steps": 1}, "rate": 1.0, "method": "reference", "several": [{}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Outer.parse(values, "here")
        assert Outer.translate_deprecated(values, "here") == values


@pytest.mark.filterwarnings("ignore::pmni.config.base.DeprecatedSetting")
def test_both_names_at_once_are_an_error() -> None:
    values = {"count": 7, "inner": {"steps": 3}}
    message = "here.*both 'inner.steps' and its former name 'count'; keep the first"
    with pytest.raises(InputError, match=message):
        Outer.parse(values, "here")
    with pytest.raises(InputError, match=message):
        Outer.translate_deprecated(values, "here")


@pytest.mark.filterwarnings("ignore::pmni.config.base.DeprecatedSetting")
def test_former_names_replace_what_a_base_says() -> None:
    base, overlay = {"inner": {"steps": 3}}, {"count": 7}
    merged = merge(base, Outer.translate_deprecated(overlay, "here"))
    assert Outer.parse(merged, "here").inner.steps == 7


def test_warnings_become_single_lines_each_once() -> None:
    lines: list[str] = []

    def warn() -> None:
        with plain_deprecations(lines.append):
            Outer.parse({"pace": 1.0, "method": "ring"}, "here")
            Outer.parse({"pace": 2.0}, "here")
            warnings.warn("something else", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="something else"):
        warn()
    until = "; the former name works until the next release"
    assert lines == [
        f"setting 'pace' is now called 'rate'{until}",
        f"method: 'ring' is now called 'turntable'{until}",
    ]


def test_the_group_of_a_field() -> None:
    fields = Outer.model_fields
    groups = {name: settings_group(field.annotation) for name, field in fields.items()}
    assert groups == {"inner": Inner, "rate": None, "method": None} | dict.fromkeys(
        ("maybe", "several", "by_name"), Inner
    )


def test_a_wrong_key_in_a_mapping_of_groups_is_named() -> None:
    message = "unknown key 'by_name.a.stepz'; known here: steps"
    with pytest.raises(InputError, match=message):
        Outer.parse({"by_name": {"a": {"stepz": 1}}}, "here")


def test_names_that_groups_of_settings_have_now_are_not_former_names_too() -> None:
    """And every present name and value that the tables point to is there."""

    def check(model: type[Settings]) -> None:
        for old, new in model.deprecated_names.items():
            assert old not in model.model_fields
            *path, name = new.split(".")
            group: type[Settings] | None = model
            for part in path:
                assert group is not None
                group = settings_group(group.model_fields[part].annotation)
            assert group is not None
            assert name in group.model_fields
        assert set(model.deprecated_values) <= set(model.model_fields)
        for field in model.model_fields.values():
            if (group := settings_group(field.annotation)) is not None:
                check(group)

    for model in (experiments.Experiment, experiments.RunConfig):
        check(model)
