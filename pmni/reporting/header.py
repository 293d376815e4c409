"""What made the results: when, on what, from which commit; from the provenance of all stages."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pmni import __version__
from pmni.reporting.results_index import Run, StageState, Unavailable, read_json


@dataclass(frozen=True)
class Header:
    """What made the results."""

    newest: str
    """When the newest result was made, UTC."""
    commits: list[str]
    versions: list[str]
    hardware: list[str]
    failed: list[tuple[str, str, str]]
    """Object, experiment, stage."""
    done: int
    total: int


def build_header(runs: list[Run], states: dict[str, dict[str, StageState]]) -> Header:
    """From the provenance files of all stages; those that cannot be read are left out."""
    newest = 0.0
    commits: dict[str, None] = {}
    versions: dict[str, None] = {}
    hardware: dict[str, None] = {}
    for path in dict.fromkeys(_provenance_files(runs)):
        try:
            content = read_json(path)
        except Unavailable:
            continue
        newest = max(newest, path.stat().st_mtime)
        if content.get("commit"):
            commits[str(content["commit"])] = None
        for package, version in (content.get("versions") or {}).items():
            versions[f"{package} {version}"] = None
        machine = content.get("hardware") or {}
        named = [str(machine[key]) for key in ("gpu", "processor") if machine.get(key)]
        if machine.get("cores"):
            named.append(f"{machine['cores']} cores")
        if named:
            hardware[", ".join(named)] = None
    failed = [
        (run.entry.name, run.experiment.name, state.cause)
        for run in runs
        for state in [next((s for s in states[run.key].values() if s.state == "failed"), None)]
        if state is not None
    ]
    when = datetime.datetime.fromtimestamp(newest, datetime.UTC)
    return Header(
        newest=f"{when:%-d %B %Y, %H:%M} UTC" if newest else "",
        commits=list(commits),
        versions=list(versions) or [f"pmni {__version__}"],
        hardware=list(hardware),
        failed=failed,
        done=len(runs) - len(failed),
        total=len(runs),
    )


def _provenance_files(runs: list[Run]) -> Iterable[Path]:
    for run in runs:
        for stage in run.stages:
            yield from run.provenance(stage)
