import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecMode

from pmni.runtime import fork_server as standby
from pmni.runtime.stages import STAGES


def started_standby():
    """The process that forks for the jobs on this machine (see pmni.runtime.fork_server), with its socket.

    It imports everything while Snakemake plans the run, and ends with it. None where jobs have other
    environments; and with PMNI_STANDBY set to nothing: then each job starts by itself.
    """
    runs = workflow.exec_mode == ExecMode.DEFAULT and not workflow.output_settings.dryrun
    elsewhere = workflow.deployment_settings.deployment_method or sys.platform != "linux"
    if not runs or elsewhere or standby.VARIABLE in os.environ:
        return None
    if shutil.which("pmni") is None:
        raise WorkflowError("there is no command `pmni`: activate the environment it is in")
    path = Path(tempfile.mkdtemp(prefix="pmni-")) / "standby"
    command = ["pmni", "standby", str(path)]
    return path, subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


# Before all that takes time here.
STANDBY = started_standby()

from pmni.config.base import read_yaml
from pmni.config.experiment import (
    Experiment,
    RunConfig,
    choose_objects,
    load_experiment,
)
from pmni.errors import PmniError

REGISTRY = Path("resources/registry.yaml")

try:
    CONFIG = RunConfig.parse(config, "configuration")
    OBJECTS = choose_objects(CONFIG)
    EXPERIMENTS = {name: load_experiment(name, CONFIG.overrides) for name in CONFIG.experiments}
except PmniError as error:
    raise WorkflowError(str(error)) from None

# What a run ends with.
SUMMARY = (
    f"{CONFIG.study.output}/table.md" if CONFIG.study else f"{CONFIG.results}/report/index.html"
)
# Stages that need a GPU for a second or two.
BRIEF = ("mesh", "render")

REFINED = [name for name, settings in EXPERIMENTS.items() if settings.refine is not None]
TRAINED = [name for name, settings in EXPERIMENTS.items() if settings.train is not None]


# --- what there is to make ----------------------------------------------------------------------


def normals_of(experiment_name: str, object_name: str) -> str:
    """The normal set that an experiment uses of an object."""
    return EXPERIMENTS[experiment_name].normals or OBJECTS[object_name].normals


def result_files(experiment_name: str, object_name: str) -> list[str]:
    """Everything that an experiment leaves behind of an object, in the order it is made."""
    source = f"{object_name}/{normals_of(experiment_name, object_name)}"
    own = f"{experiment_name}/{object_name}"
    experiment = EXPERIMENTS[experiment_name]
    files = [
        f"captures/{source}/capture.npz",
        f"captures/{source}/preview.png",
        f"integration/{source}/ray_distance.npz",
        f"integration/{source}/preview.png",
        f"{own}/register/initial_poses.json",
    ]
    if experiment.refine is not None:
        refined = ("refined_poses.json", "surface.safetensors", "history.csv")
        files += [f"{own}/refine/{file}" for file in refined]
        files += files_of_surfaces(experiment, own, [0])
    if experiment.train is not None:
        trained = ("checkpoints", "poses", "history.csv", "selection.json")
        files += [f"{own}/train/{file}" for file in trained]
        files += files_of_surfaces(experiment, own, experiment.train.kept_steps())
    exported = ("poses.json", "cameras_sphere.npz", "cameras.png")
    files += [f"{own}/export/{file}" for file in exported]
    return [f"{CONFIG.results}/{file}" for file in files]


def files_of_surfaces(experiment: Experiment, own: str, iterations) -> list[str]:
    """What is made of the surfaces at some iterations, below an object's folder `own`."""
    steps = [f"iter_{step:08d}" for step in iterations]
    rendered = [f"iter_{step:08d}" for step in iterations if step in experiment.candidates()]
    return [
        *(f"{own}/meshes/{step}.ply" for step in steps),
        *(f"{own}/renders/{step}" for step in rendered),
        *(f"{own}/metrics/{step}.json" for step in steps),
        *(f"{own}/metrics/{step}.errors.npz" for step in steps),
    ]


def reported_files() -> list[str]:
    """What the report is made from: all results, or with `available_only` those that are there.

    A file counts only if all that it was made from is there too: after a failure, what a former
    run made from the failed stage's results is out of date. Nothing is made from renders, and a
    study has none.
    """
    files: dict[str, None] = {}
    for experiment_name in EXPERIMENTS:
        for object_name in OBJECTS:
            for file in result_files(experiment_name, object_name):
                if not CONFIG.available_only or Path(file).exists():
                    files[file] = None
                elif Path(file).parent.name != "renders":
                    break
    return list(files)


def metrics_files() -> list[str]:
    """The metrics among the reported files."""
    files = map(Path, reported_files())
    return [str(file) for file in files if (file.parent.name, file.suffix) == ("metrics", ".json")]


def selection_files() -> list[str]:
    """Where the trainings behind the reported metrics say which iteration is the result."""
    folders = dict.fromkeys(Path(file).parent.parent for file in metrics_files())
    return [f"{each}/train/selection.json" for each in folders if each.parent.name in TRAINED]


def there(files) -> list[str]:
    """All files, or with `available_only` those that are there."""
    return [file for file in files if not CONFIG.available_only or Path(file).exists()]


