"""The reference of all settings, in Markdown, from the classes that check them.

python -m pmni.config.reference > settings.md
"""

import inspect
import json
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from pmni.config.base import Settings, settings_group
from pmni.config.experiment import Experiment, RunConfig
from pmni.config.reporting import ReportSettings

PAGES: dict[str, tuple[str, type[Settings]]] = {
    "The run": ("`config/config.yaml`, and files given with `--configfile`", RunConfig),
    "An experiment": (
        "`config/experiments/<experiment>.yaml`, and `overrides` of a run",
        Experiment,
    ),
    "The report": ("`pmni report --settings`", ReportSettings),
}
"""Title, where the settings are written, and their class."""

INTRODUCTION = """# All settings

Made from the classes in `pmni/config/`. A group is a mapping in YAML: `refine.device` is written

```yaml
refine:
  device: cpu
```
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
"""Signs for the bounds of a number, by their names in JSON schema."""
TYPES = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "`null`",
}
"""Words for the plain types of JSON schema."""


def reference() -> str:
    """Name, type, bounds, default and meaning of every setting, group by group."""
    parts = [INTRODUCTION]
    for title, (source, model) in PAGES.items():
        parts.append(f"## {title}\n\nWritten in {source}.\n")
        parts += [_section(path, group) for path, group in groups(model)]
    return "\n".join(parts)


def groups(model: type[Settings], path: str = "") -> Iterator[tuple[str, type[Settings]]]:
    """A class of settings and all groups in it, with their dotted paths, in order."""
    yield path, model
    for name, field in model.model_fields.items():
        group = settings_group(field.annotation)
        if group is not None:
            yield from groups(group, f"{path}.{name}{_key(field)}".removeprefix("."))


def _key(field: FieldInfo) -> str:
    """How the groups in a mapping or in a list are told apart: `.<name>`, `[]`, or nothing."""
    keys: dict[Any, str] = {dict: ".<name>", tuple: "[]", list: "[]"}
    return keys.get(get_origin(field.annotation), "")


def _section(path: str, model: type[Settings]) -> str:
    """The table of one group."""
    heading = f"### `{path}`\n\n" if path else ""
    lines = [f"{heading}{inspect.cleandoc(model.__doc__ or '')}\n"]
    lines.append("| setting | type | default | meaning |\n|---|---|---|---|")
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        kind = _group_type(path, name, field) or _type(schema["properties"][name])
        cells = [f"`{name}`", kind, _default(field), field.description or ""]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    former = [f"`{old}` (now `{new}`)" for old, new in model.deprecated_names.items()]
    for name, values in model.deprecated_values.items():
        former += [f"`{name}: {_yaml(old)}` (now `{_yaml(new)}`)" for old, new in values.items()]
    if former:
        lines.append(f"\nFormer names, which work until the next release: {', '.join(former)}.")
    return "\n".join(lines) + "\n"


def _group_type(path: str, name: str, field: FieldInfo) -> str | None:
    """The type of a setting that is a group, or holds groups; None for others."""
    if settings_group(field.annotation) is None:
        return None
    full = f"{path}.{name}{_key(field)}".removeprefix(".")
    kinds = {"": "group", "[]": "list of groups", ".<name>": "groups by name"}
    return f"{kinds[_key(field)]} `{full}`"


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{_yaml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        return _array_type(schema)
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to: {_type(values)}" if isinstance(values, dict) else "mapping"
    bounds = [f"{sign} {_yaml(schema[name])}" for name, sign in BOUNDS.items() if name in schema]
    return ", ".join([TYPES.get(str(kind), "any value"), *bounds])


def _array_type(schema: dict[str, Any]) -> str:
    """A list whose items are all of one type, or each of its own."""
    if "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    return f"list of: {_type(schema.get('items', {}))}"


def _default(field: FieldInfo) -> str:
    """The default value as YAML; nothing where it is that of the group."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if _holds_settings(value) else f"`{_yaml(value)}`"


def _holds_settings(value: Any) -> bool:
    return isinstance(value, Settings) or (
        isinstance(value, tuple) and any(isinstance(item, Settings) for item in value)
    )


def _yaml(value: Any) -> str:
    """A value in YAML, on one line."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference())
