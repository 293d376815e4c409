"""What the views measured, as refinement uses it: normals at pixels, and points on contours."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pmni.data.capture import Capture
from pmni.data.heldout import heldout_blocks
from pmni.errors import InputError
from pmni.geometry.cameras import ray_directions
from pmni.sdf.visual_hull import mask_distances

FEWEST_PIXELS = 50
"""Of the object that a view must show."""


@dataclass(frozen=True)
class Observations:
    """The views that take part. Pixels and contour points of all views stand in one list."""

    names: tuple[str, ...]
    intrinsics: Float[Tensor, "V 3 3"]
    pixels: Int[Tensor, "N 2"]
    """Column and row of the pixels inside the masks, view by view."""
    normals: Float[Tensor, "N 3"]
    """Their normals, camera frame, unit."""
    contour_depth: Float[Tensor, " N"]
    """How far they are from the contour, pixels."""
    first_pixel: Int[Tensor, " V+1"]
    """Where each view's pixels begin."""
    pixel_index: Int[Tensor, "V H W"]
    """Where each pixel stands in the list; -1 where it does not."""
    contour: Float[Tensor, "M 2"]
    """Points of the masks' contours: halfway between neighbouring pixels inside and outside."""
    first_contour_point: Int[Tensor, " V+1"]
    contour_distance: Float[Tensor, "V H W"]
    """Signed distance of all pixels from the contour, pixels; positive outside."""
    sizes: Int[Tensor, "V 2"]
    """(height, width) of each view's own image."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.pixels.device

    def sample_pixels(self, count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
        """`count` random pixels of each view, as indices into the list."""
        return _draw(self.first_pixel, count, generator)

    def sample_contour(self, count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
        """`count` random contour points of each view, as indices into the list.

        Those of a view without a contour are another's.
        """
        return _draw(self.first_contour_point, count, generator)

    def directions(
        self, pixels: Float[Tensor, "V P 2"], log_focal: Float[Tensor, ""]
    ) -> Float[Tensor, "V P 3"]:
        """As `pixel_directions`."""
        return pixel_directions(self._to_rays[:, None], pixels, log_focal)

    @cached_property
    def _to_rays(self) -> Float[Tensor, "V 3 3"]:
        """K^-1."""
        return torch.linalg.inv(self.intrinsics.cpu()).to(self.intrinsics)

    def copies(self, view: int, count: int) -> "Observations":
        """One view, so many times."""
        first, last = self.first_pixel[view : view + 2].tolist()
        begin, end = self.first_contour_point[view : view + 2].tolist()
        number = torch.arange(count + 1, device=self.device)
        index = self.pixel_index[view] - first
        shift = (number[:-1] * (last - first)).view(-1, 1, 1)
        return Observations(
            names=(self.names[view],) * count,
            intrinsics=self.intrinsics[view].repeat(count, 1, 1),
            pixels=self.pixels[first:last].repeat(count, 1),
            normals=self.normals[first:last].repeat(count, 1),
            contour_depth=self.contour_depth[first:last].repeat(count),
            first_pixel=number * (last - first),
            pixel_index=torch.where(index < 0, -1, index + shift).to(self.pixel_index.dtype),
            contour=self.contour[begin:end].repeat(count, 1),
            first_contour_point=number * (end - begin),
            contour_distance=self.contour_distance[view].repeat(count, 1, 1),
            sizes=self.sizes[view].repeat(count, 1),
        )

    def pixel_footprint(self, centres: Float[Tensor, "V 3"]) -> Float[Tensor, " V"]:
        """How wide a pixel of each view is at the object, normalised units."""
        distance = torch.linalg.vector_norm(centres, dim=-1)
        return distance / self.intrinsics[:, 0, 0].to(distance)


def pixel_directions(
    K_inverse: Float[Tensor, "*v 3 3"], pixels: Float[Tensor, "V P 2"], log_focal: Float[Tensor, ""]
) -> Float[Tensor, "V P 3"]:
    """Camera-frame unit directions of pixels; focal lengths multiplied by exp(log_focal)."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = ray_directions(homogeneous, K_inverse)
    scaled = torch.cat([rays[..., :2] * torch.exp(-log_focal), rays[..., 2:]], dim=-1)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)


