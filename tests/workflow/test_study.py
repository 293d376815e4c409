"""The workflow plans an accuracy study."""

import os
import re
from pathlib import Path

import pytest
from fixtures.snakemake_process import run_snakemake

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.workflow
def test_one_command_plans_all_of_it(tmp_path: Path) -> None:
    """The workflow on the study in the repository, without running anything."""
    for name in ("Snakefile", "workflow", "config"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    words = ["--cores", "1", "--dry-run", "--quiet", "rules", "--configfile", "config/study.yaml"]
    words += ["--config", "only=[fish-base,fish-views-5]"]
    run = run_snakemake(words, tmp_path, os.environ)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout, re.M))
    assert (jobs["synthesize"], jobs["register"], jobs["study"]) == ("2", "6", "1")
    assert not {"train", "report"} & set(jobs)
