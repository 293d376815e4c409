import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError

from pmni.config.base import read_yaml
from pmni.config.experiment import (
    Experiment,
    RunConfig,
    choose_objects,
    load_experiment,
)
from pmni.errors import PmniError
from pmni.stages import STAGES

REGISTRY = Path("resources/registry.yaml")

try:
    CONFIG = RunConfig.parse(config, "configuration")
    OBJECTS = choose_objects(CONFIG)
    EXPERIMENTS = {name: load_experiment(name, CONFIG.overrides) for name in CONFIG.experiments}
except PmniError as error:
    raise WorkflowError(str(error)) from None


# --- what there is to make ----------------------------------------------------------------------


def normals_of(experiment_name: str, object_name: str) -> str:
    """The normal set that an experiment uses of an object."""
    return EXPERIMENTS[experiment_name].normals or OBJECTS[object_name].normals


def result_files(experiment_name: str, object_name: str) -> list[str]:
    """Everything that an experiment leaves behind of an object, in the order it is made."""
    source = f"{object_name}/{normals_of(experiment_name, object_name)}"
    own = f"{experiment_name}/{object_name}"
    steps = [f"iter_{step:08d}" for step in EXPERIMENTS[experiment_name].train.kept_steps()]
    files = [
        f"captures/{source}/capture.npz",
        f"captures/{source}/preview.png",
        f"integration/{source}/ray_distance.npz",
        f"integration/{source}/preview.png",
        f"{own}/register/initial_poses.json",
        f"{own}/train/checkpoints",
        f"{own}/train/poses",
        f"{own}/train/history.csv",
        *(f"{own}/meshes/{step}.ply" for step in steps),
        f"{own}/renders/{steps[-1]}",
        *(f"{own}/metrics/{step}.json" for step in steps),
        *(f"{own}/metrics/{step}.errors.npz" for step in steps),
    ]
    return [f"{CONFIG.results}/{file}" for file in files]


def reported_files() -> list[str]:
    """What the report is made from: all results, or with `available_only` those that are there.

    A file counts only if all that it was made from is there too: after a failure, what a former
    run made from the failed stage's results is out of date.
    """
    files: dict[str, None] = {}
    for experiment_name in EXPERIMENTS:
        for object_name in OBJECTS:
            for file in result_files(experiment_name, object_name):
                if CONFIG.available_only and not Path(file).exists():
                    break
                files[file] = None
    return list(files)


def metrics_files() -> list[str]:
    """The metrics among the reported files."""
    files = map(Path, reported_files())
    return [str(file) for file in files if (file.parent.name, file.suffix) == ("metrics", ".json")]


# --- inputs and parameters of the rules ---------------------------------------------------------


def experiment_of(wildcards) -> Experiment:
    """The settings of a job's experiment."""
    return EXPERIMENTS[wildcards.experiment]


def capture_of(wildcards) -> str:
    """The capture that a job of an experiment reads."""
    normals = normals_of(wildcards.experiment, wildcards.object)
    return f"{CONFIG.results}/captures/{wildcards.object}/{normals}/capture.npz"


def ray_distances_of(wildcards) -> str:
    """The integrated ray distances that a job of an experiment reads."""
    normals = normals_of(wildcards.experiment, wildcards.object)
    return f"{CONFIG.results}/integration/{wildcards.object}/{normals}/ray_distance.npz"


def provenance_of(wildcards) -> list[str]:
    """What the stages that made a mesh say of themselves."""
    own = f"{CONFIG.results}/{wildcards.experiment}/{wildcards.object}"
    return [
        str(Path(capture_of(wildcards)).with_name("provenance.json")),
        str(Path(ray_distances_of(wildcards)).with_name("provenance.json")),
        f"{own}/register/provenance.json",
        f"{own}/train/provenance.json",
        f"{own}/meshes/iter_{wildcards.iteration}.provenance.json",
    ]


def mesh_of_scene(wildcards) -> list[str]:
    """The mesh file that a synthetic object is made from; none for the project's own scenes."""
    scene = Path(CONFIG.scenes[wildcards.object].scene)
    return [str(scene)] if scene.is_file() else []


def dataset_of(wildcards) -> list[str]:
    """What `prepare` waits for: the rule that makes the object's folder, or the files in it.

    A folder that neither can be made nor is there gives nothing, so that `prepare` fails with its
    own message and the other objects go on.
    """
    entry = OBJECTS[wildcards.object]
    if entry.name in CONFIG.scenes:
        return [f"{entry.path}/cameras_sphere.npz"]
    marker = Path("resources", entry.dataset, ".fetched")
    folder = Path(entry.path)
    if marker.exists() or (entry.dataset in downloadable() and not folder.exists()):
        return [str(marker)]
    return sorted(str(file) for file in folder.rglob("*") if is_source(file, folder))


def downloadable() -> dict:
    """The data sets that `fetch` can bring, by name."""
    return read_yaml(REGISTRY) if REGISTRY.is_file() else {}


def is_source(file: Path, folder: Path) -> bool:
    """Whether a file of an object's folder is data (and not hidden or a folder)."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden


def gpus(stage: str):
    """How many GPUs a job of `stage` may occupy: none if its device is the CPU, else one."""

    def count(wildcards) -> int:
        return 0 if getattr(experiment_of(wildcards), stage).device == "cpu" else 1

    return count


def training_threads(wildcards) -> int:
    """One thread for a training on the CPU, so that several run side by side, else a few."""
    return 1 if experiment_of(wildcards).train.device == "cpu" else 4


def report_config() -> str:
    """What the report needs to know of the run, as JSON."""
    objects = [
        {"name": entry.name, "dataset": entry.dataset, "normals": entry.normals}
        for entry in OBJECTS.values()
    ]
    experiments = [
        {
            "name": name,
            "summary": settings.summary,
            "registration_method": settings.registration.method,
            "normals": settings.normals,
            "steps": settings.train.kept_steps(),
        }
        for name, settings in EXPERIMENTS.items()
    ]
    content = {"objects": objects, "experiments": experiments, "logs": f"{CONFIG.results}/logs"}
    return json.dumps(content)


# --- after a failure ----------------------------------------------------------------------------


def report_what_is_there() -> None:
    """Run `collect` and `report` on what has been made, in a Snakemake of their own.

    They are the same rules, so the next full run knows that these results were made from part of
    the inputs only, and makes them anew.
    """
    if CONFIG.available_only:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({**config, "available_only": True}, file)
        file.flush()
        command = [sys.executable, "-m", "snakemake", "--snakefile", workflow.main_snakefile]
        command += ["--configfile", file.name, "--cores", "1", "--nolock", "--quiet", "all"]
        command += ["--profile", "none", "--workflow-profile", "none"]
        finished = subprocess.run(command)
    page = f"{CONFIG.results}/report/index.html"
    if finished.returncode == 0:
        logger.error(f"Not everything was made; the report shows what was, and what failed: {page}")
