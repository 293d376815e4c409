"""The layout of results: the one place that says which file of which stage lies where.

    captures/<object>/<normals>/               prepare
    integration/<object>/<normals>/            integrate
    <experiment>/<object>/register/            register
    <experiment>/<object>/refine/              refine
    <experiment>/<object>/train/               train
    <experiment>/<object>/meshes/iter_N.*      mesh, for each iteration that is kept
    <experiment>/<object>/renders/iter_N/      render, for each iteration that may be the result
    <experiment>/<object>/metrics/iter_N.*     evaluate, for each iteration that is kept
    <experiment>/<object>/export/              export
    benchmark.csv, report/index.html           collect, report
    logs/<stage>/...                           what every stage has printed
    state/<experiment>/<object>/               unfinished trainings

Iteration 0 is the refined surface; the others are steps of the training. Arguments may also be
wildcards of the workflow, such as `{object}`. Nothing is read or made here.
"""

from dataclasses import dataclass
from pathlib import Path

PROVENANCE = "provenance.json"
"""Name of the file in which a stage says what made its results."""


def iteration_name(iteration: int | str) -> str:
    """The stem of all files of an iteration, such as iter_00030000; a string is taken as it is."""
    digits = iteration if isinstance(iteration, str) else f"{iteration:08d}"
    return f"iter_{digits}"


@dataclass(frozen=True)
class StageFolder:
    """The folder that one stage writes for one object."""

    folder: Path

    @property
    def provenance(self) -> Path:
        """What made the results: settings, inputs, versions, hardware, seconds."""
        return self.folder / PROVENANCE


class CaptureFolder(StageFolder):
    """What `prepare` writes of an object's normal set."""

    @property
    def archive(self) -> Path:
        """The capture itself: normals, masks, intrinsics, and ground truth where there is any."""
        return self.folder / "capture.npz"

    @property
    def cameras(self) -> Path:
        """Intrinsics and reference poses, for people."""
        return self.folder / "cameras.json"

    @property
    def preview(self) -> Path:
        """All normal maps in one image."""
        return self.folder / "preview.png"


class IntegrationFolder(StageFolder):
    """What `integrate` writes of a capture."""

    @property
    def ray_distances(self) -> Path:
        """Integrated distances along the viewing rays, each view of its own scale."""
        return self.folder / "ray_distance.npz"

    @property
    def preview(self) -> Path:
        """The integrated surfaces of all views in one image."""
        return self.folder / "preview.png"


class RegistrationFolder(StageFolder):
    """What `register` writes."""

    @property
    def poses(self) -> Path:
        """The initial poses."""
        return self.folder / "initial_poses.json"


class RefinementFolder(StageFolder):
    """What `refine` writes."""

    @property
    def poses(self) -> Path:
        """The refined poses, with their covariances."""
        return self.folder / "refined_poses.json"

    @property
    def surface(self) -> Path:
        """The refined signed distances on a narrow band of a grid."""
        return self.folder / "surface.safetensors"

    @property
    def surface_checksum(self) -> Path:
        """SHA-256 of the surface's file."""
        return self.folder / "surface.safetensors.sha256"

    @property
    def history(self) -> Path:
        """Numbers of every outer iteration."""
        return self.folder / "history.csv"


class TrainingFolder(StageFolder):
    """What `train` writes. Checkpoints and poses are named by iteration."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the surfaces."""
        return self.folder / "checkpoints"

    @property
    def poses_folder(self) -> Path:
        """The folder of the poses."""
        return self.folder / "poses"

    @property
    def tensorboard(self) -> Path:
        """The log for TensorBoard."""
        return self.folder / "tensorboard"

    @property
    def history(self) -> Path:
        """Losses and pose changes over the steps."""
        return self.folder / "history.csv"

    @property
    def selection(self) -> Path:
        """Which iteration is the result, and the held-out errors that decide it."""
        return self.folder / "selection.json"

    def checkpoint(self, iteration: int | str) -> Path:
        """The surface at an iteration."""
        return checkpoint_in(self.checkpoints, iteration)

    def poses(self, iteration: int | str) -> Path:
        """The poses at an iteration."""
        return poses_in(self.poses_folder, iteration)


class ExportFolder(StageFolder):
    """What `export` writes; further formats lie beside these files."""

    @property
    def poses(self) -> Path:
        """Poses and intrinsics as plain JSON."""
        return self.folder / "poses.json"

    @property
    def cameras_sphere(self) -> Path:
        """The cameras in the format of NeuS."""
        return self.folder / "cameras_sphere.npz"

    @property
    def figure(self) -> Path:
        """The cameras around the object."""
        return self.folder / "cameras.png"


