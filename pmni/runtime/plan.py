"""The plan of a run: which files it makes, and which files each of its jobs reads.

The rules of the workflow ask here. Imports nothing heavy, since every Snakemake process reads it.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pmni.config.base import read_yaml
from pmni.config.experiment import (
    Experiment,
    ObjectEntry,
    RunConfig,
    choose_objects,
    load_experiment,
)
from pmni.config.extensions import METHODS
from pmni.config.reporting import ReportedExperiment, ReportedObject, ReportedRun
from pmni.errors import InputError
from pmni.runtime.layout import (
    CaptureFolder,
    IntegrationFolder,
    ObjectFolder,
    Resources,
    Results,
    StudyFolder,
    checkpoint_in,
    poses_in,
)


@dataclass(frozen=True)
class Reconstruction:
    """One object in one experiment: the files of its jobs, and what they depend on."""

    experiment: str
    settings: Experiment
    entry: ObjectEntry
    results: Results

    @property
    def normals(self) -> str:
        """The normal set that goes in."""
        return self.settings.normals or self.entry.normals

    @property
    def capture(self) -> CaptureFolder:
        """Folder of the capture."""
        return self.results.capture(self.entry.name, self.normals)

    @property
    def integration(self) -> IntegrationFolder:
        """Folder of the integrated ray distances."""
        return self.results.integration(self.entry.name, self.normals)

    @property
    def folder(self) -> ObjectFolder:
        """Folder of the experiment's results for the object."""
        return self.results.object(self.experiment, self.entry.name)

    @property
    def is_refined(self) -> bool:
        """Whether there is a refinement."""
        return self.settings.refine is not None

    @property
    def is_trained(self) -> bool:
        """Whether there is a training."""
        return self.settings.train is not None

    def uses_gpu(self, stage: str) -> bool:
        """Whether the device of a stage may be a GPU."""
        return getattr(self.settings, stage).device != "cpu"

    # --- what the jobs read

    @property
    def registration_inputs(self) -> list[Path]:
        """The ray distances, if the method of registration needs them."""
        needed = METHODS[self.settings.registration.method].needs_ray_distances
        return [self.integration.ray_distances] if needed else []

    @property
    def refined_inputs(self) -> list[Path]:
        """What a training takes from the refinement, if there is one: the surface."""
        return [self.folder.refinement.surface] if self.is_refined else []

    @property
    def training_poses(self) -> Path:
        """The poses that a training starts from: refined, or as registered."""
        stage = self.folder.refinement if self.is_refined else self.folder.registration
        return stage.poses

    @property
    def selections(self) -> list[Path]:
        """Where a training says which iteration is the result."""
        return [self.folder.training.selection] if self.is_trained else []

    def surface_made(self, iteration: int) -> Path:
        """Input of a job that reads an iteration's surface: the file, or the training's folder."""
        return self.folder.training.checkpoints if iteration else self.folder.refinement.surface

    def poses_made(self, iteration: int) -> Path:
        """Input of a job that reads an iteration's poses: the file, or the training's folder."""
        return self.folder.training.poses_folder if iteration else self.folder.refinement.poses

    def provenance(self, iteration: int) -> list[Path]:
        """What the stages that made the mesh of an iteration say of themselves, in order."""
        folder = self.folder
        files = [self.capture.provenance]
        if iteration or self.registration_inputs:
            files.append(self.integration.provenance)
        files.append(folder.registration.provenance)
        files += [folder.refinement.provenance] if self.is_refined else []
        files += [folder.training.provenance] if iteration else []
        return [*files, folder.mesh_provenance(iteration)]

    # --- what there is in the end

    def files(self) -> list[Path]:
        """Everything that is made, in the order in which it is made."""
        capture, integration, folder = self.capture, self.integration, self.folder
        files = [capture.archive, capture.preview, integration.ray_distances, integration.preview]
        files.append(folder.registration.poses)
        if self.is_refined:
            refined = folder.refinement
            files += [refined.poses, refined.surface, refined.history, *self._files_of([0])]
        if self.settings.train is not None:
            trained = folder.training
            files += [trained.checkpoints, trained.poses_folder, trained.history, trained.selection]
            files += self._files_of(self.settings.train.kept_steps())
        return [*files, folder.export.folder]

    def _files_of(self, iterations: Iterable[int]) -> list[Path]:
        """Everything that is made of the surfaces of some iterations."""
        steps, folder = list(iterations), self.folder
        return [
            *map(folder.mesh, steps),
            *(folder.renders(step) for step in steps if step in self.settings.candidates()),
            *map(folder.metrics, steps),
            *map(folder.error_maps, steps),
        ]

    def available_files(self) -> list[Path]:
        """The files that are there, and that are not out of date after a failure.

        Those made after a file that is missing belong to a former run. Nothing is made of renders.
        """
        available = []
        renders = {self.folder.renders(step) for step in self.settings.candidates()}
        for file in self.files():
            if file.exists():
                available.append(file)
            elif file not in renders:
                break
        return available


