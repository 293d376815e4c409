"""The reference of settings names every setting, with type, bounds, default and meaning."""

import importlib
import pkgutil
import subprocess
import sys
from typing import ClassVar, Literal

import pytest
from pydantic import Field

import pmni.config
from pmni.config import reference as references
from pmni.config.base import Settings, settings_group
from pmni.config.reference import groups, reference
from pmni.config.reporting import ReportedExperiment, ReportedObject, ReportedRun


class Inner(Settings):
    """A nested group."""

    deprecated_names: ClassVar = {"many": "steps"}
    deprecated_values: ClassVar = {"method": {"ring": "table"}}

    steps: int = Field(3, ge=1)
    """How many, at
    the most."""

    method: Literal["table", "reference"] = "table"
    """This | or that."""


class Outer(Settings):
    """All kinds of fields."""

    inner: Inner | None = Inner()
    """A group."""

    rate: float | None = Field(None, gt=0, le=0.5)
    """A number."""

    pair: tuple[int, float] = (1, 2.0)
    """A pair."""

    names: tuple[str, ...] = ()
    """A list."""

    by_name: dict[str, Inner] = Field(default_factory=dict)
    """Groups by name."""

    weights: dict[str, float] = Field(default_factory=lambda: {"mask": 1.0})
    """Numbers by name."""

    needed: bool
    """Nothing is assumed."""


def test_tables_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "PAGES", {"Title": ("a file", Outer)})
    page = reference().partition("## Title")[2]
    inner = """
A nested group.

| setting | type | default | meaning |
|---|---|---|---|
| `steps` | integer, ≥ 1 | `3` | How many, at the most. |
| `method` | `table`, `reference` | `table` | This \\| or that. |

Former names, which work until the next release: `many` (now `steps`), `method: ring` (now `table`).
"""
    expected = f"""

Written in a file.

All kinds of fields.

| setting | type | default | meaning |
|---|---|---|---|
| `inner` | group `inner` |  | A group. |
| `rate` | number, > 0, ≤ 0.5 or `null` | `null` | A number. |
| `pair` | [integer, number] | `[1, 2.0]` | A pair. |
| `names` | list of: text | `[]` | A list. |
| `by_name` | groups by name `by_name.<name>` | `{{}}` | Groups by name. |
| `weights` | mapping to: number | `{{"mask": 1.0}}` | Numbers by name. |
| `needed` | true or false | required | Nothing is assumed. |

### `inner`
{inner}
### `by_name.<name>`
{inner}"""
    assert page == expected


def test_every_setting_is_explained() -> None:
    """The docstrings of the fields are the documentation and the JSON schema."""
    for _, model in references.PAGES.values():
        for _, group in groups(model):
            assert group.__doc__
            for name, field in group.model_fields.items():
                assert field.description, f"{group.__name__}.{name} is not explained"


def test_every_class_of_settings_is_in_the_reference() -> None:
    """But for those that describe a run to the report."""
    described = {group for _, model in references.PAGES.values() for _, group in groups(model)}
    described |= {ReportedRun, ReportedObject, ReportedExperiment, Settings}
    for module in pkgutil.iter_modules(pmni.config.__path__, "pmni.config."):
        for value in vars(importlib.import_module(module.name)).values():
            if settings_group(value) is value:
                assert value in described, value


def test_the_page_names_every_setting_with_its_meaning() -> None:
    command = [sys.executable, "-m", "pmni.config.reference"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "### `refine`" in page
    for _, model in references.PAGES.values():
        for _, group in groups(model):
            for name, field in group.model_fields.items():
                assert f"| `{name}` | " in page
                assert " ".join((field.description or "").split()).replace("|", "\\|") in page
    assert "any value" not in page
