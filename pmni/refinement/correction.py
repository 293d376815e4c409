"""A capture with what refinement found wrong with it put right."""

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


def corrected(
    capture: Capture, refined: Poses, surface: NarrowBandSDF, device: torch.device
) -> Capture:
    """Normals and focal lengths of the views with refined poses, corrected; others as they are.

    Poses that `refine` did not write say nothing about normals, and nothing is changed.
    """
    information = refined.information
    if "normal_bias" not in information:
        return capture
    normals, intrinsics = capture.normals.copy(), capture.intrinsics.copy()
    flattening = torch.tensor(information["flattening"], device=device)
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
            State.start(surface, c2w), bias=bias, flattening=flattening, log_focal=log_focal
        )
        rays = pixel_directions(torch.linalg.inv(K), pixels, log_focal)
        found = correct_normals(K, state, normalize(measured, dim=-1), pixels, rays)
        normals[index, row, column] = found.normals[0].cpu().numpy()
        intrinsics[index, [0, 1], [0, 1]] *= information["focal_factor"]
    return replace(capture, normals=normals, intrinsics=intrinsics)
