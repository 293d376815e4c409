"""What all settings share: strict keys, documentation from docstrings, and clear errors."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pmni.errors import InputError

S = TypeVar("S", bound="Settings")


class DeprecatedSetting(FutureWarning):
    """A setting has a former name or value, which works until the next release."""


class Settings(BaseModel):
    """A frozen group of settings. Unknown keys are errors; docstrings become the JSON schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    deprecated_names: ClassVar[Mapping[str, str]] = {}
    """Former names of settings, each with the present one: `new`, or `group.new` if the setting has
    moved into a group. They work for one release, with a warning."""

    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    """Former values by setting, under its present name, each with the value that means the same
    today. They work for one release, with a warning."""

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, values: Any) -> Any:
        return cls._translate_here(values) if isinstance(values, dict) else values

    @classmethod
    def translate_deprecated(cls, values: dict[str, Any], source: str) -> dict[str, Any]:
        """`values` in present names and values, in nested groups too; a warning for each.

        To be done before two mappings are merged, since one of them may use a former name. Raises
        InputError naming `source` where a setting has both its names.
        """
        try:
            return cls._translate_all(values)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None

    @classmethod
    def _translate_all(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`translate_deprecated`, with ValueError."""
        values = cls._translate_here(values)
        for name, field in cls.model_fields.items():
            if name in values:
                values[name] = _translate_nested(field.annotation, values[name])
        return values

    @classmethod
    def _translate_here(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`_translate_all` without nested groups."""
        values = dict(values)
        for old, new in cls.deprecated_names.items():
            if old in values:
                _warn_of_deprecation(f"setting '{old}' is now called '{new}'")
                _move(values, old, new)
        for name, renamed in cls.deprecated_values.items():
            value = values.get(name)
            if isinstance(value, Hashable) and value in renamed:
                new_value = renamed[value]
                _warn_of_deprecation(f"{name}: '{value}' is now called '{new_value}'")
                values[name] = new_value
        return values

    @classmethod
    def parse(cls: type[S], values: dict[str, Any] | None, source: str) -> S:
        """Check `values`; raise InputError with one line that names `source` and the key."""
        try:
            return cls.model_validate(values or {})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "(top level)"
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls._keys_beside(first["loc"]))
                raise InputError(f"{source}: unknown key '{key}'; known here: {known}") from None
            raise InputError(f"{source}: '{key}': {first['msg']}") from None

    @classmethod
    def _keys_beside(cls, location: tuple[int | str, ...]) -> list[str]:
        """The settings of the group that `location` lies in."""
        model: type[Settings] | None = cls
        for part in location[:-1]:
            field = model.model_fields.get(str(part)) if model else None
            model = settings_group(field.annotation) if field else model
        return sorted(model.model_fields) if model else []


def settings_group(annotation: Any) -> type[Settings] | None:
    """The class of settings in a field's type: itself, one that may be null, a list's or a
    mapping's; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(settings_group, get_args(annotation))), None)


def _translate_nested(annotation: Any, value: Any) -> Any:
    """The value of a field of that type; groups of settings in it have present names and values."""
    group = settings_group(annotation)
    if group is None:
        return value
    if isinstance(value, list | tuple):
        return [_translate_nested(group, item) for item in value]
    if not isinstance(value, dict):
        return value
    if get_origin(annotation) is dict:
        return {name: _translate_nested(group, item) for name, item in value.items()}
    return group._translate_all(value)


def _move(values: dict[str, Any], old: str, new: str) -> None:
    """Rename the setting `old` to `new`, `group.name`. Raises ValueError if that has a value."""
    *groups, name = new.split(".")
    target = values
    for group in groups:
        target[group] = dict(target.get(group) or {})
        target = target[group]
    if name in target:
        raise ValueError(f"has both '{new}' and its former name '{old}'; keep the first")
    target[name] = values.pop(old)


def _warn_of_deprecation(message: str) -> None:
    text = f"{message}; the former name works until the next release"
    warnings.warn(text, DeprecatedSetting, stacklevel=2)


@contextmanager
def plain_deprecations(write: Callable[[str], None]) -> Iterator[None]:
    """Pass warnings about deprecated settings to `write`, each once, as a line of text."""
    messages: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, DeprecatedSetting):
            show_others(message, category, *where, **more)
        elif str(message) not in messages:
            messages.add(str(message))
            write(str(message))

    with warnings.catch_warnings():
        show_others = warnings.showwarning
        warnings.simplefilter("always", DeprecatedSetting)
        warnings.showwarning = show
        yield


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError naming the file and line of a fault."""
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_duplicates(yaml.compose(text), path)
        values = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not valid YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of settings, not {type(values).__name__}")
    return values


def _refuse_duplicates(node: yaml.Node | None, path: Path) -> None:
    """Raise InputError for a key that a mapping has twice: YAML would silently take the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, path)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if str(key.value) in seen:
            line = key.start_mark.line + 1
            raise InputError(f"{path}, line {line}: '{key.value}' is there twice")
        seen.add(str(key.value))
        _refuse_duplicates(value, path)


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` laid over `base`, mapping by mapping; other values replace."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        nested = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged


def settings_from_argument(model: type[S], argument: str | None) -> S:
    """The settings of one stage from its `--settings` option: a YAML file, or inline YAML or JSON.

    Rules pass the resolved settings inline; people pass a file or nothing (all defaults).
    """
    if argument is None:
        return model.parse({}, "defaults")
    if argument.lstrip().startswith("{"):
        try:
            return model.parse(yaml.safe_load(argument), "--settings")
        except yaml.YAMLError:
            raise InputError("--settings: not valid YAML or JSON") from None
    return model.parse(read_yaml(Path(argument)), argument)
