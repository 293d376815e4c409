"""A capture as tensors on the training device, and the patches drawn from it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from pmni import kernels
from pmni.data.capture import Capture
from pmni.data.heldout import heldout_blocks
from pmni.errors import InputError
from pmni.training.draws import Draws, Stream
from pmni.volume_rendering.marching import Patches


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
    chosen = capture.view_indices(exclude)
    if len(chosen) < 2:
        raise InputError(f"{capture.name}: fewer than two views are left to train on")

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array[chosen], dtype=torch.float32, device=device)

    sizes = capture.image_sizes()
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
    m: Float[Tensor, "P h w 3"]
    """K^-1 (column, row, 1)."""
    focal: Float[Tensor, "P 2"]
    """fx and fy, pixels."""
    jitter: Float[Tensor, "P"]
    """By what part of their distance the planes are shifted, in [0, 1)."""

    @property
    def measured(self) -> Float[Tensor, "P h w"]:
        """1 where there is a distance on the object, 0 elsewhere."""
        return self.mask * (self.distance > 0)


class PatchSampler:
    """Draws patches from all views at once; the draw depends on seed and step only.

    No patch has a held-out pixel.
    """

    def __init__(self, views: Views, patch: int, margin: int, background: float) -> None:
        self.views = views
        self.patch = patch
        self.background = background
        K = views.intrinsics
        self.focal = K[:, [0, 1], [0, 1]].contiguous()
        self.inverse = torch.linalg.inv(K.cpu()).to(K).contiguous()
        width = views.masks.shape[2]
        inner = torch.arange(patch, device=views.device)
        self.offsets = inner[:, None] * width + inner
        masks = views.masks > 0
        grown = masks
        for _ in range(margin):
            grown = _grown(grown)
        self.foreground_places = self._places(masks)
        self.background_places = self._places(grown & ~masks)

    def _places(self, centres: Bool[Tensor, "V H W"]) -> Int[Tensor, "N"]:
        """The first pixels, numbered through all views, of the patches with these centres."""
        height, width = centres.shape[1:]
        view, row, column = torch.nonzero(centres, as_tuple=True)
        row = (row - self.patch // 2).clamp(0, height - self.patch)
        column = (column - self.patch // 2).clamp(0, width - self.patch)
        heldout = max_pool2d(self.views.heldout.float(), self.patch, stride=1) > 0
        return ((view * height + row) * width + column)[~heldout[view, row, column]]

    def draw(self, count: int, draws: Draws) -> PatchBatch:
        """`count` patches, a fixed part of them in the margin around the masks."""
        outside = round(count * self.background) if len(self.background_places) else 0
        counts = count - outside, outside
        views = self.views
        if kernels.chosen(views.device):
            from pmni.kernels.patches import drawn

            places = self.foreground_places, self.background_places
            images = views.normals, views.masks, views.distances
            cameras = self.inverse, self.focal
            return PatchBatch(*drawn(places, counts, draws, images, cameras, self.patch))
        chosen = [
            places[draws.below(len(places), stream, number)]
            for places, stream, number in zip(
                (self.foreground_places, self.background_places),
                (Stream.FOREGROUND, Stream.BACKGROUND),
                counts,
                strict=True,
            )
            if number
        ]
        height, width = views.masks.shape[1:]
        first = torch.cat(chosen)
        view = first // (height * width)
        place = first[:, None, None] + self.offsets
        columns, rows = place % width, place // width % height
        inverse = self.inverse[view][:, None, None]  # (P, 1, 1, 3, 3)
        m = inverse[..., 0] * columns[..., None] + inverse[..., 1] * rows[..., None]
        return PatchBatch(
            view=view,
            pixels=torch.stack([columns, rows], dim=-1),
            normal=views.normals.view(-1, 3)[place],
            mask=views.masks.view(-1)[place],
            distance=views.distances.view(-1)[place],
            m=m + inverse[..., 2],
            focal=self.focal[view],
            jitter=draws.uniform(Stream.JITTER, count),
        )


def patch_rays(batch: PatchBatch, c2w: Float[Tensor, "V 4 4"]) -> Patches:
    """The rays of the patches; differentiable in the poses."""
    pose = c2w.index_select(0, batch.view)
    rotation, centre = pose[:, :3, :3].contiguous(), pose[:, :3, 3].contiguous()
    return Patches(batch.m.to(c2w.dtype), batch.focal.to(c2w.dtype), rotation, centre)


def _grown(masks: Bool[Tensor, "V H W"]) -> Bool[Tensor, "V H W"]:
    """With the neighbours, in rows and columns, of all pixels inside."""
    grown = masks.clone()
    for axis in (1, 2):
        length = masks.shape[axis] - 1
        grown.narrow(axis, 1, length).logical_or_(masks.narrow(axis, 0, length))
        grown.narrow(axis, 0, length).logical_or_(masks.narrow(axis, 1, length))
    return grown
