"""The environments of conda hold what pyproject.toml asks for: conda itself is not needed here."""

import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / "environment.yml"
WORKFLOW_ENVIRONMENT = REPOSITORY / "workflow/envs/pmni.yaml"
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
"""Names on conda-forge that differ from those on PyPI."""


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]


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
    needed = {
        requirement.name.lower(): str(requirement.specifier).removeprefix(">=")
        for requirement in DEPENDENCIES
    }
    assert bounds(ENVIRONMENT) == needed | {"python=3.12": "", "pip": ""}


def test_pmni_supports_the_interpreter_of_the_environment() -> None:
    (python,) = (name for name in bounds(ENVIRONMENT) if name.startswith("python="))
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])


def test_what_is_installed_satisfies_every_bound() -> None:
    """Each name is one of PyPI's, and each bound no higher than a version with which tests pass."""
    left_out = {r.name.lower() for r in DEPENDENCIES if r.marker and not r.marker.evaluate()}
    for name, bound in bounds(ENVIRONMENT).items():
        if bound and name not in left_out:
            assert version(name) in SpecifierSet(f">={bound}"), name


def test_rules_run_in_the_same_environment() -> None:
    outer, inner = read(ENVIRONMENT), read(WORKFLOW_ENVIRONMENT)
    assert outer.pop("name") == "pmni"
    assert outer["dependencies"][-1]["pip"].pop() == "--editable ."
    assert inner == outer
    # pmni itself is installed by the script that Snakemake runs when it has made the environment.
    script = WORKFLOW_ENVIRONMENT.with_suffix(".post-deploy.sh").read_text(encoding="utf-8")
    assert "pip install --no-deps --editable" in script
