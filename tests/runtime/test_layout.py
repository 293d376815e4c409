"""The layout of results: stable paths, which former runs and other software rely on."""

import subprocess
import sys
from pathlib import Path

import pytest

from pmni.config import experiment
from pmni.runtime.layout import ObjectFolder, Resources, Results, StudyFolder

RESULTS = Results(Path("results"))
BEAR = RESULTS.object("free", "bear")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (RESULTS.capture("bear", "sdm").archive, "captures/bear/sdm/capture.npz"),
        (RESULTS.capture("bear", "sdm").cameras, "captures/bear/sdm/cameras.json"),
        (RESULTS.capture("bear", "sdm").preview, "captures/bear/sdm/preview.png"),
        (RESULTS.capture("bear", "sdm").provenance, "captures/bear/sdm/provenance.json"),
        (RESULTS.integration("bear", "sdm").ray_distances, "integration/bear/sdm/ray_distance.npz"),
        (RESULTS.integration("bear", "sdm").preview, "integration/bear/sdm/preview.png"),
        (BEAR.registration.poses, "free/bear/register/initial_poses.json"),
        (BEAR.refinement.poses, "free/bear/refine/refined_poses.json"),
        (BEAR.refinement.surface, "free/bear/refine/surface.safetensors"),
        (BEAR.refinement.surface_checksum, "free/bear/refine/surface.safetensors.sha256"),
        (BEAR.refinement.history, "free/bear/refine/history.csv"),
        (BEAR.training.checkpoints, "free/bear/train/checkpoints"),
        (BEAR.training.poses_folder, "free/bear/train/poses"),
        (BEAR.training.tensorboard, "free/bear/train/tensorboard"),
        (BEAR.training.history, "free/bear/train/history.csv"),
        (BEAR.training.selection, "free/bear/train/selection.json"),
        (BEAR.training.provenance, "free/bear/train/provenance.json"),
        (BEAR.mesh(30000), "free/bear/meshes/iter_00030000.ply"),
        (BEAR.mesh_provenance(30000), "free/bear/meshes/iter_00030000.provenance.json"),
        (BEAR.renders(0), "free/bear/renders/iter_00000000"),
        (BEAR.render_provenance(0), "free/bear/renders/iter_00000000/provenance.json"),
        (BEAR.metrics(0), "free/bear/metrics/iter_00000000.json"),
        (BEAR.error_maps(0), "free/bear/metrics/iter_00000000.errors.npz"),
        (BEAR.metrics_provenance(0), "free/bear/metrics/iter_00000000.provenance.json"),
        (BEAR.export.poses, "free/bear/export/poses.json"),
        (BEAR.export.cameras_sphere, "free/bear/export/cameras_sphere.npz"),
        (BEAR.export.figure, "free/bear/export/cameras.png"),
        (RESULTS.training_state("free", "bear"), "state/free/bear"),
        (RESULTS.log("collect"), "logs/collect.log"),
        (RESULTS.log("train", "free", "bear.v2"), "logs/train/free/bear.v2.log"),
        (RESULTS.benchmark, "benchmark.csv"),
        (RESULTS.report, "report/index.html"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_file_has_its_path(path: Path, expected: str) -> None:
    assert path == Path("results", expected)


def test_iteration_zero_is_the_refined_surface() -> None:
    assert BEAR.surface(0) == BEAR.refinement.surface
    assert BEAR.poses(0) == BEAR.refinement.poses
    assert BEAR.surface(200) == Path(
        "results/free/bear/train/checkpoints/iter_00000200.safetensors"
    )
    assert BEAR.poses(200) == Path("results/free/bear/train/poses/iter_00000200.json")


def test_wildcards_of_the_workflow_stay_as_they_are() -> None:
    pattern = Results(Path("out")).object("{experiment}", "{object}")
    assert (
        str(pattern.mesh("{iteration}")) == "out/{experiment}/{object}/meshes/iter_{iteration}.ply"
    )
    assert pattern.registration.poses.parent.name == "register"


def test_no_experiment_is_named_like_another_folder_of_the_results() -> None:
    folders = [
        *(RESULTS.capture("a", "b").folder, RESULTS.integration("a", "b").folder),
        *(RESULTS.logs, RESULTS.report, RESULTS.training_state("a", "b")),
    ]
    names = {folder.relative_to(RESULTS.root).parts[0] for folder in folders}
    assert names == set(experiment.RESERVED)


def test_resources() -> None:
    resources = Resources()
    assert resources.registry == Path("resources/registry.yaml")
    assert resources.fetched("toys") == Path("resources/toys/.fetched")
    assert resources.object("toys", "ball") == Path("resources/toys/ball")


def test_files_of_a_study() -> None:
    study = StudyFolder(Path("docs/accuracy"))
    assert [study.summary.name, study.table.name] == ["table.md", "table.csv"]
    assert study.plot("surface") == Path("docs/accuracy/surface.png")


def test_an_object_can_be_opened_by_its_folder_alone(tmp_path: Path) -> None:
    assert ObjectFolder(tmp_path).training.poses(1).is_relative_to(tmp_path)


def test_importing_the_layout_imports_nothing_heavy() -> None:
    code = (
        "import sys; import pmni.runtime.layout\n"
        "print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
