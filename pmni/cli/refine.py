"""`pmni refine`: poses and a grid surface together, in seconds and without a network."""

import argparse
import dataclasses
import logging
import time
from pathlib import Path

import torch

from pmni import kernels
from pmni.config.base import settings_from_argument
from pmni.config.refinement import RefineSettings
from pmni.data.capture import Capture, load_capture
from pmni.geometry.poses import Poses
from pmni.io.poses import read_poses, write_poses
from pmni.io.tables import Row, write_rows
from pmni.refinement.completion import complete_surface
from pmni.refinement.covariance import pose_covariances
from pmni.refinement.initial_surface import initial_hull
from pmni.refinement.observations import load_observations
from pmni.refinement.schedule import coarse_to_fine
from pmni.refinement.solver import GaussNewtonSolver, Report, check_converged
from pmni.runtime import provenance
from pmni.runtime.determinism import deterministic
from pmni.runtime.devices import acquire_device
from pmni.runtime.layout import CaptureFolder, RefinementFolder
from pmni.sdf.checkpoint import save_band

LOGGER = logging.getLogger("refine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pmni refine`."""
    parser.add_argument("--capture", type=Path, required=True, help="folder of the capture")
    parser.add_argument("--poses", type=Path, required=True, help="initial poses (JSON)")
    parser.add_argument("--settings", help="YAML file or inline JSON; see RefineSettings")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")


def run(args: argparse.Namespace) -> None:
    """Refine, and write the poses, the surface and how it went."""
    settings = settings_from_argument(RefineSettings, args.settings)
    capture = load_capture(args.capture, with_ground_truth=False)
    initial = read_poses(args.poses)
    inputs = {"capture": CaptureFolder(args.capture).archive, "poses": args.poses}
    output = RefinementFolder(args.output)
    with (
        deterministic(settings.deterministic),
        acquire_device(settings.device) as device,
        provenance.record("refine", output.provenance, settings, inputs) as known,
    ):
        solver, rows = refine(capture, initial, settings, device)
        known |= {"device": device.type, "history": rows[-1]}
        known["backend"] = "triton" if kernels.use_triton(device) else "torch"
        if device.type == "cuda":
            known["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        save_band(output.surface, complete_surface(solver))
        write_rows(output.history, rows)
        write_poses(output.poses, refined_poses(solver))


def refine(
    capture: Capture, initial: Poses, settings: RefineSettings, device: torch.device
) -> tuple[GaussNewtonSolver, list[Row]]:
    """Run all outer iterations; a row of numbers for each."""
    observations = load_observations(
        capture, settings.exclude_views, device, heldout=settings.heldout
    )
    c2w = torch.as_tensor(initial.select(observations.names), device=device)
    start = time.perf_counter()
    solver = GaussNewtonSolver(observations, initial_hull(observations, c2w), c2w, settings)
    rows: list[Row] = []
    for report in coarse_to_fine(solver):
        row = dataclasses.asdict(report) | {"seconds": round(time.perf_counter() - start, 3)}
        rows.append({name: round(value, 6) for name, value in row.items()})
        log(report)
    check_converged(capture.name, observations.names, report)
    if report.has_stray:
        LOGGER.warning(
            "%s: view %s: its normals are %.1f degrees off, those of all views %.1f: "
            "do its files belong to it?",
            *(capture.name, observations.names[report.worst_view]),
            *(report.worst_normal_residual_deg, report.normal_residual_deg),
        )
    return solver, rows


def log(report: Report) -> None:
    """A line for people."""
    LOGGER.info(
        "%2d: %d cells: normals %.2f degrees, contours %.2f pixels off; cameras turned by %.3f",
        report.iteration,
        report.cells,
        report.normal_residual_deg,
        report.contour_residual_px,
        report.rotation_change_deg,
    )


def refined_poses(solver: GaussNewtonSolver) -> Poses:
    """The poses with their covariances."""
    state, names = solver.state, solver.observations.names
    information = {
        "method": "refine",
        "learned": solver.settings.learn_poses,
        "flattening": float(state.flattening),
        "focal_factor": float(torch.exp(state.log_focal)),
        "normal_bias": dict(zip(names, state.bias.tolist(), strict=True)),
    }
    if solver.settings.learn_poses:
        covariances = pose_covariances(solver)
        information["covariance"] = {
            name: matrix.tolist() for name, matrix in zip(names, covariances, strict=True)
        }
    return Poses(names, state.c2w().cpu().numpy(), information)
