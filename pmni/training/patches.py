"""Patches of neighbouring pixels, drawn at random from the views."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from pmni import kernels
from pmni.data.views import Views
from pmni.kernels.types import Patches
from pmni.training.rng import StepRng, Stream, stream_key


@dataclass(frozen=True)
class PatchBatch:
    """P patches of h x w pixels and the measurements there."""

    view: Int[Tensor, " P"]
    """Index of each patch's view."""
    pixels: Int[Tensor, "P h w 2"]
    """Column and row."""
    normal: Float[Tensor, "P h w 3"]
    """Measured normals in the camera frame, unit length inside the mask."""
    mask: Float[Tensor, "P h w"]
    """1 on the object, 0 elsewhere."""
    distance: Float[Tensor, "P h w"]
    """Integrated ray distances, of unknown scale in each view; 0 where there are none."""
    m: Float[Tensor, "P h w 3"]
    """Rays in the camera frame, scaled to z = 1: K^-1 (column, row, 1)."""
    focal: Float[Tensor, "P 2"]
    """fx and fy, pixels."""
    jitter: Float[Tensor, " P"]
    """Shift of each patch's planes as a fraction of their spacing, in [0, 1)."""

    @property
    def has_distance(self) -> Float[Tensor, "P h w"]:
        """1 where there is a ray distance on the object, 0 elsewhere."""
        return self.mask * (self.distance > 0)


class PatchSampler:
    """Draws patches from all views at once; a draw depends on seed and step alone.

    No patch contains an excluded pixel.

    Args:
        patch: pixels along a side of a patch.
        margin: width of the margin around the masks, pixels.
        background: fraction of the patches that is centred in the margin.
    """

    def __init__(self, views: Views, patch: int, margin: int, background: float) -> None:
        self.patch, self.background = patch, background
        self.normals = views.normals
        self.masks = views.masks.float()
        self.distances = torch.zeros_like(self.masks)
        if views.ray_distances is not None:
            self.distances = views.ray_distances.nan_to_num(nan=0.0)
        K = views.intrinsics.float()
        self.focal = K[:, [0, 1], [0, 1]].contiguous()
        self.inverse_intrinsics = torch.linalg.inv(K.cpu()).to(K).contiguous()
        offset = torch.arange(patch, device=views.device)
        self.offsets = offset[:, None] * views.masks.shape[2] + offset
        dilated = views.masks
        for _ in range(margin):
            dilated = _dilated(dilated)
        excluded = max_pool2d(views.excluded_pixels.float(), patch, stride=1) > 0
        self.foreground = self._first_pixels(views.masks, excluded)
        self.background_margin = self._first_pixels(dilated & ~views.masks, excluded)

    def _first_pixels(
        self, centres: Bool[Tensor, "V H W"], excluded: Bool[Tensor, "V H2 W2"]
    ) -> Int[Tensor, " N"]:
        """Indices, over all views, of the upper left pixels of the patches with these centres."""
        height, width = centres.shape[1:]
        view, row, column = torch.nonzero(centres, as_tuple=True)
        row = (row - self.patch // 2).clamp(0, height - self.patch)
        column = (column - self.patch // 2).clamp(0, width - self.patch)
        return ((view * height + row) * width + column)[~excluded[view, row, column]]

    def draw(self, count: int, rng: StepRng) -> PatchBatch:
        """`count` patches, a fixed fraction of them in the margin around the masks."""
        in_margin = round(count * self.background) if len(self.background_margin) else 0
        candidates = self.foreground, self.background_margin
        counts = count - in_margin, in_margin
        if kernels.use_triton(self.masks.device):
            from pmni.kernels.patches import draw_patches

            images = self.normals, self.masks, self.distances
            cameras = self.inverse_intrinsics, self.focal
            keys = (
                stream_key(rng.seed, Stream.FOREGROUND_PATCH),
                stream_key(rng.seed, Stream.BACKGROUND_PATCH),
                stream_key(rng.seed, Stream.JITTER),
            )
            return PatchBatch(
                *draw_patches(candidates, counts, rng.step, keys, images, cameras, self.patch)
            )
        streams = Stream.FOREGROUND_PATCH, Stream.BACKGROUND_PATCH
        chosen = [
            pixels[rng.integers(len(pixels), stream, number)]
            for pixels, stream, number in zip(candidates, streams, counts, strict=True)
            if number
        ]
        height, width = self.masks.shape[1:]
        first = torch.cat(chosen)
        view = first // (height * width)
        index = first[:, None, None] + self.offsets
        columns, rows = index % width, index // width % height
        inverse = self.inverse_intrinsics[view][:, None, None]  # (P, 1, 1, 3, 3)
        m = inverse[..., 0] * columns[..., None] + inverse[..., 1] * rows[..., None]
        return PatchBatch(
            view=view,
            pixels=torch.stack([columns, rows], dim=-1),
            normal=self.normals.view(-1, 3)[index],
            mask=self.masks.view(-1)[index],
            distance=self.distances.view(-1)[index],
            m=m + inverse[..., 2],
            focal=self.focal[view],
            jitter=rng.uniform(Stream.JITTER, count),
        )


def patch_rays(batch: PatchBatch, c2w: Float[Tensor, "V 4 4"]) -> Patches:
    """The rays of the patches; differentiable in the poses."""
    pose = c2w.index_select(0, batch.view)
    rotation, centre = pose[:, :3, :3].contiguous(), pose[:, :3, 3].contiguous()
    return Patches(batch.m.to(c2w.dtype), batch.focal.to(c2w.dtype), rotation, centre)


def _dilated(masks: Bool[Tensor, "V H W"]) -> Bool[Tensor, "V H W"]:
    """Masks with the neighbours, in rows and columns, of all their pixels."""
    dilated = masks.clone()
    for axis in (1, 2):
        length = masks.shape[axis] - 1
        dilated.narrow(axis, 1, length).logical_or_(masks.narrow(axis, 0, length))
        dilated.narrow(axis, 0, length).logical_or_(masks.narrow(axis, 1, length))
    return dilated
