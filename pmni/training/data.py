"""A capture as tensors on the training device, and the patches drawn from it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_dilation
from torch import Tensor

from pmni.capture.capture import Capture
from pmni.capture.heldout import heldout_blocks
from pmni.errors import InputError
from pmni.rendering.marching import Patches


@dataclass(frozen=True)
class Views:
    """The training views."""

    names: tuple[str, ...]
    normals: Float[Tensor, "V H W 3"]
    """Camera frame, unit inside the mask."""
    masks: Float[Tensor, "V H W"]
    """1 on the object, 0 elsewhere."""
    distances: Float[Tensor, "V H W"]
    """Integrated ray distances, unknown scale a view; 0 where there are none."""
    intrinsics: Float[Tensor, "V 3 3"]
    heldout: Bool[Tensor, "V H W"]
    """Pixels that are not trained on: those held out, and those beyond a view's own image."""
    sizes: Int[Tensor, "V 2"]
    """(height, width) of each view's own image."""

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.normals.device


def load_views(
    capture: Capture,
    distances: Float[np.ndarray, "V H W"],
    exclude: tuple[str, ...],
    device: torch.device,
    heldout: float = 0.0,
) -> Views:
    """The views that are not excluded, of whose blocks of pixels the part `heldout` is held out.

    Raises InputError for an unknown or too long exclusion.
    """
    chosen = capture.without(exclude)
    if len(chosen) < 2:
        raise InputError(f"{capture.name}: fewer than two views are left to train on")

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array[chosen], dtype=torch.float32, device=device)

    sizes = capture.own_sizes()
    withheld = heldout_blocks(capture.masks, heldout)
    for image, (height, width) in zip(withheld, sizes, strict=True):
        image[height:] = image[:, width:] = True
    return Views(
        names=tuple(capture.views[index] for index in chosen),
        normals=tensor(capture.normals),
        masks=tensor(capture.masks),
        distances=tensor(np.nan_to_num(distances, nan=0.0)),  # NaN means: not on the object
        intrinsics=tensor(capture.intrinsics),
        heldout=torch.as_tensor(withheld[chosen], device=device),
        sizes=torch.as_tensor(sizes[chosen], device=device),
    )


@dataclass(frozen=True)
class PatchBatch:
    """P patches of h x w pixels and what the views show there."""

    view: Int[Tensor, "P"]
    pixels: Int[Tensor, "P h w 2"]
    """Column and row."""
    normal: Float[Tensor, "P h w 3"]
    mask: Float[Tensor, "P h w"]
    distance: Float[Tensor, "P h w"]


class PatchSampler:
    """Draws patches from all views at once; the draw depends on seed and step only.

    No patch has a held-out pixel.
    """

    def __init__(self, views: Views, patch: int, margin: int, background: float) -> None:
        self.views = views
        self.patch = patch
        self.background = background
        masks = views.masks.cpu().numpy() > 0
        grown = masks
        if margin:
            grown = np.stack([binary_dilation(mask, iterations=margin) for mask in masks])
        self.foreground_places = self._places(masks)
        self.background_places = self._places(grown & ~masks)

    def _places(self, centres: Bool[np.ndarray, "V H W"]) -> Int[Tensor, "N 3"]:
        """View, row and column of the first pixel of the patches with these centres."""
        height, width = centres.shape[1:]
        places = np.argwhere(centres)
        places[:, 1] = np.clip(places[:, 1] - self.patch // 2, 0, height - self.patch)
        places[:, 2] = np.clip(places[:, 2] - self.patch // 2, 0, width - self.patch)
        heldout = sliding_window_view(
            self.views.heldout.cpu().numpy(), (self.patch, self.patch), axis=(1, 2)
        )
        view, row, column = places.T
        places = places[~heldout.max((3, 4))[view, row, column]]
        return torch.as_tensor(places, device=self.views.device)

    def draw(self, count: int, generator: torch.Generator) -> PatchBatch:
        """`count` patches, a fixed part of them in the margin around the masks."""
        outside = round(count * self.background) if len(self.background_places) else 0
        chosen = []
        groups = ((self.foreground_places, count - outside), (self.background_places, outside))
        for places, number in groups:
            if number:
                index = torch.randint(len(places), (number,), generator=generator)
                chosen.append(places[index.to(places.device)])
        view, row, column = torch.cat(chosen).unbind(-1)
        offsets = torch.arange(self.patch, device=view.device)
        rows = (row[:, None] + offsets)[:, :, None].expand(-1, -1, self.patch)
        columns = (column[:, None] + offsets)[:, None, :].expand(-1, self.patch, -1)
        where = (view[:, None, None], rows, columns)
        return PatchBatch(
            view=view,
            pixels=torch.stack([columns, rows], dim=-1),
            normal=self.views.normals[where],
            mask=self.views.masks[where],
            distance=self.views.distances[where],
        )


def patch_rays(
    batch: PatchBatch, intrinsics: Float[Tensor, "V 3 3"], c2w: Float[Tensor, "V 4 4"]
) -> Patches:
    """The rays of the patches; differentiable in the poses."""
    K = intrinsics[batch.view]
    ones = torch.ones_like(batch.pixels[..., :1])
    pixels = torch.cat([batch.pixels, ones], dim=-1).to(K.dtype)
    inverse = torch.linalg.inv(K)[:, None, None]
    m = (inverse * pixels[..., None, :]).sum(-1)
    pose = c2w[batch.view]
    return Patches(m, K[:, [0, 1], [0, 1]], pose[:, :3, :3], pose[:, :3, 3])
