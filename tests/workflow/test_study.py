"""The workflow plans an accuracy study."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.workflow
def test_one_command_plans_all_of_it(tmp_path: Path) -> None:
    """The workflow on the study in the repository, without running anything."""
    for name in ("Snakefile", "workflow", "config"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules"]
    command += ["--configfile", "config/study.yaml", "--config", "only=[fish-base,fish-views-5]"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.M))
    assert (jobs["synthesize"], jobs["register"], jobs["study"]) == ("2", "6", "1")
    assert not {"train", "report"} & set(jobs)
