"""What the workflow promises, on a stand-in for `pmni` that only leaves the files of the stages."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures import fake_pmni
from fixtures.snakemake_process import run_snakemake

REPOSITORY = Path(__file__).resolve().parents[2]
GPU_STAGES = ("refine", "train", "mesh", "render")
SUMMARY = {"collect": 1, "report": 1}
# The jobs of an object in each experiment, after those that all experiments share.
FREE = {"register": 1, "refine": 1, "train": 1, "mesh": 3, "render": 2, "evaluate": 3, "export": 1}
FAST = {"register": 1, "refine": 1, "mesh": 1, "render": 1, "evaluate": 1, "export": 1}
FIXED = {"register": 1, "train": 1, "mesh": 2, "render": 1, "evaluate": 2, "export": 1}
AFTER_REFINING = {"mesh": 1, "render": 1, "evaluate": 1}
AFTER_TRAINING = {"mesh": 2, "render": 1, "evaluate": 2, "export": 1}


def total(*jobs: dict[str, int], times: int = 1) -> dict[str, int]:
    """The sum of all counts, `times` times."""
    counts: Counter[str] = Counter()
    for each in jobs:
        counts.update(each)
    return {name: times * count for name, count in counts.items()}


def less(jobs: dict[str, int], done: dict[str, int]) -> dict[str, int]:
    """The jobs that are left when some are done."""
    return dict(Counter(jobs) - Counter(done))


ALL = total(FREE, FAST, FIXED)


@dataclass(frozen=True)
class Project:
    """A folder with the project's workflow and a configuration of its own."""

    folder: Path
    pmni: fake_pmni.FakePmni

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the folder; standard output and error come together."""
        return run_snakemake(arguments, self.folder, self.pmni.environment() | environment)

    def snakemake_in_new_interpreter(
        self, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The same, with variables that an interpreter reads when it starts."""
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=self.pmni.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Snakemake in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=self.pmni.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def configuration(self) -> dict[str, Any]:
        """The content of `config/config.yaml`."""
        return yaml.safe_load((self.folder / "config/config.yaml").read_text(encoding="utf-8"))

    def write(self, path: str, content: object) -> None:
        """Write a file of the project: text as it is, anything else as YAML."""
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")


def make_project(folder: Path) -> Project:
    """Two synthetic objects and one on disk; three experiments.

    `free` refines and trains, `fast` only refines; `fixed` only trains, on the CPU.
    """
    project = Project(folder, fake_pmni.install(folder / "bin"))
    for name in ("Snakefile", "workflow", "profiles"):
        (folder / name).symlink_to(REPOSITORY / name)
    rows = [
        ("object", "dataset", "layout", "path", "normals"),
        ("ball", "toys", "supernormal", "resources/toys/ball", "noisy"),
        ("cube", "toys", "supernormal", "resources/toys/cube", "noisy"),
        ("vase", "mine", "custom", "data/vase", "normals"),
    ]
    project.write("config/objects.tsv", "".join("\t".join(row) + "\n" for row in rows))
    project.write("data/vase/normals/00.exr", "x")
    scenes = {"ball": {"scene": "blob"}, "cube": {"scene": "blob"}}
    config = {"experiments": ["free", "fast", "fixed"], "scenes": scenes, "published": None}
    project.write("config/config.yaml", config)
    train = {"steps": 200, "checkpoints": [100]}
    free = {"registration": {"method": "free"}, "train": train}
    project.write("config/experiments/free.yaml", free)
    project.write("config/experiments/fast.yaml", {"base": "free", "train": None})
    cpu = {stage: {"device": "cpu"} for stage in GPU_STAGES}
    fixed = {"base": "free", "registration": {"method": "reference"}, **cpu, "refine": None}
    project.write("config/experiments/fixed.yaml", fixed)
    return project


