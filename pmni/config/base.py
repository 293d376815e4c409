"""What all settings share: strict keys, documentation from docstrings, and clear errors."""

import warnings
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pmni.errors import InputError

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A frozen group of settings. Unknown keys are errors; docstrings become the JSON schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )

    deprecated_names: ClassVar[dict[str, str]] = {}
    """Former names of settings, each with the present one: `new`, or `group.new` if the setting has
    moved into a group. They work for one release, with a FutureWarning."""

    @model_validator(mode="before")
    @classmethod
    def _rename_deprecated(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for old in cls.deprecated_names.keys() & values.keys():
            new = cls.deprecated_names[old]
            warnings.warn(f"setting '{old}' is now called '{new}'", FutureWarning, stacklevel=2)
            *groups, name = new.split(".")
            place = values
            for group in groups:
                place[group] = dict(place.get(group) or {})
                place = place[group]
            if name in place:
                raise ValueError(f"has both '{new}' and its former name '{old}'; keep the first")
            place[name] = values.pop(old)
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
        model: Any = cls
        for part in location[:-1]:
            field = getattr(model, "model_fields", {}).get(part)
            model = field.annotation if field else None
            # a group that may also be null
            model = next((one for one in get_args(model) if hasattr(one, "model_fields")), model)
        return sorted(getattr(model, "model_fields", {}))


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