@dataclass(frozen=True)
class Plan:
    """All objects in all experiments of a run."""

    config: RunConfig
    objects: dict[str, ObjectEntry]
    experiments: dict[str, Experiment]
    resources: Resources = field(default_factory=Resources)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Plan":
        """The plan of a configuration, as Snakemake has merged it. Raises InputError."""
        config = RunConfig.parse(values, "configuration")
        objects = choose_objects(config)
        experiments = {name: load_experiment(name, config.overrides) for name in config.experiments}
        for name in config.scenes.keys() & objects.keys():
            check_replaceable(Path(objects[name].path))
        return cls(config, objects, experiments)

    @cached_property
    def results(self) -> Results:
        """The layout of the results folder."""
        return Results(Path(self.config.results))

    @property
    def summary(self) -> Path:
        """What a run ends with: the report, or the table of a study."""
        study = self.config.study
        return StudyFolder(Path(study.output)).summary if study else self.results.report

    def reconstruction(self, experiment: str, object_name: str) -> Reconstruction:
        """One object in one experiment."""
        settings, entry = self.experiments[experiment], self.objects[object_name]
        return Reconstruction(experiment, settings, entry, self.results)

    def __iter__(self) -> Iterator[Reconstruction]:
        """All objects in all experiments."""
        for experiment in self.experiments:
            for object_name in self.objects:
                yield self.reconstruction(experiment, object_name)

    @property
    def refined_experiments(self) -> list[str]:
        """The experiments that refine."""
        return [name for name, each in self.experiments.items() if each.refine is not None]

    @property
    def trained_experiments(self) -> list[str]:
        """The experiments that train."""
        return [name for name, each in self.experiments.items() if each.train is not None]

    # --- what table and report are made from

    def reported_files(self) -> list[Path]:
        """All results, or with `available_only` those that are there."""
        only_available = self.config.available_only
        files = (each.available_files() if only_available else each.files() for each in self)
        return list(dict.fromkeys(file for some in files for file in some))

    def metrics(self) -> list[Path]:
        """The metrics among the reported files."""
        reported = set(self.reported_files())
        metrics = (
            each.folder.metrics(step) for each in self for step in each.settings.kept_steps()
        )
        return [file for file in metrics if file in reported]

    def selections(self) -> list[Path]:
        """Where the trainings behind the metrics say which iteration is the result."""
        metrics = set(self.metrics())
        return [
            file
            for each in self
            if not metrics.isdisjoint(map(each.folder.metrics, each.settings.kept_steps()))
            for file in each.selections
        ]

    def available_selections(self) -> list[Path]:
        """The selections, with `available_only` those that are there."""
        only_available = self.config.available_only
        return [file for file in self.selections() if not only_available or file.exists()]

    def reported_run(self) -> ReportedRun:
        """What the report has to know of the run."""
        objects = [
            ReportedObject(name=entry.name, dataset=entry.dataset, normals=entry.normals)
            for entry in self.objects.values()
        ]
        experiments = [
            ReportedExperiment(
                name=name,
                summary=settings.summary,
                registration_method=settings.registration.method,
                normals=settings.normals,
                steps=settings.kept_steps(),
                candidates=settings.candidates(),
                refined=settings.refine is not None,
                trained=settings.train is not None,
            )
            for name, settings in self.experiments.items()
        ]
        logs = str(self.results.logs)
        return ReportedRun(objects=tuple(objects), experiments=tuple(experiments), logs=logs)

    # --- data sets

    @cached_property
    def downloadable(self) -> dict[str, Any]:
        """The data sets that `fetch` can bring, by name."""
        registry = self.resources.registry
        return read_yaml(registry) if registry.is_file() else {}

    def scene_mesh(self, object_name: str) -> list[Path]:
        """The mesh file that a synthetic object is made from; none for the project's own scenes."""
        scene = Path(self.config.scenes[object_name].scene)
        return [scene] if scene.is_file() else []

    def dataset_files(self, object_name: str) -> list[Path]:
        """What `prepare` waits for: what makes the object's folder, or the files in it.

        A folder that neither can be made nor is there gives nothing, so that `prepare` fails with
        its own message and the other objects go on.
        """
        entry = self.objects[object_name]
        folder, fetched = Path(entry.path), self.resources.fetched(entry.dataset)
        if object_name in self.config.scenes:
            return [folder]
        if fetched.exists() or (entry.dataset in self.downloadable and not folder.exists()):
            return [fetched]
        return sorted(file for file in folder.rglob("*") if is_data(file, folder))

    def object_folder(self, object_name: str, inputs: list[str]) -> str:
        """The object's folder, given where the job finds its `dataset_files`."""
        path, planned = self.objects[object_name].path, self.dataset_files(object_name)
        if not inputs or not planned:
            return path
        here, there = os.path.dirname(inputs[0]), planned[0].parent
        return os.path.normpath(os.path.join(here, os.path.relpath(path, there)))


def is_data(file: Path, folder: Path) -> bool:
    """Whether a file of an object's folder is data, and not hidden or a folder."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden


def check_replaceable(folder: Path) -> None:
    """Raise InputError if a folder that a synthetic capture would replace holds something else."""
    holds_data = folder.is_dir() and any(is_data(file, folder) for file in folder.rglob("*"))
    if holds_data and not (folder / "scene.json").is_file():
        raise InputError(
            f"{folder}: is there and is not a synthetic capture; name another data set"
        )


def surface_file(made: str, iteration: int) -> str:
    """The file of an iteration's surface, given the input that a job declares (`surface_made`)."""
    return str(checkpoint_in(Path(made), iteration)) if iteration else made


def poses_file(made: str, iteration: int) -> str:
    """The file of an iteration's poses, given the input that a job declares (`poses_made`)."""
    return str(poses_in(Path(made), iteration)) if iteration else made
