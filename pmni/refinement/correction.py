"""A capture corrected for the systematic errors that refinement has estimated."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from pmni.data.capture import Capture
from pmni.geometry.poses import Poses
from pmni.refinement.observations import pixel_directions
from pmni.refinement.residuals import correct_normals
from pmni.refinement.state import State
from pmni.sdf.narrow_band import NarrowBandSDF


def correct_capture(
    capture: Capture, refined: Poses, surface: NarrowBandSDF, device: torch.device
) -> Capture:
    """The capture with corrected normals and focal lengths of the views with refined poses.

    Poses that `refine` did not make say nothing about normals, and nothing is changed.
    """
    information = refined.information
    if "normal_bias" not in information:
        return capture
    normals, intrinsics = capture.normals.copy(), capture.intrinsics.copy()
    tilt = torch.tensor(information["normal_tilt_bias"], device=device)
    log_focal = torch.tensor(information["focal_factor"], device=device).log()
    for index, name in enumerate(capture.views):
        if name not in refined.views:
            continue
        row, column = np.nonzero(capture.masks[index])
        pixels = torch.as_tensor(np.stack([column, row], -1), device=device)[None].float()
        measured = torch.as_tensor(normals[index, row, column], device=device)[None]
        K = torch.as_tensor(intrinsics[index], dtype=torch.float32, device=device)[None]
        bias = torch.tensor(information["normal_bias"][name], device=device)[None]
        c2w = torch.as_tensor(refined.select([name]), device=device)
        state = replace(
            State.start(surface, c2w), bias=bias, normal_tilt_bias=tilt, log_focal=log_focal
        )
        rays = pixel_directions(torch.linalg.inv(K), pixels, log_focal)
        correction = correct_normals(K, state, normalize(measured, dim=-1), pixels, rays)
        normals[index, row, column] = correction.normals[0].cpu().numpy()
        intrinsics[index, [0, 1], [0, 1]] *= information["focal_factor"]
    return replace(capture, normals=normals, intrinsics=intrinsics)
