"""Settings are strict, merge, and know their former names; a wrong file is named in one line."""

import warnings
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from pmni.config import experiment as experiments
from pmni.config.base import (
    DeprecatedSetting,
    Settings,
    merge,
    plain_deprecations,
    read_yaml,
    settings_from_argument,
    settings_group,
)
from pmni.config.meshing import MeshSettings
from pmni.errors import InputError


class Inner(Settings):
    """A nested group."""

    steps: int = 3


class Outer(Settings):
    """A group with a nested one."""

    inner: Inner = Inner()
    rate: float = 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "here: unknown key 'rat'; known here: inner, rate"),
        ({"inner": {"step": 1}}, "here: unknown key 'inner.step'; known here: steps"),
        ({"rate": "much"}, "here: 'rate': Input should be a valid number"),
        ({"inner": {"steps": 1.5}}, "here: 'inner.steps': Input should be a valid integer"),
        ({"inner": 3}, "here: 'inner': Input should be a valid dictionary"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        Outer.parse(values, "here")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_nothing_means_defaults() -> None:
    assert Outer.parse(None, "here") == Outer()
    assert settings_from_argument(Outer, None) == Outer()


def test_settings_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().rate = 1.0  # type: ignore[misc]


def test_merge_is_deep_and_replaces_lists() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge(below, {"a": {"c": [3]}, "d": {"e": 5}}) == {
        "a": {"b": 1, "c": [3]},
        "d": {"e": 5},
    }
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_settings_argument_is_a_file_or_inline(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text("resolution: 64\n", encoding="utf-8")
    expected = MeshSettings(resolution=64)
    assert settings_from_argument(MeshSettings, str(file)) == expected
    assert settings_from_argument(MeshSettings, '{"resolution": 64}') == expected
    assert settings_from_argument(MeshSettings, " {resolution: 64}") == expected
    assert settings_from_argument(MeshSettings, expected.model_dump_json()) == expected


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{resolution: 64", "--settings: not valid YAML or JSON"),
        ("{size: 64}", "--settings: unknown key 'size'; known here: device, extractor"),
        ("not/there.yaml", "not/there.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_settings_argument(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        settings_from_argument(MeshSettings, argument)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [\n", "line 3: not valid YAML"),
        ("- a\n- b\n", "must be a mapping of settings, not list"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is there twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' is there twice"),
    ],
)
def test_wrong_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_yaml(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)


def test_yaml_anchors_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n", encoding="utf-8")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


def test_empty_yaml_is_no_settings(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n", encoding="utf-8")
    assert read_yaml(file) == {}


# --- former names and values ---------------------------------------------------------------------


class RenamedGroup(Settings):
    """A nested group."""

    deprecated_names: ClassVar = {"step_count": "steps"}

    steps: int = 3


class Renamed(Settings):
    """A group that has got a new method's name, a new setting's name and a nested group."""

    deprecated_names: ClassVar = {"pace": "rate", "count": "inner.steps"}
    deprecated_values: ClassVar = {"method": {"ring": "turntable"}}

    inner: RenamedGroup = RenamedGroup()
    rate: float = 0.5
    method: Literal["turntable", "reference"] = "turntable"
    maybe: RenamedGroup | None = None
    several: tuple[RenamedGroup, ...] = ()
    by_name: dict[str, RenamedGroup] = Field(default_factory=dict)


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
        assert Renamed.parse(former, "here") == Renamed.parse(present, "here")
    with pytest.warns(DeprecatedSetting, match=message):
        assert Renamed.translate_deprecated(former, "here") == present


def test_present_names_and_values_give_no_warning() -> None:
    values = {"inner": {"steps": 1}, "rate": 1.0, "method": "reference", "several": [{}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Renamed.parse(values, "here")
        assert Renamed.translate_deprecated(values, "here") == values


@pytest.mark.filterwarnings("ignore::pmni.config.base.DeprecatedSetting")
def test_both_names_at_once_are_an_error() -> None:
    values = {"count": 7, "inner": {"steps": 3}}
    message = "here.*both 'inner.steps' and its former name 'count'; keep the first"
    with pytest.raises(InputError, match=message):
        Renamed.parse(values, "here")
    with pytest.raises(InputError, match=message):
        Renamed.translate_deprecated(values, "here")


@pytest.mark.filterwarnings("ignore::pmni.config.base.DeprecatedSetting")
def test_former_names_replace_what_a_base_says() -> None:
    base, overlay = {"inner": {"steps": 3}}, {"count": 7}
    merged = merge(base, Renamed.translate_deprecated(overlay, "here"))
    assert Renamed.parse(merged, "here").inner.steps == 7


def test_warnings_become_single_lines_each_once() -> None:
    lines: list[str] = []

    def warn() -> None:
        with plain_deprecations(lines.append):
            Renamed.parse({"pace": 1.0, "method": "ring"}, "here")
            Renamed.parse({"pace": 2.0}, "here")
            warnings.warn("something else", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="something else"):
        warn()
    until = "; the former name works until the next release"
    assert lines == [
        f"setting 'pace' is now called 'rate'{until}",
        f"method: 'ring' is now called 'turntable'{until}",
    ]


def test_the_group_of_a_field() -> None:
    fields = Renamed.model_fields
    groups = {name: settings_group(field.annotation) for name, field in fields.items()}
    assert groups == {"inner": RenamedGroup, "rate": None, "method": None} | dict.fromkeys(
        ("maybe", "several", "by_name"), RenamedGroup
    )


def test_a_wrong_key_in_a_mapping_of_groups_is_named() -> None:
    message = "unknown key 'by_name.a.stepz'; known here: steps"
    with pytest.raises(InputError, match=message):
        Renamed.parse({"by_name": {"a": {"stepz": 1}}}, "here")


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
