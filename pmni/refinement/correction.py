"""A capture with what refinement found wrong with it put right."""

from dataclasses import replace

import numpy as np
import torch

from pmni.capture.capture import Capture
from pmni.fields.band import BandSDF
from pmni.io.poses import Poses
from pmni.refinement.estimate import Estimate
from pmni.refinement.measurements import load_measurements
from pmni.refinement.residuals import correct_normals


def corrected(capture: Capture, refined: Poses, surface: BandSDF, device: torch.device) -> Capture:
    """Normals and focal lengths of the views with refined poses, corrected; others as they are.

    Poses that `refine` did not write say nothing about normals, and nothing is changed.
    """
    information = refined.information
    if "normal_bias" not in information:
        return capture
    excluded = tuple(view for view in capture.views if view not in refined.views)
    measurements = load_measurements(capture, excluded, device)
    names = measurements.names
    c2w = torch.as_tensor(refined.select(names), device=device)
    bias = torch.tensor([information["normal_bias"][name] for name in names], device=device)
    estimate = replace(
        Estimate.start(surface, c2w),
        bias=bias,
        flattening=torch.tensor(information["flattening"], device=device),
        log_focal=torch.tensor(information["focal_factor"], device=device).log(),
    )
    first, counts = measurements.first_pixel[:-1, None], measurements.first_pixel.diff()[:, None]
    along = torch.arange(int(counts.max()), device=device)
    index = first + torch.minimum(along, counts - 1)  # V P; the last pixel fills the rows up
    pixels = measurements.pixels[index]
    rays = measurements.directions(pixels.float(), estimate.log_focal)
    found = correct_normals(
        measurements, estimate, measurements.normals[index], pixels.float(), rays
    )
    chosen = np.array([capture.views.index(name) for name in names])[:, None]
    column, row = np.moveaxis(pixels.cpu().numpy(), -1, 0)
    normals, intrinsics = capture.normals.copy(), capture.intrinsics.copy()
    normals[chosen, row, column] = found.normals.cpu().numpy()
    intrinsics[chosen, [0, 1], [0, 1]] *= information["focal_factor"]
    return replace(capture, normals=normals, intrinsics=intrinsics)
