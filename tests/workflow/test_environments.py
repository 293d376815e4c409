"""The environments of conda hold what pyproject.toml asks for: conda itself is not needed here."""

import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / "environment.yml"
WORKFLOW_ENVIRONMENT = REPOSITORY / "workflow/envs/pmni.yaml"
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
"""Names on conda-forge that differ from those on PyPI."""


def read(path: Path) -> dict[str, Any]:
    """The content of an environment file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def bounds(path: Path) -> dict[str, str]:
    """The version that an environment asks for, by the packages' names on PyPI."""
    *packages, pip = read(path)["dependencies"]
    packages += [line for line in pip["pip"] if not line.startswith("--")]
    found = {}
    for package in packages:
        name, _, version = package.partition(">=")
        found[CONDA_NAMES.get(name, name).lower()] = version
    return found


def test_the_environment_has_every_dependency_with_its_lower_bound() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        needed[requirement.name.lower()] = str(requirement.specifier).removeprefix(">=")
    assert bounds(ENVIRONMENT) == needed | {"python=3.12": "", "pip": ""}


def test_rules_run_in_the_same_environment() -> None:
    outer, inner = read(ENVIRONMENT), read(WORKFLOW_ENVIRONMENT)
    assert outer.pop("name") == "pmni"
    assert outer["dependencies"][-1]["pip"].pop() == "--editable ."
    assert inner == outer
    # pmni itself is installed by the script that Snakemake runs when it has made the environment.
    script = WORKFLOW_ENVIRONMENT.with_suffix(".post-deploy.sh").read_text(encoding="utf-8")
    assert "pip install --no-deps --editable" in script
