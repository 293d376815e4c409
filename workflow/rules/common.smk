"""What the rules share. What a run makes and what its jobs read is said in pmni.runtime.plan."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pmni.config.base import plain_deprecations
from pmni.errors import PmniError
from pmni.runtime import fork_server
from pmni.runtime.layout import StudyFolder, iteration_name
from pmni.runtime.plan import Plan, Reconstruction, poses_file, surface_file
from pmni.runtime.stages import STAGES


def tell(line: str) -> None:
    """A line for people."""
    print(f"pmni: {line}", file=sys.stderr)


try:
    with plain_deprecations(lambda line: tell(f"warning: {line}")):
        PLAN = Plan.of(config)
except PmniError as error:
    sys.exit(f"pmni: error: {error}")

CONFIG, RESULTS, RESOURCES = PLAN.config, PLAN.results, PLAN.resources
# The files of a job, with its wildcards.
CAPTURE = RESULTS.capture("{object}", "{normals}")
INTEGRATION = RESULTS.integration("{object}", "{normals}")
OBJECT = RESULTS.object("{experiment}", "{object}")
ITERATION = iteration_name("{iteration}")
# Stages that need a GPU for a second or two.
BRIEF = ("mesh", "render")


def one_of(names) -> str:
    """The pattern of a wildcard that is one of `names`."""
    return "|".join(map(re.escape, names)) or "(?!)"


def job(wildcards) -> Reconstruction:
    """The object in the experiment that a job belongs to."""
    return PLAN.reconstruction(wildcards.experiment, wildcards.object)


def settings_of(stage: str):
    """The settings of a stage in a job's experiment, as JSON."""
    return lambda wildcards: getattr(job(wildcards).settings, stage).model_dump_json()


# --- inputs, and what a job finds in them -------------------------------------------------------


def capture_of(wildcards) -> Path:
    """The capture that a job of an experiment reads."""
    return job(wildcards).capture.archive


def surface_of(wildcards) -> Path:
    """What a job waits for to have the surface of its iteration."""
    return job(wildcards).surface_made(int(wildcards.iteration))


def poses_of(wildcards) -> Path:
    """What a job waits for to have the poses of its iteration."""
    return job(wildcards).poses_made(int(wildcards.iteration))


def checkpoint_path(wildcards, input) -> str:
    """The file of the surface in the input `surface`."""
    return surface_file(input.surface, int(wildcards.iteration))


def poses_path(wildcards, input) -> str:
    """The file of the poses in the input `poses`."""
    return poses_file(input.poses, int(wildcards.iteration))


def candidates_of(wildcards) -> tuple[int, ...]:
    """The iterations one of which is the result."""
    return job(wildcards).settings.candidates()


def candidate_poses(wildcards, input) -> list[str]:
    """The files of the poses of all candidates in the input `poses`."""
    return list(map(poses_file, input.poses, candidates_of(wildcards)))


def option(name: str, files) -> list[str]:
    """An option of the command line with a file or several; nothing where there are none."""
    files = [files] if isinstance(files, str) else list(map(str, files))
    return [name, *files] if files else []


# --- resources ----------------------------------------------------------------------------------


def gpus(stage: str):
    """How many GPUs a job of a stage keeps from others: none if its device is the CPU, else one.

    Of jobs on this machine only those that compute for long count. The others take turns at the
    GPU's lock (see pmni.runtime.devices): they start, read and write while another job computes.
    """

    def count(wildcards) -> int:
        brief = stage in BRIEF and workflow.local_exec
        return int(job(wildcards).uses_gpu(stage) and not brief)

    return count


def threads_of(stage: str):
    """One thread for a job of a stage on the CPU, so that several run side by side, else a few."""
    return lambda wildcards: 4 if job(wildcards).uses_gpu(stage) else 1


# --- before all jobs, and after a failure -------------------------------------------------------


def prepare_jobs() -> None:
    """Let jobs find the command `pmni`, and those on this machine a fork server."""
    fork_server.put_command_on_path()
    if workflow.local_exec:
        fork_server.start()


def report_after_failure() -> None:
    """Run `collect` and `report` on what has been made, in a Snakemake of their own.

    They are the same rules, so the next full run knows that these results were made from part of
    the inputs only, and makes them anew.
    """
    if CONFIG.available_only:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({**config, "available_only": True}, file)
        file.flush()
        snakefile = Path(workflow.basedir) / "Snakefile"
        command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
        command += ["--configfile", file.name, "--cores", "1", "--nolock", "--quiet", "all"]
        command += ["--profile", "none", "--workflow-profile", "none"]
        finished = subprocess.run(command)
    if finished.returncode == 0:
        tell(f"Not everything was made; the report shows what was, and what failed: {PLAN.summary}")
