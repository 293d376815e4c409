"""The configuration of a whole run: which objects, which experiments, which settings."""

import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pmni.config.base import DeprecatedSetting, Settings, merge, read_yaml
from pmni.config.capture import PrepareSettings, SynthesizeSettings
from pmni.config.evaluation import EvaluateSettings
from pmni.config.export import ExportSettings
from pmni.config.extensions import READERS
from pmni.config.integration import IntegrateSettings
from pmni.config.meshing import MeshSettings, RenderSettings
from pmni.config.refinement import RefineSettings
from pmni.config.registration import RegisterSettings
from pmni.config.study import DATASET, StudySettings
from pmni.config.training import TrainSettings
from pmni.errors import InputError

EXPERIMENTS = Path("config/experiments")
"""Folder of the user's own experiments, which come before shipped ones of the same name."""
SHIPPED_EXPERIMENTS = Path(__file__).with_name("experiments")
"""Folder of the experiments that come with the package."""
RESERVED = ("captures", "integration", "logs", "report", "state")
"""Names that no experiment may have: other folders of the results are called so."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Pattern of the names of experiments, objects, data sets and normal sets."""
COLUMNS = ("object", "dataset", "layout", "path", "normals")
"""Columns of the table of objects."""


class Experiment(Settings):
    """One way of reconstructing an object."""

    summary: str = ""
    """Description in one line, for the report."""

    normals: str | None = None
    """The normal set, as its folder is named; None takes the object's own from the table."""

    exclude_views: tuple[str, ...] = ()
    """Views held out from refinement and training, and reported apart."""

    heldout: float = Field(0.05, ge=0, le=0.5)
    """Where there are `refine` and `train`: the part of the blocks of pixels of each view that
    neither fits. Its normals tell which of their surfaces is the result."""

    registration: RegisterSettings = RegisterSettings()
    """Initial poses."""

    refine: RefineSettings | None = RefineSettings()
    """Poses and a grid surface, solved for together; null leaves this stage out."""

    train: TrainSettings | None = TrainSettings()
    """Optimisation of a network; null leaves this stage out."""

    mesh: MeshSettings = MeshSettings()
    """Surface extraction."""

    render: RenderSettings = RenderSettings()
    """Rendered normals and depth."""

    evaluate: EvaluateSettings = EvaluateSettings()
    """Comparison with the ground truth."""

    export: ExportSettings = ExportSettings()
    """Files for other software."""

    @model_validator(mode="after")
    def _makes_a_surface(self) -> "Experiment":
        if self.refine is None and self.train is None:
            raise ValueError("refine and train cannot both be null: one has to make the surface")
        return self

    def kept_steps(self) -> tuple[int, ...]:
        """The iterations whose surface is kept, ascending: 0 is the refined one."""
        refined = (0,) if self.refine is not None else ()
        return refined + (self.train.kept_steps() if self.train is not None else ())

    def candidates(self) -> tuple[int, ...]:
        """The iterations one of which is the result: the refined one, and the last."""
        steps = self.kept_steps()
        return (0, steps[-1]) if self.refine is not None and len(steps) > 1 else steps[-1:]


