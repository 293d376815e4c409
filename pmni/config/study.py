"""Settings of an accuracy study: objects, what is made worse, and how much."""

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


class Factor(Settings):
    """One thing that is varied."""

    title: str
    """What it is, for tables and plots, with its unit."""

    levels: dict[str, dict[str, Any]]
    """By name, what differs from the base case (`SynthesizeSettings`). Of one level that is
    nothing: it is the base case."""

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
    """Of the object in the tables: `<object>-base` or `<object>-<factor>-<level>...`."""
    scene: str
    """The study's name for what is seen."""
    seed: int
    levels: dict[str, str]
    """The level of every factor."""
    changed: tuple[str, ...]
    """The factors that are not at their base level."""
    settings: SynthesizeSettings


class StudySettings(Settings):
    """Scenes x what is wrong with their captures x ways of reconstructing them."""

    objects: dict[str, dict[str, Any]] = Field(min_length=1)
    """What is varied: by name, settings on top of `base` (at least `scene`)."""

    base_only: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further objects, seen in the base case only."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of all captures (`SynthesizeSettings`)."""

    factors: dict[str, Factor] = Field(default_factory=dict)
    """What is varied."""

    design: Literal["one-factor", "full"] = "one-factor"
    """The base case and one factor at a time, or all combinations of levels."""

    seeds: tuple[int, ...] = Field((1,), min_length=1)
    """Each capture is made with each of these seeds."""

    wrong_poses_deg: float = Field(10.0, gt=0)
    """A result with a camera rotated farther from the truth than this counts as failed."""

    output: str = "docs/accuracy"
    """Where tables and plots go."""

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
