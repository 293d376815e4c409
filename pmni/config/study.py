"""Settings of an accuracy study: objects, factors that make their captures worse, and levels."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from pmni.config.base import Settings
from pmni.config.capture import SynthesizeSettings
from pmni.errors import InputError

DATASET = "study"
"""Name of the data set that the captures of a study form."""


class Factor(Settings):
    """A property of the captures that is varied."""

    title: str
    """Title in tables and plots, with the unit."""

    levels: dict[str, dict[str, Any]]
    """Settings (`SynthesizeSettings`) that differ from the base case, by the level's name; exactly
    one level, the base case, has none."""

    @field_validator("levels")
    @classmethod
    def _has_one_base(cls, levels: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if sum(not changes for changes in levels.values()) != 1:
            raise ValueError("exactly one level must be {}: that of the base case")
        return levels

    @property
    def base(self) -> str:
        """The level of the base case."""
        return next(name for name, changes in self.levels.items() if not changes)


@dataclass(frozen=True)
class Cell:
    """One capture of the study."""

    name: str
    """Name of the object in the tables: `<object>-base` or `<object>-<factor>-<level>...`."""
    scene: str
    """The study's name of the object, whatever its capture."""
    seed: int
    """Seed of the capture's random errors."""
    levels: dict[str, str]
    """The level of every factor."""
    changed: tuple[str, ...]
    """The factors that are not at their base level."""
    settings: SynthesizeSettings
    """How the capture is made."""


class StudySettings(Settings):
    """An accuracy study: objects x factors that make their captures worse x experiments."""

    objects: dict[str, dict[str, Any]] = Field(min_length=1)
    """Objects that go through all factors, by name: settings on top of `base`, `scene` at least."""

    base_only: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further objects, captured in the base case only."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of all captures (`SynthesizeSettings`)."""

    factors: dict[str, Factor] = Field(default_factory=dict)
    """Properties of the captures that are varied, by name."""

    design: Literal["one-factor", "full"] = "one-factor"
    """The base case and one factor at a time, or all combinations of levels."""

    seeds: tuple[int, ...] = Field((1,), min_length=1)
    """Each capture is made with each of these seeds."""

    wrong_poses_deg: float = Field(10.0, gt=0)
    """Largest rotation error of a camera, degrees, of a result that counts as successful."""

    summary: tuple[str, ...] = (
        "chamfer_mm",
        "mae_deg",
        "rotation_error_mean_deg",
        "fscore_1.0",
        "total_seconds",
    )
    """Columns of the benchmark table whose medians stand in `table.md`; `table.csv` has all."""

    plots: dict[str, str] = Field(
        default_factory=lambda: {
            "surface": "chamfer_mm",
            "normals": "mae_deg",
            "poses": "rotation_error_mean_deg",
            "seconds": "total_seconds",
        }
    )
    """Columns of the benchmark table that are plotted, by the name of the plot's file."""

    output: str = "docs/accuracy"
    """Folder of tables and plots."""

    def cells(self) -> tuple[Cell, ...]:
        """All captures. Raises InputError naming the cell whose settings are wrong."""
        base = {name: factor.base for name, factor in self.factors.items()}
        cells = [
            self._cell(scene, own, levels, seed)
            for scene, own in self.objects.items()
            for levels in self._combinations(base)
            for seed in self.seeds
        ]
        cells += [
            self._cell(scene, own, base, seed)
            for scene, own in self.base_only.items()
            for seed in self.seeds
        ]
        names = [cell.name for cell in cells]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"study: two captures would be called '{twice}'; rename a level")
        return tuple(cells)

    def _combinations(self, base: dict[str, str]) -> Iterator[dict[str, str]]:
        if self.design == "full":
            choices = [tuple(factor.levels) for factor in self.factors.values()]
            for chosen in itertools.product(*choices):
                yield dict(zip(self.factors, chosen, strict=True))
            return
        yield base
        for name, factor in self.factors.items():
            for level, changes in factor.levels.items():
                if changes:
                    yield base | {name: level}

    def _cell(self, scene: str, own: dict[str, Any], levels: dict[str, str], seed: int) -> Cell:
        changed = tuple(name for name, level in levels.items() if level != self.factors[name].base)
        parts = [scene, *(_plain(f"{name}-{levels[name]}") for name in changed)]
        parts += [] if changed else ["base"]
        parts += [] if len(self.seeds) == 1 else [f"seed{seed}"]
        name = "-".join(parts)
        values = {**self.base, "seed": seed, **own}
        for factor in changed:
            values |= self.factors[factor].levels[levels[factor]]
        settings = SynthesizeSettings.parse(values, f"study: {name}")
        return Cell(name, scene, seed, levels, changed, settings)


def _plain(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