def one_of(names) -> str:
    """The pattern of a wildcard that is one of `names`."""
    return "|".join(map(re.escape, names)) or "(?!)"


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


def needed_by_registration(wildcards) -> list[str]:
    """The ray distances, if the registration uses them."""
    method = experiment_of(wildcards).registration.method
    return [ray_distances_of(wildcards)] if method == "free" else []


def folder_of(wildcards) -> str:
    """The folder of what an experiment makes of an object."""
    return f"{CONFIG.results}/{wildcards.experiment}/{wildcards.object}"


def refined(wildcards) -> list[str]:
    """What a training takes from the refinement, if there is one: poses and surface."""
    if experiment_of(wildcards).refine is None:
        return []
    folder = f"{folder_of(wildcards)}/refine"
    return [f"{folder}/refined_poses.json", f"{folder}/surface.safetensors"]


def poses_for_training(wildcards) -> str:
    """The poses that a training starts from: refined, or as registered."""
    return [*refined(wildcards), f"{folder_of(wildcards)}/register/initial_poses.json"][0]


def is_refined(wildcards) -> bool:
    """Whether a job's iteration is the refined surface; the others come from the training."""
    return int(wildcards.iteration) == 0 and experiment_of(wildcards).refine is not None


def checkpoint_of(wildcards) -> str:
    """The file of the surface at a job's iteration."""
    if is_refined(wildcards):
        return f"{folder_of(wildcards)}/refine/surface.safetensors"
    return f"{folder_of(wildcards)}/train/checkpoints/iter_{wildcards.iteration}.safetensors"


def poses_of(wildcards) -> str:
    """The file of the poses at a job's iteration."""
    if is_refined(wildcards):
        return f"{folder_of(wildcards)}/refine/refined_poses.json"
    return f"{folder_of(wildcards)}/train/poses/iter_{wildcards.iteration}.json"


def made_with(file_of):
    """What a job waits for to have that file: itself, or the folder that a training makes."""

    def output(wildcards) -> str:
        file = file_of(wildcards)
        return file if is_refined(wildcards) else str(Path(file).parent)

    return output


def mesh_of(wildcards) -> str:
    """The mesh of a job's iteration."""
    return f"{folder_of(wildcards)}/meshes/iter_{wildcards.iteration}.ply"


def each_candidate(file_of):
    """The files of the iterations one of which is the result."""

    def files(wildcards) -> list[str]:
        own = {"experiment": wildcards.experiment, "object": wildcards.object}
        steps = experiment_of(wildcards).candidates()
        return [file_of(SimpleNamespace(**own, iteration=f"{step:08d}")) for step in steps]

    return files


def selection_of(wildcards) -> list[str]:
    """Where a training says which iteration is the result."""
    trained = wildcards.experiment in TRAINED
    return [f"{folder_of(wildcards)}/train/selection.json"] if trained else []


def provenance_of(wildcards) -> list[str]:
    """What the stages that made a mesh say of themselves."""
    own = folder_of(wildcards)
    trained = not is_refined(wildcards)
    integrated = [ray_distances_of(wildcards)] if trained else needed_by_registration(wildcards)
    files = [capture_of(wildcards), *integrated, f"{own}/register/initial_poses.json"]
    files += refined(wildcards)[:1]
    files += [f"{own}/train/history.csv"] if trained else []
    own_of_mesh = f"{own}/meshes/iter_{wildcards.iteration}.provenance.json"
    return [*(str(Path(file).with_name("provenance.json")) for file in files), own_of_mesh]


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
        return [f"{entry.path}/K.txt"]
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
    """How many GPUs a job of `stage` keeps from others: none if its device is the CPU, else one.

    Of jobs on this machine only those that compute for long count. The others take turns at the
    GPU's lock (see pmni.runtime.devices): they start, read and write while another job computes.
    """

    def count(wildcards) -> int:
        brief = stage in BRIEF and workflow.local_exec
        on_cpu = getattr(experiment_of(wildcards), stage).device == "cpu"
        return 0 if on_cpu or brief else 1

    return count


def threads_of(stage: str):
    """One thread for a job of `stage` on the CPU, so that several run side by side, else a few."""

    def count(wildcards) -> int:
        return 1 if getattr(experiment_of(wildcards), stage).device == "cpu" else 4

    return count


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
            "steps": settings.kept_steps(),
            "candidates": settings.candidates(),
            "refined": settings.refine is not None,
            "trained": settings.train is not None,
        }
        for name, settings in EXPERIMENTS.items()
    ]
    content = {"objects": objects, "experiments": experiments, "logs": f"{CONFIG.results}/logs"}
    return json.dumps(content)


# --- before all jobs, and after a failure -------------------------------------------------------


def use_standby() -> None:
    """Let the jobs know the process on standby, if they run on this machine."""
    if STANDBY is None:
        return
    path, process = STANDBY
    if not workflow.local_exec:
        process.stdin.close()
        return
    while not path.exists():
        if process.poll() is not None:
            raise WorkflowError(f"`pmni standby` has ended with {process.returncode}")
        time.sleep(0.01)
    os.environ[standby.VARIABLE] = str(path)


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
    page = SUMMARY
    if finished.returncode == 0:
        logger.error(f"Not everything was made; the report shows what was, and what failed: {page}")
