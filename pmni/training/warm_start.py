"""A start for the surface: the tolerant visual hull, and the network fitted to it."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import grid_sample

from pmni.fields.grid import GridSDF, grid_nodes
from pmni.fields.network import NeuralSDF


def mask_distance(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Signed distance to the contour in pixels, positive outside; the contour lies halfway."""
    outside = distance_transform_edt(~mask)
    inside = distance_transform_edt(mask)
    return np.where(mask, 0.5 - inside, outside - 0.5).astype(np.float32)


@torch.no_grad()
def visual_hull(
    masks: Float[Tensor, "V H W"],
    intrinsics: Float[Tensor, "V 3 3"],
    c2w: Float[Tensor, "V 4 4"],
    resolution: int,
    ignore: int,
) -> Float[Tensor, "n n n"]:
    """Approximate signed distance from the hull of the masks at grid nodes, normalised units.

    A point's value is the (ignore + 1)-th largest over views of its pixel's distance to the
    contour times depth over focal length: `ignore` views may disagree, as wrong poses make them.
    """
    device = masks.device
    height, width = masks.shape[1:]
    nodes = grid_nodes(resolution, device).view(-1, 3)
    distances = torch.stack(
        [torch.from_numpy(mask_distance(mask > 0)).to(device) for mask in masks.cpu().numpy()]
    )
    largest = torch.full((ignore + 1, len(nodes)), -torch.inf, device=device)
    size = torch.tensor([width - 1, height - 1], device=device)
    for image, K, pose in zip(distances, intrinsics, c2w, strict=True):
        local = (nodes - pose[:3, 3]) @ pose[:3, :3]
        homogeneous = local @ K.T
        pixel = homogeneous[:, :2] / homogeneous[:, 2:]
        where = (pixel / size * 2 - 1).view(1, 1, -1, 2)
        sampled = grid_sample(image[None, None], where, padding_mode="border", align_corners=True)
        value = sampled[0, 0, 0] * local[:, 2] / K[0, 0]
        largest = torch.cat([largest, value[None]]).topk(ignore + 1, dim=0).values
    return largest[ignore].view(resolution, resolution, resolution)


def fit_network(
    network: NeuralSDF,
    target: Float[Tensor, "n n n"],
    steps: int,
    points: int,
    rate: float,
    generator: torch.Generator,
) -> float:
    """Fit the network's values to a grid of values, most points near its surface.

    Returns the mean absolute difference of the last step.
    """
    grid = GridSDF(target)
    device = target.device
    spacing = 2 / (len(target) - 1)
    near = grid_nodes(len(target), device)[target.abs() < 2 * spacing]
    if len(near) == 0:
        near = torch.zeros(1, 3, device=device)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    error = float("nan")
    for _ in range(steps):
        number = points // 2
        index = torch.randint(len(near), (number,), generator=generator).to(device)
        noise = (torch.rand(number, 3, generator=generator) - 0.5).to(device) * 2 * spacing
        anywhere = (torch.rand(points - number, 3, generator=generator) * 2 - 1).to(device)
        x = torch.cat([near[index] + noise, anywhere]).clamp(-1, 1)
        wanted = grid(x)
        weight = 1 / (1 + (wanted.abs() / (4 * spacing)) ** 2)
        difference = (network(x) - wanted).abs()
        loss = (weight * difference).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        error = float(difference.detach().mean())
    return error
