"""A small but complete results tree of two ellipsoids, made with the project's own writers.

Everything a run leaves behind is there: captures, integrated ray distances, initial poses, training
history and poses, meshes, renders, metrics with error maps, the benchmark table and the logs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyexr
import trimesh
from scipy.spatial.transform import Rotation

from pmni import cameras, provenance
from pmni.capture.capture import Capture, save_capture
from pmni.cli import build_parser
from pmni.io.atomic import write_text
from pmni.io.meshes import Mesh, write_ply
from pmni.io.poses import Poses, write_poses

NORMALS = "normal_camera_space_noisy"
VIEWS, HEIGHT, WIDTH = 6, 60, 72
SCALE, OFFSET = 50.0, np.array([2.0, -3.0, 40.0])
STEPS = 300
EXPERIMENTS: list[dict[str, Any]] = [
    {
        "name": "free",
        "summary": "Poses from nothing, refined, then a short training.",
        "registration_method": "free",
        "normals": None,
        "refined": True,
        "trained": True,
        "steps": [0, 100, STEPS],
        "candidates": [0, STEPS],
    },
    {
        "name": "fast",
        "summary": "Poses from a ring, refined; no network.",
        "registration_method": "ring",
        "normals": None,
        "refined": True,
        "trained": False,
        "steps": [0],
        "candidates": [0],
    },
    {
        "name": "calibrated",
        "summary": "Reference poses, held fixed.",
        "registration_method": "reference",
        "normals": None,
        "steps": [STEPS],
    },
]
OBJECTS: list[dict[str, Any]] = [
    {"name": "pebble", "dataset": "demo", "normals": NORMALS},
    {"name": "egg", "dataset": "demo", "normals": NORMALS},
]
# What the trainings after a refinement say of it.
SELECTIONS = {
    "pebble": {
        "iteration": STEPS,
        "heldout_error_deg": {"0": 5.18, str(STEPS): 4.911},
        "heldout_gain_deg": 0.269,
        "heldout_gain_standard_error_deg": 0.021,
    },
    "egg": {
        "iteration": 0,
        "heldout_error_deg": {"0": 5.18, str(STEPS): 5.177},
        "heldout_gain_deg": 0.003,
        "heldout_gain_standard_error_deg": 0.01,
    },
}
ALIGNMENTS = {"pebble": "icp", "egg": "cameras"}
SEMI_AXES = {"pebble": (0.9, 0.7, 0.55), "egg": (0.6, 0.6, 0.85)}


@dataclass(frozen=True)
class Tree:
    """Where the fake run lies, and the `--config-json` that describes it."""

    results: Path
    config: dict[str, Any]

    @property
    def argument(self) -> str:
        """The configuration as the command line takes it."""
        return json.dumps(self.config)


def write_results(folder: Path) -> Tree:
    """The whole tree below `folder`; its log folder is `<results>/logs`."""
    results = Path(folder)
    for entry in OBJECTS:
        capture = ellipsoid_capture(entry["name"])
        _write_capture(results, capture)
        for experiment in EXPERIMENTS:
            _write_experiment(results, capture, experiment)
    _collect(results)
    config = {"objects": OBJECTS, "experiments": EXPERIMENTS, "logs": str(results / "logs")}
    return Tree(results, config)


def ellipsoid_capture(name: str) -> Capture:
    """Six turntable views of an ellipsoid: exact normals, mildly noisy inputs, the true mesh."""
    axes = np.array(SEMI_AXES[name])
    c2w = cameras.turntable(np.arange(VIEWS) * 2 * np.pi / VIEWS, np.deg2rad(25), 8.0)
    K = np.array([[220.0, 0, WIDTH / 2 - 0.5], [0, 220.0, HEIGHT / 2 - 0.5], [0, 0, 1]])
    true_normals, masks = trace_ellipsoid(axes, c2w, K)
    noise = np.random.default_rng(0).normal(0, 0.06, true_normals.shape)
    normals = true_normals + noise * masks[..., None]
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    sphere = trimesh.creation.icosphere(subdivisions=4)
    return Capture(
        name=name,
        views=tuple(f"{index:02d}" for index in range(VIEWS)),
        normals=normals,
        masks=masks,
        intrinsics=np.repeat(K[None], VIEWS, 0),
        reference_c2w=c2w,
        scale=SCALE,
        offset=OFFSET,
        true_normals=true_normals,
        true_vertices=np.asarray(sphere.vertices) * axes * SCALE + OFFSET,
        true_faces=np.asarray(sphere.faces),
    )


def trace_ellipsoid(
    axes: np.ndarray, c2w: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Camera-frame normals (V, H, W, 3), zero outside, and masks (V, H, W), in closed form."""
    pixels = cameras.pixel_grid(HEIGHT, WIDTH)
    directions = cameras.ray_directions(pixels, np.linalg.inv(K)) @ np.swapaxes(
        c2w[:, None, :3, :3], -1, -2
    )
    origin = c2w[:, None, None, :3, 3]
    o, d = origin / axes, directions / axes
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    discriminant = b * b - a * c
    masks = discriminant > 0
    distance = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    gradient = (origin + distance[..., None] * directions) / axes**2
    world = gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
    return (world @ c2w[:, None, :3, :3]) * masks[..., None], masks


