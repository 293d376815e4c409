"""The configuration of a whole run: which objects, which experiments, which settings."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pmni.config.base import Settings, merge, read_yaml
from pmni.config.capture import Layout, PrepareSettings, SynthesizeSettings
from pmni.config.evaluation import EvaluateSettings
from pmni.config.integration import IntegrateSettings
from pmni.config.meshing import MeshSettings, RenderSettings
from pmni.config.registration import RegisterSettings
from pmni.config.training import TrainSettings
from pmni.errors import InputError

EXPERIMENTS = Path("config/experiments")


class Experiment(Settings):
    """One way of reconstructing an object."""

    summary: str = ""
    """What it is, in a line; stands in the report."""

    normals: str | None = None
    """The normal set, as its folder is named; None takes the object's own from the table."""

    exclude_views: tuple[str, ...] = ()
    """Views held out from training and reported apart."""

    registration: RegisterSettings = RegisterSettings()
    """Initial poses."""

    train: TrainSettings = TrainSettings()
    """Optimisation."""

    mesh: MeshSettings = MeshSettings()
    """Surface extraction."""

    render: RenderSettings = RenderSettings()
    """Rendered normals and depth."""

    evaluate: EvaluateSettings = EvaluateSettings()
    """Comparison with the truth."""


class RunConfig(Settings):
    """`config/config.yaml` with the overlays given by `--configfile` and `--config`."""

    objects: str = "config/objects.tsv"
    """The table of objects."""

    only: tuple[str, ...] = ()
    """Run these objects of the table only; empty means all."""

    experiments: tuple[str, ...] = ("default",)
    """Names of files in `config/experiments/`."""

    results: str = "results"
    """Where results go."""

    published: str | None = "resources/published.csv"
    """Published numbers to put beside ours; None leaves them out."""

    prepare: PrepareSettings = PrepareSettings()
    """How datasets are read, for all experiments."""

    integrate: IntegrateSettings = IntegrateSettings()
    """How normals are integrated, for all experiments."""

    scenes: dict[str, SynthesizeSettings] = {}
    """Settings of each synthetic object, by object."""

    overrides: dict[str, Any] = {}
    """Settings laid over every experiment, such as `{train: {steps: 100}}`."""


def load_experiment(name: str, overrides: dict[str, Any]) -> Experiment:
    """The experiment in `config/experiments/<name>.yaml`, with `overrides` laid over it.

    A file may name another in `base:` and then holds only what differs from it.
    """
    path = EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in EXPERIMENTS.glob("*.yaml")))
        raise InputError(f"unknown experiment '{name}': there is no {path}; known: {known}")
    values = merge(_with_base(path, ()), overrides)
    experiment = Experiment.parse(values, str(path))
    held_out = {"exclude_views": list(experiment.exclude_views)}
    values = merge(values, {"train": held_out, "evaluate": held_out})
    return Experiment.parse(values, str(path))


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise InputError(f"{path}: its `base` leads back to itself")
    values = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    below = path.with_name(f"{base}.yaml")
    if not below.is_file():
        raise InputError(f"{path}: base '{base}' is not there ({below})")
    return merge(_with_base(below, (*seen, path)), values)


@dataclass(frozen=True)
class ObjectEntry:
    """A row of the table of objects."""

    name: str
    dataset: str
    layout: Layout
    path: str
    """The object's folder."""
    normals: str
    """Its normal set, unless an experiment names another."""


def load_objects(path: Path) -> dict[str, ObjectEntry]:
    """The table of objects (tab-separated: object, dataset, layout, path, normals)."""
    columns = ["object", "dataset", "layout", "path", "normals"]
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            lines = (line for line in file if line.strip() and not line.startswith("#"))
            rows = list(csv.DictReader(lines, delimiter="\t"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    entries: dict[str, ObjectEntry] = {}
    for number, row in enumerate(rows, start=1):
        if list(row) != columns or None in row.values():
            raise InputError(f"{path}: row {number}: must have the columns {', '.join(columns)}")
        name = row["object"]
        if name in entries:
            raise InputError(f"{path}: object '{name}' is there twice")
        if row["layout"] not in get_args(Layout):
            raise InputError(
                f"{path}: object '{name}': unknown layout '{row['layout']}'; "
                f"known: {', '.join(get_args(Layout))}"
            )
        entries[name] = ObjectEntry(
            name, row["dataset"], row["layout"], row["path"], row["normals"]  # type: ignore[arg-type]
        )
    return entries


def choose_objects(config: RunConfig) -> dict[str, ObjectEntry]:
    """The objects that `config` asks for. Raises InputError for one that the table lacks."""
    entries = load_objects(Path(config.objects))
    for name in config.only:
        if name not in entries:
            known = ", ".join(entries)
            raise InputError(f"unknown object '{name}': {config.objects} has {known}")
    return {name: entries[name] for name in config.only or entries}
