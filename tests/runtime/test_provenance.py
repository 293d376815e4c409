"""Provenance: what made a result, and the fingerprint by which an unfinished training is found."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pmni.config.meshing import MeshSettings
from pmni.io.hashing import sha256
from pmni.runtime import provenance
from pmni.runtime.stages import STAGES

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input file."""
    path = tmp_path / "capture.npz"
    path.write_bytes(b"x")
    return path


def test_a_record_says_what_made_a_result(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "provenance.json"
    settings = MeshSettings(resolution=64)
    with provenance.record("mesh", path, settings, {"capture": source}) as details:
        details["backend"] = "torch"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["stage"], content["stage_version"]) == ("mesh", STAGES["mesh"].version)
    assert content["settings"] == settings.model_dump(mode="json")
    assert content["inputs"] == {"capture": {"file": "capture.npz", "sha256": sha256(source)}}
    assert {"python", "pmni", "torch"} <= content["versions"].keys()
    assert content["hardware"]["cores"]
    assert content["seconds"] >= 0
    assert content["peak_memory_mb"] > 1
    assert content["backend"] == "torch"


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    with pytest.raises(ZeroDivisionError), provenance.record("mesh", path, None, {}):
        raise ZeroDivisionError
    assert not path.exists()


def test_the_commit_is_that_of_the_source_tree() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a repository")
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert (provenance.commit() or "").removesuffix("+") == head


def test_the_fingerprint_depends_on_all_that_determines_a_result(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MeshSettings()
    fingerprints = [provenance.fingerprint("mesh", settings, {"capture": source})]
    assert provenance.fingerprint("mesh", settings, {"capture": source}) == fingerprints[0]
    other_settings = MeshSettings(resolution=64)
    fingerprints.append(provenance.fingerprint("mesh", other_settings, {"capture": source}))
    fingerprints.append(provenance.fingerprint("render", settings, {"capture": source}))
    raised = replace(STAGES["mesh"], version=STAGES["mesh"].version + 1)
    monkeypatch.setitem(STAGES, "mesh", raised)
    fingerprints.append(provenance.fingerprint("mesh", settings, {"capture": source}))
    source.write_bytes(b"y")
    fingerprints.append(provenance.fingerprint("mesh", settings, {"capture": source}))
    assert len(set(fingerprints)) == len(fingerprints)