def planned(output: str) -> dict[str, int]:
    """The job counts that a dry run prints."""
    table = output.split("Job stats:")[1].split("total", maxsplit=1)[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


def made(calls: list[fake_pmni.Call]) -> dict[str, int]:
    """How often each stage was called."""
    return dict(Counter(call.stage for call in calls))


def overlap(calls: list[fake_pmni.Call]) -> bool:
    """Whether two of the calls ran at the same time."""
    ordered = sorted(calls, key=lambda call: call.start)
    return any(after.start < before.end for before, after in pairwise(ordered))


@pytest.mark.workflow
def test_the_first_dry_run_lists_every_job(tmp_path: Path) -> None:
    """Objects of a data set that is not there yet wait for one download."""
    project = make_project(tmp_path)
    table = (project.folder / "config/objects.tsv").read_text(encoding="utf-8")
    for name in ("bear", "cow"):
        table += f"{name}\tanimals\tsupernormal\tresources/animals/{name}\tsdm\n"
    project.write("config/objects.tsv", table)
    project.write("resources/registry.yaml", {"animals": {"url": "https://example.org/a.zip"}})
    run = project.snakemake("--dry-run", "--cores", "1", "--resources", "gpu=1")
    assert run.returncode == 0, run.stdout
    assert planned(run.stdout) == {
        "fetch": 1,
        "synthesize": 2,
        "prepare": 5,
        "integrate": 5,
        **total(ALL, times=5),
        "collect": 1,
        "report": 1,
        "all": 1,
    }


@pytest.mark.workflow
def test_failures_stay_alone_and_are_mended_alone(tmp_path: Path) -> None:
    """The life of a project: failures, the fix, nothing left to do, changed settings, one GPU."""
    project = make_project(tmp_path)
    table = (project.folder / "config/objects.tsv").read_text(encoding="utf-8")
    project.write("config/objects.tsv", table + "lost\tmine\tcustom\tdata/lost\tnormals\n")

    # A refinement and a training are made to fail, and one object is not where the table says.
    project.pmni.fail("--output results/free/ball/refine", "--output results/free/cube/train")
    project.pmni.meet("--output results/fixed/ball/train", "--output results/fixed/cube/train")
    run = project.snakemake("--cores", "8")
    calls = project.pmni.calls()
    assert run.returncode != 0
    assert "made to fail" in run.stdout
    assert "data/lost: no such folder" in run.stdout
    failed = sorted(call.output for call in calls if call.code)
    assert failed == [
        "results/captures/lost/normals",
        "results/free/ball/refine",
        "results/free/cube/train",
    ]
    begun = {"register": 1, "refine": 1}
    cube = total(begun, {"train": 1}, AFTER_REFINING)
    others = total(FAST, FIXED, times=3)
    shared = {"synthesize": 2, "prepare": 4, "integrate": 3}
    assert made(calls) == total(shared, others, begun, cube, FREE, SUMMARY)
    # What worked is in the table and the report, also the surface that a training should improve.
    check_what_is_collected_after_failures(calls)
    assert (project.folder / "results/report/index.html").is_file()
    assert "the report shows what was, and what failed: results/report/index.html" in run.stdout
    # The log of a failed stage is where the report looks for it.
    for stage, name in (("refine", "ball"), ("train", "cube")):
        log = project.folder / f"results/logs/{stage}/free/{name}.log"
        assert "made to fail" in log.read_text(encoding="utf-8")

    # Jobs that take the GPU for long never ran at the same time; two trainings on the CPU did (they
    # meet).
    on_gpu = [c for c in calls if c.stage in ("refine", "train") and "/fixed/" not in c.output]
    assert not overlap(on_gpu)

    # After the fix only what failed, and what follows it, runs.
    project.pmni.fail()
    project.write("config/objects.tsv", table)
    run = project.snakemake("--cores", "8")
    calls = project.pmni.calls()
    assert run.returncode == 0, run.stdout
    left = total(less(FREE, {"register": 1}), {"train": 1}, AFTER_TRAINING, SUMMARY)
    assert made(calls) == left
    assert len(next(call for call in calls if call.stage == "collect").options["metrics"]) == 18

    # Then there is nothing left to do.
    run = project.snakemake("--cores", "8")
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout
    assert project.pmni.calls() == []

    # Jobs that need a GPU for moments take turns at its lock. Only what depends on the setting is
    # made.
    project.pmni.meet("--output results/free/ball/meshes", "--output results/free/cube/meshes")
    project.write("coarse.yaml", {"overrides": {"mesh": {"resolution": 64}}})
    run = project.snakemake("--cores", "8", "--configfile", "coarse.yaml")
    calls = project.pmni.calls()
    assert run.returncode == 0, run.stdout
    assert made(calls) == {"mesh": 18, "evaluate": 18, "export": 9} | SUMMARY

    # With two GPUs two refinements may run at once.
    project.pmni.meet("--output results/free/ball/refine", "--output results/free/cube/refine")
    project.write("seed.yaml", {"overrides": {"mesh": {"resolution": 64}, "refine": {"seed": 1}}})
    run = project.snakemake("--cores", "8", "--resources", "gpu=2", "--configfile", "seed.yaml")
    calls = project.pmni.calls()
    assert run.returncode == 0, run.stdout
    assert (
        made(calls)
        == total(less(FREE, {"register": 1}), less(FAST, {"register": 1}), times=3) | SUMMARY
    )


def check_what_is_collected_after_failures(calls: list[fake_pmni.Call]) -> None:
    """All surfaces there are, and the selections of all trainings behind them."""
    collect = next(call for call in calls if call.stage == "collect").options
    objects = ("ball", "cube", "vase")
    steps = [*((f"fast/{name}", 0) for name in objects), ("free/cube", 0)]
    steps += [(f"fixed/{name}", step) for name in objects for step in (100, 200)]
    steps += [("free/vase", step) for step in (0, 100, 200)]
    assert sorted(collect["metrics"]) == sorted(
        f"results/{pair}/metrics/iter_{step:08d}.json" for pair, step in steps
    )
    trained = [*(f"fixed/{name}" for name in objects), "free/cube", "free/vase"]
    assert sorted(collect["selections"]) == [f"results/{p}/train/selection.json" for p in trained]


@pytest.mark.workflow
def test_a_study_tells_what_there_is_after_a_failure(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    levels = {"4": {}, "8": {"normal_noise": 8.0}}
    noise = {"title": "error", "levels": levels}
    study = {"output": "docs/study", "objects": {"egg": {}}, "factors": {"noise": noise}}
    overlay = {"experiments": ["fast", "fixed"], "study": study}
    project.write("study.yaml", overlay)
    project.pmni.fail("--output results/fast/egg-noise-8/register")
    run = project.snakemake("--cores", "8", "--configfile", "study.yaml")
    assert run.returncode != 0
    assert "what failed: docs/study/table.md" in run.stdout
    assert (project.folder / "docs/study/table.md").is_file()
    (collect,) = (call.options for call in project.pmni.calls() if call.stage == "collect")
    found = [
        ("fast/egg-base", 0),
        *((f"fixed/egg-{n}", s) for n in ("base", "noise-8") for s in (100, 200)),
    ]
    assert sorted(collect["metrics"]) == [
        f"results/{pair}/metrics/iter_{step:08d}.json" for pair, step in found
    ]


@pytest.mark.workflow
def test_every_stage_gets_what_its_experiment_has_made(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.write("config/config.yaml", project.configuration() | {"only": ["ball"]})
    run = project.snakemake("--cores", "8")
    assert run.returncode == 0, run.stdout
    calls = {(c.stage, c.output.removeprefix("results/")): c for c in project.pmni.calls()}

    def given(stage: str, output: str) -> dict[str, list[str]]:
        """The options that name files of the experiment, without the folder of the results."""
        options = calls[stage, output].options
        names = ("ray-distances", "poses", "surface", "checkpoint", "initial-poses")
        return {
            name: [file.removeprefix("results/") for file in options[name]]
            for name in names
            if name in options
        }

    distances = {"ray-distances": ["integration/ball/noisy"]}
    for name in ("free", "fast", "fixed"):
        own = f"{name}/ball"
        initial = f"{own}/register/initial_poses.json"
        refined, surface = f"{own}/refine/refined_poses.json", f"{own}/refine/surface.safetensors"
        # Only the registration from nothing needs the ray distances.
        assert given("register", f"{own}/register") == (distances if name != "fixed" else {})
        if name != "fixed":
            assert given("refine", f"{own}/refine") == {"poses": [initial]}
        if name == "free":
            start = {"poses": [refined], "surface": [surface]}
            assert given("train", f"{own}/train") == distances | start
        if name == "fixed":
            assert given("train", f"{own}/train") == distances | {"poses": [initial]}
        for step in {"free": (0, 100, 200), "fast": (0,), "fixed": (100, 200)}[name]:
            stem = f"iter_{step:08d}"
            checkpoint = f"{own}/train/checkpoints/{stem}.safetensors" if step else surface
            poses = f"{own}/train/poses/{stem}.json" if step else refined
            assert given("mesh", f"{own}/meshes/{stem}.ply") == {"checkpoint": [checkpoint]}
            evaluated = {"poses": [poses], "initial-poses": [initial]}
            assert given("evaluate", f"{own}/metrics/{stem}.json") == evaluated
            if step != 100:  # only what may become the result is rendered
                rendered = given("render", f"{own}/renders/{stem}")
                assert rendered == {"poses": [poses], "checkpoint": [checkpoint]}
            # The seconds are those of the stages that made the surface.
            provenance = calls["evaluate", f"{own}/metrics/{stem}.json"].options["provenance"]
            made_by = ["captures/ball/noisy", "integration/ball/noisy", f"{own}/register"]
            made_by += [f"{own}/refine"] if name != "fixed" else []
            made_by += [f"{own}/train"] if step else []
            told = [*(f"{folder}/provenance.json" for folder in made_by)]
            told.append(f"{own}/meshes/{stem}.provenance.json")
            assert provenance == [f"results/{file}" for file in told]
    collect = next(call for call in calls.values() if call.stage == "collect").options
    assert sorted(collect["selections"]) == [
        "results/fixed/ball/train/selection.json",
        "results/free/ball/train/selection.json",
    ]
    # The export takes whichever of these the training has selected.
    for name, steps in (("free", (0, 200)), ("fast", (0,)), ("fixed", (200,))):
        options = calls["export", f"{name}/ball/export"].options
        stems = [f"iter_{step:08d}" for step in steps]
        assert options["iterations"] == [str(step) for step in steps]
        assert options["mesh"] == [f"results/{name}/ball/meshes/{stem}.ply" for stem in stems]
        assert len(options["poses"]) == len(steps)
        assert ("selection" in options) == (name != "fast")


@pytest.mark.workflow
def test_an_experiment_has_no_files_of_a_stage_that_it_leaves_out(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    for file in ("fast/ball/train/history.csv", "fixed/ball/refine/history.csv"):
        run = project.snakemake("--dry-run", "--cores", "1", f"results/{file}")
        assert run.returncode != 0
        assert "MissingRuleException" in run.stdout


@pytest.mark.workflow
@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_jobs_know_the_fork_server_which_ends_with_the_run(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    goal = "results/integration/ball/noisy/ray_distance.npz"
    assert project.snakemake(goal).returncode == 0
    folders = {call.fork_server for call in project.pmni.calls()}
    assert len(folders) == 1
    (folder,) = folders
    assert folder
    deadline = time.monotonic() + 10
    while Path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    goal = "results/integration/cube/noisy/ray_distance.npz"
    assert project.snakemake(goal, PMNI_FORK_SERVER="").returncode == 0
    assert {call.fork_server for call in project.pmni.calls()} == {""}


@pytest.mark.workflow
def test_a_report_that_fails_is_not_tried_for_ever(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.write("config/config.yaml", project.configuration() | {"only": ["ball"]})
    project.pmni.fail("report --results")
    run = project.snakemake("--cores", "8")
    assert run.returncode != 0
    assert made(project.pmni.calls())["report"] == 2
    assert "the report shows" not in run.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of which everything has been made; tests leave it so."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    run = project.snakemake("--cores", "8")
    assert run.returncode == 0, run.stdout
    return project


SURFACES = {"mesh": 18, "render": 12, "evaluate": 18, "export": 9} | SUMMARY
BUMP = """
from dataclasses import replace
from pmni.runtime.stages import STAGES
STAGES["evaluate"] = replace(STAGES["evaluate"], version=STAGES["evaluate"].version + 1)
"""


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        # `fixed` is registered without the ray distances
        (
            {"integrate": {"k": 3.0}},
            {"integrate": 3, "register": 6, "refine": 6, "train": 6} | SURFACES,
        ),
        (
            {"scenes": {"ball": {"normal_noise": 5.0}}},
            {"synthesize": 1, "prepare": 1, "integrate": 1} | ALL | SUMMARY,
        ),
        (
            {"overrides": {"registration": {"seed": 1}}},
            {"register": 9, "refine": 6, "train": 6} | SURFACES,
        ),
        (
            {"overrides": {"refine": {"seed": 1}}},
            {"refine": 6, "train": 3, "mesh": 12, "render": 9, "evaluate": 12, "export": 6}
            | SUMMARY,
        ),
        (
            {"overrides": {"train": {"seed": 1}}},
            {"train": 6, "mesh": 12, "render": 6, "evaluate": 12, "export": 6} | SUMMARY,
        ),
        ({"overrides": {"render": {"chunk": 1000}}}, {"render": 12, "report": 1}),
        ({"overrides": {"summary": "Another word for it."}}, {"report": 1}),
        ({"experiments": ["free"]}, SUMMARY),
        ({"only": ["ball", "vase"]}, SUMMARY),
    ],
    ids=[
        *("integrate", "scene", "register", "refine", "train", "render", "summary", "experiments"),
        "objects",
    ],
)
def test_changed_configuration_reruns_what_depends_on_it(
    finished: Project, overlay: dict[str, object], expected: dict[str, int]
) -> None:
    finished.write("overlay.yaml", overlay)
    run = finished.snakemake("--dry-run", "--cores", "8", "--configfile", "overlay.yaml")
    assert run.returncode == 0, run.stdout
    assert planned(run.stdout) == expected | {"all": 1}


@pytest.mark.workflow
def test_a_raised_stage_version_reruns_the_stage(finished: Project) -> None:
    finished.write("bump/sitecustomize.py", BUMP)
    path = os.pathsep.join([str(finished.folder / "bump"), os.environ.get("PYTHONPATH", "")])
    run = finished.snakemake_in_new_interpreter("--dry-run", "--cores", "8", PYTHONPATH=path)
    assert planned(run.stdout) == {"evaluate": 18, "all": 1} | SUMMARY


@pytest.mark.workflow
def test_changed_data_of_an_own_object_reruns_that_object(finished: Project) -> None:
    file = finished.folder / "data/vase/normals/01.exr"
    file.write_text("x", encoding="utf-8")
    run = finished.snakemake("--dry-run", "--cores", "8")
    file.unlink()
    assert planned(run.stdout) == {"prepare": 1, "integrate": 1, "all": 1} | ALL | SUMMARY


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["only=[bal]"], "unknown object 'bal': config/objects.tsv has ball, cube, vase"),
        (
            ["experiments=[fre]"],
            "unknown experiment 'fre': there is no config/experiments/fre.yaml",
        ),
        (["objets=[ball]"], "configuration: unknown key 'objets'; known here: archives,"),
        (["overrides={mesh: {size: 3}}"], "unknown key 'mesh.size'; known here:"),
    ],
    ids=["object", "experiment", "key", "nested key"],
)
def test_a_wrong_configuration_is_one_clear_message(
    finished: Project, words: list[str], message: str
) -> None:
    run = finished.snakemake("--dry-run", "--cores", "1", "--config", *words)
    assert run.returncode != 0
    assert message in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.workflow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.write(
        "config/config.yaml", project.configuration() | {"only": ["ball"], "experiments": ["free"]}
    )
    project.pmni.hang("--output results/free/ball/refine")
    process = project.start("--cores", "8")
    project.pmni.wait_until_hanging()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert set(made(project.pmni.calls())) == {"synthesize", "prepare", "integrate", "register"}
    project.pmni.hang()
    assert project.snakemake("--unlock").returncode == 0
    run = project.snakemake("--cores", "8")
    assert run.returncode == 0, run.stdout
    assert made(project.pmni.calls()) == less(FREE | SUMMARY, {"register": 1})


@pytest.mark.workflow
def test_the_workflow_is_lint_free() -> None:
    run = run_snakemake(["--lint"], REPOSITORY, os.environ)
    assert run.returncode == 0, run.stdout


SBATCH = """#!{python} -I
import json, os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
number = str(os.getpid())  # jobs may be submitted at the same time
(here / f"job_{{number}}").write_text(json.dumps(sys.argv[1:]))
wrapped = next(word.split("=", 1)[1] for word in sys.argv if word.startswith("--wrap="))
states = f"&& echo COMPLETED > state_{{number}} || echo FAILED > state_{{number}}"
(here / f"state_{{number}}").write_text("RUNNING")
with (here / f"out_{{number}}").open("w") as out:
    subprocess.Popen(
        f"({{wrapped}}); cd {{here}}; [ $? = 0 ] {{states}}", shell=True,
        stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
    )
print(number)
"""
SACCT = """#!/bin/sh
cd {folder}
for file in state_*; do echo "${{file#state_}}|$(cat $file)"; done
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""


def install_slurm(folder: Path) -> None:
    """SLURM's commands: `sbatch` runs the job on this machine and keeps its own arguments."""
    scripts = {
        "sbatch": SBATCH.format(python=sys.executable),
        "sacct": SACCT.format(folder=folder),
        "srun": SRUN,
        "sacctmgr": "#!/bin/sh\necho lab\n",
    }
    for name in ("sinfo", "squeue", "scontrol", "scancel"):
        scripts[name] = "#!/bin/sh\n"
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


@pytest.mark.workflow
def test_slurm_jobs_ask_for_what_the_rules_need(tmp_path: Path) -> None:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    project = make_project(tmp_path)
    install_slurm(tmp_path / "bin")
    started = ["integration/ball/noisy/ray_distance.npz", "free/ball/register/initial_poses.json"]
    run = project.snakemake("--cores", "8", *(f"results/{file}" for file in started))
    assert run.returncode == 0, run.stdout
    profile = ["--workflow-profile", "profiles/slurm"]
    profile += ["--default-resources", "slurm_account=lab", "slurm_partition=fast"]
    profile += ["--set-resources", "train:gpu_model=h100", "train:runtime=45"]
    profile += ["--slurm-init-seconds-before-status-checks", "1", "--"]
    wanted = ["free/ball/train/history.csv", "fixed/ball/register/initial_poses.json"]
    wanted += ["free/ball/meshes/iter_00000200.ply"]
    run = project.snakemake(*profile, *(f"results/{file}" for file in wanted))
    assert run.returncode == 0, run.stdout
    jobs = [json.loads(file.read_text("utf-8")) for file in (tmp_path / "bin").glob("job_*")]
    flags = {job[job.index("--comment") + 1]: " ".join(job) for job in jobs}
    train = flags.pop("rule_train_wildcards_free_ball")
    assert " -A lab -p fast -t 45 --mem 16000 --cpus-per-gpu=8 " in train
    assert " --gpus=h100:1 " in train
    refine = flags.pop("rule_refine_wildcards_free_ball")
    assert " -A lab -p fast -t 60 --mem 16000 --cpus-per-gpu=4 " in refine
    assert " --gpus=1 " in refine
    assert " --gpus=1 " in flags.pop("rule_mesh_wildcards_free_ball_00000200")
    register = flags.pop("rule_register_wildcards_fixed_ball")
    assert " -A lab -p fast -t 60 --mem 4000 --ntasks=1 --cpus-per-task=3 " in register
    assert "--gpus" not in register
    assert not flags