class RunConfig(Settings):
    """`config/config.yaml` with the overlays given by `--configfile` and `--config`."""

    objects: str = "config/objects.tsv"
    """The table of objects."""

    only: tuple[str, ...] = ()
    """Run these objects of the table only; empty means all."""

    experiments: tuple[str, ...] = Field(("free",), min_length=1)
    """Names of experiments: files in `config/experiments/`, or shipped with the package."""

    results: str = "results"
    """Folder of the results."""

    published: str | None = "resources/published.csv"
    """Published numbers to put beside ours; None leaves them out."""

    prepare: PrepareSettings = PrepareSettings()
    """How datasets are read, for all experiments."""

    integrate: IntegrateSettings = IntegrateSettings()
    """How normals are integrated, for all experiments."""

    scenes: dict[str, SynthesizeSettings] = Field(default_factory=dict)
    """The objects that are synthesised, and how."""

    study: StudySettings | None = None
    """An accuracy study: its captures take the place of the table of objects and of `scenes`."""

    archives: dict[str, str] = Field(default_factory=dict)
    """Archives that have been downloaded already, by data set; the others are downloaded."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings laid over every experiment, such as `{train: {steps: 100}}`; those of a stage
    that an experiment leaves out do not bring it back."""

    available_only: bool = False
    """Make the table and the report from the results that are there, and nothing else."""

    @model_validator(mode="before")
    @classmethod
    def _scenes_of_the_study(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("study"):
            return values
        cells = StudySettings.parse(values["study"], "study").cells()
        return values | {"scenes": {cell.name: cell.settings for cell in cells}}


def load_experiment(name: str, overrides: dict[str, Any]) -> Experiment:
    """The experiment `name`, the user's own or a shipped one, with `overrides` laid over it.

    A file may name another in `base:` and then holds only what differs from it. Held-out views and
    pixels are given once, at the top, and passed on to the stages that need them.
    """
    if name in RESERVED or not NAME.fullmatch(name):
        raise InputError(f"experiment '{name}': this name cannot be used; choose another")
    path = _experiment_file(name)
    if path is None:
        raise InputError(
            f"unknown experiment '{name}': there is no {EXPERIMENTS / name}.yaml; "
            f"known: {', '.join(experiment_names())}"
        )
    values = _with_base(path, ())
    overrides = Experiment.translate_deprecated(overrides, "overrides")
    without_overrides = Experiment.parse(values, str(path))
    overrides = {
        key: value
        for key, value in overrides.items()
        if not _brings_back(without_overrides, key, value)
    }
    values = merge(values, overrides)
    experiment = Experiment.parse(values, f"{path} with overrides")
    for stage, settings in _held_out(experiment).items():
        for key, value in settings.items():
            if key in values.get(stage, {}):
                raise InputError(
                    f"{path}: give '{key}' at the top of the experiment, not in '{stage}'"
                )
            values = merge(values, {stage: {key: value}})
    return Experiment.parse(values, str(path))


def experiment_names() -> list[str]:
    """Names of all experiments, the user's own and the shipped ones."""
    folders = EXPERIMENTS, SHIPPED_EXPERIMENTS
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def _experiment_file(name: str) -> Path | None:
    files = (folder / f"{name}.yaml" for folder in (EXPERIMENTS, SHIPPED_EXPERIMENTS))
    return next((file for file in files if file.is_file()), None)


def _held_out(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The settings that say what each stage of an experiment may not see."""
    views = {"exclude_views": list(experiment.exclude_views)}
    solvers = [name for name in ("refine", "train") if getattr(experiment, name) is not None]
    pixels = {"heldout": experiment.heldout if len(solvers) > 1 else 0.0}
    return {"evaluate": views, **dict.fromkeys(solvers, views | pixels)}


def _brings_back(experiment: Experiment, key: str, override: Any) -> bool:
    """Whether an override holds settings of a stage that the experiment leaves out."""
    return isinstance(override, dict) and getattr(experiment, key, override) is None


def _with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise InputError(f"{path}: its `base` leads back to itself")
    values = read_yaml(path)
    base = values.pop("base", None)
    values = Experiment.translate_deprecated(values, str(path))
    if base is None:
        return values
    shipped = SHIPPED_EXPERIMENTS / f"{base}.yaml"
    below = _experiment_file(base) if path.parent == EXPERIMENTS else shipped
    if below == path and shipped.is_file():  # an own experiment that changes a shipped one
        below = shipped
    if below is None:
        raise InputError(f"{path}: unknown base '{base}'; known: {', '.join(experiment_names())}")
    return merge(_with_base(below, (*seen, path)), values)


@dataclass(frozen=True)
class ObjectEntry:
    """A row of the table of objects."""

    name: str
    dataset: str
    layout: str
    """Layout of the object's folder: a name in READERS."""
    path: str
    """The object's folder."""
    normals: str
    """Normal set of the object, unless an experiment names another."""


def load_objects(path: Path) -> dict[str, ObjectEntry]:
    """The table of objects (tab-separated: object, dataset, layout, path, normals)."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = csv.DictReader(
        (line for line in lines if line.strip() and not line.startswith("#")), delimiter="\t"
    )
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise InputError(
            f"{path}: the first line must be the columns {', '.join(COLUMNS)}, separated by tabs"
        )
    entries: dict[str, ObjectEntry] = {}
    for row in rows:
        entry = _object_entry(path, row)
        if entry.name in entries:
            raise InputError(f"{path}: object '{entry.name}' is there twice")
        entries[entry.name] = entry
    if not entries:
        raise InputError(f"{path}: there is no object in the table")
    return entries


def _object_entry(path: Path, row: dict[str, str]) -> ObjectEntry:
    """A checked row of the table."""
    name = row["object"]
    if len(row) != len(COLUMNS) or not all(row.values()):
        raise InputError(
            f"{path}: object '{name}': must have a value in each of the columns "
            f"{', '.join(COLUMNS)}, and no more"
        )
    for key in ("object", "dataset", "normals"):
        if not NAME.fullmatch(row[key]):
            raise InputError(
                f"{path}: object '{name}': {key} '{row[key]}' may hold only letters, digits, "
                "dots, dashes and underscores"
            )
    layout = row["layout"]
    if layout == "own":
        warnings.warn("layout 'own' is now called 'custom'", DeprecatedSetting, stacklevel=2)
        layout = "custom"
    try:
        READERS.check(layout)
    except ValueError as error:
        raise InputError(f"{path}: object '{name}': {error}") from None
    return ObjectEntry(name, row["dataset"], layout, row["path"], row["normals"])


def choose_objects(config: RunConfig) -> dict[str, ObjectEntry]:
    """The objects that `config` asks for. Raises InputError for one that the table lacks."""
    entries = _studied(config.study) if config.study else load_objects(Path(config.objects))
    names = ", ".join(entries)
    for name in config.only:
        if name not in entries:
            raise InputError(f"unknown object '{name}': {config.objects} has {names}")
    for name in config.scenes:
        if name not in entries:
            raise InputError(f"scenes: unknown object '{name}': {config.objects} has {names}")
        entry = entries[name]
        folder = f"resources/{entry.dataset}/{name}"
        if (entry.layout, entry.path) != ("supernormal", folder):
            raise InputError(
                f"{config.objects}: object '{name}' is synthesised, so its layout must be "
                f"supernormal and its path {folder}"
            )
    return {name: entries[name] for name in config.only or entries}


def _studied(study: StudySettings) -> dict[str, ObjectEntry]:
    """The captures of a study as objects."""
    return {
        cell.name: ObjectEntry(
            cell.name,
            DATASET,
            "supernormal",
            f"resources/{DATASET}/{cell.name}",
            cell.settings.normal_set,
        )
        for cell in study.cells()
    }
