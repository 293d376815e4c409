"""The examples of docs/extending.md, installed as a package outside, do what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from pmni.config import extensions

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/extending.md"

SCRIPT = """
import sys
from pathlib import Path

import numpy as np

import pmni
from pmni.cli.main import main

SCENE = "{scene: blob, views: 6, width: 62, height: 52, known_poses: true}"
TRAIN = {
    "steps": 4, "patches": 16, "device": "cpu", "field": {"encoding": "frequencies"},
    "rendering": {"occupancy": {"resolution": 32}},
    "phases": [{"weights": {"normal": 1.0, "mask": 0.1, "eikonal": 0.1, "sharpness": 0.01}}],
}
MESH = {"extractor": "dense", "resolution": 32}

assert main(["synthesize", "--settings", SCENE, "--output", "pebble"]) == 0
known = pmni.Capture.load("pebble", normals="normal_camera_space_GT")

Path("archived").mkdir()
arrays = {"normals": known.normals, "masks": known.masks, "K": known.intrinsics[0]}
np.savez("archived/capture_archive.npz", **arrays)
capture = pmni.Capture.load("archived")
np.testing.assert_array_equal(capture.masks, known.masks)

steps = pmni.load_experiment("free", {"registration": {"method": "equal_steps"}}).registration
c2w = pmni.register(capture, None, steps, None).c2w
gram = c2w[:, :3, :3] @ c2w[:, :3, :3].mT
np.testing.assert_allclose(gram, np.tile(np.eye(3), (6, 1, 1)), atol=1e-9)
np.testing.assert_allclose(np.linalg.det(c2w), 1)
np.testing.assert_allclose(c2w[:, :3, 3], -4 * c2w[:, :3, 2], atol=1e-9)

overrides = {"registration": {"method": "reference"}, "train": TRAIN, "mesh": MESH, "heldout": 0.0}
settings = pmni.load_experiment("calibrated-neural", overrides)
poses = pmni.register(known, None, settings.registration, None)
distances = pmni.integrate(known).ray_distances
training = pmni.train(known, distances, poses, None, settings.train, "cpu")
assert 0 < training.history[-1]["sharpness"] < 1
result = pmni.reconstruct(known, "calibrated-neural", overrides=overrides, device="cpu")
metrics = result.evaluate(known).metrics
assert metrics["hausdorff_mm"] >= metrics["chamfer_mm"] / 2 > 0

assert main(["prepare", "--name", "pebble", "--layout", "archive", "--path", "archived",
             "--normals", "normals", "--output", "capture"]) == 0
assert main(["register", "--capture", "capture", "--settings", "{method: equal_steps}",
             "--output", "register"]) == 0
assert main(["export", "--capture", "capture", "--poses", "register/initial_poses.json",
             "--settings", "{formats: [centres], figure: false}", "--output", "export"]) == 0
assert np.loadtxt("export/centres.txt").shape == (6, 3)
"""
"""Uses every example by its name."""


def install(folder: Path) -> list[str]:
    """Write the page's files as an installed distribution; returns the entry points' groups."""
    text = PAGE.read_text(encoding="utf-8")
    (folder / "my_package").mkdir()
    (folder / "my_package/__init__.py").touch()
    for name, code in re.findall(r"```python\n# (my_package/\w+\.py)\n(.*?)```", text, re.S):
        (folder / name).write_text(code, encoding="utf-8")
    declared = re.search(r"```toml\n# pyproject.toml\n(.*?)```", text, re.S)
    assert declared is not None
    points = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", declared[1]).replace('"', "")
    information = folder / "my_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(points)
    return re.findall(r"^\[(.*)\]$", points, re.M)


def test_a_package_outside_adds_to_every_registry(tmp_path: Path) -> None:
    registries = [
        each for each in vars(extensions).values() if isinstance(each, extensions.Registry)
    ]
    assert set(install(tmp_path)) == {registry.group for registry in registries}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