@dataclass(frozen=True)
class ObjectFolder:
    """Everything that one experiment makes of one object."""

    folder: Path

    @property
    def registration(self) -> RegistrationFolder:
        """The initial poses."""
        return RegistrationFolder(self.folder / "register")

    @property
    def refinement(self) -> RefinementFolder:
        """Iteration 0: poses and grid surface."""
        return RefinementFolder(self.folder / "refine")

    @property
    def training(self) -> TrainingFolder:
        """The iterations after 0."""
        return TrainingFolder(self.folder / "train")

    @property
    def export(self) -> ExportFolder:
        """The result for other software."""
        return ExportFolder(self.folder / "export")

    def surface(self, iteration: int) -> Path:
        """The file of the surface at an iteration."""
        return self.training.checkpoint(iteration) if iteration else self.refinement.surface

    def poses(self, iteration: int) -> Path:
        """The file of the poses at an iteration."""
        return self.training.poses(iteration) if iteration else self.refinement.poses

    def mesh(self, iteration: int | str) -> Path:
        """The triangle mesh of an iteration's surface, in dataset units."""
        return self.folder / "meshes" / f"{iteration_name(iteration)}.ply"

    def renders(self, iteration: int | str) -> Path:
        """The folder of an iteration's normals and depth, rendered in all views."""
        return self.folder / "renders" / iteration_name(iteration)

    def metrics(self, iteration: int | str) -> Path:
        """The numbers of an iteration."""
        return self.folder / "metrics" / f"{iteration_name(iteration)}.json"

    def error_maps(self, iteration: int | str) -> Path:
        """The errors of an iteration at every pixel."""
        return error_maps_of(self.metrics(iteration))

    def mesh_provenance(self, iteration: int | str) -> Path:
        """What made an iteration's mesh."""
        return provenance_of(self.mesh(iteration))

    def render_provenance(self, iteration: int | str) -> Path:
        """What made an iteration's renders."""
        return StageFolder(self.renders(iteration)).provenance

    def metrics_provenance(self, iteration: int | str) -> Path:
        """What made an iteration's numbers."""
        return provenance_of(self.metrics(iteration))


def checkpoint_in(folder: Path, iteration: int | str) -> Path:
    """The surface of an iteration in a folder of checkpoints."""
    return folder / f"{iteration_name(iteration)}.safetensors"


def poses_in(folder: Path, iteration: int | str) -> Path:
    """The poses of an iteration in a folder of poses."""
    return folder / f"{iteration_name(iteration)}.json"


def provenance_of(file: Path) -> Path:
    """The provenance beside a file that is named after its iteration."""
    return file.with_name(f"{file.stem}.{PROVENANCE}")


def error_maps_of(metrics: Path) -> Path:
    """The error maps beside a file of metrics."""
    return metrics.with_name(f"{metrics.stem}.errors.npz")


@dataclass(frozen=True)
class Results:
    """The folder of all results."""

    root: Path

    def capture(self, object_name: str, normals: str) -> CaptureFolder:
        """An object as it was read, with one of its normal sets."""
        return CaptureFolder(self.root / "captures" / object_name / normals)

    def integration(self, object_name: str, normals: str) -> IntegrationFolder:
        """The integrated normals of a capture."""
        return IntegrationFolder(self.root / "integration" / object_name / normals)

    def object(self, experiment: str, object_name: str) -> ObjectFolder:
        """What an experiment makes of an object."""
        return ObjectFolder(self.root / experiment / object_name)

    def training_state(self, experiment: str, object_name: str) -> Path:
        """The folder in which unfinished trainings keep what they need to go on."""
        return self.root / "state" / experiment / object_name

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.root / "logs"

    def log(self, *parts: str) -> Path:
        """The log of a job: `parts` are its stage and whatever tells it from others."""
        *folders, name = parts
        return self.logs.joinpath(*folders, f"{name}.log")

    @property
    def benchmark(self) -> Path:
        """The table of all metrics, with published numbers beside them."""
        return self.root / "benchmark.csv"

    @property
    def report(self) -> Path:
        """The page that shows everything."""
        return self.root / "report" / "index.html"


@dataclass(frozen=True)
class StudyFolder:
    """What `study` writes."""

    folder: Path

    @property
    def summary(self) -> Path:
        """Medians, and what failed, for people."""
        return self.folder / "table.md"

    @property
    def table(self) -> Path:
        """Every result."""
        return self.folder / "table.csv"

    def plot(self, name: str) -> Path:
        """The plot of one number."""
        return self.folder / f"{name}.png"


@dataclass(frozen=True)
class Resources:
    """The folder of the data sets that the workflow downloads or synthesises."""

    root: Path = Path("resources")

    @property
    def registry(self) -> Path:
        """The data sets that can be downloaded: address, checksum and size of each."""
        return self.root / "registry.yaml"

    def dataset(self, name: str) -> Path:
        """The folder of a data set."""
        return self.root / name

    def fetched(self, name: str) -> Path:
        """The empty file that says that a data set has been downloaded and unpacked."""
        return self.dataset(name) / ".fetched"

    def object(self, dataset: str, object_name: str) -> Path:
        """The folder of one object of a data set."""
        return self.dataset(dataset) / object_name