def _draw(first: Int[Tensor, " _"], count: int, generator: torch.Generator) -> Int[Tensor, "V P"]:
    lengths = first.diff()[:, None]
    uniform = torch.rand(len(lengths), count, generator=generator, device=first.device)
    index = first[:-1, None] + torch.minimum((uniform * lengths).long(), lengths - 1)
    return index.clamp(0, int(first[-1]) - 1)


def load_observations(
    capture: Capture,
    exclude: tuple[str, ...],
    device: torch.device,
    heldout: float = 0.0,
) -> Observations:
    """The views of a capture that are not excluded, without the pixels and contour points in the
    part `heldout` of the blocks of pixels.

    Raises InputError for an unknown view, too few views, or one that shows hardly anything.
    """
    chosen = capture.view_indices(exclude)
    if len(chosen) < 3:
        raise InputError(f"{capture.name}: {len(chosen)} views are too few to refine; give 3")
    withheld = heldout_blocks(capture.masks, heldout)
    sizes = capture.image_sizes()[chosen]
    distances = mask_distances(capture.masks[chosen], sizes)
    pixels: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    contours: list[np.ndarray] = []
    for index, distance, (height, width) in zip(chosen, distances, sizes, strict=True):
        mask = capture.masks[index]
        usable = mask & ~withheld[index]
        row, column = np.nonzero(usable)
        if len(row) < FEWEST_PIXELS:
            raise InputError(
                f"{capture.name}: view {capture.views[index]} shows only {len(row)} pixels of the "
                "object; exclude it or correct its mask"
            )
        pixels.append(np.stack([column, row], -1))
        normals.append(capture.normals[index, row, column])
        depths.append(-distance[row, column])
        points = contour_points(mask[:height, :width])
        u, v = points.astype(int).T
        contours.append(points[~withheld[index, v, u]])
    if not any(map(len, contours)):
        raise InputError(f"{capture.name}: the object fills all images; its outline must be seen")
    first_pixel = np.cumsum([0, *map(len, pixels)])
    first_contour_point = np.cumsum([0, *map(len, contours)])
    pixel_index = np.full(distances.shape, -1, np.int32)
    for image, first, place in zip(pixel_index, first_pixel, pixels, strict=False):
        image[place[:, 1], place[:, 0]] = np.arange(first, first + len(place))
    found = torch.as_tensor(np.concatenate(normals), dtype=torch.float32, device=device)
    return Observations(
        names=tuple(capture.views[index] for index in chosen),
        intrinsics=torch.as_tensor(capture.intrinsics[chosen], dtype=torch.float32, device=device),
        pixels=torch.as_tensor(np.concatenate(pixels), device=device),
        normals=torch.nn.functional.normalize(found, dim=-1),
        contour_depth=torch.as_tensor(np.concatenate(depths), device=device),
        first_pixel=torch.as_tensor(first_pixel, device=device),
        pixel_index=torch.as_tensor(pixel_index, device=device),
        contour=torch.as_tensor(np.concatenate(contours), dtype=torch.float32, device=device),
        first_contour_point=torch.as_tensor(first_contour_point, device=device),
        contour_distance=torch.as_tensor(distances, device=device),
        sizes=torch.as_tensor(sizes, device=device),
    )


def contour_points(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "M 2"]:
    """(u, v) of the midpoints of all neighbouring pixels of which one is in the mask.

    Where the image's border cuts off the object there is no contour.
    """
    v, u = np.nonzero(mask[:, 1:] != mask[:, :-1])
    along_rows = np.stack([u + 0.5, v], -1)
    v, u = np.nonzero(mask[1:] != mask[:-1])
    along_columns = np.stack([u, v + 0.5], -1)
    return np.concatenate([along_rows, along_columns]).astype(np.float32)