def disturb(c2w: np.ndarray, degrees: float) -> np.ndarray:
    """Each camera turned about the object by `degrees` about its own random axis."""
    axes = np.random.default_rng(1).normal(size=(len(c2w), 3))
    axes *= np.deg2rad(degrees) / np.linalg.norm(axes, axis=1, keepdims=True)
    moved = c2w.copy()
    moved[:, :3] = Rotation.from_rotvec(axes).as_matrix() @ c2w[:, :3]
    return moved


def _write_capture(results: Path, capture: Capture) -> None:
    folder = results / "captures" / capture.name / NORMALS
    with provenance.record("prepare", folder / "provenance.json", None, {}):
        save_capture(folder, capture)
        _write_png(folder / "preview.png", capture.normals[0] * [1, -1, -1], capture.masks[0])
    folder = results / "integration" / capture.name / NORMALS
    with provenance.record("integrate", folder / "provenance.json", None, {}):
        folder.mkdir(parents=True)
        distance = np.where(capture.masks, 8 - capture.normals[..., 2] * -0.5, np.nan)
        np.savez(
            folder / "ray_distance.npz",
            ray_distance=distance.astype(np.float32),
            views=np.array(capture.views),
        )
        _write_png(folder / "preview.png", capture.normals[1] * [1, -1, -1], capture.masks[1])
    write_text(results / f"logs/prepare/{capture.name}.log", "read 6 views\n")


def _write_experiment(results: Path, capture: Capture, experiment: dict[str, Any]) -> None:
    folder = results / experiment["name"] / capture.name
    refined, trained = experiment.get("refined", False), experiment.get("trained", True)
    log = results / "logs" / "train" / experiment["name"] / f"{capture.name}.log"
    write_text(log, "".join(f"step {step}: loss {1 / step:.4f}\n" for step in range(1, 31)))
    start = 0.0 if experiment["registration_method"] == "reference" else 3.0
    reference = capture.reference_c2w
    assert reference is not None
    initial = disturb(reference, start)
    with provenance.record("register", folder / "register/provenance.json", None, {}):
        confidence = dict(zip(capture.views, np.linspace(0.7, 0.9, VIEWS).tolist(), strict=True))
        information = {"method": experiment["registration_method"], "kind": "equal steps"}
        information |= {"score": 0.8125, "confidence": confidence} if start else {}
        poses = Poses(capture.views, initial, information)
        write_poses(folder / "register/initial_poses.json", poses)
    if refined:
        with provenance.record("refine", folder / "refine/provenance.json", None, {}) as known:
            known["device"] = "cpu"
            _write_refinement(folder / "refine", capture, disturb(reference, 0.3))
    if trained:
        with provenance.record("train", folder / "train/provenance.json", None, {}) as known:
            known["backend"], known["device"] = "torch", "cpu"
            _write_history(folder / "train/history.csv", start)
            write_text(folder / "train/checkpoints/iter_00000300.safetensors", "weights")
        selection = SELECTIONS[capture.name] if refined else {"iteration": STEPS}
        write_text(folder / "train/selection.json", json.dumps(selection))
    for iteration in experiment["steps"]:
        c2w = disturb(reference, (0.3 if refined else start) * 0.2 ** (iteration / STEPS))
        stem = f"iter_{iteration:08d}"
        if iteration:
            poses = Poses(capture.views, c2w, {"iteration": iteration})
            write_poses(folder / f"train/poses/{stem}.json", poses)
        bump = (0.06 if start else 0.04) * (1.2 - iteration / STEPS)
        _write_mesh(folder / f"meshes/{stem}.ply", capture, bump)
        _evaluate(results, folder, capture.name, experiment["name"], iteration)
        if iteration in experiment.get("candidates", [STEPS]):
            _write_render(folder / f"renders/{stem}", capture, c2w)


