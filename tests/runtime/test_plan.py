"""The plan of a run: which files it makes, and which files its jobs read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmni.config import experiment as experiments
from pmni.errors import InputError
from pmni.runtime.plan import Plan, poses_file, surface_file

TABLE = """object\tdataset\tlayout\tpath\tnormals
ball\ttoys\tsupernormal\tresources/toys/ball\tnoisy
vase\tmine\tsupernormal\tdata/vase\tnormals
bear\tanimals\tsupernormal\tresources/animals/bear\tsdm
"""
TRAIN = {"steps": 200, "checkpoints": [100]}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "full": {"registration": {"method": "from_scratch"}, "train": TRAIN, "summary": "All of it."},
    "fast": {"base": "full", "train": None, "normals": "GT"},
    "network": {"base": "full", "registration": {"method": "reference"}, "refine": None},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three experiments and three objects: synthetic, on disk, to fetch."""
    monkeypatch.chdir(tmp_path)
    for name, content in EXPERIMENTS.items():
        write(tmp_path / experiments.EXPERIMENTS / f"{name}.yaml", yaml.safe_dump(content))
    write(tmp_path / "config/objects.tsv", TABLE)
    write(tmp_path / "data/vase/normals/00.exr")
    write(tmp_path / "data/vase/masks/.hidden/00.png")
    write(tmp_path / "resources/registry.yaml", yaml.safe_dump({"animals": {}}))
    return tmp_path


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_plan(**values: Any) -> Plan:
    scenes = {"ball": {"scene": "blob"}}
    return Plan.of({"experiments": list(EXPERIMENTS), "scenes": scenes, **values})


def names(paths: list[Path]) -> list[str]:
    return [path.as_posix().removeprefix("results/") for path in paths]


@pytest.mark.usefixtures("folder")
def test_jobs_read_what_their_experiment_has_made() -> None:
    plan = make_plan()
    full, fast, network = (plan.reconstruction(name, "vase") for name in EXPERIMENTS)
    assert names([full.capture.archive]) == ["captures/vase/normals/capture.npz"]
    assert names([fast.capture.archive]) == ["captures/vase/GT/capture.npz"]
    assert full.registration_inputs == [full.integration.ray_distances]
    assert network.registration_inputs == []
    assert names(full.refined_inputs) == ["full/vase/refine/surface.safetensors"]
    assert names([full.training_poses]) == ["full/vase/refine/refined_poses.json"]
    assert network.refined_inputs == []
    assert names([network.training_poses]) == ["network/vase/register/initial_poses.json"]
    assert names(full.selections) == ["full/vase/train/selection.json"]
    assert fast.selections == []


@pytest.mark.usefixtures("folder")
def test_iterations_are_found_in_what_a_job_waits_for() -> None:
    full = make_plan().reconstruction("full", "vase")
    for step in (0, 100):
        surface, poses = str(full.surface_made(step)), str(full.poses_made(step))
        assert surface_file(surface, step) == str(full.folder.surface(step))
        assert poses_file(poses, step) == str(full.folder.poses(step))
    assert (
        surface_file("/storage/checkpoints", 5) == "/storage/checkpoints/iter_00000005.safetensors"
    )


@pytest.mark.usefixtures("folder")
def test_provenance_is_that_of_the_stages_behind_a_mesh() -> None:
    plan = make_plan()
    stages = ["captures/vase/normals", "integration/vase/normals", "full/vase/register"]
    stages.append("full/vase/refine")
    mesh = "full/vase/meshes/iter_{:08d}.provenance.json"
    expected = [*(f"{stage}/provenance.json" for stage in stages), mesh.format(0)]
    assert names(plan.reconstruction("full", "vase").provenance(0)) == expected
    stages.append("full/vase/train")
    expected = [*(f"{stage}/provenance.json" for stage in stages), mesh.format(200)]
    assert names(plan.reconstruction("full", "vase").provenance(200)) == expected


@pytest.mark.usefixtures("folder")
def test_files_of_a_reconstruction_are_in_the_order_in_which_they_are_made() -> None:
    plan = make_plan()
    files = names(plan.reconstruction("fast", "ball").files())
    assert files == [
        "captures/ball/GT/capture.npz",
        "captures/ball/GT/preview.png",
        "integration/ball/GT/ray_distance.npz",
        "integration/ball/GT/preview.png",
        "fast/ball/register/initial_poses.json",
        "fast/ball/refine/refined_poses.json",
        "fast/ball/refine/surface.safetensors",
        "fast/ball/refine/history.csv",
        "fast/ball/meshes/iter_00000000.ply",
        "fast/ball/renders/iter_00000000",
        "fast/ball/metrics/iter_00000000.json",
        "fast/ball/metrics/iter_00000000.errors.npz",
        "fast/ball/export",
    ]
    full = names(plan.reconstruction("full", "ball").files())
    assert "full/ball/meshes/iter_00000100.ply" in full
    assert "full/ball/renders/iter_00000100" not in full  # only what may become the result
    assert "full/ball/renders/iter_00000200" in full
    assert not any(
        "refine" in file for file in names(plan.reconstruction("network", "ball").files())
    )


@pytest.mark.usefixtures("folder")
def test_what_was_made_before_a_stage_failed_anew_is_out_of_date() -> None:
    plan = make_plan(available_only=True, only=["ball"], experiments=["full", "fast"])
    full, fast = plan
    for file in [*full.files(), *fast.files()]:
        write(file)
    assert plan.reported_files() == list(dict.fromkeys([*full.files(), *fast.files()]))
    assert len(plan.metrics()) == 4
    assert plan.available_selections() == [full.folder.training.selection]
    full.folder.renders(0).unlink()  # nothing is made of renders
    assert len(plan.metrics()) == 4
    full.folder.training.selection.unlink()
    assert plan.metrics() == [full.folder.metrics(0), fast.folder.metrics(0)]
    assert (plan.selections(), plan.available_selections()) == (
        [full.folder.training.selection],
        [],
    )
    full.integration.ray_distances.unlink()
    assert plan.metrics() == [fast.folder.metrics(0)]
    assert plan.selections() == []


@pytest.mark.usefixtures("folder")
def test_the_report_gets_to_know_the_run() -> None:
    run = make_plan().reported_run()
    assert [each.name for each in run.objects] == ["ball", "vase", "bear"]
    full, fast, network = run.experiments
    assert (full.summary, full.steps, full.candidates) == ("All of it.", (0, 100, 200), (0, 200))
    assert (fast.normals, fast.refined, fast.trained) == ("GT", True, False)
    assert (network.registration_method, network.refined) == ("reference", False)
    assert run.logs == "results/logs"
    assert json.loads(run.model_dump_json())["experiments"][0]["registration_method"]


@pytest.mark.usefixtures("folder")
def test_a_run_ends_with_the_report_or_the_table_of_a_study() -> None:
    assert make_plan().summary == Path("results/report/index.html")
    study = {"output": "docs/study", "objects": {"egg": {}}, "factors": {}}
    plan = Plan.of({"experiments": ["fast"], "study": study})
    assert plan.summary == Path("docs/study/table.md")
    assert plan.dataset_files("egg-base") == [Path("resources/study/egg-base")]


def test_prepare_waits_for_the_files_of_an_object_or_for_what_makes_them(folder: Path) -> None:
    plan = make_plan()
    assert plan.dataset_files("ball") == [Path("resources/toys/ball")]
    assert plan.dataset_files("vase") == [Path("data/vase/normals/00.exr")]
    fetched = Path("resources/animals/.fetched")
    assert plan.dataset_files("bear") == [fetched]
    write(folder / "resources/animals/bear/00.exr")  # brought by hand
    assert plan.dataset_files("bear") == [Path("resources/animals/bear/00.exr")]
    write(folder / fetched)
    assert plan.dataset_files("bear") == [fetched]
    (folder / "data/vase/normals/00.exr").unlink()
    assert plan.dataset_files("vase") == []


@pytest.mark.usefixtures("folder")
def test_an_object_is_read_where_the_job_finds_its_files() -> None:
    plan = make_plan()
    for name in ("ball", "vase", "bear"):
        inputs = [str(file) for file in plan.dataset_files(name)]
        assert plan.object_folder(name, inputs) == plan.objects[name].path
        elsewhere = [f"/storage/{file}" for file in inputs]
        assert plan.object_folder(name, elsewhere) == f"/storage/{plan.objects[name].path}"
    assert plan.object_folder("vase", []) == "data/vase"


def test_a_synthetic_object_does_not_replace_data(folder: Path) -> None:
    write(folder / "resources/toys/ball/scene.json")
    make_plan()
    (folder / "resources/toys/ball/scene.json").unlink()
    make_plan()
    write(folder / "resources/toys/ball/mask/00.png")
    with pytest.raises(InputError, match="toys/ball: is there and is not a synthetic capture"):
        make_plan()


@pytest.mark.usefixtures("folder")
def test_meshes_of_scenes_are_inputs() -> None:
    scene = Path("data/vase.ply")
    write(scene)
    plan = make_plan(scenes={"ball": {"scene": str(scene)}})
    assert plan.scene_mesh("ball") == [scene]
    assert make_plan().scene_mesh("ball") == []


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; import pmni.runtime.plan, pmni.runtime.fork_server\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'pandas') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