def _write_refinement(folder: Path, capture: Capture, c2w: np.ndarray) -> None:
    """Poses with covariances, a surface, and how it went on three grids."""
    deviation = np.deg2rad(0.2 + 0.02 * np.arange(VIEWS)) / np.sqrt(3)
    covariances = deviation[:, None, None] ** 2 * np.eye(6)
    told = dict(zip(capture.views, covariances.tolist(), strict=True))
    information = {"method": "refine", "flattening": 0.04, "covariance": told}
    write_poses(folder / "refined_poses.json", Poses(capture.views, c2w, information))
    write_text(folder / "surface.safetensors", "grid")
    names = ("normal_residual_deg", "contour_residual_px", "rotation_change_deg")
    lines = [f"iteration,cells,{','.join(names)},largest_rotation_change_deg,focal_factor,seconds"]
    for iteration in range(1, 23):
        cells, decay = 64 * 2 ** min((iteration + 1) // 8, 2), np.exp(-iteration / 4)
        values = [4 + 8 * decay, 0.3 + 5 * decay, 1.1 * decay, 2.4 * decay, 1, 0.2 * iteration]
        lines.append(",".join(f"{value:.6g}" for value in (iteration, cells, *values)))
    write_text(folder / "history.csv", "\n".join(lines) + "\n")


def _write_history(path: Path, start: float) -> None:
    lines = ["step,seconds,loss,normal,depth,mask,eikonal,rate,inv_s,pose_rotation_deg,note"]
    for step in range(10, STEPS + 1, 10):
        decay = np.exp(-step / 90)
        values = [step, step * 0.02, decay + 0.05, 0.6 * decay, 0.2 * decay, 0.1 * decay]
        values += [0.1 * decay + 0.01, 5e-4 * decay, 20 + step, start * (1 - decay)]
        lines.append(",".join(f"{value:.6g}" for value in values) + ",text")
    write_text(path, "\n".join(lines) + "\n")


def _write_mesh(path: Path, capture: Capture, bump: float) -> None:
    assert capture.true_vertices is not None
    local = (capture.true_vertices - OFFSET) / SCALE
    wave = 1 + bump * np.sin(7 * local[:, :1]) * np.sin(6 * local[:, 1:2] + 1)
    vertices = local * wave * SCALE + OFFSET
    assert capture.true_faces is not None
    with provenance.record("mesh", path.with_suffix(".provenance.json"), None, {}):
        write_ply(path, Mesh(vertices, capture.true_faces))


def _write_render(folder: Path, capture: Capture, c2w: np.ndarray) -> None:
    normals, masks = trace_ellipsoid(
        np.array(SEMI_AXES[capture.name]) * 0.99, c2w, capture.intrinsics[0]
    )
    folder.mkdir(parents=True)
    with provenance.record("render", folder / "provenance.json", None, {}):
        for view, normal, mask in zip(capture.views, normals, masks, strict=True):
            outwards = normal * [1, -1, -1]
            pyexr.write(str(folder / f"{view}.exr"), outwards.astype(np.float32))
            _write_png(folder / f"{view}.png", outwards, mask)


def _evaluate(results: Path, folder: Path, name: str, experiment: str, iteration: int) -> None:
    """The stage itself, so that its file names and keys are the real ones."""
    stem = f"iter_{iteration:08d}"
    words = ["evaluate", "--capture", results / "captures" / name / NORMALS]
    words += ["--mesh", folder / f"meshes/{stem}.ply", "--dataset", "demo"]
    poses = f"train/poses/{stem}.json" if iteration else "refine/refined_poses.json"
    words += ["--poses", folder / poses, "--iteration", iteration]
    words += ["--initial-poses", folder / "register/initial_poses.json"]
    words += ["--experiment", experiment, "--output", folder / f"metrics/{stem}.json"]
    made_by = "train" if iteration else "refine"
    words += ["--provenance", folder / made_by / "provenance.json"]
    words += ["--settings", f"{{alignment: {ALIGNMENTS[name]}}}"]
    run_stage(words)


def _collect(results: Path) -> None:
    published = results / "published.csv"
    write_text(
        published,
        "dataset,object,experiment,iteration,chamfer_mm,mae_deg,source\n"
        'demo,egg,RNb-NeuS,,0.22,2.7,"Brument et al., CVPR 2024"\n',
    )
    metrics = sorted(results.glob("*/*/metrics/iter_????????.json"))
    selections = sorted(results.glob("*/*/train/selection.json"))
    words = ["collect", "--metrics", *metrics, "--selections", *selections]
    run_stage([*words, "--published", published, "--output", results / "benchmark.csv"])


def run_stage(words: list[Any]) -> None:
    """Run a subcommand, in this process; its errors are raised."""
    args = build_parser(words[0]).parse_args([str(word) for word in words])
    args.run(args)


def _write_png(path: Path, normals: np.ndarray, mask: np.ndarray) -> None:
    """A preview in the usual colours: (n + 1) / 2 as red, green, blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.where(mask[..., None], (normals + 1) / 2 * 255, 0).astype(np.uint8)
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f"{path}: not written")
